"""What people want, undone one rule at a time."""

from __future__ import annotations

from typing import Final

from tests.simulation.mutation import one

from adgovernor.core import identities, person_ops, selection
from adgovernor.core.history import Person, Visit
from adgovernor.core.user_shard import UserShard

PEOPLE: Final = (
    one(
        "storage-without-consent",
        "Of who refuses storage nothing is remembered, and nobody is known",
        UserShard,
        "_request",
        "if isinstance(request, AdRequest) and request.consent is not None and not request.consent.storage:",
        "if False:",
    ),
    one(
        "personalised-without-consent",
        "Personalised campaigns need consent",
        selection,
        "judge",
        "if share.personalised and not context.personal:",
        "if False:",
        theme="minds",
    ),
    one(
        "another-identity-counts",
        "A cap counts for the identity that it is per",
        identities,
        "servings_of",
        "ids[at] == word",
        "ids[at] != word",
    ),
    one(
        "identity-not-needed",
        "A cap per an identity that is not named is one for nobody known",
        selection,
        "_unknowable",
        "known = all(place_of(context.who, per) is not None for per in share.pers)",
        "pass",
    ),
    one(
        "wider-word-decides",
        "Of preferences the most specific word decides",
        Person,
        "opted_out",
        '        if ("advertiser", account) in self.allows:\n            return None\n',
        "",
        theme="minds",
    ),
    one(
        "refusal-of-all-forgotten",
        "What people refuse is honoured",
        Person,
        "opted_out",
        'return "all" if any(scope == "all" for scope, _ in self.opt_outs) else None',
        "return None",
    ),
    one(
        "permission-outlives-refusal",
        "A later word takes the place of an earlier one",
        person_ops,
        "opt",
        "    person.allows = [known for known in person.allows if known != entry]\n",
        "",
        theme="minds",
    ),
    one(
        "erased-but-remembered",
        "Whoever is erased is forgotten",
        Person,
        "erase",
        "        self.opt_outs = []\n        self.allows = []\n",
        "",
    ),
    one(
        "change-counts-twice",
        "A session's change counts once",
        Visit,
        "add",
        "        if change_id in self.changes:\n            return\n",
        "",
    ),
)
