"""Building up the store of a sealed ledger whose people were erased meanwhile, while an old copy of it comes back."""

from __future__ import annotations

from collections.abc import Mapping

from faulty import FaultyStore
from test_sealing import ALL_BUCKETS, Sealed

from adgovernor.stores.base import NOTHING, Meta, Tip


class Returning(FaultyStore):
    """A store that keeps copies of what it had of u0, until ``behind`` is set. Then such a copy comes in the place of
    what is there, right before a step that leads from the same height to one behind that."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: dict[int, tuple[Meta, dict[str, dict[str, bytes]]]] = {}
        self.behind = 0
        self.returned: set[str] = set()
        """Who was known in the copy that came."""

    async def swap(
        self, shard: str, expected: Tip, meta: Meta, changes: Mapping[str, Mapping[str, bytes | None]]
    ) -> Meta | None:
        present = await self.read_meta(shard)
        copy = self.copies.get(expected.height)
        if shard == "u0" and self.behind and meta.tip.height > self.behind and copy and present:
            self.behind, self.returned = 0, set(copy[1]["users"])
            await self.reset("u0", present.tip, Meta(NOTHING, b""))
            await super().swap("u0", NOTHING, *copy)
        answer = await super().swap(shard, expected, meta, changes)
        if answer is None and shard == "u0" and not self.behind:
            self.copies[meta.tip.height] = meta, (await self.read_buckets("u0", ALL_BUCKETS))[1]
        return answer


async def test_a_rebuild_is_no_continuation_of_an_old_copy() -> None:
    """A fold that lacks an erased person's key is not what the store held at that height before the erasure: an old
    copy that comes in its place, when it is at just that height, brings nothing of them back."""
    world = Sealed(rebuild_fields=1, read_bytes=1)
    world.faulty = world.store = store = Returning()
    await world.begin()
    assert await world.decide("r1") is None
    await world.settle()
    for n in range(20):
        await world.decide(f"b{n}", "bob")
        await world.settle()
    before = await store.read_meta("u0")
    assert before is not None
    world.clock.time_ms += 1
    world.erase()
    await world.settle()
    await world.kill()
    world.compact()
    store.wipe()
    store.behind = before.tip.height
    world.run(world.engine("u0", world.log))
    world.run(world.engine("t0"))
    await world.settle()
    assert "ann" in store.returned
    _, stored = await store.read_buckets("u0", ALL_BUCKETS)
    assert set(stored["users"]) == set(stored["keys"]) == {"bob"}
    assert len(stored["key-names"]) == 1
    report = await world.prove()
    assert report.green, report.findings
    await world.stop()
