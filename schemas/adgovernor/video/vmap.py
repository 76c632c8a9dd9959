"""Reads a VMAP 1.0 / 1.0.1 document: ad breaks along a programme, and where each break's ads come from.

The document is refused when it is not XML (1002), not VMAP (1000) or of another version (1001). A break that is wrong
keeps what could be read, with its own error code; the other breaks are not touched by it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from adgovernor.video.codes import VastError, VmapError
from adgovernor.video.model import Extension, Tracking, VastDocument
from adgovernor.video.times import has_range_fault, parse_time_ms
from adgovernor.video.vast import VastFormatError, is_vast_root, outer_xml, parse_vast, read_vast
from adgovernor.video.xmltree import (
    Element,
    Reader,
    XmlDocument,
    XmlRefusedError,
    local_name,
    namespace,
    parse_xml,
)

NAMESPACE = "http://www.iab.net/videosuite/vmap"
_BREAK_TYPES = frozenset({"linear", "nonlinear", "display"})
_VAST_TEMPLATES = re.compile(r"vast[0-9.]*", re.IGNORECASE)


class VmapFormatError(ValueError):
    """The document is no VMAP that can be used; *code* is 1000, 1001 or 1002."""

    def __init__(self, code: VmapError, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class StartOffset:
    """Before the programme."""


@dataclass(frozen=True, slots=True)
class EndOffset:
    """After the programme."""


@dataclass(frozen=True, slots=True)
class TimeOffset:
    """*time_ms* after the programme's start."""

    time_ms: int


@dataclass(frozen=True, slots=True)
class PercentOffset:
    """At *percent* (0 to 100) of the programme's duration."""

    percent: float


@dataclass(frozen=True, slots=True)
class PositionOffset:
    """At the *position*-th opportunity for a break, from 1."""

    position: int


Offset = StartOffset | EndOffset | TimeOffset | PercentOffset | PositionOffset


@dataclass(frozen=True, slots=True)
class VastData:
    """A VAST response inside the VMAP document."""

    document: VastDocument


@dataclass(frozen=True, slots=True)
class AdTag:
    """The address of an ad response; *uri* as written."""

    uri: str
    template_type: str | None = None

    @property
    def is_vast(self) -> bool:
        """Whether the response is VAST, as far as the template type says (VAST where it says nothing)."""
        return self.template_type is None or _is_vast_template(self.template_type)


def _is_vast_template(template_type: str | None) -> bool:
    return template_type is not None and _VAST_TEMPLATES.fullmatch(template_type) is not None


@dataclass(frozen=True, slots=True)
class CustomData:
    """An ad response as text; *document* where the template type says that it is VAST and it could be read."""

    data: str
    template_type: str | None = None
    document: VastDocument | None = None


@dataclass(frozen=True, slots=True)
class AdSource:
    """§2.3.2: where a break's ads come from. *allow_multiple_ads* and *follow_redirects* are true unless denied."""

    content: VastData | AdTag | CustomData | None
    id: str | None = None
    allow_multiple_ads: bool = True
    follow_redirects: bool = True


@dataclass(frozen=True, slots=True)
class BreakFault:
    """What is wrong with a break, by code and in words."""

    code: VastError | VmapError
    message: str


@dataclass(frozen=True, slots=True)
class AdBreak:
    """§2.3.1: one ad break. *offset* is None when it is missing or unreadable (then *fault* says so)."""

    offset: Offset | None
    time_offset: str | None
    break_types: tuple[str, ...] = ()
    break_id: str | None = None
    repeat_after_ms: int | None = None
    source: AdSource | None = None
    tracking: tuple[Tracking, ...] = ()
    extensions: tuple[Extension, ...] = ()
    warnings: tuple[str, ...] = ()
    fault: BreakFault | None = None

    def trackers(self, event: str) -> tuple[str, ...]:
        """The addresses to request when *event* (breakStart, breakEnd, error) happens."""
        return tuple(tracking.uri for tracking in self.tracking if tracking.event == event)


@dataclass(frozen=True, slots=True)
class VmapDocument:
    """A VMAP response; *breaks* in document order."""

    version: str | None
    breaks: tuple[AdBreak, ...] = ()
    extensions: tuple[Extension, ...] = ()
    warnings: tuple[str, ...] = ()


def parse_vmap(data: bytes, charset: str | None = None, *, schedule_only: bool = False) -> VmapDocument:
    """Read one VMAP response; *charset* is the one of its Content-Type, if any, *schedule_only* as in `read_vmap`.

    Raises :class:`VmapFormatError`.
    """
    return read_vmap(parse_xml_of_vmap(data, charset), schedule_only=schedule_only)


def parse_xml_of_vmap(data: bytes, charset: str | None = None) -> XmlDocument:
    """The XML tree of *data*, for a caller that must look at the root first; raises code 1002."""
    try:
        return parse_xml(data, charset)
    except XmlRefusedError as error:
        raise VmapFormatError(VmapError.PARSING, str(error)) from error


def read_vmap(document: XmlDocument, *, schedule_only: bool = False) -> VmapDocument:
    """Read the VMAP response in *document*; raises :class:`VmapFormatError` with code 1000 or 1001.

    With *schedule_only* the breaks say when they come and how many ads they take, and nothing more: what their ads
    are, whom they tell and what vendors added are most of a document, and cost most of the time that it takes to read.
    """
    root = document.root
    if local_name(root) != "VMAP":
        message = f"the root element is {local_name(root)!r}; a VMAP response begins with 'VMAP'"
        raise VmapFormatError(VmapError.SCHEMA, message)
    version = Reader.attribute(root, "version")
    if version is not None and re.fullmatch(r"1(\.0){0,2}|1\.0\.1", version) is None:
        raise VmapFormatError(
            VmapError.VERSION, f"VMAP version {version!r} is not supported; send 1.0 or 1.0.1"
        )
    warnings = [f"undeclared namespace prefix {prefix!r}" for prefix in document.undeclared_prefixes]
    uri = namespace(root)
    if uri is not None and uri != NAMESPACE:
        warnings.append(f"namespace {uri!r} instead of {NAMESPACE!r}")
    reader = Reader(root)
    return VmapDocument(
        version,
        tuple(_read_break(reader, element, schedule_only) for element in reader.children(root, "AdBreak")),
        () if schedule_only else tuple(_extensions(reader, root)),
        tuple(warnings),
    )


def parse_offset(text: str) -> Offset | None:
    """§2.3.1's timeOffset: start, end, hh:mm:ss(.mmm), n% or #m; None when *text* is none of them."""
    lowered = text.strip().lower()
    if lowered == "start":
        return StartOffset()
    if lowered == "end":
        return EndOffset()
    if match := re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%", lowered):
        percent = float(match.group(1))
        return PercentOffset(percent) if percent <= 100 else None
    if match := re.fullmatch(r"#([0-9]{1,9})", lowered):
        return PositionOffset(int(match.group(1))) if int(match.group(1)) >= 1 else None
    time_ms = parse_time_ms(lowered)
    return None if time_ms is None else TimeOffset(time_ms)


class _BreakReader:
    """Collects a break's warnings and its first fault while its parts are read."""

    def __init__(self, reader: Reader, element: Element, schedule_only: bool) -> None:
        self.reader = reader
        self.element = element
        self.schedule_only = schedule_only
        self.warnings: list[str] = []
        self.fault: BreakFault | None = None

    def blame(self, code: VastError | VmapError, message: str) -> None:
        if self.fault is None:
            self.fault = BreakFault(code, message)

    def offset(self, text: str | None) -> Offset | None:
        if text is None:
            self.blame(VmapError.SCHEMA, "timeOffset is missing")
            return None
        found = parse_offset(text)
        if found is None:
            self.blame(
                VmapError.SCHEMA, f"timeOffset {text!r} is not start, end, hh:mm:ss, hh:mm:ss.mmm, n% or #m"
            )
        elif has_range_fault(text):
            self.warnings.append(f"timeOffset {text!r} has minutes or seconds past 59")
        return found

    def break_types(self) -> tuple[str, ...]:
        text = Reader.attribute(self.element, "breakType")
        if text is None:
            self.warnings.append("breakType is missing")
            return ()
        types = tuple(part.strip().lower() for part in text.split(",") if part.strip())
        known = tuple(found for found in types if found in _BREAK_TYPES)
        if not known:
            self.blame(
                VmapError.BREAK_TYPE, f"breakType {text!r} names none of linear, nonlinear and display"
            )
        elif len(known) < len(types):
            self.warnings.append(f"breakType {text!r} names an unknown type")
        return known

    def repeat_after_ms(self) -> int | None:
        text = Reader.attribute(self.element, "repeatAfter")
        if text is None:
            return None
        found = parse_time_ms(text)
        if found is None:
            self.warnings.append(f"repeatAfter {text!r} is not hh:mm:ss or hh:mm:ss.mmm and is ignored")
        elif has_range_fault(text):
            self.warnings.append(f"repeatAfter {text!r} has minutes or seconds past 59")
        return found

    def source(self) -> AdSource | None:
        sources = list(self.reader.children(self.element, "AdSource"))
        if not sources:
            return None
        if len(sources) > 1:
            self.warnings.append("a second AdSource is ignored; a break has at most one")
        element = sources[0]
        return AdSource(
            None if self.schedule_only else self._content(element),
            Reader.attribute(element, "id"),
            Reader.boolean(element, "allowMultipleAds", True) is not False,
            Reader.boolean(element, "followRedirects", True) is not False,
        )

    def _content(self, source: Element) -> VastData | AdTag | CustomData | None:
        reader = self.reader
        # VMAP 1.0.1 §6: VASTData is the misspelling of 1.0 that readers must accept.
        data = reader.child(source, "VASTAdData", "VASTData")
        if data is not None:
            return self._vast_data(data)
        tag = reader.child(source, "AdTagURI")
        if tag is not None:
            uri = reader.uri(tag)
            if uri is None:
                self.blame(VmapError.SCHEMA, "AdTagURI is empty")
                return None
            return AdTag(uri, Reader.attribute(tag, "templateType"))
        custom = reader.child(source, "CustomAdData")
        if custom is not None:
            return self._custom_data(custom)
        self.blame(VmapError.SCHEMA, "AdSource has none of VASTAdData, AdTagURI and CustomAdData")
        return None

    def _vast_data(self, data: Element) -> VastData | None:
        root = _embedded(data)
        document = None
        if root is not None:
            document = self._document(lambda: read_vast(root))
        elif text := self.reader.text(data):
            # §2.3.2 wants elements, not text; what some servers put into CDATA means the same.
            self.warnings.append("VASTAdData holds its document as text, not as elements")
            document = self._document(lambda: parse_vast(text.encode()))
        else:
            self.blame(VmapError.RESPONSE_PARSING, "VASTAdData holds no VAST document")
        return None if document is None else VastData(document)

    def _custom_data(self, data: Element) -> CustomData:
        text, template = self.reader.text(data), Reader.attribute(data, "templateType")
        document = None
        if _is_vast_template(template):
            root = _embedded(data)
            document = self._document(lambda: parse_vast(text.encode()) if root is None else read_vast(root))
        return CustomData(text, template, document)

    def _document(self, read: Callable[[], VastDocument]) -> VastDocument | None:
        try:
            return read()
        except VastFormatError as error:
            # §2.5: an error of the VAST response is reported with VAST's own code; what is no VAST at all has none.
            own = error.code == VastError.VERSION
            self.blame(error.code if own else VmapError.RESPONSE_PARSING, str(error))
            return None


def _embedded(data: Element) -> Element | None:
    """The VAST response in *data*; it may have any namespace of its own, so it is found by its local name."""
    return next((child for child in data if is_vast_root(child)), None)


def _read_break(reader: Reader, element: Element, schedule_only: bool) -> AdBreak:
    found = _BreakReader(reader, element, schedule_only)
    text = Reader.attribute(element, "timeOffset")
    offset = found.offset(text)
    types = found.break_types()
    repeat_after_ms = found.repeat_after_ms()
    source = found.source()
    return AdBreak(
        offset=offset,
        time_offset=text,
        break_types=types,
        break_id=Reader.attribute(element, "breakId"),
        repeat_after_ms=repeat_after_ms,
        source=source,
        tracking=() if schedule_only else tuple(_trackers(reader, element)),
        extensions=() if schedule_only else tuple(_extensions(reader, element)),
        warnings=tuple(found.warnings),
        fault=found.fault,
    )


def _trackers(reader: Reader, element: Element) -> Iterator[Tracking]:
    for tracker in reader.path(element, "TrackingEvents", "Tracking"):
        event, uri = Reader.attribute(tracker, "event"), reader.uri(tracker)
        if event is not None and uri is not None:
            yield Tracking(event, uri)


def _extensions(reader: Reader, parent: Element) -> Iterator[Extension]:
    for element in reader.path(parent, "Extensions", "Extension"):
        yield Extension(Reader.attribute(element, "type"), outer_xml(element))
