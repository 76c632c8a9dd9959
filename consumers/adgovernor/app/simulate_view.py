"""Decisions and campaign events as lines that a person reads, and totals as a table."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from adgovernor.app.console import screen
from adgovernor.contracts.money import decimal_of


def line_of(name: str, body: dict[str, Any]) -> str:
    """One plain line for an event, such as ``decision r1: slot 0 c1/x at 0.001; c2 capped``."""
    if name == "decision":
        return f"decision {body['decision_id']}: {_slots(body)}{_losers(body)}"
    if name == "pods":
        return _pod(body)
    campaign = body.get("campaign_id", "")
    if name == "campaign-paused":
        return f"campaign-paused {campaign}: {', '.join(body['reasons'])} (episode {body['episode']})"
    if name == "campaign-resumed":
        return f"campaign-resumed {campaign}: episode {body['episode']}"
    if name == "budget-exhausted":
        spent, reserved = decimal_of(body["spent_micros"]), decimal_of(body["reserved_micros"])
        return f"budget-exhausted {campaign}: {body['scope']}, spent {spent} {body['currency']}, reserved {reserved}"
    if name == "budget-thresholds":
        return f"budget-threshold {campaign}: {body['percent']} % of {decimal_of(body['topped_up_micros'])} spent"
    if name == "campaign-changes":
        outcome = "accepted" if body["accepted"] else f"refused ({body['reason']})"
        return f"campaign-change {campaign or body['account_id']}: {body['command']} {outcome}"
    return f"{name}: {body}"


def _slots(body: dict[str, Any]) -> str:
    parts = []
    for slot in body["slots"]:
        winner = slot.get("winner")
        if winner is None:
            parts.append(f"slot {slot['slot']} no fill ({slot['no_fill']})")
        else:
            price = decimal_of(winner["price_micros"])
            parts.append(f"slot {slot['slot']} {winner['campaign_id']}/{winner['creative_id']} at {price}")
    return ", ".join(parts)


def _pod(body: dict[str, Any]) -> str:
    at = f" at {body['break_offset']}" if "break_offset" in body else ""
    ads = ", ".join(
        f"{ad['campaign_id']}/{ad['creative_id']}" + (" (shown)" if ad["delivered"] else "")
        for ad in body["positions"]
    )
    unfilled = f", {body['unfilled']} unfilled" if body["unfilled"] else ""
    return f"{body['type']} {body['pod_id']}{at}: {ads or 'nothing'}{unfilled}"


def _losers(body: dict[str, Any]) -> str:
    parts = []
    for loser in body.get("losers", ()):
        reasons = []
        for reason in loser["reasons"]:
            text = reason["code"]
            if "limit" in reason:
                text += f" {reason['scope']} {reason['count']}/{reason['limit']} {reason['window']}"
                if "per" in reason:
                    text += f" per {reason['per']}"
            reasons.append(text)
        parts.append(f"{loser['campaign_id']} {' + '.join(reasons)}")
    return "; " + ", ".join(parts) if parts else ""


def totals_table(totals: dict[str, Any]) -> Table:
    """The totals by campaign."""
    table = Table(title="Totals by campaign", title_justify="left")
    for heading in (
        "campaign",
        "status",
        "impressions",
        "topped up",
        "spent",
        "reserved",
        "leased",
        "unleased",
    ):
        table.add_column(heading, justify="left" if heading in ("campaign", "status") else "right")
    for campaign_id, row in totals["campaigns"].items():
        status = (
            "paused: " + ", ".join(row["paused"]) if row["paused"] else f"running (episode {row['episode']})"
        )
        table.add_row(
            escape(campaign_id),
            status,
            str(row["impressions"]),
            *(
                str(decimal_of(row[name]))
                for name in (
                    "topped_up_micros",
                    "spent_micros",
                    "reserved_micros",
                    "lease_micros",
                    "unleased_micros",
                )
            ),
        )
    return table


class View:
    """Prints to a terminal or, where there is none, one plain line an event."""

    def __init__(self) -> None:
        self._console = screen()

    def event(self, name: str, body: dict[str, Any]) -> None:
        """Prints one event."""
        self._console.print(line_of(name, body), markup=False)

    def totals(self, totals: dict[str, Any]) -> None:
        """Prints the totals."""
        self._console.print(totals_table(totals))
