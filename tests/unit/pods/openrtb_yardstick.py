"""A yardstick for `pods plan`: random bid requests with answers, and their best fill by trying every set of bids.

It reads the rules from the standard once more, from the JSON itself and in the plainest way, so that an error of the
product's own reading shows. Only for a few impressions and bids.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from random import Random
from typing import Any

Json = dict[str, Any]
Bids = Sequence[tuple[int, Json]]
"""Bids, each with the number of the seat that it is from."""

_MEDIA = {1: "banner", 2: "video", 3: "audio", 4: "native"}


def random_request(draw: Random) -> Json:
    """A bid request of up to three impressions, which may contradict itself."""
    request: Json = {"id": "r", "imp": [_imp(draw, str(name)) for name in range(draw.randint(1, 3))]}
    for share, field, values in (
        (0.2, "bcat", (["IAB7"], ["IAB1-2"])),
        (0.1, "acat", (["IAB7", "IAB5"],)),
        (0.1, "cattax", (7,)),
        (0.2, "badv", (["a.com"],)),
        (0.1, "bapp", (["app"],)),
        (0.15, "wseat", (["s1"],)),
        (0.15, "bseat", (["s2"],)),
        (0.2, "cur", (["USD"], ["eur"], ["usd", "EUR"])),
    ):
        if draw.random() < share:
            request[field] = draw.choice(values)
    return request


def _imp(draw: Random, name: str) -> Json:
    imp: Json = {"id": name}
    medium = draw.choice(("video", "video", "audio"))
    imp[medium] = terms = _terms(draw)
    pod = draw.choice(("p", "p", "q", ""))
    if pod:
        terms["podid"] = pod
    elif draw.random() < 0.4:
        imp["banner"] = {}
    if draw.random() < 0.5:
        terms["poddur"] = draw.choice((30, 45, 60))
        if draw.random() < 0.6:
            terms["maxseq"] = draw.randint(1, 3)
    if draw.random() < 0.3:
        terms["slotinpod"] = draw.choice((0, 1, -1, 2))
    if draw.random() < 0.3:
        terms["poddedupe"] = draw.choice(([1], [2], [3], [1, 3], [5], [4], [1, 2, 3, 4]))
    if draw.random() < 0.4:
        imp["bidfloor"] = draw.choice((0.5, 2, 4))
    if draw.random() < 0.3:
        deal: Json = {"id": "d1"}
        deal.update(
            draw.choice(
                (
                    {},
                    {"bidfloor": draw.choice((0, 1, 5))},
                    {"mincpmpersec": 0.2},
                    {"durfloors": [{"maxdur": 20, "bidfloor": 2}]},
                    {"wseat": ["s1"]},
                    {"wadomain": ["a.com"]},
                )
            )
        )
        imp["pmp"] = {"deals": [deal], "private_auction": draw.choice((0, 0, 1))}
    return imp


def _terms(draw: Random) -> Json:
    terms: Json = {"mimes": ["video/mp4"]}
    if draw.random() < 0.3:
        terms["rqddurs"] = draw.sample((10, 15, 20, 30), draw.randint(1, 3))
    else:
        if draw.random() < 0.5:
            terms["minduration"] = draw.choice((0, 5, 10))
        if draw.random() < 0.7:
            terms["maxduration"] = draw.choice((15, 20, 30, 60))
    floor = draw.random()
    if floor < 0.2:
        terms["mincpmpersec"] = draw.choice((0, 0.1, 0.25))
    elif floor < 0.4:
        terms["durfloors"] = [
            {
                "mindur": draw.choice((0, 5, 16)),
                "maxdur": draw.choice((16, 30)),
                "bidfloor": draw.choice((1, 3)),
            }
        ]
    return terms


def random_response(draw: Random, request: Json) -> Json:
    """An answer of up to nine bids from up to three seats, some of which are groups."""
    names = itertools.count()
    seats: list[Json] = []
    for _ in range(draw.randint(1, 3)):
        seat: Json = {"bid": [_bid(draw, request, f"b{next(names)}") for _ in range(draw.randint(1, 3))]}
        if draw.random() < 0.7:
            seat["seat"] = draw.choice(("s1", "s2"))
        if draw.random() < 0.5:
            seat["group"] = 1
        seats.append(seat)
    return {"seatbid": seats, "cur": draw.choice(("USD", "USD", "usd", "EUR"))}


def _bid(draw: Random, request: Json, name: str) -> Json:
    bid: Json = {
        "id": name,
        "impid": draw.choice(request["imp"])["id"],
        "price": draw.choice((0, 0.5, 1, 2, 3, 3, 4.5, 6.25)),
    }
    for share, field, values in (
        (0.85, "dur", (5, 10, 15, 15, 20, 30, 60)),
        (0.7, "crid", tuple("xyzuvw")),
        (0.6, "adomain", (["a.com"], ["b.com"], ["sub.a.com"], ["C.com"], ["c.com"])),
        (0.4, "cat", (["IAB1-2"], ["IAB7-3"], ["IAB7"], ["IAB5"])),
        (0.1, "cattax", (7,)),
        (0.1, "bundle", ("app",)),
        (0.25, "dealid", ("d1", "other")),
        (0.15, "slotinpod", (1, -1, 2)),
        (0.3, "mtype", (1, 2, 3)),
    ):
        if draw.random() < share:
            bid[field] = draw.choice(values)
    return bid


def best(request: Json, response: Json) -> tuple[Decimal, int, int]:
    """What the best lawful fill is worth, and of the fills worth as much the fewest ads and the least time of those,
    both negative."""
    pods: dict[tuple[bool, str], list[Json]] = {}
    for imp in request["imp"]:
        name = _media(imp).get("podid")
        pods.setdefault((True, name) if name else (False, imp["id"]), []).append(imp)
    seats = response["seatbid"]
    lawful = [
        (number, bid, seconds)
        for number, seat in enumerate(seats)
        for bid in seat["bid"]
        if (seconds := _lasts(request, response, seat.get("seat", ""), bid)) is not None
    ]
    time = {bid["id"]: seconds for _, bid, seconds in lawful}
    found = (Decimal(0), 0, 0)
    for row in _subsets([(number, bid) for number, bid, _ in lawful]):
        taken = Counter(number for number, _ in row)
        if any(seats[at].get("group") and count < len(seats[at]["bid"]) for at, count in taken.items()):
            continue
        bids = [bid for _, bid in row]
        value = sum((_price(bid) for bid in bids), Decimal(0))
        key = (value, -len(bids), -sum(time[bid["id"]] for bid in bids))
        if key > found and all(_may_play(request, imps, bids, time) for imps in pods.values()):
            found = key
    return found


def _subsets(bids: Bids) -> Iterator[Bids]:
    return itertools.chain.from_iterable(itertools.combinations(bids, size) for size in range(len(bids) + 1))


def _media(imp: Json) -> Json:
    found: Json = imp.get("video") or imp["audio"]
    return found


def _price(bid: Json) -> Decimal:
    return Decimal(str(bid["price"]))


def _lasts(request: Json, response: Json, seat: str, bid: Json) -> int | None:
    """How long the bid's ad plays, in seconds; None where the bid may not be taken at all."""
    imp = next(imp for imp in request["imp"] if imp["id"] == bid["impid"])
    currency, currencies = response["cur"].upper(), [name.upper() for name in request.get("cur", ())]
    deal = next((d for d in imp.get("pmp", {}).get("deals", ()) if d["id"] == bid.get("dealid")), None)
    wrong_seat = seat and (
        seat in request.get("bseat", ())
        or seat not in request.get("wseat", [seat])
        or (deal is not None and seat not in deal.get("wseat", [seat]))
    )
    categories = bid.get("cat", ()) if bid.get("cattax", 1) == request.get("cattax", 1) else ()
    allowed = request.get("acat")
    if (
        wrong_seat
        or (currencies and currency not in currencies)
        or (deal is None and imp.get("pmp", {}).get("private_auction"))
        or (deal is not None and "wadomain" in deal and not _is_under(bid, deal["wadomain"]))
        or _is_under(bid, request.get("badv", ()))
        or bid.get("bundle") in request.get("bapp", ())
        or any(_is_in(category, request.get("bcat", ())) for category in categories)
        or (allowed and not all(_is_in(category, allowed) for category in categories))
        or _price(bid) <= 0
    ):
        return None
    medium = _MEDIA[bid["mtype"]] if "mtype" in bid else "video" if "video" in imp else "audio"
    if medium not in imp:
        return None
    terms = imp[medium]
    if medium == "banner":
        if "poddur" in _media(imp):
            return None
        seconds = 0
    else:
        seconds = bid["dur"] if "dur" in bid else _longest(terms)
        if not _is_allowed(terms, seconds):
            return None
    floor = _floor(deal, seconds) if deal is not None else None
    if floor is None:
        floor = _floor(terms, seconds)
    if floor is None:
        floor = Decimal(str(imp.get("bidfloor", 0)))
    if floor and (currency != "USD" or _price(bid) < floor):
        return None
    return seconds


def _is_under(bid: Json, domains: Sequence[str]) -> bool:
    names = [name.lower() for name in bid.get("adomain", ())]
    return any(name == other or name.endswith("." + other) for name in names for other in domains)


def _is_in(category: str, listed: Sequence[str]) -> bool:
    return category in listed or category.split("-")[0] in listed


def _longest(terms: Json) -> int:
    ends = [max(terms["rqddurs"])] if "rqddurs" in terms else []
    ends += [terms[name] for name in ("maxduration", "poddur") if name in terms]
    return min(ends, default=0)


def _is_allowed(terms: Json, seconds: int) -> bool:
    bounded = any(terms.get(name) for name in ("rqddurs", "minduration", "maxduration", "poddur"))
    return (
        (seconds > 0 or not bounded)
        and seconds in terms.get("rqddurs", [seconds])
        and seconds >= terms.get("minduration", 0)
        and seconds <= terms.get("maxduration", seconds)
        and seconds <= terms.get("poddur", seconds)
    )


def _floor(terms: Json, seconds: int) -> Decimal | None:
    if "mincpmpersec" in terms:
        return Decimal(str(terms["mincpmpersec"])) * seconds
    for floor in terms.get("durfloors", ()):
        if floor.get("mindur", 0) <= seconds <= floor["maxdur"]:
            return Decimal(str(floor["bidfloor"]))
    return Decimal(str(terms["bidfloor"])) if "bidfloor" in terms else None


def _may_play(request: Json, imps: Sequence[Json], bids: Sequence[Json], time: dict[str, int]) -> bool:
    """Tell whether the bids for one pod's impressions may all play in it, in some order."""
    rows = {imp["id"]: [bid for bid in bids if bid["impid"] == imp["id"]] for imp in imps}
    for imp in imps:
        terms, row = _media(imp), rows[imp["id"]]
        if len(row) > (terms.get("maxseq", len(row)) if "poddur" in terms else 1):
            return False
        if sum(time[bid["id"]] for bid in row) > terms.get("poddur", 10**6):
            return False
    inside = [bid for row in rows.values() for bid in row]
    codes = {code for imp in imps for code in _media(imp).get("poddedupe", ())} or {1, 2, 3, 4}
    names = {
        1: [{name.lower() for name in bid.get("adomain", ())} for bid in inside],
        2: [{(bid.get("cattax", 1), code) for code in bid.get("cat", ())} for bid in inside],
        3: [{bid["crid"]} if "crid" in bid else set() for bid in inside],
    }
    for code in codes & set(names):
        sets: list[set[Any]] = list(names[code])
        if any(one & other for one, other in itertools.combinations(sets, 2)):
            return False
    orders = [itertools.permutations(rows[imp["id"]]) for imp in _play_order(imps)]
    return any(_is_placed([bid for row in order for bid in row]) for order in itertools.product(*orders))


def _play_order(imps: Sequence[Json]) -> list[Json]:
    place = {imp["id"]: _media(imp).get("slotinpod", 0) for imp in imps}
    front = [imp for imp in imps if place[imp["id"]] == 1]
    back = [imp for imp in imps if place[imp["id"]] == -1]
    for imp in imps:
        if place[imp["id"]] == 2:
            (back if front else front).append(imp)
    return [*front, *(imp for imp in imps if place[imp["id"]] == 0), *back]


def _is_placed(row: Sequence[Json]) -> bool:
    last = len(row) - 1
    lawful = {0: range(last + 1), 1: (0,), -1: (last,), 2: (0, last)}
    return all(at in lawful[bid.get("slotinpod", 0)] for at, bid in enumerate(row))
