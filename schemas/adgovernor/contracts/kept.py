"""JSON that is kept for a while."""

from __future__ import annotations

from typing import Any

import orjson


def kept_json(value: Any) -> bytes:
    """``value`` as JSON, in no more memory than it has bytes.

    What `orjson.dumps` gives lies in a buffer of at least four kilobytes, however short it is, for as long as it lives.
    That is quick for what is sent at once, and ten times too much for the states of a hundred thousand people.

    Raises:
        TypeError: for what JSON cannot say.
    """
    return b"".join((orjson.dumps(value), b""))
