"""A new epoch for a shard that halted, after a person has looked and accepted what is lost.

What the lost tail had published stays published. So the new epoch goes on behind it: its first block records the
numbers from which outputs and side messages continue, and readers that keep one number a partition read on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from adgovernor.contracts import topics
from adgovernor.contracts.errors import BadInput, BadSettings, Unavailable
from adgovernor.contracts.ledger import ReadBlock
from adgovernor.contracts.sealing import NO_KEY, id_of
from adgovernor.core.inputs import read as read_input
from adgovernor.core.links import FIRST, lost_messages
from adgovernor.core.links import recover as recover_links
from adgovernor.core.machine import Links
from adgovernor.core.rejoin import Rejoin, Rejoined, conflicts
from adgovernor.runtime.append import commit
from adgovernor.runtime.chain import Spine, Walk, count_outputs, ledger_of, new_spine
from adgovernor.runtime.key_log import KeyMessage
from adgovernor.runtime.outputs import outputs_of, said_lost
from adgovernor.runtime.ports import READ_TRIES
from adgovernor.runtime.reading import walk_ledger
from adgovernor.runtime.takeover import claim_block
from adgovernor.runtime.unsealing import Keys, read_keys
from adgovernor.runtime.witnesses import Witness, ahead_of, check_witnesses, read_witnesses, side_witnesses
from adgovernor.runtime.world import World
from adgovernor.stores.base import Meta, Tip

_AT_ONCE: Final = 2_000
"""Side messages that are read in one step."""
_KEYS_AT_ONCE: Final = 5_000
"""Keys that one block gives up: a message stays well below what any broker takes."""
_FILLED_AT_ONCE: Final = 10_000
"""Lost offsets of the topic of keys that are filled within one deadline."""
_PASSES: Final = 500
"""How often more is looked for that a worker has sent meanwhile: it pauses within far fewer, unless it is flooded."""


class NothingLost(BadInput):
    """There is nothing to accept: a new epoch would empty the shard's part of the store for no reason."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was accepted."""

    epoch: int
    height: int
    """Of the new epoch's first block."""
    dn: dict[str, int]
    """Output topics whose numbers jump, and the next number of each."""
    sent: dict[str, tuple[int, str]]
    """Destinations whose side messages jump: number and hash of the last one sent."""
    taken: dict[str, tuple[int, str]]
    """Shards whose next message counts although it continues another history than the one known here."""
    passed: dict[str, list[list[int]]]
    """Shards of whose waiting messages some do not count: the offsets (first and last) of these."""
    positions: dict[str, int]
    """Where inputs are read from next."""
    keys: int = 0
    """Keys of people that are gone; what is sealed with them stays unreadable."""


async def recover(
    world: World,
    *,
    why: str,
    positions: Mapping[str, int] | None = None,
    even_if_healthy: bool = False,
) -> Recovery:
    """Begins a new epoch of a shard and empties its part of the store, which the next owner rebuilds. No worker may
    own the shard meanwhile; one that does is fenced by the new block. ``positions`` says where topics are read from
    next whose unread input is lost.

    Raises:
        NothingLost: when all witnesses agree with the ledger, unless ``even_if_healthy``; nothing is then done.
        Unavailable: when the log or the store cannot be reached; nothing, or only the block, is then done, and it
            may be run again.
        StartOver: when another owner appended at the same time; stop the workers of this shard first.
        Halted: when the log loses messages even now.
    """
    witnesses, unseen = await read_witnesses(world)
    meta = await world.store.read_meta(world.shard)
    noted = dict.fromkeys((w.height for w in witnesses), "")
    if meta is not None:
        noted[meta.tip.height] = ""
    named = Keys()
    walk, spine, links = await _walk(world, noted, named)
    gone, mended = await _mend_keys(world, named, spine.published.height)
    witnesses += await side_witnesses(world, spine, unseen)
    dn, jumped = _ahead(spine, links.sent, witnesses)
    rejoined = await _rejoin(world, links, spine, positions or {})
    # Of a ledger that lost a part before, older messages are not its own any more.
    contradicted = _contradicted(spine, noted, [] if spine.epoch else witnesses, meta)
    if not (even_if_healthy or positions or dn or jumped or rejoined or contradicted or gone or mended):
        raise NothingLost(
            f"nothing says that {world.shard} lost anything: outputs, side messages and Redis agree with its ledger, "
            f"which ends at height {spine.height} of epoch {spine.epoch}"
        )
    accepted = {source: (one.number, one.digest) for source, one in rejoined.items()}
    passed = {source: one.passed for source, one in rejoined.items() if one.passed}
    recovery: dict[str, Any] = {
        "why": why,
        "dn": dn,
        "sent": {to: list(pair) for to, pair in jumped.items()},
        "taken": {source: list(pair) for source, pair in accepted.items()},
        "passed": passed,
    }
    spine.positions.update(positions or {})
    await _append(world, walk, spine, recovery, gone)
    await _empty_store(world, spine)
    return Recovery(spine.epoch, spine.height, dn, jumped, accepted, passed, dict(spine.positions), len(gone))


async def _append(world: World, walk: Walk, spine: Spine, recovery: dict[str, Any], gone: list[str]) -> None:
    """Appends what was accepted: one block, and more where so many keys are ``gone`` that one cannot name all."""
    for first in range(0, len(gone) or 1, _KEYS_AT_ONCE):
        part = gone[first : first + _KEYS_AT_ONCE]
        said = recovery if first == 0 else {"why": recovery["why"]}
        data, chain, header = claim_block(world, spine, {**said, "keys": part} if part else said)
        spine.advance(header, chain, await commit(world, walk, data, chain), {})


async def _empty_store(world: World, spine: Spine) -> None:
    """Leaves nothing of the shard in the store but its ledger's id."""
    meta = await world.store.read_meta(world.shard)
    answer = await world.store.reset(
        world.shard,
        None if meta is None else meta.tip,
        Meta(Tip(spine.ledger, 0, ""), new_spine(world.shard).encode()),
    )
    if answer is not None:
        raise Unavailable(
            f"the store of {world.shard} changed meanwhile: stop the shard's workers and run this again"
        )


async def _mend_keys(world: World, named: Keys, published: int) -> tuple[list[str], bool]:
    """The keys that are gone, and whether the topic was mended. ``named``: all that the ledger says of keys.

    Gone are those that the ledger names, that no erasure of it ended, and that are not there any more: the topic lost
    them, or the ledger lost the erasure that ended them. Mending gives the places of lost messages away, so that no
    later key has an offset that the ledger has named, and ends again what was ended and is there all the same.
    """
    if not named.sealed:
        return [], False
    # What an erasure that was not published yet ends is ended by the next owner, behind its outputs.
    ended = {name for name, height in named.ended.items() if height <= published} | named.given_up
    # Where the last messages are lost, those before them may all be compacted: then nothing shows where the topic ends.
    with suppress(Unavailable):
        there = await _read_keys(world)
        if there.end >= named.named and all(map(there.has, named.missing)) and not any(map(there.has, ended)):
            return [], False
    # What a read does not show may be there all the same; what lands behind it proves what is not.
    end = await _write(world, [(NO_KEY, None)])
    short = end <= named.named
    while end < named.named:
        end = await _write(world, [(NO_KEY, None)] * min(named.named - end, _FILLED_AT_ONCE))
    for tries in range(READ_TRIES):
        there = await _read_keys(world)
        if there.end >= end:
            break
        await asyncio.sleep(world.pause_s(tries))
    else:
        raise Unavailable(
            f"person-keys of {world.shard} does not show what it acknowledged: is a replica missing?"
        )
    again = sorted(filter(there.has, ended))
    if again:
        await _write(world, [(id_of(name), None) for name in again])
    return sorted(name for name in named.missing if not there.has(name)), short or bool(again)


async def _write(world: World, messages: list[KeyMessage]) -> int:
    """Writes to the topic of keys; the offset behind all of it."""
    assert world.keys is not None
    return max(await world.keys.put(messages, world.settings.publish_deadline_s)) + 1


async def _read_keys(world: World) -> Keys:
    if world.keys is None:
        raise BadSettings("this ledger is sealed: set rules.sealing to true, so that its keys are read")
    return await read_keys(world.keys, world.settings.read_bytes)


def _contradicted(
    spine: Spine, noted: Mapping[int, str], witnesses: Iterable[Witness], meta: Meta | None
) -> bool:
    """Whether a side message or the store names another block than the ledger has at that height, or one that it has
    not, or the store is of another ledger. ``noted``: the chains at those heights."""
    said = [(witness.height, witness.chain) for witness in witnesses if witness.chain is not None]
    if meta is not None and meta.tip.height > 0:
        said.append((meta.tip.height, meta.tip.chain))
    other = meta is not None and ledger_of(meta.tip) not in ("", spine.ledger)
    return other or any(noted.get(height) != chain for height, chain in said)


async def _walk(
    world: World, noted: dict[int, str] | None = None, named: Keys | None = None
) -> tuple[Walk, Spine, Links]:
    """Walks the whole ledger, for its spine and its links. ``noted`` gets the chains at those heights that it has,
    ``named`` the names of keys."""
    spine, links = new_spine(world.shard), Links()
    walk = Walk(world.settings.prefix, world.shard)
    async for block, offset in walk_ledger(world, walk):
        spine.advance(block.header, block.chain, offset, count_outputs(block))
        if noted is not None and block.header.height in noted:
            noted[block.header.height] = block.chain
        if named is not None:
            named.open(block)
        _follow(links, block)
    return walk, spine, links


def _follow(links: Links, block: ReadBlock) -> list[list[Any]]:
    """Moves ``links`` over a block. The side messages that it says are lost, as a record's ``send`` holds them."""
    lost: list[list[Any]] = []
    if block.header.recovery is not None:
        lost = lost_messages(links.sent, block.header.recovery)
        recover_links(links, block.header.recovery)
    for record in block.records:
        links.sent.update({to: (n, digest) for to, n, digest, _ in record.data.get("send", ())})
        links.taken.update(
            {delta[1]: (delta[2], delta[3]) for delta in record.data["deltas"] if delta[0] == "took"}
        )
    return lost


async def resend(world: World, first: int) -> int:
    """Publishes again what every block from height ``first`` on sends, side messages included; how many messages.
    Readers take what they miss and ignore the rest, so it does no harm, also while a worker owns the shard. Who was
    erased is not named again. In place of side messages that an accepted loss took from the ledger, messages that say
    just this: so a receiver whose topic has lost them, too, goes on.

    Raises:
        Unavailable: when the log cannot be read, or does not acknowledge, or a worker is always ahead.
        Halted: when the ledger itself lost what was sent, which has to be accepted first: older messages behind those
            of the lost part would hide how far that had come.
    """
    witnesses, unseen = await read_witnesses(world)
    _, spine, known = await _walk(world)
    witnesses += await side_witnesses(world, spine, unseen)
    check_witnesses(world, spine, known.sent, {}, witnesses)
    walk, count = Walk(world.settings.prefix, world.shard), 0
    keys, links = Keys(), Links()
    for _ in range(_PASSES):
        reached = walk.height
        async for block, _ in walk_ledger(world, walk):
            lost = _follow(links, block)
            if block.header.height < first:
                continue
            if keys.behind(block):
                keys = await _read_keys(world)
            keys.open(block)
            outputs = outputs_of(block, fill=True) + said_lost(block, lost)
            if outputs:
                await world.log.publish(outputs, world.settings.publish_deadline_s)
                count += len(outputs)
        if walk.height == reached:
            # What a worker sent before this moment was sent again after it, and what it sends now comes behind that.
            return count
    raise Unavailable(f"the worker of {world.shard} sends faster than this: stop it meanwhile")


async def _rejoin(
    world: World, links: Links, spine: Spine, positions: Mapping[str, int]
) -> dict[str, Rejoined]:
    """How this shard goes on with each source whose waiting messages do not continue those taken."""
    taken = dict(links.taken)
    topic = topics.REPORTS if topics.is_treasury(world.shard) else topics.DIRECTIVES
    at = positions.get(topic, spine.positions[topic])
    sources: set[str] = set()
    least: dict[str, int] = {}
    async for part in _waiting(world, topic, at):
        sources |= conflicts(links, world.shard, part)
        for _, message in part:
            source = message["source"]
            least[source] = min(message["number"], least.get(source, message["number"]))
    if not sources:
        return {}
    known = await _taken_since(world, {source: least[source] - 1 for source in sources})
    rejoins = {source: Rejoin(taken.get(source, FIRST), known[source]) for source in sources}
    async for part in _waiting(world, topic, at):
        for offset, message in part:
            if message["source"] in sources:
                rejoins[message["source"]].read(offset, message)
    return {source: result for source in sorted(sources) if (result := rejoins[source].result()) is not None}


async def _waiting(world: World, topic: str, at: int) -> AsyncIterator[list[tuple[int, dict[str, Any]]]]:
    """The side messages to this shard from an offset to the end of now, in parts, each with its offset."""
    own = topics.partition_of_shard(world.shard)
    last = await world.log.tail(topic, own, 1)
    end = last[-1].offset + 1 if last else 0
    while at < end:
        until = min(at + _AT_ONCE, end)
        events, _ = await world.log.before(topic, own, until, until - at)
        found = ((e.offset, read_input(topic, e.offset, e.key, e.value).event) for e in events)
        yield [
            (offset, message)
            for offset, message in found
            if isinstance(message, dict) and message["destination"] == world.shard
        ]
        at = until


async def _taken_since(world: World, least: Mapping[str, int]) -> dict[str, dict[int, str]]:
    """What the ledger says was taken of each of these sources: number → hash, from the least number on."""
    known: dict[str, dict[int, str]] = {source: {} for source in least}
    async for block, _ in walk_ledger(world, Walk(world.settings.prefix, world.shard)):
        for record in block.records:
            for delta in record.data["deltas"]:
                if delta[0] == "took" and delta[1] in least and delta[2] >= least[delta[1]]:
                    known[delta[1]][delta[2]] = delta[3]
    return known


def _ahead(
    spine: Spine, sent: Mapping[str, tuple[int, str]], witnesses: Iterable[Witness]
) -> tuple[dict[str, int], dict[str, tuple[int, str]]]:
    """What the lost tail published beyond what the ledger knows: output topics with the number to go on with, and
    destinations with the number and hash of the last message."""
    dn: dict[str, int] = {}
    jumped: dict[str, tuple[int, str]] = {}
    for witness in ahead_of(spine, sent, witnesses):
        if witness.topic:
            dn[witness.topic] = witness.number + 1
        else:
            jumped[witness.destination] = (witness.number, witness.digest)
    return dn, jumped
