"""What bid requests say that a person agreed to."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from typing import Any

import pytest

from adgovernor.contracts.openrtb_consent import consent_of
from adgovernor.contracts.openrtb_documents import BadOpenRtb
from adgovernor.contracts.openrtb_requests import OpenRtbAdapter
from adgovernor.contracts.requests import Consent

NOTHING = Consent(storage=False, personalisation=False)
NOT_PERSONAL = Consent(personalisation=False)


def tc_string(*purposes: int, version: int = 2, more: str = "") -> str:
    """A TC string that agrees to these purposes and says nothing else."""
    bits = f"{version:06b}".ljust(152, "0")
    bits += "".join("1" if purpose in purposes else "0" for purpose in range(1, 25))
    core = int(bits.ljust(240, "0"), 2).to_bytes(30, "big")
    return urlsafe_b64encode(core).decode().rstrip("=") + more


ALL = tc_string(1, 3, 4)


@pytest.mark.parametrize(
    ("regs", "user", "device", "consent"),
    [
        ({}, {}, {}, None),
        ({"coppa": 0, "gdpr": 0, "us_privacy": "1YNN"}, {}, {"lmt": 0, "dnt": 0}, None),
        ({"coppa": 1}, {}, {}, NOTHING),
        ({}, {}, {"lmt": 1}, NOT_PERSONAL),
        ({}, {}, {"dnt": "1"}, NOT_PERSONAL),
        # The law applies: what nobody said yes to is refused.
        ({"gdpr": 1}, {}, {}, NOTHING),
        ({"gdpr": 1}, {"consent": "1"}, {}, NOTHING),
        ({"gdpr": 1}, {"consent": tc_string(1, 3, 4, version=1)}, {}, NOTHING),
        ({"gdpr": 1}, {"consent": ALL}, {}, None),
        ({"gdpr": 1}, {"consent": tc_string(1, 3, 4, more=".IBAA")}, {}, None),
        ({"gdpr": 1}, {"consent": tc_string(1, 2, 3, 5)}, {}, NOT_PERSONAL),
        ({"gdpr": 1}, {"consent": tc_string(1, 4)}, {}, NOT_PERSONAL),
        ({"gdpr": 1}, {"consent": tc_string(3, 4)}, {}, Consent(storage=False)),
        # It does not, or nobody knows whether it does.
        ({"gdpr": 0}, {"consent": tc_string()}, {}, None),
        ({}, {"consent": tc_string()}, {}, NOTHING),
        ({}, {"consent": "none"}, {}, None),
        ({"us_privacy": "1YYN"}, {}, {}, NOT_PERSONAL),
        ({"us_privacy": "1---"}, {}, {}, None),
        ({"gpp": "DBABMA", "gpp_sid": [2]}, {}, {}, NOTHING),
        ({"gpp_sid": [2], "gdpr": 0}, {"consent": tc_string(1)}, {}, NOT_PERSONAL),
        ({"gpp_sid": [2]}, {"consent": ALL}, {}, None),
        ({"gpp_sid": [7]}, {}, {}, NOT_PERSONAL),
        ({"gpp_sid": [6]}, {}, {}, NOT_PERSONAL),
        ({"gpp_sid": [6], "us_privacy": "1YNN"}, {}, {}, None),
        ({"gpp_sid": [-1]}, {}, {}, None),
        # All that is refused is.
        ({"gdpr": 1}, {"consent": tc_string(3, 4)}, {"lmt": 1}, NOTHING),
    ],
)
def test_a_bid_request_says_what_was_refused(
    regs: dict[str, Any], user: dict[str, Any], device: dict[str, Any], consent: Consent | None
) -> None:
    """Law and consent mean the same in OpenRTB 2.6's places as in the extensions of 2.5, and any refusal counts."""
    assert consent_of({"regs": regs, "user": user, "device": device}) == consent
    assert consent_of({"regs": {"ext": regs}, "user": {"ext": user}, "device": device}) == consent


def test_of_two_places_the_one_that_applies_a_law_counts() -> None:
    """Where a request contradicts itself, the law applies."""
    assert consent_of({"regs": {"gdpr": 0, "ext": {"gdpr": 1}}}) == NOTHING


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"regs": {"coppa": "yes"}}, "regs.coppa"),
        ({"device": {"lmt": 2}}, "device.lmt"),
        ({"regs": {"us_privacy": "1YN"}}, "regs.us_privacy"),
        ({"regs": {"ext": {"gpp_sid": "7"}}}, "regs.gpp_sid"),
        ({"user": {"consent": 1}}, "user.consent"),
    ],
)
def test_what_cannot_be_meant_is_refused(document: dict[str, Any], field: str) -> None:
    """A signal of which nobody can say what it means makes the line a bad one, with the field named."""
    with pytest.raises(BadOpenRtb, match=field.replace(".", r"\.")):
        consent_of(document)


def test_consent_is_read_where_it_is_asked_for() -> None:
    """Without being told to, the adapter refuses nothing in anybody's name."""
    line = json.dumps(
        {"id": "1", "ts": 1_480_544_698_821, "imp": [{"id": "1", "banner": {}}], "regs": {"coppa": 1}}
    ).encode()
    (ignored,) = OpenRtbAdapter((), "ts").to_ad_requests(line)
    (obeyed,) = OpenRtbAdapter((), "ts", consent=True).to_ad_requests(line)
    assert (ignored.consent, obeyed.consent) == (None, NOTHING)
