"""The command line, ``adgovernor``. Commands live beside this file and are loaded when they are asked for, so that
``--help`` is quick."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import inspect
import io
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from adgovernor.app.console import (
    EXIT_BAD_INPUT,
    EXIT_FOUND,
    EXIT_UNREAD,
    Invocation,
    complain,
    exit_code,
    leave_unsaid,
    nobody_reads,
)
from adgovernor.app.kafka_advice import why_no_kafka
from adgovernor.contracts.errors import AdGovernorError, NoKafka, Unavailable

if TYPE_CHECKING:
    from typer._click import Command, Context, HelpFormatter


class _Entry(NamedTuple):
    """Where a command is, and how the overview shows it."""

    module: str
    attribute: str
    """A typer application, or a function."""
    panel: str
    help: str


COMMANDS: Final = {
    "demo": _Entry("demo_commands", "demo", "Start here", "Watch the whole thing at work."),
    "check": _Entry(
        "check_commands", "check", "Start here", "Whether servers and topics are fit, and how to mend them."
    ),
    "topics": _Entry("topics_commands", "topics_app", "Run", "Create and show the topics of a deployment."),
    "run": _Entry("run_commands", "run", "Run", "Run a worker."),
    "resolve": _Entry(
        "resolve_commands", "resolve", "Run", "Fetch the ads of decisions whose winner is a tag."
    ),
    "recover": _Entry(
        "recover_commands", "recover", "Run", "Start a halted shard again after a loss that was looked into."
    ),
    "resend": _Entry(
        "recover_commands",
        "resend",
        "Run",
        "Publish again what a shard has sent, where topics lost messages.",
    ),
    "campaigns": _Entry(
        "campaigns_commands", "campaigns_app", "Campaigns", "Define campaigns; give and take money."
    ),
    "accounts": _Entry(
        "accounts_commands",
        "accounts_app",
        "Campaigns",
        "Give and take money of accounts with a budget of their own.",
    ),
    "state": _Entry(
        "state_commands", "state_app", "Look", "Show what is true now: a person, a campaign, a shard."
    ),
    "watch": _Entry("watch_commands", "watch", "Look", "Show decisions and campaign events as they happen."),
    "publish": _Entry(
        "publish_commands", "publish_app", "Events", "Publish ad requests, impressions and user events."
    ),
    "people": _Entry("people_commands", "people_app", "Events", "Forget people, as they may ask."),
    "dlq": _Entry("dlq_commands", "dlq_app", "Events", "Inputs that could not be used: list, show, replay."),
    "replay": _Entry(
        "replay_commands", "replay", "Events", "Publish the inputs recorded in a ledger into a fresh prefix."
    ),
    "audit": _Entry("audit_commands", "audit", "Prove", "Prove a deployment's history from its ledger."),
    "simulate": _Entry(
        "simulate_commands", "simulate", "Prove", "What would have happened, without servers."
    ),
    "pods": _Entry("pods_commands", "pods_app", "Offline", "Plan ad pods."),
    "vast": _Entry("video_commands", "vast_app", "Offline", "Resolve VAST ad tags."),
    "vmap": _Entry("video_commands", "vmap_app", "Offline", "Show VMAP ad breaks."),
    "schemas": _Entry(
        "schemas_commands", "schemas_app", "Offline", "JSON Schemas and the AsyncAPI document."
    ),
}


def _module(name: str) -> str:
    return f"adgovernor.app.{name}"


_DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class CommandTree(TyperGroup):
    """The root of all commands; turns this project's errors into messages and exit codes."""

    def list_commands(self, ctx: Context) -> list[str]:
        """Those that this installation has."""
        return [name for name, entry in COMMANDS.items() if importlib.util.find_spec(_module(entry.module))]

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """The commands by what they are for."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            entry = COMMANDS[name]
            panels.setdefault(entry.panel, []).append((name, entry.help))
        widest = max((len(name) for rows in panels.values() for name, _ in rows), default=0)
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl([(name.ljust(widest), text) for name, text in rows])

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """A stand-in with the command's help; see `resolve_command` for the command itself."""
        if cmd_name not in COMMANDS:
            return None
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name].help)

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        """The command itself: its module is loaded now."""
        # Their names are what a misspelt one is compared with.
        self.commands = {name: TyperCommand(name) for name in self.list_commands(ctx)}
        name, stand_in, rest = super().resolve_command(ctx, args)
        if name is None or stand_in is None:
            return name, stand_in, rest
        return name, load_command(name), rest

    def invoke(self, ctx: Context) -> Any:
        """Runs the command; an error of ours becomes its message and exit code."""
        try:
            return super().invoke(ctx)
        except UnicodeEncodeError as error:
            # What is printed is written in any encoding (see `main`), so that this is of what was given.
            complain(f"adgovernor: {error.object!r} is no text in this terminal's encoding; set it to UTF-8")
            raise typer.Exit(EXIT_BAD_INPUT) from error
        except AdGovernorError as error:
            said = ctx.obj.kafka_said if isinstance(ctx.obj, Invocation) else []
            complain(f"adgovernor: {_told(error, said)}")
            raise typer.Exit(exit_code(error)) from error
        except BrokenPipeError as error:
            if not nobody_reads():
                raise
            leave_unsaid()
            raise typer.Exit(EXIT_UNREAD) from error


def _told(error: AdGovernorError, kafka_said: list[str]) -> str:
    """An error's message, with why Kafka could not be talked to, as far as its client has said it."""
    told = str(error)
    if isinstance(error, NoKafka) and kafka_said:
        why, mend = why_no_kafka(kafka_said, tls=error.tls)
        return f"{told}\n  the Kafka client says: {why}\n  → {mend}"
    if isinstance(error, Unavailable) and "`adgovernor " not in told:
        # Some clients' reasons end as sentences do.
        told = told.removesuffix(".")
        told += f"{'' if told.endswith('?') else ';'} `adgovernor check` says more"
    return told


def load_command(name: str) -> Command:
    """A command, its module imported."""
    entry = COMMANDS[name]
    found = getattr(importlib.import_module(_module(entry.module)), entry.attribute)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command(name)(found)
        found = single
    else:
        # Without text of its own, a group is explained by its callback's docstring.
        if not found.info.help and found.registered_callback is None:
            found.info.help = entry.help
        found._add_completion = False
    command = typer.main.get_command(found)
    command.name = name
    for one in (command, *getattr(command, "commands", {}).values()):
        one.help = _flowing(one.help or "")
    return command


def _flowing(text: str) -> str:
    """Help without the line breaks of its source, which a narrower terminal would break once more; paragraphs that
    begin with a backspace character stay as they are."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(one if one.startswith("\b") else " ".join(one.split("\n")) for one in paragraphs)


app = typer.Typer(
    cls=CommandTree,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Drawing the overview with rich would take three times as long as all the rest; commands' own help is drawn.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("adgovernor"))
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="ADGOVERNOR_CONFIG",
            help="Settings, as TOML. Left out: adgovernor.toml here, where there is one.",
        ),
    ] = None,
    kafka: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Kafka's bootstrap servers.")] = None,
    redis: Annotated[str | None, typer.Option(metavar="URL", help="Where Redis is.")] = None,
    prefix: Annotated[str | None, typer.Option(help="The deployment's prefix of topics and keys.")] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Govern ad delivery: frequency caps, budgets, pacing and ad pods, exact and provable from the log.

    A deployment is a prefix on a Kafka and a Redis. From nothing to decisions:

    \b
        adgovernor check
        adgovernor topics create --partitions 8
        adgovernor run &
        adgovernor campaigns apply campaigns.jsonl
        adgovernor publish ad-requests requests.jsonl
        adgovernor watch decisions --from-start

    Every setting can be given by the environment (ADGOVERNOR_KAFKA__BOOTSTRAP_SERVERS) or a TOML file.

    Exit codes: 0 well done, 1 something was found or failed, 2 wrong input or settings, 3 a server cannot be used.
    """
    if config is not None and not config.is_file():
        is_what = "is a directory" if config.is_dir() else "does not exist"
        complain(f"adgovernor: settings file {config} {is_what}; name a TOML file")
        raise typer.Exit(EXIT_BAD_INPUT)
    context.obj = Invocation(
        config, {"prefix": prefix, "kafka": {"bootstrap_servers": kafka}, "redis": {"url": redis}}
    )


def main() -> None:
    """The program's entry."""
    # Python has None where whoever started this has closed them; a worker needs neither.
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a letter of somebody's name is told which it is.
            stream.reconfigure(errors="backslashreplace")
    if os.getpid() == 1:
        # The first process of a container gets only the signals that it handles: SIGTERM ends it as Ctrl-C does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        complain(f"adgovernor: what was to be written could not be: {error.strerror}")
        raise SystemExit(EXIT_FOUND) from error


if __name__ == "__main__":
    main()
