"""What users of a broker with an authorizer may do."""

from __future__ import annotations

from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest

TOPIC, GROUP = 2, 3
READ, WRITE, DESCRIBE = 3, 4, 8
_LITERAL, _ALLOW = 3, 3


async def allow(bootstrap: str, user: str, *rights: tuple[int, str, int]) -> None:
    """Gives a user rights: (kind of resource, its name or ``*``, operation)."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        for kind, name, operation in rights:
            asks = CreateAclsRequest(kind, name, _LITERAL, f"User:{user}", "*", operation, _ALLOW)
            (broker,) = admin._client.cluster.brokers()
            answer: Any = await admin._send_request(asks, broker.nodeId)
            assert [code for code, *_ in answer.creation_responses] == [0], answer
    finally:
        await admin.close()
