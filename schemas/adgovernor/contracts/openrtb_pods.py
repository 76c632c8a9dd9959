"""The ad pods that an OpenRTB request offers (OpenRTB 2.6, section 7.6).

What lives here: which impressions form a pod, and what kind of pod that is. What never does: bids and their
fill. Impressions form a pod by `podid`, by `poddur` (a dynamic pod that nobody named), or by ids of the form
POD_INDEX, which Prebid gives to the slots of a `podconfig`; a podid and a POD that are alike are one pod. Whatever is
left is a place for one ad, not a pod.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from adgovernor.contracts.openrtb_objects import BidRequest, Imp

Kind = Literal["structured", "dynamic", "hybrid"]

_POD_INDEX: Final = re.compile(r"(.+)_(\d+)", re.ASCII)

NOT_A_POD: Final = "not a pod"
DYNAMIC_UNNAMED: Final = "dynamic (no podid)"


@dataclass(frozen=True, slots=True)
class OfferedPod:
    """One pod.

    `pod_id` is the podid, the POD of the impressions' ids, or the impression's own id where nobody named the
    pod (`named` is then false). `slots` and `parts` are its fixed slots and its dynamic parts, in the order
    given; `total_s` bounds the whole pod where Prebid's `podconfig` says so.
    """

    pod_id: str
    named: bool
    imps: tuple[Imp, ...]
    total_s: int | None = None

    @property
    def slots(self) -> tuple[Imp, ...]:
        """The impressions that take one ad each."""
        return tuple(imp for imp in self.imps if not is_dynamic(imp))

    @property
    def parts(self) -> tuple[Imp, ...]:
        """The impressions that take as many ads as fit into their `poddur`."""
        return tuple(imp for imp in self.imps if is_dynamic(imp))

    @property
    def kind(self) -> Kind:
        """Structured: slots only; dynamic: time only; hybrid: both."""
        if not self.parts:
            return "structured"
        return "hybrid" if self.slots else "dynamic"


@dataclass(frozen=True, slots=True)
class Offer:
    """Everything that a request offers: its pods, and the impressions that are in none."""

    pods: tuple[OfferedPod, ...]
    singles: tuple[Imp, ...]

    @property
    def kind(self) -> str:
        """One word for the request: the kind of its pods, several joined, or "not a pod"."""
        if not self.pods:
            return NOT_A_POD
        kinds = dict.fromkeys(
            DYNAMIC_UNNAMED if pod.kind == "dynamic" and not pod.named else pod.kind for pod in self.pods
        )
        return ", ".join(kinds)


def is_dynamic(imp: Imp) -> bool:
    """Tell whether the impression is time to fill rather than a slot."""
    media = imp.media()
    return media is not None and media.poddur is not None


def offer_of(request: BidRequest) -> Offer:
    """Sort the request's impressions into pods; pods come in the order of their first impression."""
    groups: dict[tuple[bool, str], list[Imp]] = {}
    singles: list[Imp] = []
    indexed = _indexed(request.imp)
    for imp in request.imp:
        media = imp.media()
        if media is not None and media.podid:
            groups.setdefault((True, media.podid), []).append(imp)
        elif imp.id in indexed:
            groups.setdefault((True, indexed[imp.id]), []).append(imp)
        elif is_dynamic(imp):
            groups.setdefault((False, imp.id), []).append(imp)
        else:
            singles.append(imp)
    lengths = {}
    if request.podconfig is not None:
        lengths = {pod.podid: pod.adpoddurationsec for pod in request.podconfig.pods}
    pods = tuple(
        OfferedPod(
            pod_id=name,
            named=named,
            imps=tuple(imps),
            total_s=lengths.get(name) if named else None,
        )
        for (named, name), imps in groups.items()
    )
    return Offer(pods, tuple(singles))


def _indexed(imps: Sequence[Imp]) -> dict[str, str]:
    """Give the POD of each video or audio impression whose id has the form POD_INDEX.

    A POD that is a number is one even alone, as Prebid writes it. Any other word needs company: a single id such
    as `imp_1` is a name, not a pod. Impressions that say `podid` or `poddur` themselves are not asked.
    """
    found: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for imp in imps:
        media = imp.media()
        if media is None or media.podid or media.poddur is not None:
            continue
        match = _POD_INDEX.fullmatch(imp.id)
        if match is not None:
            pod = match.group(1)
            found[imp.id] = pod
            sizes[pod] = sizes.get(pod, 0) + 1
    return {name: pod for name, pod in found.items() if pod.isdecimal() or sizes[pod] > 1}


def seconds_range(imps: Sequence[Imp]) -> tuple[int, int | None] | None:
    """The shortest and longest duration that the impressions allow together (None = open), or None."""
    ranges = [limits for imp in imps if (media := imp.media()) is not None and (limits := media.seconds())]
    if not ranges:
        return None
    longest = [high for _, high in ranges]
    ends = [high for high in longest if high is not None]
    return min(low for low, _ in ranges), max(ends) if len(ends) == len(longest) else None
