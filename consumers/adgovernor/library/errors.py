"""What a caller can do wrong in library mode. A reached cap and an exhausted budget are answers, not errors.

BadInput
├── NoBudgetError             a campaign was asked about that no budget was ever set for
└── PodError
    ├── UnknownPodError       no pod of that id, or its life has ended
    ├── PodExistsError        another pod of that id is there
    ├── PodTooLargeError      more positions than a pod may have
    ├── PositionFilledError   another ad plays there
    ├── CreativeRepeatedError the creative plays in the pod already
    └── PodRuleError          another rule of the pod forbids it; `reasons` names all of them
"""

from __future__ import annotations

from adgovernor.contracts.errors import BadInput


class NoBudgetError(BadInput):
    """No budget was set for the campaign."""


class PodError(BadInput):
    """A pod cannot be made, or not be filled like that."""


class UnknownPodError(PodError):
    """There is no such pod, or no more."""


class PodExistsError(PodError):
    """There is another pod of that id."""


class PodTooLargeError(PodError):
    """The pod has more positions than one may have."""


class PositionFilledError(PodError):
    """Another ad plays at the position."""


class CreativeRepeatedError(PodError):
    """The creative plays in the pod already."""


class PodRuleError(PodError):
    """A rule of the pod forbids the ad there.

    Attributes:
        reasons: every rule, as `core.podfill.Reason` names them.
    """

    def __init__(self, reasons: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.reasons = reasons
