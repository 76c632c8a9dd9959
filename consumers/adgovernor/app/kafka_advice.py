"""Why Kafka cannot be talked to, and what to do about it.

The client raises one error for a wrong password, a certificate that is not trusted and a broker that is down: only its
log says which it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_HINTS: Final = {
    "IllegalSaslState": "the broker's port wants no SASL: leave kafka.username out, or use its SASL port",
    "SaslAuthenticationFailed": "correct the username or the password of Kafka, or the SASL mechanism",
    "Authentication failed": "correct the username or the password of Kafka, or the SASL mechanism",
    "UnsupportedSaslMechanism": "set kafka.sasl_mechanism to one that the broker offers",
    "CERTIFICATE_VERIFY_FAILED": "set kafka.ca_file to the authority of the broker's certificate; its name must be "
    "that of the bootstrap server",
    "WRONG_VERSION_NUMBER": "the broker's port does not speak TLS: use its TLS port, or leave TLS out",
    "Connection at": "the broker hangs up: it may want TLS (kafka.tls, kafka.ca_file) or SASL (kafka.username)",
    "Connect call failed": "start the broker, or correct host and port; look whether a firewall is between",
    "Name or service not known": "correct the host name of the bootstrap servers",
}
"""What the client logs → what to do."""
_IN_THE_CLEAR: Final = "Sending username and password in the clear"
"""What the client warns of whenever it uses PLAIN without TLS: no reason why it could not."""
_SAID: Final = 3
"""The last of its words count: before, it may have tried others."""


def why_no_kafka(said: Sequence[str], *, tls: bool) -> tuple[str, str]:
    """Why no broker could be talked to, by what the client ``said`` in its log (may be empty), and what to do about it.
    ``tls``: whether it tried with TLS."""
    why = "; ".join([word for word in said if word != _IN_THE_CLEAR][-_SAID:])
    general = "start the broker, or correct host and port, TLS and credentials"
    if tls and why.rstrip().endswith(":"):
        # A broker that speaks no TLS waits for more, and the client gives up without a word.
        general = _HINTS["WRONG_VERSION_NUMBER"]
    return why, next((hint for sign, hint in _HINTS.items() if sign.lower() in why.lower()), general)
