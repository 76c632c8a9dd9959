"""Who may bid for an impression: the allow and block lists of seats, currencies and deals.

What lives here: terms that hold for a bid alone, before prices are compared. What never does: durations, floors and
block lists of categories and domains, which bear on the fill. A bid that does not name its seat is not held to lists
of seats. Section numbers are those of OpenRTB 2.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from adgovernor.contracts.openrtb_objects import Bid, BidRequest, Imp

Barred = Literal["currency", "seat", "no_deal", "deal_advertiser"]


def barred(request: BidRequest, imp: Imp, seat: str, bid: Bid, currency: str) -> Barred | None:
    """Why the bid may not be made at all, or None: the request's currencies and seats (3.2.1), a private auction
    without the deal (3.2.11), the deal's own seats and advertisers (3.2.12)."""
    if request.cur and currency not in request.cur:
        return "currency"
    if seat and (seat in request.bseat or (request.wseat and seat not in request.wseat)):
        return "seat"
    deal = imp.deal(bid.dealid)
    if deal is None:
        return "no_deal" if imp.pmp is not None and imp.pmp.private_auction == 1 else None
    if seat and deal.wseat and seat not in deal.wseat:
        return "seat"
    if deal.wadomain and not any(_is_under(domain, deal.wadomain) for domain in bid.adomain):
        return "deal_advertiser"
    return None


def _is_under(domain: str, allowed: Sequence[str]) -> bool:
    name = domain.lower()
    return any(name == other or name.endswith("." + other) for other in map(str.lower, allowed))
