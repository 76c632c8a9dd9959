"""Servers that a test cannot do without."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import servers


@contextmanager
def required() -> Iterator[None]:
    """Skips where the servers asked for inside cannot be had, unless the run insists on servers."""
    try:
        yield
    except servers.ServersUnavailable as error:
        if os.environ.get(servers.REQUIRE_VARIABLE):
            raise
        pytest.skip(f"servers cannot be had here: {error}")
