"""Reads a VAST document of version 2.0 to 4.3 into :mod:`adgovernor.video.model`'s values.

Lenient where real servers err and the meaning is plain (element order, attribute case, Booleans in any case, VAST 1
spellings of addresses, unreadable durations), strict where a player would have to guess (not XML, no VAST root,
an unknown version).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import TypedDict

from lxml import etree

from adgovernor.video.codes import VastError
from adgovernor.video.creatives import read_creative, read_trackings
from adgovernor.video.model import (
    BrokenAd,
    Category,
    Creative,
    Extension,
    Impression,
    InLine,
    Pricing,
    Resource,
    VastDocument,
    Verification,
    ViewableImpression,
    Wrapper,
)
from adgovernor.video.xmltree import (
    Element,
    Reader,
    XmlRefusedError,
    local_name,
    parse_integer,
    parse_xml,
)

_LEADING_VERSION = re.compile(r"([0-9]{1,3})(?:\.[0-9]+)*")
_SUPPORTED_MAJOR_VERSIONS = (2, 3, 4)
_NEWEST_MAJOR_VERSION = 4
# VAST 1's root; the one older document that still turns up.
_VAST_1_ROOT = "VideoAdServingTemplate"


class VastFormatError(ValueError):
    """The document is no VAST that can be used; *code* is what its wrappers' Error addresses are told."""

    def __init__(self, code: VastError, message: str) -> None:
        super().__init__(message)
        self.code = code


def parse_vast(data: bytes, charset: str | None = None) -> VastDocument:
    """Read one VAST response; *charset* is the one of its Content-Type, if any.

    Raises :class:`VastFormatError` with code 100 (not XML, or a DOCTYPE), 101 (another root than ``VAST``) or
    102 (a version other than 2.x to 4.x).
    """
    try:
        document = parse_xml(data, charset)
    except XmlRefusedError as error:
        raise VastFormatError(VastError.XML_PARSING, str(error)) from error
    warnings = tuple(f"undeclared namespace prefix {prefix!r}" for prefix in document.undeclared_prefixes)
    return read_vast(document.root, warnings)


def is_vast_root(root: Element) -> bool:
    """Whether *root* is the root of a VAST document of any version."""
    return local_name(root) in ("VAST", _VAST_1_ROOT)


def read_vast(root: Element, warnings: tuple[str, ...] = ()) -> VastDocument:
    """Read the VAST document at *root*, which may be embedded in another document (VMAP's VASTAdData).

    Raises :class:`VastFormatError` with code 101 or 102.
    """
    name = local_name(root)
    if name == _VAST_1_ROOT:
        raise VastFormatError(VastError.VERSION, f"{_VAST_1_ROOT} is VAST 1; send VAST 2.0 to 4.3")
    if name != "VAST":
        playlist = ", a playlist of ad breaks" if name == "VMAP" else ""
        raise VastFormatError(
            VastError.SCHEMA, f"the root element is {name!r}{playlist}; a VAST response begins with 'VAST'"
        )
    version = Reader.attribute(root, "version")
    major = _major_version(version)
    reader = Reader(root)
    ads = tuple(_read_ad(reader, ad) for ad in reader.children(root, "Ad"))
    return VastDocument(version, major, ads, reader.uris(root, "Error"), warnings)


def _major_version(version: str | None) -> int:
    if version is None:
        # Many real responses forget the attribute; the newest rules are a superset.
        return _NEWEST_MAJOR_VERSION
    match = _LEADING_VERSION.match(version)
    major = int(match.group(1)) if match else 0
    if major not in _SUPPORTED_MAJOR_VERSIONS:
        raise VastFormatError(
            VastError.VERSION, f"VAST version {version!r} is not supported; send 2.0 to 4.3"
        )
    return major


class _Attributes(TypedDict):
    """What an ``Ad`` element says itself."""

    id: str | None
    sequence: int | None
    ad_type: str | None
    conditional: bool
    xml_bytes: int


class _Common(TypedDict):
    """What InLine and Wrapper have in common."""

    ad_system: str | None
    impressions: tuple[Impression, ...]
    errors: tuple[str, ...]
    creatives: tuple[Creative, ...]
    viewable_impression: ViewableImpression | None
    verifications: tuple[Verification, ...]
    pricing: Pricing | None
    extensions: tuple[Extension, ...]


def _read_ad(reader: Reader, ad: Element) -> InLine | Wrapper | BrokenAd:
    sequence = Reader.integer(ad, "sequence")
    if sequence is not None and sequence < 1:
        # §3.3.2: a sequence is greater than zero, so this one cannot place the ad in a pod.
        sequence = None
    attributes = _Attributes(
        id=Reader.attribute(ad, "id"),
        sequence=sequence,
        ad_type=Reader.attribute(ad, "adType"),
        conditional=Reader.boolean(ad, "conditionalAd", False) is True,
        xml_bytes=len(outer_xml(ad)),
    )
    inline = reader.child(ad, "InLine", "Inline")
    if inline is not None:
        return _read_inline(reader, inline, attributes)
    wrapper = reader.child(ad, "Wrapper")
    if wrapper is not None:
        return _read_wrapper(reader, wrapper, attributes)
    return BrokenAd(**attributes, errors=reader.uris(ad, "Error"))


def _read_common(reader: Reader, ad: Element) -> _Common:
    return _Common(
        ad_system=reader.text(reader.child(ad, "AdSystem")) or None,
        impressions=tuple(_impressions(reader, ad)),
        errors=reader.uris(ad, "Error"),
        creatives=_creatives(reader, ad),
        viewable_impression=_viewable(reader, ad),
        verifications=tuple(_verifications(reader, ad)),
        pricing=_pricing(reader, ad),
        extensions=tuple(_extensions(reader, ad)),
    )


def _read_inline(reader: Reader, inline: Element, attributes: _Attributes) -> InLine:
    return InLine(
        **attributes,
        **_read_common(reader, inline),
        title=reader.text(reader.child(inline, "AdTitle")) or None,
        description=reader.text(reader.child(inline, "Description")) or None,
        advertiser=reader.text(reader.child(inline, "Advertiser")) or None,
        ad_serving_id=reader.text(reader.child(inline, "AdServingId")) or None,
        expires_s=parse_integer(reader.text(reader.child(inline, "Expires"))),
        survey=reader.uri(reader.child(inline, "Survey")),
        categories=tuple(_categories(reader, inline, "Category")),
    )


def _read_wrapper(reader: Reader, wrapper: Element, attributes: _Attributes) -> Wrapper:
    return Wrapper(
        **attributes,
        **_read_common(reader, wrapper),
        tag_uri=reader.uri(reader.child(wrapper, "VASTAdTagURI", "VASTAdTagURL")),
        follow_additional_wrappers=Reader.boolean(wrapper, "followAdditionalWrappers", True) is not False,
        allow_multiple_ads=Reader.boolean(wrapper, "allowMultipleAds", False) is True,
        fallback_on_no_ad=Reader.boolean(wrapper, "fallbackOnNoAd"),
        blocked_categories=tuple(_categories(reader, wrapper, "BlockedAdCategories")),
    )


def _impressions(reader: Reader, ad: Element) -> Iterator[Impression]:
    for impression in reader.children(ad, "Impression"):
        # VAST 1 put several URL elements into one Impression.
        addresses = [reader.uri(url) for url in reader.children(impression, "URL")] or [
            reader.uri(impression)
        ]
        for uri in addresses:
            if uri is not None:
                yield Impression(uri, Reader.attribute(impression, "id"))


def _creatives(reader: Reader, ad: Element) -> tuple[Creative, ...]:
    return tuple(read_creative(reader, creative) for creative in reader.path(ad, "Creatives", "Creative"))


def _viewable(reader: Reader, ad: Element) -> ViewableImpression | None:
    element = reader.child(ad, "ViewableImpression")
    if element is None:
        return None
    return ViewableImpression(
        Reader.attribute(element, "id"),
        reader.uris(element, "Viewable"),
        reader.uris(element, "NotViewable"),
        reader.uris(element, "ViewUndetermined"),
    )


def _verifications(reader: Reader, ad: Element) -> Iterator[Verification]:
    elements = list(reader.path(ad, "AdVerifications", "Verification"))
    for extension in reader.path(ad, "Extensions", "Extension"):
        if (Reader.attribute(extension, "type") or "").lower() == "adverifications":
            elements += reader.path(extension, "AdVerifications", "Verification")
    for element in elements:
        resources = tuple(
            Resource(kind, uri, api_framework=Reader.attribute(resource, "apiFramework"))
            for name, kind in (("JavaScriptResource", "javascript"), ("ExecutableResource", "executable"))
            for resource in reader.children(element, name)
            if (uri := reader.uri(resource)) is not None
        )
        yield Verification(
            Reader.attribute(element, "vendor"),
            resources,
            read_trackings(reader, element),
            reader.text(reader.child(element, "VerificationParameters")) or None,
        )


def _pricing(reader: Reader, ad: Element) -> Pricing | None:
    element = reader.child(ad, "Pricing")
    if element is None:
        return None
    return Pricing(
        reader.text(element), Reader.attribute(element, "model"), Reader.attribute(element, "currency")
    )


def _extensions(reader: Reader, ad: Element) -> Iterator[Extension]:
    for element in reader.path(ad, "Extensions", "Extension"):
        yield Extension(Reader.attribute(element, "type"), outer_xml(element))


def outer_xml(element: Element) -> str:
    """The element as XML text, without what follows it.

    A copy declares the namespaces that it uses; the element itself would be written with all that are in scope, and a
    document may declare thousands around thousands of elements.
    """
    return etree.tostring(copy.deepcopy(element), encoding="unicode", with_tail=False)


def _categories(reader: Reader, ad: Element, name: str) -> Iterator[Category]:
    for element in reader.children(ad, name):
        text = reader.text(element)
        if not text:
            continue
        values = [text] if name == "Category" else [part.strip() for part in text.split(",")]
        for value in values:
            if value:
                yield Category(value, Reader.attribute(element, "authority"))
