"""Reading ``ads``: resolved ads, each once.

They have no numbers: the stage that writes them may write one again after a crash. A reader knows what it has seen by
decision id and slot, for as long as a repetition can come.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from typing import Final, Self

import structlog

from adgovernor.contracts import topics
from adgovernor.contracts.ads import Ad
from adgovernor.contracts.catalogue import contract_of
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import Undecodable
from adgovernor.subscribe.kafka import PartitionReader, ReadableLog, Reader

log = structlog.get_logger("adgovernor.subscribe")

_BATCH: Final = 500
_POLL_S: Final = 0.5


class AdReader:
    """Delivers each resolved ad once, in order for each partition::

        async with AdReader("localhost:9092", prefix="prod") as ads:
            async for ad in ads:
                ...

    Raises what `Subscriber` raises, but `Gap`: nothing tells that an ad is missing but its decision.
    """

    def __init__(
        self,
        connection: KafkaConnection | str | ReadableLog,
        *,
        prefix: str = "",
        start: Mapping[int, int] | None = None,
        from_end: bool = False,
        until_end: bool = False,
        remembered: int = 100_000,
        client_id: str = "adgovernor-ads",
    ) -> None:
        """
        Args:
            start: the next offset of each partition; left out, the first.
            from_end: where ``start`` names none, begin with what comes next.
            until_end: stop at the end that the topic has when reading begins.
            remembered: how many ads are known when they come again.
        """
        self._start = dict(start or {})
        self._from_end = from_end
        self._until_end = until_end
        self._ends: dict[int, int] = {}
        self._remembered = remembered
        self._contract = contract_of(topics.ADS)
        self._seen: OrderedDict[tuple[str, int], None] = OrderedDict()
        self.repeated = 0
        """How many were repetitions, and so not delivered."""
        self._reader: Reader
        if isinstance(connection, (str, KafkaConnection)):
            name = topics.full_name(prefix, topics.ADS)
            self._reader = PartitionReader(KafkaConnection.of(connection), name, client_id=client_id)
        else:
            self._reader = connection.reader(topics.ADS)

    async def __aenter__(self) -> Self:
        partitions = await self._reader.open()
        try:
            ends = await self._reader.ends(partitions)
            first = ends if self._from_end else {}
            await self._reader.read_from({p: self._start.get(p, first.get(p, 0)) for p in partitions})
            self._ends = ends
        except BaseException:
            await self._reader.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._reader.close()

    def positions(self) -> dict[int, int]:
        """The next offset of each partition; of what was read, not of what was delivered."""
        return dict(self._reader.next)

    async def __aiter__(self) -> AsyncIterator[Ad]:
        while not self._until_end or any(self._reader.next[p] < end for p, end in self._ends.items()):
            for message in await self._reader.read(_BATCH, _POLL_S):
                if self._until_end and message.offset >= self._ends[message.partition]:
                    continue
                try:
                    ad: Ad = self._contract.parse(message.value or b"")
                except Undecodable as error:
                    log.warning(
                        "ignored a message that is no ad",
                        partition=message.partition,
                        offset=message.offset,
                        reason=str(error),
                    )
                    continue
                name = (ad.decision_id, ad.slot)
                if name in self._seen:
                    self.repeated += 1
                    continue
                self._seen[name] = None
                if len(self._seen) > self._remembered:
                    self._seen.popitem(last=False)
                yield ad
