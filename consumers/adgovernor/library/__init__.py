"""Library mode: caps, budgets and pods without a log, over a state backend alone.

Thin fronts of the core. What lives here: what a caller says and is told, and where state is kept. What never does: a
rule. A person is the core's history under the core's caps, a campaign's money is a deployment of one user shard and
one treasury, a pod is the core's fill; each is one value of a `StateBackend`, changed by compare-and-set.

    backend = open_backend("memory")            # or redis://…, postgresql+asyncpg://…, sqlite+aiosqlite:///…
    capper = FrequencyCapper(backend, [CampaignLimits("spring", caps=limits(hour=2, day=5))])
    tracker = BudgetTracker(backend)

What a log gives and this does not: an audit, replay, and decisions that weigh campaigns against each other.
"""

from adgovernor.library.budget import BudgetAnswer, BudgetStatus, BudgetTracker, PacingStatus
from adgovernor.library.errors import (
    CreativeRepeatedError,
    NoBudgetError,
    PodError,
    PodExistsError,
    PodRuleError,
    PodTooLargeError,
    PositionFilledError,
    UnknownPodError,
)
from adgovernor.library.frequency import CampaignLimits, CapAnswer, FrequencyCapper, limits
from adgovernor.library.opening import open_backend
from adgovernor.library.pods import AdPodManager, PodPosition, PodStatus

__all__ = [
    "AdPodManager",
    "BudgetAnswer",
    "BudgetStatus",
    "BudgetTracker",
    "CampaignLimits",
    "CapAnswer",
    "CreativeRepeatedError",
    "FrequencyCapper",
    "NoBudgetError",
    "PacingStatus",
    "PodError",
    "PodExistsError",
    "PodPosition",
    "PodRuleError",
    "PodStatus",
    "PodTooLargeError",
    "PositionFilledError",
    "UnknownPodError",
    "limits",
    "open_backend",
]
