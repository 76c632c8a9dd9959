"""Stateful sessions with upstream ad servers: VAST chains and VMAP pods over HTTP, tracking, caps and money.

What lives here asks the network and keeps a session's cookies and deadlines. What a document means is
:mod:`adgovernor.video`'s; what a person may still see and what a campaign may still spend is the governor's, asked
through :class:`~adgovernor.sessions.governor.SessionGovernor`.

Imported by their modules, because they need more than HTTP:

    library_governor.LibraryGovernor   the governor over library mode, with states.SessionStates
    stream_governor.StreamGovernor     the governor over a deployment, with decider.StreamDecider
    playback.Playback                  fires what the ``resolve`` stage resolved
"""

from adgovernor.sessions.addresses import AddressPolicy, HostOverride
from adgovernor.sessions.context import SessionContext
from adgovernor.sessions.errors import FetchError, LimitError, SessionError, StateUnavailableError, UsageError
from adgovernor.sessions.fetch import Fetched, Fetcher, FetchLimits
from adgovernor.sessions.governor import (
    BudgetStanding,
    CapStanding,
    SessionChange,
    SessionGovernor,
    SessionState,
    Spend,
)
from adgovernor.sessions.httpx_transport import HttpxTransport
from adgovernor.sessions.pods import Pod
from adgovernor.sessions.request_macros import RequestMacros
from adgovernor.sessions.resolver import ChainLimits, ChainResolver, FiredError, Resolution
from adgovernor.sessions.retry import RetryPolicy
from adgovernor.sessions.tracking import TrackingSender
from adgovernor.sessions.transport import HttpRequest, HttpResponse, Transport
from adgovernor.sessions.upstream import SessionLimits, SessionPolicies, UpstreamSession

__all__ = [
    "AddressPolicy",
    "BudgetStanding",
    "CapStanding",
    "ChainLimits",
    "ChainResolver",
    "FetchError",
    "FetchLimits",
    "Fetched",
    "Fetcher",
    "FiredError",
    "HostOverride",
    "HttpRequest",
    "HttpResponse",
    "HttpxTransport",
    "LimitError",
    "Pod",
    "RequestMacros",
    "Resolution",
    "RetryPolicy",
    "SessionChange",
    "SessionContext",
    "SessionError",
    "SessionGovernor",
    "SessionLimits",
    "SessionPolicies",
    "SessionState",
    "Spend",
    "StateUnavailableError",
    "TrackingSender",
    "Transport",
    "UpstreamSession",
    "UsageError",
]
