"""What the Kafka client is told where a broker's connection was closed under uvloop."""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from adgovernor.runtime.kafka_transport import translate_closed_transports


def test_a_request_to_a_closed_connection_fails_as_one_to_a_broken_one() -> None:
    """uvloop's `RuntimeError` would end the client's fetcher for good; a broken connection is opened anew."""
    before = AIOKafkaConnection.send

    async def send() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        connection = AIOKafkaConnection(host, port)
        _, writer = await asyncio.open_connection(host, port)
        connection._writer = writer
        connection._versions = {MetadataRequest.API_KEY: (0, 1)}
        writer.transport.abort()
        await asyncio.sleep(0)
        try:
            connection.send(MetadataRequest([]))
        finally:
            server.close()

    try:
        with pytest.raises(RuntimeError):
            uvloop.run(send())
        translate_closed_transports()
        translate_closed_transports()
        with pytest.raises(KafkaConnectionError):
            uvloop.run(send())
    finally:
        AIOKafkaConnection.send = before  # type: ignore[method-assign]
