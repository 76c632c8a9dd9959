"""A log for publishers that takes every message and keeps what it took; no server, and nothing waits."""

from __future__ import annotations

import asyncio
from typing import Self

from adgovernor.publish.lanes import Headers, Published, Ticket


class TakingLog:
    """A `publish.WritableLog` that is its own carrier, of topics with one partition."""

    def __init__(self) -> None:
        self.taken: list[bytes | None] = []
        """The values of all messages, in order."""

    def carrier(self) -> Self:
        """Itself."""
        return self

    async def open(self) -> None:
        """It is always there."""

    async def partitions(self, full_name: str) -> int:
        """One."""
        return 1

    def put_nowait(
        self,
        topic: str,
        full_name: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        ticket: Ticket,
    ) -> bool:
        """Takes the message where there is room."""
        if not self.has_room():
            return False
        self.taken.append(value)
        ticket.waiting += 1
        self.acknowledge(ticket, Published(topic, partition, len(self.taken) - 1))
        return True

    def has_room(self) -> bool:
        """There always is."""
        return True

    def acknowledge(self, ticket: Ticket, place: Published) -> None:
        """At the loop's next turn."""
        asyncio.get_running_loop().call_soon(ticket.acknowledged, place)

    async def room(self, deadline_s: float) -> None:
        """There always is."""

    async def drain(self, deadline_s: float) -> None:
        """Nothing is waited for."""

    async def close(self) -> None:
        """Nothing is open."""
