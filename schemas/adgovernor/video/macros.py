"""The IAB's VAST 4.x macros, and the ones that ad servers and VMAP add (VAST 4.3 §6, VMAP 1.0.1 §2.5).

Expansion is pure: whoever makes the request passes the values. A macro is ``[NAME]``; a value is encoded as
encodeURIComponent does; the values of a list are encoded one by one and joined by bare commas. A standard macro
without a value becomes ``-1`` (unknown), a withheld one ``-2``; brackets around anything else are the address's own
and stay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Final
from urllib.parse import quote


class Withheld(Enum):
    """The value is known and not shared because of a policy; it is sent as ``-2``."""

    WITHHELD = "-2"


WITHHELD: Final = Withheld.WITHHELD
UNKNOWN: Final = "-1"

MacroValue = str | int | float | tuple[str | int | float, ...] | Withheld

STANDARD_MACROS: Final = frozenset(
    {
        "ADCATEGORIES",
        "ADCOUNT",
        "ADPLAYHEAD",
        "ADSERVINGID",
        "ADTYPE",
        "APIFRAMEWORKS",
        "APPBUNDLE",
        "APPNAME",
        "ASSETURI",
        "BLOCKEDADCATEGORIES",
        "BREAKMAXADLENGTH",
        "BREAKMAXADS",
        "BREAKMAXDURATION",
        "BREAKMINADLENGTH",
        "BREAKMINDURATION",
        "BREAKPOSITION",
        "CACHEBUSTING",
        "CLICKPOS",
        "CLICKTYPE",
        "CLIENTUA",
        "CONTENTCAT",
        "CONTENTID",
        "CONTENTPLAYHEAD",
        "CONTENTURI",
        "DEVICEIP",
        "DEVICEUA",
        "DOMAIN",
        "DSAPARAMS",
        "DSAPUBRENDER",
        "DSAREQUIRED",
        "ERRORCODE",
        "EXTENSIONS",
        "GDPRCONSENT",
        "GPPSECTIONID",
        "GPPSTRING",
        "IFA",
        "IFATYPE",
        "INVENTORYSTATE",
        "LATLONG",
        "LIMITADTRACKING",
        "MEDIAMIME",
        "MEDIAPLAYHEAD",
        "OMIDPARTNER",
        "PAGEURL",
        "PLACEMENTTYPE",
        "PLAYBACKMETHODS",
        "PLAYERCAPABILITIES",
        "PLAYERSIZE",
        "PLAYERSTATE",
        "PODSEQUENCE",
        "REASON",
        "REGULATIONS",
        "SERVERSIDE",
        "SERVERUA",
        "STOREID",
        "STOREURL",
        "TIMESTAMP",
        "TRANSACTIONID",
        "UNIVERSALADID",
        "VASTVERSIONS",
        "VERIFICATIONVENDORS",
    }
)
"""The macros of VAST 4.0 to 4.3 and of the IAB's registry beside it."""

_OTHER_MACROS: Final = frozenset({"CORRELATOR"})
"""Not the IAB's, and expanded because ad servers rely on them."""

_MACRO = re.compile(r"\[([A-Z][A-Z0-9_]*)\]")
_EMPTY_CORRELATOR = re.compile(r"([?&]correlator=)(?=&|#|\Z)")
# What JavaScript's encodeURIComponent leaves as it is, beside letters and digits (§6.1).
_UNENCODED = "-_.!~*'()"


def expand(uri: str, values: Mapping[str, MacroValue]) -> str:
    """*uri* with every standard macro, and every macro in *values*, replaced.

    An empty ``correlator=`` parameter takes ``CORRELATOR``'s value too.
    """

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name in values:
            return encode(values[name])
        return UNKNOWN if name in STANDARD_MACROS or name in _OTHER_MACROS else match.group(0)

    expanded = _MACRO.sub(replace, uri) if "[" in uri else uri
    correlator = values.get("CORRELATOR")
    if correlator is not None and "correlator=" in expanded:
        expanded = _EMPTY_CORRELATOR.sub(lambda match: match.group(1) + encode(correlator), expanded)
    return expanded


def expand_error(uri: str, code: int, message: str | None = None) -> str:
    """*uri* with the error macros replaced and everything else as written.

    VAST says ``[ERRORCODE]``, VMAP ``[ERROR_CODE]`` and ``[ERROR_MESSAGE]``; servers mix the two.
    """
    found = uri.replace("[ERRORCODE]", str(code)).replace("[ERROR_CODE]", str(code))
    return found if message is None else found.replace("[ERROR_MESSAGE]", quote(message, safe=_UNENCODED))


def encode(value: MacroValue) -> str:
    """*value* as it stands in an address."""
    if isinstance(value, Withheld):
        return value.value
    if isinstance(value, tuple):
        return ",".join(quote(str(part), safe=_UNENCODED) for part in value)
    return quote(str(value), safe=_UNENCODED)


def timestamp(moment: datetime) -> str:
    """*moment* as ``[TIMESTAMP]`` writes it: ISO 8601 with milliseconds and zone offset.

    Raises :class:`ValueError` for a moment without a time zone, which names no instant.
    """
    if moment.tzinfo is None:
        raise ValueError("a timestamp needs a time zone; give an aware datetime")
    return moment.isoformat(timespec="milliseconds")
