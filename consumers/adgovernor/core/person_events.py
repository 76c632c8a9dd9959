"""What people want, and what their sessions did: the user events of a user shard, each about one person."""

from __future__ import annotations

from typing import Any, Final

from adgovernor.contracts.events import Erasure, OptIn, OptOut, Preference, SessionUpdate
from adgovernor.contracts.ledger import ERASURE, Draft
from adgovernor.contracts.routing import partition_of
from adgovernor.core.history import Person
from adgovernor.core.machine import Input, dead_letter
from adgovernor.core.rules import Rules
from adgovernor.core.user_stored import StoredUserState

NOTHING_KNOWN: Final = {"history": "{}"}
"""What is assumed of a person whose stored part cannot be read."""


class PersonEvents(StoredUserState):
    """A user shard's state, and what user events do to people."""

    def __init__(self, shard: str, rules: Rules) -> None:
        super().__init__(shard)
        self.configured = rules

    def _advance(self, watermark_ms: int) -> None:
        """Moves the watermark, and lets happen what is then due."""
        raise NotImplementedError

    def _is_mine(self, routing: str) -> bool:
        # Asked before the first block has put the rules in force; the number of partitions never changes.
        return partition_of(routing.encode(), self.configured.partitions) == self.partition

    def _person(self, routing: str, unknown: bool) -> Person | None:
        """The person, most recently used from now on; None where they belong to another shard."""
        person = self.persons.pop(routing, None)
        if person is None:
            if not self._is_mine(routing):
                return None
            person = Person()
            if unknown:
                person.ops = []
        self.persons[routing] = person
        return person

    def _about(self, draft: Draft, event: Input, unknown: bool) -> Person | None:
        """The person of an event, once the watermark has moved as far as the event says; None, and said so, where they
        belong to another shard. An event from the future moves no watermark."""
        person = self._person(event.routing, unknown)
        if person is None:
            draft.result = {"kind": "misrouted"}
        elif event.time_ms <= self.now_ms + self.rules.skew_ms:
            self._advance(event.time_ms - self.rules.lateness_ms)
        return person

    def _opt(
        self,
        draft: Draft,
        what: OptOut | OptIn | Preference,
        event: Input,
        unknown: bool,
        assumed: dict[str, Any] | None,
    ) -> None:
        person = self._about(draft, event, unknown)
        if person is None:
            return
        kind: str = what.type
        if isinstance(what, Preference):
            kind = "opt-out" if what.choice == "refuse" else what.choice
        draft.result = {"kind": what.type, "scope": what.scope}
        # A word beside "all" says nothing: with it, an opt-in would not take the opt-out back.
        value = None if what.scope == "all" else what.value
        if person.ops is not None or assumed is not None:
            # How much they have said before is not known: what they want now counts.
            draft.assumed = NOTHING_KNOWN
        elif kind in {"opt-out", "allow"} and not person.has_room(
            what.scope, value, self.rules.most_preferences
        ):
            given_up = next((entry for entry in person.allows if entry[0] != "all"), None)
            if kind == "allow" or given_up is None:
                self._too_many_preferences(draft, event)
                return
            # To be shown less than they allowed does a person no harm; to be shown what they refuse does.
            self.emit(["opt", "neither", *given_up])
        self.emit(["opt", kind, what.scope, value])

    def _too_many_preferences(self, draft: Draft, event: Input) -> None:
        """The event is kept, where somebody sees it and can have it handled again."""
        reason, most = "too_many_preferences", self.rules.most_preferences
        draft.result["refused"] = reason
        message = (
            f"this person has refused or allowed {most} advertisers and categories; raise rules.most_preferences, then "
            "`adgovernor dlq replay`"
        )
        draft.out.append(dead_letter(event.topic, reason, message))

    def _erase(self, draft: Draft, what: Erasure, event: Input, unknown: bool) -> None:
        if self._about(draft, event, unknown) is None:
            # Elsewhere there is no state of theirs, but what went astray is sealed with a key that must go, too.
            draft.result = {"kind": ERASURE, "misrouted": True}
            return
        draft.result = {"kind": ERASURE}
        self.emit(["erase"])

    def _visit(self, draft: Draft, what: SessionUpdate, event: Input, unknown: bool) -> None:
        if self._about(draft, event, unknown) is None:
            return
        # An event whose time is wrong must not end the session's state early, nor keep it for ever.
        at_ms = min(max(what.time_ms, self.watermark_ms), self.now_ms + self.rules.skew_ms)
        self.emit(
            [
                "visit",
                what.change_id,
                what.requests,
                what.impressions,
                list(what.pod_positions),
                what.spend_micros,
                at_ms + self.rules.session_ttl_ms,
            ]
        )
        draft.result = {"kind": "session"}
