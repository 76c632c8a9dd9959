"""``adgovernor campaigns``: define campaigns, give and take money, pause and resume."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from adgovernor.app.console import (
    AsJson,
    complain,
    money,
    print_json,
    print_table,
)
from adgovernor.app.giving import CommandId, Wait, give, give_one, micros, new_id, parsed
from adgovernor.contracts.errors import BadInput
from adgovernor.stores.clock import wall_clock_ms

if TYPE_CHECKING:
    from adgovernor.contracts.campaigns import Command

campaigns_app = typer.Typer(no_args_is_help=True)

Account = Annotated[
    str | None,
    typer.Option(help="The campaign's account; left out, it is looked up in the store."),
]
CampaignId = Annotated[str, typer.Argument(help="The campaign.")]


@campaigns_app.callback()
def _campaigns() -> None:
    """Define campaigns, give and take money, pause and resume.

    Each command has an id and takes effect once. It is waited for until a worker has accepted or refused it: exit
    code 0 when all were accepted, 1 when one was refused, 3 when no answer came in time (give the same command again
    with its --command-id, once workers run).
    """


@campaigns_app.command("apply")
def apply(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Accounts, campaigns or commands: JSON lines, or one JSON array; `-` is standard input.",
        ),
    ],
    wait: Wait = 30.0,
    as_json: AsJson = False,
) -> None:
    """Define the accounts and campaigns of a file, or change them.

    Budgets are absolute: applying a file again changes nothing, and a higher budget_micros adds the difference. A bad
    entry is named and the others go on.

    \b
    Example file:
        [{"account_id": "acme", "time_zone": "Europe/Berlin"},
         {"campaign_id": "spring", "account_id": "acme", "currency": "EUR",
          "budget_micros": 5000000000, "cpm_micros": 2500000,
          "caps": [{"window": "day", "limit": 3}]}]
    """
    from adgovernor.audit.lines import read_lines
    from adgovernor.audit.whatif import command_of
    from adgovernor.contracts.misspelt import misspelt

    commands: list[Command] = []
    bad: list[str] = []
    for line in read_lines(file):
        if isinstance(line, str):
            bad.append(line)
            continue
        try:
            data = command_of(line)
            if data.get("command_id") != line.data.get("command_id"):
                data["command_id"] = new_id()
            data.setdefault("time_ms", wall_clock_ms())
            command = parsed(data)
        except BadInput as error:
            bad.append(f"{line.place}: {error}")
            continue
        # A budget or a cap under a misspelt name would silently not be there.
        wrong = list(misspelt(command, data))
        if wrong:
            bad.append(f"{line.place}: {'; '.join(wrong)}")
        else:
            commands.append(command)
    for message in bad:
        complain(message)
    give(context, commands, wait, as_json, bad=bad)


_MONEY: Final = {
    "top-up": """Add to a campaign's budget. A campaign that was exhausted is served again.

        Example: adgovernor campaigns top-up spring 250""",
    "credit": """Give money back, as for invalid traffic.

        Example: adgovernor campaigns credit spring 1.25 --command-id ivt-2026-03""",
    "decrease": """Take from a campaign's budget, as far as it is not spent or reserved; the rest is refused.

        Example: adgovernor campaigns decrease spring 100""",
}
_STATUS: Final = {
    "pause": """Stop serving a campaign until it is resumed by hand.

        Example: adgovernor campaigns pause spring""",
    "resume": """Take a pause by hand back. A campaign without money stays paused for that.

        Example: adgovernor campaigns resume spring""",
    "archive": """End a campaign for good.

        Example: adgovernor campaigns archive spring""",
}


def _add_money_command(name: str, text: str) -> None:
    @campaigns_app.command(name, help=text)
    def command(
        context: typer.Context,
        campaign_id: CampaignId,
        amount: Annotated[
            str, typer.Argument(help="In units of the campaign's currency, such as 250 or 0.5.")
        ],
        account: Account = None,
        command_id: CommandId = None,
        wait: Wait = 30.0,
        as_json: AsJson = False,
    ) -> None:
        more = {"amount_micros": micros(amount)}
        about = _about(context, campaign_id, account)
        give_one(context, {"command": name, **about, **more}, command_id, wait, as_json)


def _add_status_command(name: str, text: str) -> None:
    @campaigns_app.command(name, help=text)
    def command(
        context: typer.Context,
        campaign_id: CampaignId,
        account: Account = None,
        command_id: CommandId = None,
        wait: Wait = 30.0,
        as_json: AsJson = False,
    ) -> None:
        about = _about(context, campaign_id, account)
        give_one(context, {"command": name, **about}, command_id, wait, as_json)


for _name, _text in _MONEY.items():
    _add_money_command(_name, _text)
for _name, _text in _STATUS.items():
    _add_status_command(_name, _text)


@campaigns_app.command("list")
def list_campaigns(
    context: typer.Context,
    account: Annotated[str | None, typer.Option(help="Only this account's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show all campaigns with their money.

    Example: adgovernor campaigns list --account acme
    """
    from adgovernor.app.state_commands import read_state

    rows = [known.row() for known in read_state(context, lambda state: state.campaigns(account))]
    rows.sort(key=lambda row: (row["account_id"], row["campaign_id"]))
    if as_json:
        print_json(rows)
        return
    print_table(
        "",
        ("account", "campaign", "status", "topped up", "spent", "reserved", "left", "currency"),
        [
            (
                row["account_id"],
                row["campaign_id"],
                f"never served: {row['taken_by']} has this id"
                if row["taken_by"]
                else ", ".join(row["reasons"]) or "active",
                money(row["topped_up_micros"]),
                money(row["spent_micros"]),
                money(row["reserved_micros"]),
                money(row["left_micros"]),
                row["currency"],
            )
            for row in rows
        ],
    )


@campaigns_app.command("show")
def show(
    context: typer.Context, campaign_id: CampaignId, account: Account = None, as_json: AsJson = False
) -> None:
    """Show a campaign's money and status.

    Example: adgovernor campaigns show spring --json
    """
    from adgovernor.app.state_commands import show_campaign

    show_campaign(context, campaign_id, account, as_json)


def _about(context: typer.Context, campaign_id: str, account: str | None) -> dict[str, str]:
    """Which campaign a command is about; whose it is, is looked up where it is not said."""
    if account is None:
        from adgovernor.app.state_commands import read_state

        account = read_state(context, lambda state: state.campaign(campaign_id)).campaign.campaign.account_id
    return {"account_id": account, "campaign_id": campaign_id}
