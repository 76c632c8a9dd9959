"""``adgovernor accounts``: the money above an account's campaigns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from adgovernor.app.console import AsJson, money, print_json, print_table
from adgovernor.app.giving import CommandId, Wait, give_one, micros

if TYPE_CHECKING:
    from adgovernor.core.funds import AccountFund

accounts_app = typer.Typer(no_args_is_help=True)


@accounts_app.callback()
def _accounts() -> None:
    """Give and take money of accounts that have a budget above their campaigns'; show it.

    Each command has an id and takes effect once; see `adgovernor campaigns --help` for waiting and exit codes. Accounts
    are defined by `adgovernor campaigns apply`.
    """


_MONEY: Final = {
    "top-up": """Add to an account's budget. Its campaigns that stopped for it are served again.

        Example: adgovernor accounts top-up acme 1000""",
    "credit": """Give money back, as for invalid traffic.

        Example: adgovernor accounts credit acme 12.5""",
    "decrease": """Take money away that no campaign has leased or that can be recalled; what cannot be had is refused.

        Example: adgovernor accounts decrease acme 100""",
}


def _add_money_command(name: str, text: str) -> None:
    @accounts_app.command(name, help=text)
    def command(
        context: typer.Context,
        account_id: Annotated[str, typer.Argument(help="The account.")],
        amount: Annotated[
            str, typer.Argument(help="In units of the account's currency, such as 250 or 0.5.")
        ],
        command_id: CommandId = None,
        wait: Wait = 30.0,
        as_json: AsJson = False,
    ) -> None:
        data = {"command": name, "account_id": account_id, "amount_micros": micros(amount)}
        give_one(context, data, command_id, wait, as_json)


for _name, _text in _MONEY.items():
    _add_money_command(_name, _text)


@accounts_app.command("list")
def list_accounts(context: typer.Context, as_json: AsJson = False) -> None:
    """Show all accounts, with their money where they have a budget of their own.

    Example: adgovernor accounts list --json
    """
    from adgovernor.app.state_commands import read_state

    rows = sorted(
        (_row(fund) for fund in read_state(context, lambda state: state.accounts())),
        key=lambda row: str(row["account_id"]),
    )
    if as_json:
        print_json(rows)
        return
    print_table(
        "",
        ("account", "time zone", "topped up", "leased", "left", ""),
        [
            (
                row["account_id"],
                row["time_zone"],
                *(
                    "no budget" if row[f"{name}_micros"] is None else money(row[f"{name}_micros"])
                    for name in ("topped_up", "leased", "left")
                ),
                row["currency"] or "",
            )
            for row in rows
        ],
    )


def _row(fund: AccountFund) -> dict[str, Any]:
    account = fund.account
    own = account.budget_micros is not None
    return {
        "account_id": account.account_id,
        "time_zone": account.time_zone,
        "currency": account.currency if own or account.daily_budget_micros is not None else None,
        "daily_budget_micros": account.daily_budget_micros,
        "topped_up_micros": fund.topped_up if own else None,
        "leased_micros": fund.leased if own else None,
        "left_micros": fund.topped_up - fund.leased if own else None,
    }
