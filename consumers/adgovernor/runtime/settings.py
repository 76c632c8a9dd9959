"""Limits and deadlines of a shard's engine. Every wait and every queue of the engine is bounded by one of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """See the fields. Bytes are those of a block before compression."""

    prefix: str
    """The deployment; part of every block."""
    partitions: int
    """How many partitions every topic has."""
    owner: str = "local"
    """Who writes: host, process and start."""
    clock: Literal["wall", "events"] = "wall"
    """``events``: time is the greatest event time read, for old logs and simulations."""

    max_events: int = 1_000
    """Most inputs in one block, and most that are buffered for one topic."""
    bite_events: int = 100
    """How many of a block's inputs are decoded before they are decided: a processor's cache holds that many."""
    max_bytes: int = 1_500_000
    """A block is closed once it is this large; its last record may go beyond."""
    hard_bytes: int = 16_000_000
    """A block larger than this is refused before the append: the ledger topic would not take it."""
    read_bytes: int = 8_000_000
    """How much of the ledger one read asks for."""

    append_deadline_s: float = 10.0
    """An append that is not acknowledged by then is unknown."""
    resend_limit: int = 3
    """How often the same bytes are appended again before the shard starts over from the ledger."""
    publish_deadline_s: float = 15.0
    """Outputs that are not acknowledged by then have failed."""
    unpublished_blocks: int = 16
    """Most accepted blocks whose outputs wait to be acknowledged."""

    store_deadline_s: float = 2.0
    """How long a decision waits for a store that does not answer before it goes on without it."""
    store_check_s: float = 10.0
    """How often a store to which there is nothing to write is asked where it is."""
    trail_blocks: int = 64
    """Most blocks that a store which answers may be behind."""
    dirty_limit: int = 20_000
    """Most states not yet in the store; beyond it nothing more is read. It also bounds one store call."""
    rebuild_fields: int = 5_000
    """While the ledger is folded, the store is written each time that so many fields have changed."""
    keep_states: int = 20_000
    """States of people that each shard keeps in memory; the least recently used leave it. One takes 5 to 8 KB: eight
    shards, which a worker may have alone when others are gone, a little over a gigabyte."""

    gather_s: float = 0.0
    """How soon after the last block of a shard the next may begin, while few events wait: longer blocks for a little
    latency."""
    beat_s: float = 0.0
    """The beat on which the blocks of a worker's busy shards begin together, so that they share calls to Kafka and the
    store. 0: each begins when it can."""
    idle_wait_s: float = 0.2
    """Longest wait for new input; also how soon a request to stop is seen."""
    tick_ms: int = 1_000
    """How often an idle shard looks whether time alone changes something."""
    fresh_ms: int = 1_000
    """How old the sight of every input's end may be for a block to count as drained. A worker that was stopped
    for longer has a backlog, and must not age it."""
    skew_ms: int = 5_000
    """How far the worker's clock may be from the broker's."""
    backoff_s: float = 0.05
    """First pause after a lost or failed append; it doubles, with jitter, up to ``backoff_max_s``."""
    backoff_max_s: float = 2.0
    stop_deadline_s: float = 10.0
    """What a graceful stop may take in all."""
    witness_messages: int = 50
    """How many of the last messages to each destination are looked at first for the last one of the shard's own."""
