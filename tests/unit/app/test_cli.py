"""The command line without servers."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner

from adgovernor.app import campaigns_commands, logs, publish_commands
from adgovernor.app.audit_commands import show
from adgovernor.app.cli import COMMANDS, app, load_command, main
from adgovernor.app.console import moment, money
from adgovernor.app.giving import micros
from adgovernor.app.kafka_advice import why_no_kafka
from adgovernor.app.publish_commands import lines_of
from adgovernor.app.watch_commands import _nobody_reads
from adgovernor.audit.history import copy
from adgovernor.audit.lines import read_lines
from adgovernor.audit.report import Report
from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.money import MICROS, MOST_MICROS
from adgovernor.publish import BadLine
from adgovernor.subscribe import RawMessage

# An address where nobody listens: commands fail at once and say so.
NOWHERE = ["--kafka", "127.0.0.1:1", "--redis", "redis://127.0.0.1:1/0"]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No settings of this machine; logging as it was afterwards."""
    for name in os.environ:
        if name.startswith("ADGOVERNOR_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    kept = root.handlers[:], root.level
    yield
    root.handlers[:] = kept[0]
    root.setLevel(kept[1])
    structlog.reset_defaults()


def test_help_is_quick_and_names_every_command() -> None:
    """--help takes less than half a second of processor time and lists each command that is there."""
    began = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "adgovernor.app.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    ended = os.times()
    spent_s = ended.children_user + ended.children_system - began.children_user - began.children_system
    assert spent_s < 0.5
    for name in (
        "run",
        "topics",
        "campaigns",
        "publish",
        "watch",
        "state",
        "check",
        "dlq",
        "replay",
        "schemas",
    ):
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(name: str) -> None:
    """Each command and each subcommand has help."""
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0, result.output
    command = load_command(name)
    subcommands = getattr(command, "commands", {})
    for sub in subcommands:
        inner = CliRunner().invoke(app, [name, sub, "--help"])
        assert inner.exit_code == 0, inner.output
        assert "Usage" in inner.output
        assert subcommands[sub].help, f"{name} {sub} has no help"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["watch", "nothing"], "no topic nothing to watch"),
        (["watch", "ad-requests"], "no topic ad-requests to watch"),
        (["state", "shard", "7"], "'7' is no shard"),
        (["recover", "u0"], "give --accept-loss and --why"),
        (["resend", "x0"], "'x0' is no shard"),
        (["resend", "u03"], "'u03' is no shard"),
        (["state", "shard", "u²"], "'u²' is no shard"),
        (["publish", "ad-requests", "missing.jsonl"], "cannot read missing.jsonl"),
        (["publish", "ad-requests", "-", "--format", "xml"], "must be json or openrtb"),
        (["publish", "ad-requests", "-", "--format", "openrtb"], "give --candidates FILE and --time FIELD"),
        (["publish", "ad-requests", "-", "--time", "id:hex8"], "belong to --format openrtb"),
        (["campaigns", "top-up", "c", "a lot", "--account", "a"], "'a lot' is no amount"),
        (["campaigns", "top-up", "c", "--account", "a", "--", "-5"], "above 0"),
        (["campaigns", "credit", "c", "0.0000001", "--account", "a"], "at most six decimal places"),
        (["accounts", "top-up", "a", "a lot"], "'a lot' is no amount"),
        (["accounts", "top-up", "a", "1e40"], "'1e40' is no amount"),
        (["accounts", "decrease", "a", "--", "-5"], "above 0"),
        (["dlq", "show", "decisions", "0", "1"], "'decisions' is no input topic"),
        (["dlq", "replay", "ad-requests", "--number", "1"], "give --partition too"),
        (["replay", ""], "'' is no prefix"),
        (["replay", "a b"], "'a b' is no prefix"),
        (["campaigns", "top-up", "c", "99999999999999999"], "is more than an amount can say"),
        (["state", "user", "\udcfc"], "no text in this terminal's encoding"),
        (["people", "erase", "ann", ""], "routing_id: String should have at least 1 character"),
        (["replay", "adgovernor"], "cannot be replayed into its own deployment"),
        (["run", "--clock", "sundial"], "must be wall or events"),
        (["resolve", "--resolve", "nonsense"], "HOST=ADDRESS"),
        (["campains", "list"], "Did you mean 'campaigns'?"),
        (["campaigns", "apply", "missing.jsonl"], "cannot read missing.jsonl"),
        (
            ["simulate", "--campaigns", "missing.jsonl", "--events", "e"],
            "adgovernor: cannot read missing.jsonl",
        ),
    ],
)
def test_wrong_input_is_code_2_and_says_how_to_mend_it(arguments: list[str], said: str) -> None:
    """What is asked wrongly ends with code 2 and a message that says what to give."""
    result = CliRunner().invoke(app, [*NOWHERE, *arguments])
    assert (result.exit_code, said in result.output) == (2, True), result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["topics", "list"],
        ["topics", "create", "--partitions", "1"],
        ["state", "user", "u1"],
        ["campaigns", "list", "--json"],
        ["campaigns", "show", "c1"],
        ["accounts", "list"],
        ["accounts", "top-up", "a", "5"],
        ["people", "erase", "u1"],
        ["dlq", "list", "ad-requests"],
        ["watch", "decisions", "--from-start"],
        ["run", "--metrics-port", "0"],
        ["resolve", "--metrics-port", "0"],
    ],
)
def test_missing_servers_are_code_3(arguments: list[str]) -> None:
    """Where a server cannot be reached the exit code is 3, the address and what to do are named once, and there is
    neither a traceback nor a library's own log line."""
    result = CliRunner().invoke(app, [*NOWHERE, *arguments])
    assert result.exit_code == 3, result.output
    assert "127.0.0.1:1" in result.output
    assert ".;" not in result.output
    assert "AddressFamily" not in result.output.splitlines()[-1]
    assert "Traceback" not in result.output
    if arguments[0] in ("run", "resolve") or "Redis at" in result.output:
        assert "`adgovernor check` says more" in result.output
        return
    first, why, mend = result.output.splitlines()
    assert first.startswith("adgovernor: Kafka at 127.0.0.1:1 cannot be used")
    assert why.startswith("  the Kafka client says: Unable connect to")
    assert mend.startswith("  → start the broker")


async def test_a_watch_ends_when_nobody_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing need happen on a topic for `watch decisions | head -1` to come back."""
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        ending = asyncio.create_task(_nobody_reads())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not ending.done()
        os.close(read_end)
        await asyncio.wait_for(ending, 5)


def test_check_names_every_server_that_is_missing() -> None:
    """check looks at Redis although Kafka is away, says how to mend both, and ends with code 3."""
    result = CliRunner().invoke(app, [*NOWHERE, "check", "--json"])
    found = json.loads(result.stdout)
    assert result.exit_code == 3
    errors = {one["where"]: one for one in found if one["level"] == "error"}
    assert set(errors) == {"kafka", "redis"}
    assert all("start the" in one["mend"] for one in errors.values())


def test_check_tells_wrong_settings_from_missing_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection's setting that is wrong is code 2, whatever else cannot be reached."""
    monkeypatch.setenv("ADGOVERNOR_KAFKA__CA_FILE", "missing.pem")
    result = CliRunner().invoke(app, [*NOWHERE, "check"])
    assert (result.exit_code, "missing.pem does not exist" in result.output) == (2, True), result.output


def test_bad_settings_are_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong setting ends any command with code 2 and names the variable."""
    monkeypatch.setenv("ADGOVERNOR_PARTITIONS", "none")
    result = CliRunner().invoke(app, ["topics", "list"])
    assert result.exit_code == 2
    assert "ADGOVERNOR_PARTITIONS" in result.output


def test_a_missing_settings_file_is_named() -> None:
    """--config with a file that is not there ends with code 2."""
    result = CliRunner().invoke(app, ["--config", "nowhere.toml", "check"])
    assert (result.exit_code, "nowhere.toml does not exist" in result.output) == (2, True)


def test_bad_entries_are_named_before_servers_are_needed(tmp_path: Path) -> None:
    """A file with nothing good in it names each entry and ends with code 1, without any server."""
    file = tmp_path / "c.jsonl"
    file.write_text('{"campaign_id":"c","account_id":"a","budget_micros":-1}\nnonsense\n')
    result = CliRunner().invoke(app, [*NOWHERE, "campaigns", "apply", str(file)])
    assert result.exit_code == 1
    assert "c.jsonl, line 1" in result.output
    assert "c.jsonl, line 2: not JSON" in result.output


def test_a_misspelt_budget_is_refused(tmp_path: Path) -> None:
    """A campaign with a field that is probably misspelt is a bad entry, where it would be ignored without a word."""
    file = tmp_path / "c.jsonl"
    file.write_text(
        '{"campaign_id":"c","account_id":"a","budget_micros":9,"price_micros":1,"dialy_budget_micros":3}\n'
    )
    result = CliRunner().invoke(app, [*NOWHERE, "campaigns", "apply", str(file)])
    assert (result.exit_code, "is daily_budget_micros meant?" in result.output) == (1, True), result.output


def test_groups_explain_themselves() -> None:
    """A group of commands shows what its own docstring teaches, in lines as wide as the terminal."""
    result = CliRunner().invoke(app, ["campaigns", "--help"])
    assert "exit code 0 when all were accepted, 1 when one was" in result.output


def test_closed_standard_input_is_named() -> None:
    """publish and apply from a standard input that is closed say so, with code 2."""
    for arguments in (["publish", "ad-requests", "-"], ["campaigns", "apply", "-"]):
        done = subprocess.run(
            ["sh", "-c", '"$0" -m adgovernor.app.cli "$@" <&-', sys.executable, *NOWHERE, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, "standard input is closed" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("to", "code", "said"), [(">&-", 0, ""), (">/dev/full", 1, "No space left"), ("2>&- >/dev/full", 1, "")]
)
def test_a_standard_output_that_takes_nothing(to: str, code: int, said: str) -> None:
    """Where standard output is closed nothing is said; where its disk is full that is said, without a traceback."""
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m adgovernor.app.cli schemas export out {to}', sys.executable],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (code, True, False), (
        done.stderr
    )


@pytest.mark.parametrize("form", ["--json", ""])
def test_a_reader_that_goes_away_ends_a_command(form: str, tmp_path: Path) -> None:
    """Where nobody reads on, as after `| head -1`, a command ends without a word, and with the code that says so."""
    (tmp_path / "c.jsonl").write_text("[]")
    with (tmp_path / "e.jsonl").open("w") as events:
        for number in range(5_000):
            events.write(f'{{"request_id":"r{number}","time_ms":{number},"user_id":"u"}}\n')
    simulate = f"simulate --campaigns c.jsonl --events e.jsonl {form}"
    done = subprocess.run(
        [
            "bash",
            "-c",
            f'"$0" -m adgovernor.app.cli {simulate} | head -1; exit ${{PIPESTATUS[0]}}',
            sys.executable,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (141, "", 1)


def test_a_simulation_says_nothing_before_both_files_are_read(tmp_path: Path) -> None:
    """A missing events file is found out before anything is on standard output."""
    file = tmp_path / "c.jsonl"
    file.write_text('{"campaign_id":"c","account_id":"a","budget_micros":9,"price_micros":1}\n')
    result = CliRunner().invoke(app, ["simulate", "--campaigns", str(file), "--events", "none", "--json"])
    assert (result.exit_code, result.stdout) == (2, "")


def test_a_byte_order_mark_is_no_part_of_the_first_entry(tmp_path: Path) -> None:
    """Files that begin with a byte order mark are read as those without."""
    campaigns, events = tmp_path / "c.jsonl", tmp_path / "e.jsonl"
    campaigns.write_text(
        '{"campaign_id":"c","account_id":"a","budget_micros":9,"price_micros":1}\n', encoding="utf-8-sig"
    )
    events.write_text('{"request_id":"r1","time_ms":1,"user_id":"u"}\n', encoding="utf-8-sig")
    result = CliRunner().invoke(app, ["simulate", "--campaigns", str(campaigns), "--events", str(events)])
    assert (result.exit_code, "decision r1" in result.stdout) == (0, True), result.output


def test_a_command_of_a_file_keeps_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command has an effect once, so it goes out under its own id, however it is named; a definition, which may be
    applied again, under a new one."""
    given: list[Any] = []
    monkeypatch.setattr(campaigns_commands, "give", lambda _, commands, *rest, **more: given.extend(commands))
    file = tmp_path / "c.jsonl"
    money = '"command_id":"more","account_id":"a","campaign_id":"c","amount_micros":5'
    campaign = '{"campaign_id":"c","account_id":"a","budget_micros":9}'
    file.write_text(f'{{"command":"top-up",{money}}}\n{{"type":"top-up",{money}}}\n{campaign}\n{campaign}\n')
    assert CliRunner().invoke(app, [*NOWHERE, "campaigns", "apply", str(file)]).exit_code == 0
    ids = [command.command_id for command in given]
    assert (ids[:2], len(set(ids))) == (["more", "more"], 3)


def test_a_simulated_decision_is_whole(tmp_path: Path) -> None:
    """A simulation's JSON names what messages leave out because it is as usual, as `watch` does."""
    campaigns, events = tmp_path / "c.jsonl", tmp_path / "e.jsonl"
    campaigns.write_text("")
    events.write_text('{"request_id":"r1","time_ms":1,"user_id":"u"}\n')
    result = CliRunner().invoke(
        app, ["simulate", "--campaigns", str(campaigns), "--events", str(events), "--json"]
    )
    decision, totals = map(json.loads, result.stdout.splitlines())
    assert (decision["type"], decision["degraded"], decision["losers"]) == ("decision", False, [])
    assert (decision["slots"], totals["type"]) == ([{"slot": 0, "no_fill": "no_candidate"}], "totals")


def test_a_plan_reads_standard_input() -> None:
    """A bid request may be piped into `pods plan -`."""
    request = '{"id":"r","imp":[{"id":"1","video":{"mimes":["video/mp4"],"podid":"p","poddur":60}}]}'
    result = CliRunner().invoke(app, ["pods", "plan", "-", "--json"], input=request)
    assert (result.exit_code, json.loads(result.stdout)["poddur"]) == (0, 60), result.output


def test_a_history_cannot_be_copied_to_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A folder that cannot be written is named, rather than a traceback shown."""

    class OnePartition:
        async def partitions(self) -> int:
            return 1

        async def first(self, topic: str, partition: int) -> int:
            return 0

        async def messages(self, topic: str, partition: int, start: int = 0) -> AsyncIterator[RawMessage]:
            yield RawMessage(0, 0, 0, None, b"", ())

    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write to"):
        asyncio.run(copy(OnePartition(), tmp_path / "file"))


def test_schemas_export(tmp_path: Path) -> None:
    """schemas export writes the documents and lists them."""
    result = CliRunner().invoke(app, ["schemas", "export", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0
    assert str(tmp_path / "out" / "asyncapi.json") in json.loads(result.stdout)["written"]


def test_version() -> None:
    """--version prints the version alone."""
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.strip()[0].isdigit()


@pytest.mark.parametrize(
    ("micros", "shown"),
    [(0, "0.00 EUR"), (1, "0.000001 EUR"), (2_500_000, "2.50 EUR"), (-1_234_500, "-1.2345 EUR")],
)
def test_money_for_people(micros: int, shown: str) -> None:
    """Amounts are shown exactly, with two places or as many as they need."""
    assert money(micros, "EUR") == shown


def test_amounts_given_by_people() -> None:
    """Units of a currency become micros exactly; what is none, or nothing, is refused."""
    assert [micros(amount) for amount in ("250", "0.5", "0.000001")] == [250_000_000, 500_000, 1]
    most = MOST_MICROS // MICROS
    assert micros(str(most)) == most * MICROS
    for amount in ("0", "-1", "0.0000001", str(most + 1), "NaN", "1e999999", "five"):
        with pytest.raises(BadInput):
            micros(amount)


def test_moments_for_people() -> None:
    """Times are shown in UTC to the millisecond."""
    assert moment(1_767_225_600_007) == "2026-01-01T00:00:00.007Z"


class _Dripping(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, content: bytes, step: int) -> None:
        self._content = content
        self._step = step

    def read(self, _size: int = -1) -> bytes:
        piece, self._content = self._content[: self._step], self._content[self._step :]
        return piece


@pytest.mark.parametrize("step", [1, 3, 100])
async def test_lines_of_a_pipe(step: int) -> None:
    """Lines are whole however the pipe cuts them, also a last one without an end, and without a byte order mark."""
    for mark in (b"", b"\xef\xbb\xbf"):
        pipe = _Dripping(mark + b"ab\n\ncd\r\ne", step)
        lines = [line async for line in lines_of(pipe)]  # type: ignore[arg-type]
        assert lines == [b"ab\n", b"\n", b"cd\r\n", b"e"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (gzip.compress(b"{}\n" * 9, mtime=0), "zcat"),
        ("{}\n{}\n".encode("utf-16"), "save it as UTF-8"),
        (b"PK\x03\x04" + bytes(9), "zip archive"),
    ],
)
async def test_a_file_that_is_no_text_is_refused_once(content: bytes, what: str, tmp_path: Path) -> None:
    """A compressed file, or one of another encoding, is told what to do, instead of once for each of its lines that
    they are no JSON; by what publishes as by what reads a file at once."""
    for step in (4, 100):
        with pytest.raises(BadInput, match=what):
            await anext(lines_of(_Dripping(content, step)))  # type: ignore[arg-type]
    path = tmp_path / "events"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=what):
        list(read_lines(path))


async def test_a_file_without_lines_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no end of a line for so long is no file of events."""
    monkeypatch.setattr(publish_commands, "_LINE_BYTES", 10)
    read = lines_of(_Dripping(b"ab\n" + b"x" * 1_000, 4))  # type: ignore[arg-type]
    assert await anext(read) == b"ab\n"
    with pytest.raises(BadInput, match="one event a line"):
        await anext(read)


def test_complaints_about_a_file_do_not_fill_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    """The first bad lines are named and then once that there are more; what is misspelt throughout is said once."""
    complaints, shown = publish_commands._Complaints(), publish_commands._SHOWN_BAD
    for number in range(1, shown + 10):
        complaints.bad(BadLine(number, "not_json", "no object"))
        complaints.misspelt(number, "is time_ms meant?")
    said = capsys.readouterr().err
    assert (said.count("not_json"), said.count("more bad lines follow"), said.count("time_ms")) == (
        shown,
        1,
        1,
    )


def test_logs_are_json_with_their_fields(capsys: pytest.CaptureFixture[str]) -> None:
    """Our log lines and the libraries' are JSON objects with level, logger and fields."""
    logs.configure("json", "info")
    structlog.get_logger("adgovernor.test").warning("void block", shard="u3", request_id="r1")
    logging.getLogger("aiokafka.client").error("no broker %s", "b1")
    logging.getLogger("aiokafka.client").info("not of interest")
    logging.getLogger("aiokafka.cluster").error("Topic t not found in cluster metadata")
    ours, theirs = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (ours["event"], ours["shard"], ours["request_id"], ours["level"]) == (
        "void block",
        "u3",
        "r1",
        "warning",
    )
    assert (theirs["event"], theirs["logger"]) == ("no broker b1", "aiokafka.client")


def test_the_kafka_client_is_heard_once_in_a_while(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the client repeats for each partition is logged once in ten seconds; what we say ourselves always."""
    logs.configure("json", "info")
    now_s = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    for _ in range(3):
        logging.getLogger("aiokafka.consumer").error("commit failed")
        logging.getLogger("adgovernor.worker").error("ours")
    now_s += 10
    logging.getLogger("aiokafka.consumer").error("commit failed")
    logging.getLogger("aiokafka.consumer").error("something else")
    said = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert said == ["commit failed", "ours", "ours", "ours", "commit failed", "something else"]


def test_a_librarys_words_can_be_captured(capsys: pytest.CaptureFixture[str]) -> None:
    """Captured log lines are handed over, each once, and not shown."""
    logs.configure("json", "info")
    logger = logging.getLogger("aiokafka")
    with logs.captured("aiokafka") as said:
        for _ in range(3):
            logging.getLogger("aiokafka.conn").error("authentication failed")
    assert said == ["authentication failed"]
    assert capsys.readouterr().err == ""
    logger.warning("shown again")
    assert "shown again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "tls", "mend"),
    [
        ('Unable connect to "b:1": [Errno 111] Connect call failed', False, "start the broker"),
        (
            'Unable connect to "b:1": [Error 58] SaslAuthenticationFailed: Authentication failed',
            True,
            "password",
        ),
        (
            'Unable connect to "b:1": [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed',
            True,
            "ca_file",
        ),
        ('Unable connect to "b:1": ', True, "does not speak TLS"),
        ('Unable connect to "b:1": KafkaConnectionError: Connection at b:1 closed', False, "it may want TLS"),
        ('Unable connect to "b:1": [Error 33] UnsupportedSaslMechanismError: <conn>', True, "sasl_mechanism"),
        ('Unable connect to "b:1": [Error 34] IllegalSaslStateError: <conn>', False, "wants no SASL"),
        ('Unable connect to "b:1": [Errno -2] Name or service not known', False, "correct the host name"),
        ("something new", False, "TLS and credentials"),
    ],
)
def test_what_the_kafka_client_says_becomes_advice(said: str, tls: bool, mend: str) -> None:
    """The client's log lines, as they come from brokers set up so, each lead to what has to be mended."""
    why, advice = why_no_kafka(["Sending username and password in the clear", said], tls=tls)
    assert (why, mend in advice) == (said, True)


def test_an_audit_shows_a_few_notes_and_counts_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    """Of many notes the first eight are shown."""
    show(Report(notes=[f"note {n} of many" for n in range(20)]))
    told = capsys.readouterr().out
    assert (told.count("of many"), "and 12 notes more" in told) == (8, True)


def test_the_first_process_of_a_container_ends_when_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """As process 1, to which the kernel hands only signals that it handles, SIGTERM is Ctrl-C; else it is as it was."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["adgovernor", "--version"])
    try:
        with pytest.raises(SystemExit):
            main()
        assert signal.getsignal(signal.SIGTERM) == before
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with pytest.raises(SystemExit):
            main()
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
