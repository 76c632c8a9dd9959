"""Who may bid for an impression: media and what they take, currencies, seats, deals, apps and allowed categories.

What lives here: terms that hold for a bid alone, before prices are compared. What never does: durations, floors and
block lists of categories and domains, which bear on the fill. A bid that does not say its seat, medium,
attributes, protocol, app or categories is not held to lists of them. Section numbers are those of OpenRTB 2.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from adgovernor.contracts.categories import is_among
from adgovernor.contracts.openrtb_objects import (
    MEDIA_OF_BIDS,
    Banner,
    Bid,
    BidRequest,
    Imp,
    Native,
    Video,
)

Barred = Literal[
    "media",
    "currency",
    "seat",
    "blocked_app",
    "blocked_attribute",
    "protocol",
    "category",
    "no_deal",
    "deal_advertiser",
]


def barred(request: BidRequest, imp: Imp, seat: str, bid: Bid, currency: str) -> Barred | None:
    """Why the bid may not be made at all, or None: a medium that is not offered (3.2.4), creative attributes or a
    protocol that the medium does not take (3.2.6 to 3.2.9), the request's currencies, seats, apps and categories
    (3.2.1), a private auction without the deal (3.2.11), the deal's own seats and advertisers (3.2.12)."""
    offered = imp.media_types()
    name = MEDIA_OF_BIDS.get(bid.mtype or 0) or (offered[0] if len(offered) == 1 else "")
    if name and offered and name not in offered:
        return "media"
    medium: Banner | Video | Native | None = getattr(imp, name) if name else None
    if medium is not None and not set(bid.attr).isdisjoint(medium.battr):
        return "blocked_attribute"
    if (
        isinstance(medium, Video)
        and bid.protocol
        and medium.protocols
        and bid.protocol not in medium.protocols
    ):
        return "protocol"
    if request.cur and currency not in request.cur:
        return "currency"
    if seat and (seat in request.bseat or (request.wseat and seat not in request.wseat)):
        return "seat"
    if bid.bundle and bid.bundle in request.bapp:
        return "blocked_app"
    if request.acat and bid.cattax == request.cattax and not all(is_among(c, request.acat) for c in bid.cat):
        return "category"
    deal = imp.deal(bid.dealid)
    if deal is None:
        return "no_deal" if imp.pmp is not None and imp.pmp.private_auction == 1 else None
    if seat and deal.wseat and seat not in deal.wseat:
        return "seat"
    if deal.wadomain and not any(is_under(domain, deal.wadomain) for domain in bid.adomain):
        return "deal_advertiser"
    return None


def is_under(domain: str, listed: Sequence[str]) -> bool:
    """Tell whether a list of domains names this one or one that it is under, in any case of letters."""
    name = domain.lower()
    return any(name == other or name.endswith("." + other) for other in map(str.lower, listed) if other)
