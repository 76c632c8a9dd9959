"""What a bid request says that the person agreed to, as our ad requests say it (`requests.Consent`).

What refuses, in OpenRTB 2.6's places and in those of 2.5's extensions (`regs.ext`, `user.ext`):

    signal                                        storage      personalisation
    `regs.coppa` 1                                refused      refused
    `regs.gdpr` 1, or 2 in `regs.gpp_sid`         without      without
        by the TC string (`user.consent`)         purpose 1    purposes 3 and 4
        without one that can be read              refused      refused
    `regs.us_privacy`, sale opted out of (`1-Y-`)              refused
    `device.lmt` 1, `device.dnt` 1                             refused
    `regs.gpp_sid`, any other section, except 6
        (US privacy) beside `regs.us_privacy`                  refused

Each signal can only refuse. Where `regs.gdpr` is left out, nobody knows whether the law applies; a TC string that can
be read is then obeyed. Frequency caps are what guidelines for `lmt` and for US opt-outs allow, so these refuse no
storage. Which vendors a TC string names is not looked at: whether the one who serves is among them, the caller knows.
The GPP string itself is not read: what a law that applies was answered is taken to be no.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from binascii import Error as BadBase64
from collections.abc import Iterator, Mapping
from typing import Any, Final

from adgovernor.contracts.openrtb_documents import BadOpenRtb
from adgovernor.contracts.requests import Consent

_ALL: Final = Consent(storage=False, personalisation=False)
_NOT_PERSONAL: Final = Consent(personalisation=False)

_TC_VERSION: Final = 2
_PURPOSES_AT: Final = 152
"""The bit of a TC string's core segment at which the consents to purposes begin, the first to purpose 1 (Transparency
and Consent String 2, "The Core String")."""
_STORE: Final = 1
"""The purpose to store information on a device,"""
_PERSONAL: Final = frozenset((3, 4))
"""and those to make profiles for personalised ads, and to select ads by them."""

_TCF_EU: Final = 2
_US_PRIVACY: Final = 6
"""Sections of the Global Privacy Platform whose strings have places of their own in a bid request."""


def consent_of(document: Mapping[str, Any]) -> Consent | None:
    """What a bid request refuses; None where it refuses nothing.

    Raises:
        BadOpenRtb: where a signal is not what OpenRTB says that it is, so that nobody knows what it means.
    """
    answers = list(_answers(document))
    consent = Consent(
        storage=all(answer.storage for answer in answers),
        personalisation=all(answer.personalisation for answer in answers),
    )
    return None if consent == Consent() else consent


def _answers(document: Mapping[str, Any]) -> Iterator[Consent]:
    """What each signal says by itself."""
    if _flag(document, "regs", "coppa"):
        yield _ALL
    if _flag(document, "device", "lmt") or _flag(document, "device", "dnt"):
        yield _NOT_PERSONAL
    sections = _sections(document)
    applies = True if _TCF_EU in sections else _flag(document, "regs", "gdpr")
    agreed = _purposes(_text(document, "user", "consent"))
    if applies or (applies is None and agreed is not None):
        yield _by_purposes(agreed or frozenset())
    us_privacy = _text(document, "regs", "us_privacy")
    if us_privacy:
        if re.fullmatch(r"1[YNyn-]{3}", us_privacy) is None:
            raise BadOpenRtb(
                "regs.us_privacy", f"{us_privacy!r}; a version and three of Y, N and - are wanted"
            )
        if us_privacy[2] in "Yy":
            yield _NOT_PERSONAL
    unread = set(sections) - {_TCF_EU} - ({_US_PRIVACY} if us_privacy else set())
    if unread:
        yield _NOT_PERSONAL


def _by_purposes(agreed: frozenset[int]) -> Consent:
    return Consent(storage=_STORE in agreed, personalisation=agreed >= _PERSONAL)


def _purposes(told: str) -> frozenset[int] | None:
    """The purposes that a TC string agrees to; None where it is none that can be read."""
    core = told.partition(".")[0]
    try:
        raw = urlsafe_b64decode(core + "=" * (-len(core) % 4))
    except (BadBase64, ValueError):
        return None
    if len(raw) * 8 < _PURPOSES_AT + 24 or raw[0] >> 2 != _TC_VERSION:
        return None
    bits = int.from_bytes(raw[_PURPOSES_AT // 8 : _PURPOSES_AT // 8 + 3], "big")
    return frozenset(purpose for purpose in range(1, 25) if bits >> (24 - purpose) & 1)


def _sections(document: Mapping[str, Any]) -> list[int]:
    """The sections of the Global Privacy Platform that apply; -1 and 0 say that none does."""
    found: Any = next(_values(document, "regs", "gpp_sid"), [])
    if not isinstance(found, list) or not all(isinstance(section, int) for section in found):
        raise BadOpenRtb("regs.gpp_sid", f"{found!r}; a list of section numbers is wanted")
    return [section for section in found if section > 0]


def _flag(document: Mapping[str, Any], where: str, name: str) -> bool | None:
    """Whether either place says 1; None where none says anything."""
    answers = list(_values(document, where, name))
    for answer in answers:
        if answer not in (0, 1, "0", "1"):
            raise BadOpenRtb(f"{where}.{name}", f"{answer!r}; 0 or 1 is wanted")
    return any(int(answer) for answer in answers) if answers else None


def _text(document: Mapping[str, Any], where: str, name: str) -> str:
    found = next(_values(document, where, name), "")
    if not isinstance(found, str):
        raise BadOpenRtb(f"{where}.{name}", f"{found!r}; a text is wanted")
    return found


def _values(document: Mapping[str, Any], where: str, name: str) -> Iterator[Any]:
    """What an object says of this, itself and in its extension."""
    place = document.get(where)
    for at in (place, place.get("ext") if isinstance(place, Mapping) else None):
        if isinstance(at, Mapping) and at.get(name) not in (None, ""):
            yield at[name]
