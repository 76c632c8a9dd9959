"""The JSON documents in which OpenRTB requests and responses travel.

What lives here: reading JSON safely and with exact decimals, the way to a request inside a test document, and the
error of everything that cannot be read. What never does: the meaning of a field (`openrtb`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, NoReturn

from adgovernor.contracts.errors import Undecodable
from adgovernor.contracts.files import foreign_form

ENVELOPES: Final[tuple[tuple[str, ...], ...]] = (
    ("mockBidRequest",),
    ("requestPayload",),
    ("mockVideoRequest",),
    ("incomingRequest", "ortbRequest"),
)
"""Where Prebid's test documents keep the request."""

RESPONSE_ENVELOPES: Final[tuple[tuple[str, ...], ...]] = (
    ("mockBidResponse",),
    ("expectedBidResponse",),
    ("response", "bids"),
)
"""Where those documents keep a whole response; bidders' tests keep theirs in `httpCalls`."""


class BadOpenRtb(Undecodable):
    """A request or response that cannot be read, or that contradicts itself.

    Attributes:
        field: the path of the offending field, such as ``imp[0].video.rqddurs``.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__("openrtb", f"{field}: {message}")
        self.field = field


def read_json(raw: bytes | str) -> Any:
    """Read a document with exact decimals.

    Raises:
        BadOpenRtb: it is not JSON, or holds what cannot be written out again.
    """
    if not raw.strip():
        raise BadOpenRtb("document", "is empty; give one JSON document")
    try:
        document = json.loads(raw, parse_float=_decimal, parse_constant=_no_constant)
        if "\\" in raw if isinstance(raw, str) else b"\\" in raw:
            # Half of a surrogate pair can be escaped in JSON, but is no text that anybody can be answered with.
            json.dumps(document, default=str, ensure_ascii=False).encode()
    except RecursionError as error:
        raise BadOpenRtb("document", "nested too deeply for a bid request or response") from error
    except ValueError as error:
        told = foreign_form(raw) if isinstance(raw, bytes) else None
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            told = f"something follows the document, at line {error.lineno}; give one document"
        raise BadOpenRtb("document", told or f"this is not JSON ({error})") from error
    return document


def _decimal(text: str) -> Decimal:
    # An exponent costs a few bytes to send and gigabytes to write out.
    found = Decimal(text)
    if found and abs(found.adjusted()) > 40:
        raise ValueError(f"{text} is out of range")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def unwrap(document: Any) -> tuple[str, Mapping[str, Any]]:
    """Find the request and give its path, ending in a dot unless it is the document itself."""
    if not isinstance(document, Mapping):
        raise BadOpenRtb("document", "a bid request is a JSON object")
    for path in ENVELOPES:
        inner: Any = document
        for name in path:
            inner = inner.get(name) if isinstance(inner, Mapping) else None
        if isinstance(inner, Mapping):
            return ".".join(path) + ".", inner
    if not document.keys() & {"imp", "podconfig"}:
        for path in ENVELOPES:
            if path[0] in document:
                raise BadOpenRtb(".".join(path), "is no request; give a JSON object")
    return "", document
