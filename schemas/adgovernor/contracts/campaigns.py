"""Campaigns, accounts, the commands that change them (topic ``campaigns``) and the events about them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, get_args
from zoneinfo import ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from adgovernor.contracts.base import Contract, CurrencyCode, DurationMs, Id, Many, Micros, RatePpm, TimeMs
from adgovernor.contracts.money import MOST_MICROS, price_of_cpm
from adgovernor.contracts.zones import zone

DAY_MS = 86_400_000
WEEK_MS = 7 * DAY_MS
MONTH_MS = 30 * DAY_MS

_CALENDAR_LENGTHS = {"day": DAY_MS, "week": WEEK_MS, "month": MONTH_MS}
_Window = Literal["rolling", "calendar", "lifetime", "pod", "stream"]


class Cap(Contract):
    """At most ``limit`` servings of a scope in a window. A limit of 0 means never.

    ``rolling``: any ``length_ms``, exact to the millisecond, half-open. ``calendar``: the account's day, ISO
    week or month, named by ``length_ms`` of 1, 7 or 28-31 days (the words ``day``, ``week`` and ``month`` are
    read as these). The word ``cooldown`` with a ``length_ms`` is read as a rolling cap of 1: at least so long between
    two servings. ``lifetime``, ``pod`` (one request) and ``stream`` (one session) have no length.

    A cap that is new or changed in mid-flight counts the servings that really happened: all of them for ``lifetime``,
    else as far back as servings are remembered, which is as long as a cap in force needed them and at least
    ``history_ms``. ``adgovernor state user`` says from when each cap counts.
    """

    scope: Literal["creative", "campaign", "advertiser", "category", "label"] = "campaign"
    window: _Window = "rolling"
    length_ms: DurationMs | None = None
    limit: int = Field(ge=0)
    event: Literal["impression", "click", "view"] = "impression"
    """What is counted: servings (reserved or shown), or those of them that were clicked or played to their end, at
    the time of the click or end; each serving counts once. A cap on clicks or views blocks further servings."""
    per: Literal["household", "user", "device"] | None = None
    """Whose servings are counted, where a request names several identities: those of its household, user or device;
    left out: all of the widest. A request that does not name it is one of nobody known (``policies.no_identity``)."""
    label: str | None = None
    """For scope ``label``: which, such as ``placement:preroll``. For scope ``category``: only this one, by its own
    name: a serving of ``IAB7-3`` is none of ``IAB7``. An ad that is to count for both names both."""

    @model_validator(mode="before")
    @classmethod
    def _calendar_words(cls, value: Any) -> Any:
        if isinstance(value, dict):
            if value.get("window") == "cooldown":
                return {**value, "window": "rolling", "limit": 1}
            word = str(value.get("window", "")).removeprefix("calendar").lstrip("_-: ")
            if word in _CALENDAR_LENGTHS:
                return {**value, "window": "calendar", "length_ms": _CALENDAR_LENGTHS[word]}
            if isinstance(window := value.get("window"), str) and window not in get_args(_Window):
                raise ValueError(
                    f"window {window!r} is none of rolling (with length_ms: an hour is 3600000), day, week and month "
                    "(of the account's calendar), cooldown (with length_ms), lifetime, pod and stream (a session)"
                )
        return value

    @model_validator(mode="after")
    def _complete(self) -> Cap:
        if self.window == "rolling" and not self.length_ms:
            raise ValueError("a rolling cap needs length_ms above 0")
        if self.window == "calendar" and self.calendar_unit() is None:
            raise ValueError(
                "a calendar cap needs length_ms of one day (86400000), one ISO week (604800000) or one month "
                "(28 to 31 days); or the window 'day', 'week' or 'month'"
            )
        if self.event != "impression" and self.window == "pod":
            raise ValueError(
                f"a cap of window pod counts impressions: no {self.event} comes before the pod is filled"
            )
        if self.scope == "label" and not self.label:
            raise ValueError("a cap of scope label needs the label that it counts")
        return self

    def calendar_unit(self) -> Literal["day", "week", "month"] | None:
        """Which calendar window ``length_ms`` names, or None."""
        if self.length_ms == DAY_MS:
            return "day"
        if self.length_ms == WEEK_MS:
            return "week"
        if self.length_ms is not None and 28 * DAY_MS <= self.length_ms <= 31 * DAY_MS:
            return "month"
        return None


class Pacing(Contract):
    """How fast the treasury releases a campaign's money (the day's, or the flight's where there is no daily
    budget; a flight without an end is not paced).

    ``asap``: all at once. ``even``: in proportion to time. ``front_loaded``: ahead of even. ``hourly``: by the hours
    of the account's clock, each day of a flight alike. What was missed is carried over up to a 200th of the budget;
    the rest is spread over what remains. All is released a 200th of the day or flight before its end. Where events come
    late, or while that is not known yet, it is all released up to 37 minutes before the end, in the last hour: the
    fewer ads a budget has, the earlier, so that no more than a thousandth of it hangs on what is shown after the end.
    """

    mode: Literal["asap", "even", "front_loaded", "hourly"] = "asap"
    lead_percent: int = Field(default=25, ge=0, le=25)
    """front_loaded: how far the release runs ahead of even at the middle, in percent of the whole."""
    hourly_weights: Many[int] = ()
    """hourly: 24 weights, one for each hour of the account's day."""

    @model_validator(mode="after")
    def _weights(self) -> Pacing:
        if self.mode == "hourly" and (
            len(self.hourly_weights) != 24 or min(self.hourly_weights) < 0 or not sum(self.hourly_weights)
        ):
            raise ValueError("hourly pacing needs 24 hourly_weights, none negative, not all 0")
        return self


class Policies(Contract):
    """What a campaign prefers where the answer is a matter of taste."""

    no_identity: Literal["skip", "session"] = "skip"
    """Nobody known, and the campaign has caps: skip it, or cap by session."""
    degraded: Literal["open", "closed", "bounded"] = "open"
    """The store is away and the person's history is not in memory: serve, do not, or serve at most
    ``degraded_limit`` times."""
    degraded_limit: int = Field(default=1, ge=0)
    personalised: bool = False
    """Chosen for the person: not served where the request says that they refused ``consent.personalisation``."""


class Campaign(Contract):
    """A campaign as its account defines it. Amounts are micros of ``currency``."""

    campaign_id: Id
    account_id: Id
    currency: CurrencyCode = "USD"
    """ISO 4217."""
    budget_micros: Micros
    """The total budget, absolute: an upsert moves only the difference to the previous one."""
    daily_budget_micros: Micros | None = None
    """At most so much on one day of the account's time zone. A campaign whose day was used up goes on once the
    watermark has passed midnight, so about the allowed lateness (10 s) after it: until then events of the old day may
    come, and requests are refused (``daily_budget``)."""
    daily_policy: Literal["hard", "rollover"] = "hard"
    """What becomes of a day's unspent money. ``hard``: nothing, no day spends more than the daily budget.
    ``rollover``: it is added to the following days, counted from the flight's first day on (or the first day under
    this policy), so that all days up to any day together spend no more than their daily budgets together."""
    pricing: Literal["cpm", "cpc", "cpcv"] = "cpm"
    """What is paid for: impressions, clicks or completed views. Money is reserved at the decision and spent by the
    billable event; an impression that is not billable still counts for caps."""
    price_micros: Micros | None = None
    """The price of one billable event."""
    cpm_micros: Micros | None = None
    """The price of a thousand impressions; see ``money.price_of_cpm``. Not together with ``price_micros``, and only
    with pricing ``cpm``."""
    min_price_micros: Micros | None = None
    """The least price of one billable event, and the unit of leases; a cheaper candidate is refused. Left out:
    the campaign's own price, which must not be below it."""
    expected_rate_ppm: RatePpm | None = None
    """How many of a million impressions are expected to be billed, where a candidate does not say: prices of unlike
    campaigns compete, and meet floors, as price × rate / 1,000,000 in whole micros, rounded down. Left out: 1,000,000,
    so give it with pricing ``cpc`` and ``cpcv``. Not read with pricing ``cpm``."""
    reservation_ms: Annotated[DurationMs, Field(ge=1)] | None = None
    """How long a decided ad's price stays reserved for its billable event. Left out: the deployment's reservation_ms
    for impressions, ten minutes for clicks and completed views. Never so long that a late event would come after the
    decision is forgotten (dedupe_ms − lateness_ms − late_grace_ms)."""
    start_ms: TimeMs | None = None
    end_ms: TimeMs | None = None
    """The flight: from ``start_ms``, up to but not including ``end_ms``."""
    caps: Many[Cap] = ()
    categories: Many[str] = ()
    """What its ads are about. A refusal (a preference, ``bcat``) of ``IAB7`` holds for its part ``IAB7-3``; caps and
    separation in pods go by the name: name both where an ad is to count for both."""
    pacing: Pacing = Pacing()
    policies: Policies = Policies()
    thresholds_percent: Many[Annotated[int, Field(ge=1, le=100)]] = (50, 80, 100)
    """At which shares of the budget spent a ``budget-thresholds`` event is emitted, once an episode."""

    @model_validator(mode="before")
    @classmethod
    def _as_people_write_it(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        # Many programs write null for what they have nothing for.
        given = {name: entry for name, entry in value.items() if entry is not None}
        if isinstance(given.get("pacing"), str):
            given["pacing"] = {"mode": given["pacing"].replace("-", "_")}
        return given

    @model_validator(mode="after")
    def _complete(self) -> Campaign:
        if self.price_micros is not None and self.cpm_micros is not None:
            raise ValueError("give price_micros or cpm_micros, not both")
        if self.cpm_micros is not None and self.pricing != "cpm":
            raise ValueError(
                f"cpm_micros is the price of impressions; with pricing {self.pricing} give price_micros"
            )
        if self.start_ms is not None and self.end_ms is not None and self.end_ms <= self.start_ms:
            raise ValueError("end_ms must be after start_ms")
        return self

    def price(self) -> int:
        """The price of one billable event in micros; 0 for a campaign that names none."""
        if self.price_micros is not None:
            return self.price_micros
        return 0 if self.cpm_micros is None else price_of_cpm(self.cpm_micros)

    def least_price(self) -> int:
        """The least price of one billable event in micros; a cheaper candidate is refused."""
        return self.price() if self.min_price_micros is None else self.min_price_micros

    def one_price(self) -> int:
        """The unit of leases and of exhaustion, in micros: the least price, and at least 1 where there is a
        budget to spend. 0 only for what costs nothing and has no budget, such as house ads."""
        least = self.least_price()
        return 1 if not least and self.budget_micros else least


class Account(Contract):
    """An advertiser: whose campaigns share a treasury shard and a calendar."""

    account_id: Id
    time_zone: str = "UTC"
    """IANA name, such as ``Europe/Berlin``: whose days its daily budgets and calendar caps follow."""
    currency: CurrencyCode = "USD"
    """ISO 4217; of its budgets. Where it has one, all its campaigns must be of this currency."""
    budget_micros: Micros | None = None
    """What all its campaigns together may spend, absolute; left out: as much as their own budgets. A campaign's
    money and its account's are both used, so whichever is less decides. Once given it can be changed, not taken
    away."""
    daily_budget_micros: Micros | None = None
    """What all its campaigns together may spend on one day of its time zone."""

    @field_validator("time_zone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            zone(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(
                f"unknown time zone {value!r}; use an IANA name such as Europe/Berlin"
            ) from error
        return value


class _Command(Contract):
    command_id: Id
    """Each id of an account once: a command seen before has no effect."""
    account_id: Id
    """Also the message's key."""
    time_ms: TimeMs = 0
    """When it was given."""


class UpsertAccount(_Command):
    """Defines an account, or changes it."""

    command: Literal["account"]
    account: Account


class UpsertCampaign(_Command):
    """Defines a campaign, or changes it. A lower budget takes only money that is unleased."""

    command: Literal["upsert"]
    campaign: Campaign

    @model_validator(mode="after")
    def _same_account(self) -> UpsertCampaign:
        if self.campaign.account_id != self.account_id:
            raise ValueError(
                f"the campaign's account_id is {self.campaign.account_id!r}, "
                f"the command's is {self.account_id!r}: they must be one"
            )
        return self


class MoneyCommand(_Command):
    """Adds to a budget (``top-up``; ``credit``, as for invalid traffic) or takes from it (``decrease``): a campaign's,
    or without a campaign the account's own."""

    command: Literal["top-up", "credit", "decrease"]
    campaign_id: Id | None = None
    amount_micros: Annotated[int, Field(gt=0, le=MOST_MICROS)]


class StatusCommand(_Command):
    """Pauses a campaign by hand, resumes it, or ends it for good."""

    command: Literal["pause", "resume", "archive"]
    campaign_id: Id


Command = Annotated[
    UpsertAccount | UpsertCampaign | MoneyCommand | StatusCommand, Field(discriminator="command")
]


class _FromTreasury(Contract):
    account_id: Id
    campaign_id: Id
    time_ms: TimeMs
    """The treasury's watermark when it happened."""
    shard: str
    height: int
    index: int
    dn: int = Field(ge=1)


REFUSALS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "duplicate": "a command with this id was taken before; give another id to do it again",
        "unknown_campaign": "the account has no such campaign; define it first, or name its account",
        "other_account": "it belongs to another account; an id stays with the account that first used it",
        "archived": "the campaign was ended for good; define a new one",
        "too_little_unleased": "the rest is spent, reserved or leased; what could be taken was",
        "too_much_money": "the account's campaigns would have more than 2^62 micros together",
        "price_below_minimum": "the campaign's price is below its own min_price_micros",
        "account_currency": "the account has a budget in another currency",
        "campaign_currency": "a campaign of the account has another currency",
        "other_currency": "the currency is fixed once there is money in it; define a new one",
        "no_account_budget": "the account has no budget of its own; define one with budget_micros",
        "account_budget_removed": "an account's budget cannot be taken away; lower it",
        "daily_budget_added_or_removed": "money is booked by day with a daily budget and as a whole without one; "
        "define a new campaign",
        "misrouted": "the command is on another partition than its account's; key it by the account id",
    }
)
"""Why a command may be refused, and what to do about it."""


class CampaignChange(_FromTreasury):
    """What became of a command (topic ``campaign-changes``)."""

    command_id: Id
    command: str
    accepted: bool
    reason: str | None = None
    """Why it was refused: ``duplicate``, ``unknown_campaign``, ``other_account``, ``too_little_unleased``,
    ``price_below_minimum`` (the campaign's own), ``account_currency`` (the campaign's is not its account's),
    ``campaign_currency`` (of a campaign that is there), ``no_account_budget``,
    ``too_much_money`` (above 2^62 micros for all campaigns of the account together, or for the account)…"""
    topped_up_micros: Micros = 0
    """The campaign's, or for an account's command the account's, whole money after it: budget + top-ups + credits
    − decreases."""
    campaign_id: str = ""
    """Empty for an account's command."""


class CampaignPaused(_FromTreasury):
    """A campaign stopped being served (topic ``campaign-paused``)."""

    episode: int
    reasons: Many[str]
    """Any of ``exhausted``, ``day``, ``account``, ``account_day``, ``manual``, ``flight``, ``archived``."""


class CampaignResumed(_FromTreasury):
    """A campaign is served again (topic ``campaign-resumed``)."""

    episode: int


class BudgetExhausted(_FromTreasury):
    """Less than one price is left (topic ``budget-exhausted``); once an episode. With scope ``account`` the amounts
    are those of the account, and each of its campaigns that stops has its own event."""

    episode: int
    scope: Literal["total", "day", "account"]
    currency: str
    topped_up_micros: Micros
    spent_micros: Micros
    """As reported when it happened."""
    reserved_micros: Micros
    """Reserved and not yet settled: if it expires, the campaign resumes."""
    day: int | None = None
    """scope ``day``, and scope ``account`` where its daily budget is used up: which, as YYYYMMDD in its zone."""
    cause_topic: str
    cause_offset: int
    """The input that showed it."""


class BudgetThreshold(_FromTreasury):
    """A share of the budget is spent (topic ``budget-thresholds``); each once an episode."""

    episode: int
    percent: int
    currency: str
    topped_up_micros: Micros
    spent_micros: Micros
