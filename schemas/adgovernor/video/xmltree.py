"""Bytes to an XML tree, safely: what every VAST and VMAP document passes first.

Nothing here knows an element's name. A document is refused, never repaired, except for one fault that real ad
servers ship and that changes nothing: a namespace prefix nobody declared (``xsi:`` nearly always), which is
accepted and named, so that the caller can warn.

    XmlRefusedError          the bytes were refused (VAST error 100, VMAP error 1002)
    ├── NotXmlError          not well-formed XML 1.0
    └── DoctypeRefusedError  a DOCTYPE, the door to entity bombs and to reading files
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lxml import etree

Element = etree._Element

# A prologue is blanks, comments and processing instructions; possessive, so that it is linear in its length.
_PROLOGUE = re.compile(rb"(?:\xef\xbb\xbf)?+(?:\s++|<!--.*?-->|<\?.*?\?>)*+", re.DOTALL)
_XML_DECLARATION = re.compile(r"\A\s*<\?xml[^>]*\?>")
_ENCODING_DECLARED = re.compile(rb"\A(?:\xef\xbb\xbf)?<\?xml[^>]*\bencoding\s*=")
# Programs that build a document as text of 16 bits name that encoding in it, and then send bytes of UTF-8. Whoever
# reads the words in single bytes knows that they are not true.
_WIDE_ENCODING_DECLARED = re.compile(
    rb"\A<\?xml[^>]*\bencoding\s*=\s*[\"'](?:utf-?(?:16|32)|ucs-?[24]|iso-10646-ucs-[24])", re.IGNORECASE
)
_GZIP_MARK = b"\x1f\x8b"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff", b"<\x00", b"\x00<")
# The parser's own name for its input, after a message that says line and column already.
_PARSER_SUFFIX = re.compile(r" \(<string>, line [0-9]+\)\Z")
_UNDECLARED_PREFIX_ERROR = "NS_ERR_UNDEFINED_NAMESPACE"
_UNDECLARED_PREFIX = re.compile(r"Namespace prefix (\S+)")
_IAB_NAMESPACE = re.compile(
    r"\Ahttps?://(?:[\w-]+\.)*(?:iab\.(?:com|net)|iabtechlab\.com)(?:/|\Z)", re.IGNORECASE
)

# The parser's log stops at this many entries; past it nobody can say that a prefix was the only fault.
_MAX_LOGGED_ERRORS = 100


class XmlRefusedError(ValueError):
    """The bytes were refused; the message says why."""


class NotXmlError(XmlRefusedError):
    """The bytes are not a well-formed XML document."""


class DoctypeRefusedError(XmlRefusedError):
    """The document declares a DOCTYPE, which no ad document needs."""


@dataclass(frozen=True, slots=True)
class XmlDocument:
    """A parsed document: its root, and the prefixes it used without declaring them (in order, each once)."""

    root: Element
    undeclared_prefixes: tuple[str, ...] = ()


def parse_xml(data: bytes, charset: str | None = None) -> XmlDocument:
    """Parse *data*; *charset* is the transport's, used only where the document itself names no encoding.

    Comments and processing instructions are dropped, so text around them is one text. Entities beyond XML's own
    five cannot exist (no DOCTYPE), nesting is limited to 256 by the parser, nothing is fetched.

    Raises :class:`NotXmlError` and :class:`DoctypeRefusedError`.
    """
    if data[:2] == _GZIP_MARK:
        raise NotXmlError(
            "it is compressed with gzip; unpack a file, and say Content-Encoding: gzip over HTTP"
        )
    if data[:2] in _UTF16_MARKS:
        data, charset = _from_utf16(data), "utf-8"
    prologue = _PROLOGUE.match(data)
    start = prologue.end() if prologue else 0
    if data[start : start + 9].upper() == b"<!DOCTYPE":
        raise DoctypeRefusedError("the document declares a DOCTYPE; send it without one")
    encoding = None if charset is None or _ENCODING_DECLARED.match(data) else charset
    if _WIDE_ENCODING_DECLARED.match(data):
        encoding = "utf-8"
    try:
        document = _parse(data, encoding)
    except NotXmlError:
        if encoding is None:
            raise
        # A transport that names a charset in which this is no XML is mistaken; XML's own rules find the encoding.
        document = _parse(data, None)
    # An encoding that hides the prologue from the check above still shows its DOCTYPE to the parser.
    if document.root.getroottree().docinfo.doctype:
        raise DoctypeRefusedError("the document declares a DOCTYPE; send it without one")
    return document


def _from_utf16(data: bytes) -> bytes:
    codec = "utf-16" if data[:2] in _UTF16_MARKS[:2] else "utf-16-le" if data[:1] == b"<" else "utf-16-be"
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        raise NotXmlError(f"not readable as UTF-16: {error.reason}") from error
    return _XML_DECLARATION.sub("", text, count=1).encode("utf-8", "surrogatepass")


def _parser(encoding: str | None, *, recover: bool) -> etree.XMLParser[Element]:
    try:
        return etree.XMLParser(
            encoding=encoding,
            recover=recover,
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=False,
            remove_comments=True,
            remove_pis=True,
        )
    except LookupError:
        # A charset that nobody knows says nothing; XML's own rules for finding the encoding apply.
        return _parser(None, recover=recover)


def _parse(data: bytes, encoding: str | None) -> XmlDocument:
    parser = _parser(encoding, recover=False)
    try:
        return XmlDocument(etree.fromstring(data, parser))
    except (etree.XMLSyntaxError, ValueError) as error:
        prefixes = _only_undeclared_prefixes(parser)
        if not prefixes:
            raise NotXmlError(f"not well-formed XML: {_reason(parser, error)}") from error
    root = etree.fromstring(data, _parser(encoding, recover=True))
    # The stubs say that a root always exists; in recovery lxml may answer None.
    if root is None:
        raise NotXmlError("not well-formed XML: no root element")
    return XmlDocument(root, prefixes)


def _reason(parser: etree.XMLParser[Element], error: Exception) -> str:
    """The first fault that is not excused, with its line and column."""
    for entry in parser.error_log:
        if entry.type_name != _UNDECLARED_PREFIX_ERROR:
            return f"{entry.message.strip()}, line {entry.line}, column {entry.column}"
    return _PARSER_SUFFIX.sub("", str(error))


def _only_undeclared_prefixes(parser: etree.XMLParser[Element]) -> tuple[str, ...]:
    """The undeclared prefixes, when they are all that is wrong with what *parser* read."""
    log = list(parser.error_log)
    if not log or len(log) >= _MAX_LOGGED_ERRORS:
        return ()
    if any(entry.type_name != _UNDECLARED_PREFIX_ERROR for entry in log):
        return ()
    found = [match.group(1) for entry in log if (match := _UNDECLARED_PREFIX.match(entry.message))]
    return tuple(dict.fromkeys(found))


def local_name(element: Element) -> str:
    """The element's name without namespace or undeclared prefix."""
    return _split(str(element.tag))[1]


def namespace(element: Element) -> str | None:
    """The element's namespace; None when it has none or used an undeclared prefix."""
    return _split(str(element.tag))[0]


def _split(tag: str) -> tuple[str | None, str]:
    if tag.startswith("{"):
        uri, _, name = tag[1:].partition("}")
        return uri, name
    return None, tag.rpartition(":")[2]


def is_iab_namespace(uri: str | None) -> bool:
    """Whether *uri* is one of the IAB's own namespaces, old or new."""
    return uri is not None and _IAB_NAMESPACE.match(uri) is not None


class Reader:
    """Finds elements by name, with or without the IAB namespace, and ignores those of other vocabularies.

    *root* is the document's (or embedded document's) root: its own namespace counts as right whatever it is.
    """

    __slots__ = ("_children", "_names", "_own")

    def __init__(self, root: Element) -> None:
        self._own = namespace(root)
        self._names: dict[str, str] = {}
        # Every element is asked for many names; its children are sorted by name once. Holding the elements here also
        # keeps their identity, which is what they are found by.
        self._children: dict[Element, dict[str, list[Element]]] = {}

    def name(self, element: Element) -> str:
        """The local name, or "" for an element of a foreign vocabulary."""
        tag = str(element.tag)
        known = self._names.get(tag)
        if known is None:
            uri, name = _split(tag)
            known = name if uri is None or uri == self._own or is_iab_namespace(uri) else ""
            self._names[tag] = known
        return known

    def children(self, element: Element | None, name: str) -> list[Element]:
        """The direct children called *name*, in document order."""
        if element is None:
            return []
        by_name = self._children.get(element)
        if by_name is None:
            by_name = self._children[element] = {}
            for child in element:
                by_name.setdefault(self.name(child), []).append(child)
        return by_name.get(name, [])

    def child(self, element: Element | None, *names: str) -> Element | None:
        """The first direct child with one of *names* (the names in order of preference)."""
        for name in names:
            for found in self.children(element, name):
                return found
        return None

    def path(self, element: Element | None, *names: str) -> Iterator[Element]:
        """All elements down the path *names*."""
        if not names:
            if element is not None:
                yield element
            return
        for child in self.children(element, names[0]):
            yield from self.path(child, *names[1:])

    def text(self, element: Element | None) -> str:
        """The element's text, CDATA sections joined, trimmed; that of its ``URL`` child where it has one.

        VAST 1 wrapped addresses in a ``URL`` element, and some servers still do.
        """
        if element is None:
            return ""
        if len(element):
            inner = self.child(element, "URL")
            if inner is not None:
                return self.text(inner)
            return "".join([element.text or "", *(child.tail or "" for child in element)]).strip()
        return (element.text or "").strip()

    def uri(self, element: Element | None) -> str | None:
        """The element's address, trimmed; None when it is empty or the placeholder ``about:blank``."""
        found = self.text(element)
        return None if not found or found.lower() == "about:blank" else found

    def uris(self, element: Element | None, name: str) -> tuple[str, ...]:
        """The addresses of the children called *name*, without empty ones and placeholders."""
        return tuple(uri for child in self.children(element, name) if (uri := self.uri(child)) is not None)

    @staticmethod
    def attribute(element: Element, name: str) -> str | None:
        """The attribute's value, trimmed; None when absent or empty."""
        value = element.get(name)
        return None if value is None else value.strip() or None

    @staticmethod
    def attribute_in_any_case(element: Element, name: str) -> str | None:
        """As :meth:`attribute`, for a name that versions or servers spell differently (``adSlotID``, ``adSlotId``)."""
        wanted = name.lower()
        for key, value in element.attrib.items():
            if str(key).lower() == wanted:
                return str(value).strip() or None
        return None

    @staticmethod
    def boolean(element: Element, name: str, default: bool | None = None) -> bool | None:
        """The attribute as a Boolean: true/false/1/0 in any case; *default* when absent or anything else."""
        value = (Reader.attribute(element, name) or "").lower()
        if value in ("true", "1"):
            return True
        if value in ("false", "0"):
            return False
        return default

    @staticmethod
    def integer(element: Element, name: str) -> int | None:
        """The attribute as an integer; None when absent or not one."""
        return parse_integer(Reader.attribute(element, name))


def parse_integer(text: str | None) -> int | None:
    """*text* as a decimal integer of at most 18 digits; None otherwise."""
    if text is None or not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return None
    return int(text)
