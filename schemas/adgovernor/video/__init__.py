"""VAST and VMAP as typed, frozen values: bytes in, ads out (VAST 2.0-4.3, VMAP 1.0.1).

Pure: no input or output, no clock, no randomness. What lives here is what a document means; which documents to fetch,
what to fire and when is for sessions.

    parse_vast   bytes to a VastDocument                 parse_vmap   bytes to a VmapDocument
    ResolvedAd   an InLine with the Wrappers above it    play_order   which ads play, in which order
    expand       macros in an address                    unmet_expectation   why an ad cannot be played here
"""

from adgovernor.video.chain import Hop, ResolvedAd, Sourced, TrackedUri, resolve_uri
from adgovernor.video.codes import VastError, VmapError
from adgovernor.video.expectations import Expectations, unmet_expectation
from adgovernor.video.macros import (
    STANDARD_MACROS,
    UNKNOWN,
    WITHHELD,
    MacroValue,
    expand,
    expand_error,
    timestamp,
)
from adgovernor.video.model import BrokenAd, InLine, VastDocument, Wrapper
from adgovernor.video.playlist import Yield, allowed_ads, play_order
from adgovernor.video.vast import VastFormatError, parse_vast, read_vast
from adgovernor.video.vmap import AdBreak, VmapDocument, VmapFormatError, parse_vmap
from adgovernor.video.xmltree import DoctypeRefusedError, NotXmlError, XmlRefusedError

__all__ = [
    "STANDARD_MACROS",
    "UNKNOWN",
    "WITHHELD",
    "AdBreak",
    "BrokenAd",
    "DoctypeRefusedError",
    "Expectations",
    "Hop",
    "InLine",
    "MacroValue",
    "NotXmlError",
    "ResolvedAd",
    "Sourced",
    "TrackedUri",
    "VastDocument",
    "VastError",
    "VastFormatError",
    "VmapDocument",
    "VmapError",
    "VmapFormatError",
    "Wrapper",
    "XmlRefusedError",
    "Yield",
    "allowed_ads",
    "expand",
    "expand_error",
    "parse_vast",
    "parse_vmap",
    "play_order",
    "read_vast",
    "resolve_uri",
    "timestamp",
    "unmet_expectation",
]
