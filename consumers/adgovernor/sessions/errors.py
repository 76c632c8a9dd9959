"""What can go wrong in a session, divided by who is at fault.

SessionError
├── UsageError                       the caller's mistake
│   ├── SessionNotStartedError       used before start_session or after end_session
│   ├── SessionAlreadyStartedError   started a second time
│   └── UserMissingError             a cap was asked for and the session has no user
├── LimitError                       an expected refusal, raised where the caller asked for it to be
│   ├── CapExceededError             the user has seen the campaign as often as allowed
│   └── BudgetExceededError          the money does not reach
├── StateUnavailableError            the governor's state could not be read or written
└── FetchError                       the upstream's fault, or the network's
    ├── UriRefusedError              not http(s), too long, or no address at all
    ├── AddressRefusedError          the host is, or resolves to, an address that may not be contacted
    ├── HostUnresolvedError          no address is known for the host
    ├── UnreachableError             the connection failed or broke
    ├── FetchTimeoutError            a deadline passed
    ├── StatusError                  the server answered with an error status
    ├── TooManyRedirectsError        redirected more often than allowed, or to nowhere
    ├── BodyRefusedError             the body is too large or has too many tags, or its compression is broken
    └── CircuitOpenError             the upstream failed too often; it is left alone for a while
"""

from __future__ import annotations

from adgovernor.contracts.errors import AdGovernorError


class SessionError(AdGovernorError):
    """Anything that a session raises."""


class UsageError(SessionError):
    """The caller used the session wrongly."""


class SessionNotStartedError(UsageError):
    """The session is not started, or has ended."""


class SessionAlreadyStartedError(UsageError):
    """The session is started already."""


class UserMissingError(UsageError):
    """The operation needs a user and none is known."""


class LimitError(SessionError):
    """A limit was reached."""


class CapExceededError(LimitError):
    """A frequency cap was reached."""


class BudgetExceededError(LimitError):
    """A budget does not reach."""


class StateUnavailableError(SessionError):
    """The governor's state did not answer; what the session does then is its policy's to say."""


class FetchError(SessionError):
    """A document could not be fetched."""


class UriRefusedError(FetchError):
    """The address is not one that may be requested."""


class AddressRefusedError(FetchError):
    """The host's address is private, loopback, link-local or otherwise not public."""


class HostUnresolvedError(FetchError):
    """The host has no known address."""


class UnreachableError(FetchError):
    """The connection failed or broke."""


class FetchTimeoutError(FetchError):
    """A deadline passed before the answer was complete."""


class StatusError(FetchError):
    """The server answered, with an error status; *status* is the HTTP status code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class TooManyRedirectsError(FetchError):
    """The answer was one redirect too many, or a redirect without a target."""


class BodyRefusedError(FetchError):
    """The body is larger than allowed, has more tags than allowed, or cannot be decompressed."""


class CircuitOpenError(FetchError):
    """The upstream is left alone after too many failures."""
