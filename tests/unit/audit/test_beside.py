"""The audit's comparison of a ledger with the topics beside it, in step."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from adgovernor.audit.beside import Cause, Inputs, Outputs, Promise
from adgovernor.audit.report import Report
from adgovernor.contracts import topics
from adgovernor.runtime.ports import Output
from adgovernor.subscribe.kafka import RawMessage


class Topics:
    """A history of one partition: by topic, the texts at offsets."""

    def __init__(self, **found: dict[int, str]) -> None:
        self._found = {name.replace("_", "-"): messages for name, messages in found.items()}

    async def partitions(self) -> int:
        return 1

    async def first(self, topic: str, partition: int) -> int:
        return min(self._found.get(topic) or (0,))

    async def messages(self, topic: str, partition: int, start: int = 0) -> AsyncIterator[RawMessage]:
        for offset, text in self._found.get(topic, {}).items():
            yield RawMessage(partition, offset, 0, b"k", text.encode(), ())


def cause(offset: int, text: str = "", *, erased: bool = False) -> Cause:
    text = text or f"input {offset}"
    return Cause(topics.AD_REQUESTS, offset, b"k", text.encode(), erased)


async def judged(found: dict[int, str], *blocks: tuple[list[Cause], int]) -> Report:
    """What is said of inputs, and of blocks with records and the position after each."""
    report, end = Report(), 0
    inputs = Inputs(Topics(ad_requests=found), "u0", report)
    for causes, end in blocks:
        await inputs.take(causes, {topics.AD_REQUESTS: end}, "block")
    await inputs.finish({topics.AD_REQUESTS: end})
    return report


ALL = {offset: f"input {offset}" for offset in range(5)}


async def test_inputs_with_their_records_hold() -> None:
    """Each input has its record; of those that nobody can read any more only that they were there is known."""
    report = await judged(ALL, ([cause(0), cause(1)], 2), ([cause(2, erased=True), cause(3)], 4))
    assert report.green, report.findings
    assert report.counted == {"inputs": 3, "inputs of erased people": 1}
    assert report.notes == ["ad-requests[0]: 1 inputs are not handled yet"]


async def test_inputs_that_have_expired_are_no_fault() -> None:
    """What retention has taken from an input topic is not compared."""
    report = await judged({4: "input 4"}, ([cause(0), cause(1)], 2), ([cause(4)], 5))
    assert report.green, report.findings
    assert report.counted == {"inputs": 1}


@pytest.mark.parametrize(
    ("blocks", "place", "message"),
    [
        ([([cause(0), cause(2)], 3)], "ad-requests[0] offset 1", "no record"),
        ([([cause(0)], 3)], "ad-requests[0] offset 1", "no record"),
        ([([cause(0), cause(1), cause(1)], 2)], "block", "second record"),
        ([([cause(0), cause(1)], 2), ([cause(0)], 2)], "block", "second record"),
        ([([cause(0), cause(1)], 1)], "block", "beyond the block's positions"),
        ([([cause(0, "another")], 1)], "ad-requests[0] offset 0", "not the one that the ledger recorded"),
        ([([Cause("reports", 0, None, None, False)], 1)], "block", "no input of the shard"),
    ],
)
async def test_an_input_without_its_one_record_is_named(
    blocks: list[tuple[list[Cause], int]], place: str, message: str
) -> None:
    """An input without a record, with two, or with another's is found, and the finding names it."""
    report = await judged(ALL, *blocks)
    assert (report.findings[0].check, report.findings[0].place) == ("inputs", place)
    assert message in report.findings[0].message


async def kept(found: dict[int, str], promised: str, published: int) -> Report:
    """What is said of decisions, one of each height, as acknowledged up to ``published``."""
    report = Report()
    outputs = Outputs(Topics(decisions=found), "u0", report)
    for height, text in enumerate(promised, 1):
        output = Output(topics.DECISIONS, 0, b"k", text.encode(), [])
        await outputs.take(height, [Promise(output, False)], min(height - 1, published))
    outputs.finish(published)
    return report


def on_topic(text: str, first: int = 0) -> dict[int, str]:
    return dict(enumerate(text, first))


@pytest.mark.parametrize(
    ("found", "number", "expired", "waiting"),
    [
        (on_topic("abcde"), 5, 0, 0),
        (on_topic("abcabcde"), 5, 0, 0),
        (on_topic("abcd"), 4, 0, 1),
        (on_topic("de", 3), 2, 3, 0),
        (on_topic("dcde", 3), 3, 2, 0),
        (on_topic("xd", 3), 1, 3, 1),
        ({7: "?"}, 0, 4, 1),
    ],
)
async def test_outputs_are_found_in_order(
    found: dict[int, str], number: int, expired: int, waiting: int
) -> None:
    """Outputs may come twice, have expired, or not be acknowledged yet; what is kept and acknowledged is found."""
    report = await kept(found, "abcde", 4)
    assert report.green, report.findings
    assert report.counted == {"outputs on decisions": number}
    said = "\n".join(report.notes)
    assert (f"{expired} outputs have expired" in said) == (expired > 0)
    assert (f"{waiting} outputs are not acknowledged yet" in said) == (waiting > 0)


@pytest.mark.parametrize(
    ("found", "number"),
    [(on_topic("abde"), 3), (on_topic("acbde"), 3), (on_topic("bde", 1), 3), ({}, 1)],
)
async def test_an_output_that_is_not_there_is_named(found: dict[int, str], number: int) -> None:
    """An acknowledged output that is missing, or out of order, is found, and the finding names its number."""
    report = await kept(found, "abcde", 5)
    assert [finding.place for finding in report.findings] == [f"decisions[0], number {number}"]


BODY = b'{"a":1,"routing_id":"ann"}'
HEADERS = (("ce_id", b"x"),)
LETTER = (("ag_reason", b"invalid"), ("ag_message", b"of ann"))


@pytest.mark.parametrize(
    ("message", "kept", "kept_of_erased"),
    [
        (RawMessage(0, 0, 0, b"ann", BODY, HEADERS), True, True),
        (RawMessage(0, 0, 0, b"ann", BODY, ()), False, False),
        (RawMessage(0, 0, 0, b"bob", BODY, HEADERS), False, False),
        (RawMessage(0, 0, 0, b"ann", BODY.replace(b"1", b"2"), HEADERS), False, False),
        # Whom it named is not known any more, but its key must say the same.
        (RawMessage(0, 0, 0, b"bob", BODY.replace(b"ann", b"bob"), HEADERS), False, True),
        (RawMessage(0, 0, 0, b"bob", b"[]", HEADERS), False, False),
    ],
)
def test_an_output_is_kept_by_the_same_key_value_and_headers(
    message: RawMessage, kept: bool, kept_of_erased: bool
) -> None:
    """A message is a promised output where all of it is; of erased people, where all but their name is."""
    output = Output(topics.DECISIONS, 0, b"ann", BODY, list(HEADERS))
    assert Promise(output, False).kept_by(message) == kept
    assert Promise(output, True).kept_by(message) == kept_of_erased


@pytest.mark.parametrize(
    ("headers", "kept_of_erased"),
    [(LETTER, True), (LETTER[:1], True), ((("ag_reason", b"not_json"),), False)],
)
def test_a_dead_letter_of_somebody_erased_is_known_by_its_reason(
    headers: tuple[tuple[str, bytes], ...], kept_of_erased: bool
) -> None:
    """Its bytes are the input's own, and its message may quote them, so neither is known any more."""
    letter = RawMessage(0, 0, 0, b"ann", b"{", headers)
    output = Output(topics.dlq(topics.AD_REQUESTS), 0, None, None, list(LETTER))
    assert Promise(output, True).kept_by(letter) == kept_of_erased
    assert not Promise(output, False).kept_by(letter)
