"""How a Kafka connection becomes the client's options."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import BadSettings


@pytest.mark.parametrize(
    ("connection", "protocol"),
    [
        (KafkaConnection("a:1"), "PLAINTEXT"),
        (KafkaConnection("a:1", tls=True), "SSL"),
        (KafkaConnection("a:1", username="u", password="p"), "SASL_PLAINTEXT"),
        (KafkaConnection("a:1", tls=True, username="u", password="p"), "SASL_SSL"),
    ],
)
def test_protocol_follows_from_tls_and_credentials(connection: KafkaConnection, protocol: str) -> None:
    """TLS and SASL are used where they are asked for, and both where both are."""
    options = connection.client_options()
    assert options["security_protocol"] == protocol
    assert isinstance(options.get("ssl_context"), ssl.SSLContext) == ("SSL" in protocol.split("_"))


def test_servers_are_divided_by_commas() -> None:
    """Several bootstrap servers may be named, with or without spaces."""
    options = KafkaConnection.of(" a:1, b:2 ,").client_options()
    assert options["bootstrap_servers"] == ["a:1", "b:2"]


@pytest.mark.parametrize("server", ["kafka", "10.0.0.1:65535", "[::1]:9092", "::1", "[fe80::1]"])
def test_every_form_of_address_that_the_client_reads_is_taken(server: str) -> None:
    """A host with or without a port, and IPv6 with or without brackets, go to the client as they are."""
    assert KafkaConnection(server).client_options()["bootstrap_servers"] == [server]


def test_what_cannot_work_is_said(tmp_path: Path) -> None:
    """Missing files, files of another kind and half credentials are named before anything connects."""
    junk = tmp_path / "ca.pem"
    junk.write_text("junk")
    for connection, said in (
        (KafkaConnection(" , "), "bootstrap_servers is empty"),
        (KafkaConnection("a:1,b:kafka"), "'b:kafka' is no host:port"),
        (KafkaConnection("a:0"), "'a:0' is no host:port"),
        (KafkaConnection("kafka://a:9092"), "'kafka://a:9092' is no host:port"),
        (KafkaConnection("a:1", ca_file="/nowhere/ca.pem"), "CA file /nowhere/ca.pem does not exist"),
        (KafkaConnection("a:1", ca_file=str(junk)), "must be PEM"),
        (KafkaConnection("a:1", tls=True, key_file=str(junk)), "without a certificate"),
        (KafkaConnection("a:1", username="u"), "without a password"),
    ):
        with pytest.raises(BadSettings, match=said):
            connection.client_options()


def test_a_server_that_did_not_answer_in_time_is_said_to_have_not() -> None:
    """A time-out says nothing by itself, so it is said in words; another error says its own."""
    connection = KafkaConnection("kafka:9092")
    assert "(no answer in time)" in str(connection.unusable(TimeoutError()))
    assert "(refused)" in str(connection.unusable(OSError("refused")))
    tried = "Err: Unable to bootstrap from [('kafka', 9092, <AddressFamily.AF_UNSPEC: 0>)]"
    assert "(Err: no broker can be talked to)" in str(connection.unusable(OSError(tried)))
    assert "(ValueError())" in str(connection.unusable(ValueError()))
