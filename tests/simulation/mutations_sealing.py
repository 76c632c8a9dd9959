"""Rules of sealed ledgers (DESIGN, section 4, "Erasure"), broken one at a time."""

from __future__ import annotations

from typing import Any, Final

from tests.simulation.mutation import Mutation

from adgovernor.core import person_ops
from adgovernor.runtime import recover, takeover
from adgovernor.runtime.keyring import Keyring
from adgovernor.runtime.publisher import Publisher


def _sealed(
    name: str, rule: str, owner: Any, function: str, old: str, new: str, *, theme: str = ""
) -> Mutation:
    return Mutation(name, rule, owner, function, ((old, new),), sealed=True, theme=theme)


SEALING: Final = (
    _sealed(
        "tombstone-before-outputs",
        "A key ends once the outputs that it sealed are acknowledged",
        Publisher,
        "_run",
        "                if outputs:\n",
        """                if self._keyring is not None:
                    await self._keyring.destroy_up_to(queue[blocks - 1][0])
                if outputs:
""",
        theme="keys",
    ),
    _sealed(
        "no-tombstone-again",
        "A takeover ends the keys whose end is not known to be acknowledged",
        takeover,
        "_republish",
        "                await keyring.destroy(ends)\n",
        "                pass\n",
    ),
    _sealed(
        "an-end-is-the-end",
        "An empty read is not absence: a key was acknowledged before a block names it",
        Keyring,
        "_read_on",
        "            if events:\n",
        """            if not events and start >= end:
                return [RawEvent(named, None, None)]
            if events:
""",
        theme="keys",
    ),
    _sealed(
        "forgotten-while-away",
        "When the store is back, people have the keys that they had before",
        Keyring,
        "catch_up",
        "        await self._read_people(unsure, trail)\n",
        "",
        theme="store",
    ),
    _sealed(
        "erased-in-part",
        "An erasure waits until all keys of the person are known",
        Keyring,
        "ready",
        "return place if _subject(event) in self._unsure else place + 1",
        "return place + 1",
        theme="store",
    ),
    _sealed(
        "key-for-later",
        "Keys are first named in the order of their offsets: one that no block names is made anew",
        Keyring,
        "seal",
        """            self._named.pop(name)
            self._people[key.subject or ""] = []
""",
        "            del name, key\n",
    ),
    _sealed(
        "place-is-lost",
        "The store knows up to where keys were named",
        Keyring,
        "_reach",
        "            self._position = offset + 1\n",
        "            self._position = offset + 3\n",
    ),
    _sealed(
        "key-after-erasure",
        "Who comes back after an erasure gets a new key",
        Keyring,
        "_end",
        "            self._people[subject] = []\n",
        "",
    ),
    _sealed(
        "state-after-erasure",
        "An erasure removes what counts towards caps",
        person_ops,
        "erase",
        "    person.erase()\n",
        "    kept = person.servings\n    person.erase()\n    for serving in kept:\n        person.add(serving)\n",
    ),
    _sealed(
        "shorter-topic-of-keys-believed",
        "An acknowledged key at an offset that was named proves that the topic of keys lost its tail: halt",
        Keyring,
        "_put",
        "        if min(offsets) < there:\n",
        "        if False:\n",
        theme="losses",
    ),
    _sealed(
        "ended-keys-come-back",
        "A key whose tombstone was lost is ended again",
        recover,
        "_mend_keys",
        "    if again:\n",
        "    if False:\n",
        theme="losses",
    ),
)
