"""Reading OpenRTB 2.5 and 2.6: bid requests and bid responses, checked.

What lives here: reading, Prebid's `podconfig` as impressions, and the refusal of requests that contradict themselves.
What never does: the way into the documents in which such requests travel (`openrtb_documents`), the objects
(`openrtb_objects`), pods (`openrtb_pods`) and our own ad requests (`openrtb_requests`). Section numbers are those of
OpenRTB 2.6.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from adgovernor.contracts.openrtb_documents import (
    RESPONSE_ENVELOPES,
    BadOpenRtb,
    read_json,
    unwrap,
)
from adgovernor.contracts.openrtb_objects import (
    DEDUPLICATIONS,
    NO_DEDUPLICATION,
    BidRequest,
    BidResponse,
    DurFloors,
    Imp,
    Loose,
    PodConfig,
    Video,
)

MAX_PODCONFIG_SLOTS: Final = 1000
"""Slots that one `podconfig` may come to; a day of one-second ads is a mistake or an attack."""

_EDGES: Final = {1: "first", -1: "last"}
_GUARANTEED: Final = (*_EDGES, 2)
"""AdCOM 1.0, list Slot Position in Pod: the guaranteed ones, of which 2 is the first or the last."""

_WANTED: Final = {
    "tuple_type": "give a list",
    "model_type": "give a JSON object",
    "missing": "missing; it is required",
    "string_type": "give a text",
}
"""What JSON calls what Python has another name for."""

_Model = TypeVar("_Model", bound=Loose)


def parse_request(raw: bytes | str | Mapping[str, Any]) -> BidRequest:
    """Read a bid request that stands alone or sits in one of the `ENVELOPES`.

    Raises:
        BadOpenRtb: no request, not readable, or contradicting itself; the field is named.
    """
    document = raw if isinstance(raw, Mapping) else read_json(raw)
    where, body = unwrap(document)
    request = _validate(BidRequest, body, where)
    if request.podconfig is not None and not request.imp:
        request = _expand(request, where)
    if request.tmax is not None and request.tmax < 0:
        raise BadOpenRtb(f"{where}tmax", f"{request.tmax} is negative; give milliseconds")
    if not request.imp:
        raise BadOpenRtb(f"{where}imp", "no impression is offered; give `imp`, or Prebid's `podconfig`")
    _check(request, where)
    return request


def parse_response(raw: bytes | str | Mapping[str, Any]) -> BidResponse:
    """Read a bid response that stands alone, or the mock responses of one of Prebid's test documents.

    Raises:
        BadOpenRtb: no response, or not readable; the field is named.
    """
    document = raw if isinstance(raw, Mapping) else read_json(raw)
    if not isinstance(document, Mapping):
        raise BadOpenRtb("document", "a bid response is a JSON object")
    if "httpCalls" not in document:
        for path in RESPONSE_ENVELOPES:
            inner: Any = document
            for name in path:
                inner = inner.get(name) if isinstance(inner, Mapping) else None
            if isinstance(inner, Mapping):
                return _validate(BidResponse, inner, ".".join(path) + ".")
        if "imp" in document and "seatbid" not in document:
            raise BadOpenRtb("imp", "this is a bid request; give the response to it")
        return _validate(BidResponse, document, "")
    calls = document["httpCalls"]
    if not isinstance(calls, list):
        raise BadOpenRtb("httpCalls", "give a list of calls, each with its `mockResponse`")
    bodies = []
    for number, call in enumerate(calls):
        answer = call.get("mockResponse") if isinstance(call, Mapping) else None
        body = answer.get("body") if isinstance(answer, Mapping) else None
        if isinstance(body, Mapping):
            bodies.append(_validate(BidResponse, body, f"httpCalls[{number}].mockResponse.body."))
    if len({body.cur for body in bodies}) > 1:
        raise BadOpenRtb("httpCalls", "the responses are in several currencies, and none is converted here")
    seats = tuple(seat for body in bodies for seat in body.seatbid)
    return BidResponse(seatbid=seats, cur=bodies[0].cur if bodies else "USD")


def _validate(model: type[_Model], body: Mapping[str, Any], where: str) -> _Model:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = _WANTED.get(first["type"], first["msg"])
        raise BadOpenRtb(where + _path(first["loc"]), message) from error


def _path(location: Sequence[int | str]) -> str:
    """Write a location as `imp[0].video.maxseq`."""
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path or "document"


def _expand(request: BidRequest, where: str) -> BidRequest:
    """Make the impressions that Prebid makes of a `podconfig`: ids POD_INDEX, index from 0.

    A pod has as many slots as its shortest duration fits into it. Where the durations are exact each is used,
    and the slots are shared equally among them in the order given; the last takes the remainder.
    """
    config = request.podconfig
    assert config is not None
    durations = config.durationrangesec
    path = f"{where}podconfig"
    if not durations:
        raise BadOpenRtb(f"{path}.durationrangesec", "missing; give the durations that a slot may have")
    if min(durations) <= 0:
        raise BadOpenRtb(
            f"{path}.durationrangesec", f"{min(durations)} is not a duration; give seconds above 0"
        )
    if not config.pods:
        raise BadOpenRtb(f"{path}.pods", "missing; give at least one pod")
    template = request.video or Video()
    imps: list[Imp] = []
    seen: set[str] = set()
    for number, pod in enumerate(config.pods):
        here = f"{path}.pods[{number}]"
        if pod.podid in seen:
            raise BadOpenRtb(f"{here}.podid", f"{pod.podid} is given twice")
        if re.fullmatch(r"-[0-9]+|0+", pod.podid):
            raise BadOpenRtb(f"{here}.podid", f"{pod.podid} is no number of a pod; they count from 1")
        seen.add(pod.podid)
        if pod.adpoddurationsec <= 0:
            raise BadOpenRtb(f"{here}.adpoddurationsec", f"{pod.adpoddurationsec} must be above 0")
        count = pod.adpoddurationsec // min(durations)
        if config.requireexactduration:
            count = max(count, len(durations))
        if not count:
            raise BadOpenRtb(
                f"{here}.adpoddurationsec",
                f"{pod.adpoddurationsec} s is shorter than the shortest slot ({min(durations)} s)",
            )
        if len(imps) + count > MAX_PODCONFIG_SLOTS:
            raise BadOpenRtb(
                f"{here}.adpoddurationsec",
                f"makes {len(imps) + count} slots; at most {MAX_PODCONFIG_SLOTS} are planned at once",
            )
        for index, limits in enumerate(_limits(config, count)):
            imps.append(Imp(id=f"{pod.podid}_{index}", video=template.model_copy(update=limits)))
    return request.model_copy(update={"imp": tuple(imps)})


def _limits(config: PodConfig, count: int) -> Iterator[dict[str, int]]:
    """The bounds on the duration of each of a pod's slots."""
    durations = config.durationrangesec
    share = max(1, count // len(durations))
    for index in range(count):
        if config.requireexactduration:
            exact = durations[min(index // share, len(durations) - 1)]
            yield {"minduration": exact, "maxduration": exact}
        else:
            yield {"maxduration": max(durations)}


def _check(request: BidRequest, where: str) -> None:
    """Refuse what contradicts itself, naming the field."""
    channels = [name for name in ("site", "app", "dooh") if getattr(request, name) is not None]
    if len(channels) > 1:
        raise BadOpenRtb(
            f"{where}{channels[1]}",
            f"given together with {channels[0]}; a request has one of site, app and dooh",
        )
    seen: set[str] = set()
    pods: dict[str, _PodWords] = {}
    for number, imp in enumerate(request.imp):
        path = f"{where}imp[{number}]"
        if not imp.id:
            raise BadOpenRtb(f"{path}.id", "is empty; every impression has a name of its own in its request")
        if imp.id in seen:
            raise BadOpenRtb(f"{path}.id", f"{imp.id} is given twice")
        seen.add(imp.id)
        _check_imp(imp, path)
        media = imp.media()
        if media is not None and media.podid:
            pod = pods.setdefault(media.podid, _PodWords(media.podid))
            pod.add(imp.id, media, f"{path}.{'video' if imp.video is not None else 'audio'}")


def _check_imp(imp: Imp, path: str) -> None:
    """Refuse contradictions within one impression."""
    if imp.bidfloor < 0:
        raise BadOpenRtb(f"{path}.bidfloor", f"{imp.bidfloor} is negative")
    if imp.banner is not None:
        _check_sizes(imp.banner, ("w", "h"), f"{path}.banner")
        for at, size in enumerate(imp.banner.format):
            _check_sizes(size, ("w", "h"), f"{path}.banner.format[{at}]")
    for at, deal in enumerate(imp.pmp.deals if imp.pmp is not None else ()):
        here = f"{path}.pmp.deals[{at}]"
        if not deal.id:
            raise BadOpenRtb(f"{here}.id", "is missing, so that nobody can bid for the deal")
        if deal.bidfloor is not None and deal.bidfloor < 0:
            raise BadOpenRtb(f"{here}.bidfloor", f"{deal.bidfloor} is negative")
        _check_floors(deal.mincpmpersec, deal.durfloors, here)
    for name, media in (("video", imp.video), ("audio", imp.audio)):
        if media is not None:
            _check_media(media, f"{path}.{name}")


class _PodWords:
    """What the impressions of one pod say of it, and the refusal of those that contradict the ones before."""

    def __init__(self, pod_id: str) -> None:
        self._pod_id = pod_id
        self._edges: dict[int, str] = {}
        """The impression that is the first (1) or last (-1)."""
        self._guaranteed: list[str] = []
        self._sequence: tuple[int, str] | None = None
        """The pod's place in the stream, and the impression that says so."""

    def add(self, imp_id: str, media: Video, path: str) -> None:
        """Hear what one more impression says."""
        if media.slotinpod in _GUARANTEED:
            self._guaranteed.append(imp_id)
            if len(self._guaranteed) > 2:
                names = ", ".join(self._guaranteed)
                raise BadOpenRtb(
                    f"{path}.slotinpod",
                    f"impressions {names} are each the first or last of pod {self._pod_id}",
                )
        if media.slotinpod in _EDGES:
            other = self._edges.setdefault(media.slotinpod, imp_id)
            if other != imp_id:
                raise BadOpenRtb(
                    f"{path}.slotinpod",
                    f"impressions {other} and {imp_id} are both the {_EDGES[media.slotinpod]} of pod "
                    f"{self._pod_id}",
                )
        if self._sequence is None:
            self._sequence = media.podseq, imp_id
        sequence, other = self._sequence
        if sequence != media.podseq:
            raise BadOpenRtb(
                f"{path}.podseq",
                f"{media.podseq}, but impression {other} of pod {self._pod_id} says {sequence}",
            )


def _check_media(media: Video, path: str) -> None:
    """Refuse contradictions of one video or audio object (3.2.7, 7.6, 7.11)."""
    for name in ("minduration", "maxduration", "poddur"):
        value = getattr(media, name)
        if value is not None and value < 0:
            raise BadOpenRtb(f"{path}.{name}", f"{value} is negative; give seconds")
    _check_sizes(media, ("sequence", "minbitrate", "maxbitrate", "w", "h"), path)
    if media.minbitrate and media.maxbitrate and media.minbitrate > media.maxbitrate:
        raise BadOpenRtb(
            f"{path}.minbitrate", f"{media.minbitrate} is above maxbitrate, which is {media.maxbitrate}"
        )
    if media.mimes is not None and not media.mimes:
        raise BadOpenRtb(
            f"{path}.mimes", "is empty, so that no ad can play; name the types that are supported"
        )
    if media.rqddurs:
        for name in ("minduration", "maxduration"):
            if getattr(media, name) is not None:
                raise BadOpenRtb(
                    f"{path}.rqddurs",
                    f"given together with {name}; the two exclude each other, leave one out",
                )
        if min(media.rqddurs) <= 0:
            raise BadOpenRtb(
                f"{path}.rqddurs", f"{min(media.rqddurs)} is not a duration; give seconds above 0"
            )
    if media.minduration and media.maxduration and media.minduration > media.maxduration:
        raise BadOpenRtb(
            f"{path}.minduration", f"{media.minduration} is above maxduration, which is {media.maxduration}"
        )
    if media.maxseq is not None and media.maxseq < 1:
        raise BadOpenRtb(
            f"{path}.maxseq", f"{media.maxseq} is no number of ads; give 1 or more, or leave it out"
        )
    if media.poddur is not None:
        if media.poddur == 0:
            raise BadOpenRtb(f"{path}.poddur", "0 s holds no ad; give seconds above 0, or leave it out")
        shortest = media.seconds()
        if shortest is not None and shortest[0] > media.poddur:
            raise BadOpenRtb(
                f"{path}.poddur", f"{media.poddur} s is shorter than any ad ({shortest[0]} s at least)"
            )
    if media.slotinpod < -1:
        raise BadOpenRtb(f"{path}.slotinpod", f"{media.slotinpod} is none of -1, 0, 1, 2")
    _check_floors(media.mincpmpersec, media.durfloors, path)
    known = [code for code in media.poddedupe if code in DEDUPLICATIONS]
    if NO_DEDUPLICATION in known and len(set(known)) > 1:
        raise BadOpenRtb(f"{path}.poddedupe", "5 (no deduplication) is given together with others")


def _check_sizes(thing: BaseModel, names: Sequence[str], path: str) -> None:
    for name in names:
        value = getattr(thing, name)
        if value is not None and value < 0:
            raise BadOpenRtb(f"{path}.{name}", f"{value} is negative; give 0 or more, or leave it out")


def _check_floors(per_second: Decimal | None, floors: Sequence[DurFloors], path: str) -> None:
    if per_second is not None and per_second < 0:
        raise BadOpenRtb(f"{path}.mincpmpersec", f"{per_second} is negative")
    if per_second is not None and floors:
        raise BadOpenRtb(
            f"{path}.durfloors", "given together with mincpmpersec; only one form of floor is allowed"
        )
    for number, floor in enumerate(floors):
        here = f"{path}.durfloors[{number}]"
        if floor.bidfloor < 0:
            raise BadOpenRtb(f"{here}.bidfloor", f"{floor.bidfloor} is negative")
        if floor.mindur is not None and floor.maxdur is not None and floor.mindur > floor.maxdur:
            raise BadOpenRtb(f"{here}.mindur", f"{floor.mindur} is above maxdur, which is {floor.maxdur}")
