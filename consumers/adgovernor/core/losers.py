"""The losers of a decision: all of them, or as many as fit into its message."""

from __future__ import annotations

from typing import Any, Final

import orjson

MOST_LOSER_BYTES: Final = 500_000
"""A decision must fit into one message, however many candidates lose in however many breaks, for whatever reasons."""
FEW: Final = 16
"""So many always fit."""


def name_losers(body: dict[str, Any], losers: list[dict[str, Any]]) -> None:
    """Names the losers in a decision's body; where they are too much, the first of them, and how many are left out."""
    if not losers:
        return
    room = MOST_LOSER_BYTES
    for place, loser in enumerate(losers):
        room -= len(orjson.dumps(loser))
        if room < 0:
            body["losers_left_out"] = len(losers) - place
            losers = losers[:place]
            break
    body["losers"] = losers
