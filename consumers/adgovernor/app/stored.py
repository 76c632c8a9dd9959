"""What the store says is true: campaigns with their money, people with their caps, shards with their place.

Everything is decoded by the core's own classes; nothing here knows an encoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from adgovernor.contracts import topics, zones
from adgovernor.contracts.campaigns import Cap
from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.money import sayable
from adgovernor.contracts.routing import partition_of
from adgovernor.core import caps
from adgovernor.core.accounts import TreasuryCampaign
from adgovernor.core.funds import AccountFund
from adgovernor.core.history import Person
from adgovernor.core.leases import CampaignShare, sums_of
from adgovernor.core.machine import USERS
from adgovernor.core.machines import machine_of
from adgovernor.core.rules import Rules
from adgovernor.core.treasury import Treasury
from adgovernor.core.user_shard import UserShard
from adgovernor.runtime.chain import Spine, spine_of

if TYPE_CHECKING:
    from adgovernor.stores.base import Meta, Store


@dataclass(frozen=True, slots=True)
class CampaignMoney:
    """A campaign's money over all shards, as far as the store is. Amounts are micros of its currency."""

    campaign: TreasuryCampaign
    treasury: str
    shares: dict[str, CampaignShare]
    taken_by: str | None = None
    """The account whose campaign of the same id came to the shards first, so that this one is never served."""

    @classmethod
    def of(cls, known: TreasuryCampaign, treasury: str, shares: dict[str, CampaignShare]) -> CampaignMoney:
        """Of all the shares under the campaign's id: those that are this treasury's."""
        own = {shard: share for shard, share in shares.items() if share.treasury == treasury}
        others = sorted(share.campaign.account_id for share in shares.values() if share.treasury != treasury)
        return cls(known, treasury, own, others[0] if others and not own else None)

    def row(self) -> dict[str, Any]:
        """The totals. ``in_flight`` is on its way between treasury and shards, and what the store trails by."""
        known = self.campaign
        held = sums_of(self.shares.values())
        used = held.reserved + held.spent
        return {
            "campaign_id": known.campaign.campaign_id,
            "account_id": known.campaign.account_id,
            "currency": known.campaign.currency,
            "status": "never served" if self.taken_by else "paused" if known.reasons else "active",
            "taken_by": self.taken_by,
            "reasons": list(known.reasons),
            "episode": known.episode,
            "topped_up_micros": known.topped_up,
            "unleased_micros": known.unleased,
            "in_flight_micros": known.topped_up - known.unleased - held.lease - used,
            "lease_micros": held.lease,
            "reserved_micros": held.reserved,
            "spent_micros": held.spent,
            "left_micros": known.topped_up - used,
        }

    def details(self) -> dict[str, Any]:
        """The totals, the definition and each shard's part."""
        return {
            **self.row(),
            "treasury": self.treasury,
            "time_zone": self.campaign.time_zone,
            "definition": self.campaign.campaign.model_dump(mode="json", exclude_none=True),
            "shards": [
                {
                    "shard": shard,
                    "paused": list(share.paused),
                    "days": [
                        {
                            "day": day or None,
                            "lease_micros": lease,
                            "reserved_micros": reserved,
                            "spent_micros": spent,
                        }
                        for day, lease, reserved, spent in share.rows(share.books)
                    ],
                    "owed_micros": sayable(sum(entry[3] for entry in share.owed)),
                    "unfunded_micros": share.unfunded_micros,
                }
                for shard, share in sorted(
                    self.shares.items(), key=lambda item: topics.partition_of_shard(item[0])
                )
                if share.books or share.owed
            ],
        }


@dataclass(frozen=True, slots=True)
class FoundPerson:
    """What the store has of a person."""

    routing_id: str
    machine: UserShard
    """Their shard, without anybody's history."""
    height: int
    person: Person
    known: bool
    """Whether there is anything at all."""


class StoredState:
    """Reads one deployment's store."""

    def __init__(self, store: Store, partitions: int) -> None:
        """``partitions``: of the deployment, where the store does not say."""
        self._store = store
        self._partitions = partitions
        self._asked = False

    async def partitions(self) -> int:
        """The number of partitions, as the state itself has it."""
        if not self._asked:
            self._asked = True
            for shard in ("t0", "u0"):
                machine = machine_of(shard, Rules())
                _, fields = await self._store.read_buckets(shard, ("core",))
                machine.restore(fields)
                # Rules that are the defaults are never recorded; they are those of one partition.
                if fields["core"]:
                    self._partitions = machine.rules.partitions
                    break
        return self._partitions

    async def _treasuries(self, account: str | None = None) -> list[str]:
        """All treasuries, or the one of an account."""
        count = await self.partitions()
        numbers = range(count) if account is None else [partition_of(account.encode(), count)]
        return [topics.treasury_shard(number) for number in numbers]

    async def treasury(self, shard: str) -> Treasury:
        """A treasury's whole state."""
        machine = Treasury(shard, Rules())
        _, fields = await self._store.read_buckets(shard, machine.resident_buckets())
        machine.restore(fields)
        return machine

    async def _users(self, shard: str) -> tuple[Meta | None, UserShard]:
        """A user shard's state, without anybody's history, and where it stands."""
        machine = UserShard(shard, Rules())
        meta, fields = await self._store.read_buckets(shard, machine.resident_buckets())
        machine.restore(fields)
        return meta, machine

    async def campaigns(self, account: str | None = None) -> list[CampaignMoney]:
        """All campaigns, or an account's, with their money."""
        found: list[tuple[str, TreasuryCampaign]] = []
        for shard in await self._treasuries(account):
            found += [
                (shard, known)
                for known in (await self.treasury(shard)).campaigns.values()
                if account is None or known.campaign.account_id == account
            ]
        return await self._with_shares(found)

    async def accounts(self) -> list[AccountFund]:
        """All accounts with the money above their campaigns."""
        found: list[AccountFund] = []
        for shard in await self._treasuries():
            found += (await self.treasury(shard)).accounts.values()
        return found

    async def campaign(self, campaign_id: str, account: str | None = None) -> CampaignMoney:
        """One campaign; ``account``: whose.

        Raises:
            BadInput: where there is none, or several accounts have one of that name and none of them is asked for.
        """
        found: list[tuple[str, TreasuryCampaign]] = []
        for shard in await self._treasuries(account):
            _, (value,) = await self._store.read_fields(shard, "campaigns", [campaign_id])
            if value is not None:
                known = TreasuryCampaign.decode(value)
                if account in (None, known.campaign.account_id):
                    found.append((shard, known))
        if not found:
            whose = "" if account is None else f" of account {account}"
            raise BadInput(
                f"the store knows no campaign {campaign_id}{whose}; `adgovernor campaigns list` names those that "
                "there are"
            )
        matches = await self._with_shares(found)
        if len(matches) > 1:
            # A treasury knows its own accounts only, so it cannot refuse an id that is taken; the shards do.
            raise BadInput(
                f"several accounts have a campaign {campaign_id}; say whose with --account: "
                + ", ".join(
                    f"{one.campaign.campaign.account_id}{' (never served)' if one.taken_by else ''}"
                    for one in matches
                )
            )
        return matches[0]

    async def _with_shares(self, found: list[tuple[str, TreasuryCampaign]]) -> list[CampaignMoney]:
        shares = await self._shares([known.campaign.campaign_id for _, known in found])
        return [CampaignMoney.of(known, shard, shares[known.campaign.campaign_id]) for shard, known in found]

    async def holders(self, campaign_ids: list[str]) -> dict[str, set[str]]:
        """The accounts whose campaigns of these ids the shards have."""
        shares = await self._shares(campaign_ids)
        return {name: {share.campaign.account_id for share in held.values()} for name, held in shares.items()}

    async def _shares(self, campaign_ids: list[str]) -> dict[str, dict[str, CampaignShare]]:
        found: dict[str, dict[str, CampaignShare]] = {name: {} for name in campaign_ids}
        if not campaign_ids:
            return found
        for number in range(await self.partitions()):
            shard = topics.user_shard(number)
            _, values = await self._store.read_fields(shard, "campaigns", campaign_ids)
            for name, value in zip(campaign_ids, values, strict=True):
                if value is not None:
                    found[name][shard] = CampaignShare.decode(value)
        return found

    async def find(self, routing_id: str) -> FoundPerson:
        """A person, and the shard that they belong to.

        Raises:
            BadInput: for an empty name, or where the store has nothing of the shard.
        """
        if not routing_id:
            raise BadInput("whose state is asked for is empty; name a household, user, device or session")
        shard = topics.user_shard(partition_of(routing_id.encode(), await self.partitions()))
        meta, machine = await self._users(shard)
        if meta is None or not meta.tip.height:
            raise BadInput(
                f"the store has nothing of shard {shard}, to which {routing_id} belongs: is this the right prefix and "
                "Redis, and has a worker run?"
            )
        _, values = await self._store.read_fields(shard, USERS, [routing_id])
        return FoundPerson(
            routing_id, machine, meta.tip.height, Person.decode(values[0]), values[0] is not None
        )

    async def person(self, routing_id: str, session: str | None = None) -> dict[str, Any]:
        """A person's caps, open reservations and opt-outs at the shard's watermark."""
        found = await self.find(routing_id)
        machine, person = found.machine, found.person
        watermark = machine.watermark_ms
        return {
            "routing_id": routing_id,
            "shard": machine.shard,
            "height": found.height,
            "watermark_ms": watermark,
            "known": found.known,
            "opt_outs": [{"scope": scope, "value": value} for scope, value in person.opt_outs],
            "allows": [{"scope": scope, "value": value} for scope, value in person.allows],
            "requests_remembered": len(person.requests),
            "servings": [
                {
                    "decision_id": serving.decision_id,
                    "slot": serving.slot,
                    "time_ms": serving.time_ms,
                    "campaign_id": serving.campaign,
                    "counts": serving.counts(watermark),
                }
                for serving in person.servings
            ],
            "caps": [
                row
                for share in machine.shares.values()
                for row in caps_of(person, share, watermark, session, machine.since_ms)
            ],
        }

    async def shard(self, shard: str) -> dict[str, Any]:
        """Where a shard is.

        Raises:
            BadInput: where the store has nothing of it.
        """
        meta = await self._store.read_meta(shard)
        if meta is None or not meta.tip.height:
            raise BadInput(
                f"the store has nothing of shard {shard}; shards are named u0, u1… (users) and t0, t1… (treasuries)"
            )
        spine = spine_of(meta)
        return {"shard": shard, **_place(meta, spine), **await self._summary(shard)}

    async def _summary(self, shard: str) -> dict[str, Any]:
        if topics.is_treasury(shard):
            treasury = await self.treasury(shard)
            return {
                "watermark_ms": treasury.watermark_ms,
                "rules": treasury.rules.as_dict(),
                "accounts": len(treasury.accounts),
                "campaigns": len(treasury.campaigns),
                "paused": sum(1 for known in treasury.campaigns.values() if known.reasons),
            }
        _, machine = await self._users(shard)
        return {
            "watermark_ms": machine.watermark_ms,
            "rules": machine.rules.as_dict(),
            "campaigns": len(machine.shares),
            "open_reservations": len(machine.open),
        }


def _place(meta: Meta, spine: Spine) -> dict[str, Any]:
    return {
        "height": meta.tip.height,
        "chain": meta.tip.chain,
        "ledger": spine.ledger,
        "ledger_offset": spine.tip_offset,
        "epoch": spine.epoch,
        "now_ms": spine.now_ms,
        "published_height": spine.published.height,
        "positions": spine.positions,
        "next_dn": spine.dn,
    }


@dataclass(frozen=True, slots=True)
class _Who:
    """One of a person's identities; the routing id is wider."""

    name: str
    user_id: str | None
    device_id: str | None
    session_id: str | None
    household_id: str | None = "*"


def _identities(person: Person, cap: Cap, session: str | None) -> list[_Who | None]:
    """Those that a cap counts for; None: it counts for the person as a whole."""
    at = {"user": 0, "device": 1}.get(cap.per or "")
    if at is None:
        return [None]
    words = sorted({word for serving in person.servings if serving.ids and (word := serving.ids[at])})
    made: list[_Who | None] = [
        _Who(f"{cap.per}:{word}", word if at == 0 else None, word if at == 1 else None, session)
        for word in words
    ]
    return made or [None]


def _since_ms(cap: Cap, time_zone: str, watermark_ms: int, since_ms: int) -> int | None:
    """From when on a cap counts: the beginning of its window, or later where older servings were forgotten before it
    was there; None: everything there ever was of what it counts."""
    if cap.window in ("lifetime", "pod", "stream"):
        return None
    unit = cap.calendar_unit() if cap.window == "calendar" else None
    begins = watermark_ms - (cap.length_ms or 0) + 1
    if unit is not None:
        begins, _ = zones.window_of(watermark_ms, time_zone, unit)
    return max(begins, since_ms)


def caps_of(
    person: Person, share: CampaignShare, watermark_ms: int, session: str | None, since_ms: int
) -> list[dict[str, Any]]:
    """Each cap of a campaign as it stands for a person who asked right now; one ``per`` user or device for each that
    the person's servings name."""
    campaign = share.campaign
    creatives = sorted({s.creative for s in person.servings if s.campaign == campaign.campaign_id}) or ["*"]
    rows = []
    for compiled in share.caps:
        cap = compiled.cap
        categories = (cap.label,) if cap.scope == "category" and cap.label else share.categories
        scopes = dict.fromkeys(
            scope for creative in creatives for scope in compiled.scopes(creative, categories, None)
        )
        for scope, who in product(scopes, _identities(person, cap, session)):
            context = caps.Context("", watermark_ms, session, (), watermark_ms, who=who)
            used = caps.count(person, cap, scope, context, share.time_zone)
            rows.append(
                {
                    "campaign_id": campaign.campaign_id,
                    "scope": scope,
                    "window": cap.window,
                    "length_ms": cap.length_ms,
                    "per": None if who is None else who.name,
                    "since_ms": _since_ms(cap, share.time_zone, watermark_ms, since_ms),
                    "limit": cap.limit,
                    "used": used,
                    "left": max(0, cap.limit - used),
                }
            )
    return rows
