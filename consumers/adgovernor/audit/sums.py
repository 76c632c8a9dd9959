"""What all shards together must agree on: the messages between them, and the money."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from adgovernor.audit.followed import Followed
from adgovernor.audit.report import Report
from adgovernor.contracts.money import sayable
from adgovernor.core.accounts import TreasuryCampaign
from adgovernor.core.leases import CampaignShare, sums_of
from adgovernor.core.treasury import Treasury
from adgovernor.core.user_shard import UserShard


def check_links(followed: Mapping[str, Followed], report: Report) -> None:
    """Side messages were taken as they were sent, and none that was never sent."""
    for name, one in followed.items():
        if one.broken:
            continue
        for destination, (number, digest) in one.machine.links.sent.items():
            other = followed.get(destination)
            if other is None or other.broken:
                continue
            taken, taken_digest = other.machine.links.taken.get(name, (0, ""))
            place = f"{name} to {destination}"
            if taken > number:
                report.fault("links", place, f"message {taken} was taken, but only {number} were sent")
            elif taken == number and taken_digest != digest:
                report.fault(
                    "links", place, f"message {number} was taken with another content than it was sent with"
                )
            elif taken < number:
                report.notes.append(f"{place}: {number - taken} messages are under way")
            report.count("side messages", number)


def check_money(followed: Mapping[str, Followed], report: Report) -> None:
    """Each campaign's parts add up to what it was given; its totals are in the report."""
    if any(one.broken for one in followed.values()):
        report.skipped["money"] = "a ledger could not be followed to its end, so the sums would mean nothing"
        return
    users = [one.machine for one in followed.values() if isinstance(one.machine, UserShard)]
    treasuries = [one.machine for one in followed.values() if isinstance(one.machine, Treasury)]
    names = Counter(name for treasury in treasuries for name in treasury.campaigns)
    for treasury in treasuries:
        _check_accounts(treasury, report)
        for campaign_id, known in sorted(treasury.campaigns.items()):
            shares = {
                user.shard: share
                for user in users
                if (share := user.shares.get(campaign_id)) is not None and share.treasury == treasury.shard
            }
            # Several accounts may have defined one id, of which the shards serve the first that came.
            several = names[campaign_id] > 1
            label = f"{campaign_id} of {known.campaign.account_id}" if several else campaign_id
            _check_total(known, label, shares, report)
            _check_ways(known, shares, treasury.shard, followed, report)
            _check_days(known, shares, report)


def _check_accounts(treasury: Treasury, report: Report) -> None:
    """An account's money is above its campaigns': none of it is leased twice."""
    for account_id, fund in treasury.accounts.items():
        members = treasury.campaigns_of(account_id)
        leased = sum(known.topped_up - known.unleased for known in members)
        place = f"account {account_id}"
        if leased != fund.leased:
            report.fault(
                "money", place, f"its campaigns were leased {leased}, the account says {fund.leased}"
            )
        if fund.account.budget_micros is not None and leased > fund.topped_up:
            report.fault("money", place, f"its campaigns were leased {leased} of {fund.topped_up}")


def _leased(known: TreasuryCampaign) -> dict[str, int]:
    return {shard: sum(days.values()) for shard, days in known.leased.items()}


def _check_total(
    known: TreasuryCampaign, label: str, shares: Mapping[str, CampaignShare], report: Report
) -> None:
    place, sums = _place(known), sums_of(shares.values())
    in_flight = sum(_leased(known).values()) - sum(share.held() for share in shares.values())
    report.count("campaigns")
    report.campaigns[label] = {
        "topped_up_micros": known.topped_up,
        "unleased_micros": known.unleased,
        "in_flight_micros": in_flight,
        "lease_micros": sums.lease,
        "reserved_micros": sums.reserved,
        "spent_micros": sums.spent,
        "unfunded_micros": sayable(sum(share.unfunded_micros for share in shares.values())),
        "episode": known.episode,
        "paused": list(known.reasons),
    }
    total = known.unleased + in_flight + sums.lease + sums.reserved + sums.spent
    if total != known.topped_up:
        report.fault("money", place, f"topped up {known.topped_up}, but the parts add up to {total}")
    if sums.spent + sums.reserved > known.topped_up:
        report.fault("money", place, f"spent {sums.spent} + reserved {sums.reserved} of {known.topped_up}")


def _check_ways(
    known: TreasuryCampaign,
    shares: Mapping[str, CampaignShare],
    treasury: str,
    followed: Mapping[str, Followed],
    report: Report,
) -> None:
    """Treasury and shard say the same of what the shard has, but for messages that are under way."""
    leased = _leased(known)
    for shard in leased.keys() | shares.keys():
        there = leased.get(shard, 0)
        here = shares[shard].held() if shard in shares else 0
        if there == here or _under_way(followed, treasury, shard):
            continue
        place = f"{_place(known)} on {shard}"
        text = f"{treasury} leased {there}, the shard has {here}, and no message is under way between them"
        if followed[treasury].spine.epoch or followed[shard].spine.epoch:
            # What the lost messages had moved is known to one side alone.
            report.notes.append(f"{place}: {text}, after a loss that a person accepted")
        else:
            report.fault("money", place, text)


def _check_days(known: TreasuryCampaign, shares: Mapping[str, CampaignShare], report: Report) -> None:
    daily = known.campaign.daily_budget_micros
    if daily is None:
        return
    used: Counter[int] = Counter()
    for share in shares.values():
        for day, book in share.books.items():
            used[day] += book.reserved + book.spent
    rolls = known.campaign.daily_policy == "rollover"
    for day, amount in used.items():
        if day > 0 and amount > (known.day_budget(day) if rolls else daily):
            report.notes.append(
                f"{_place(known)}: reserved + spent on {day} is {amount}, above the daily budget {daily}; right only "
                "where the daily budget was lowered that day"
            )


def _under_way(followed: Mapping[str, Followed], treasury: str, shard: str) -> bool:
    there, here = followed[treasury].machine.links, followed[shard].machine.links
    return there.sent.get(shard) != here.taken.get(treasury) or here.sent.get(treasury) != there.taken.get(
        shard
    )


def _place(known: TreasuryCampaign) -> str:
    return f"campaign {known.campaign.campaign_id}"
