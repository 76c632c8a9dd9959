"""Which backend an address means."""

from __future__ import annotations

from pathlib import Path

import pytest

from adgovernor.contracts.errors import BadSettings
from adgovernor.library import open_backend
from adgovernor.stores.backends import InMemoryBackend
from adgovernor.stores.database import DatabaseBackend
from adgovernor.stores.redis_backend import RedisBackend


async def test_each_address_opens_its_backend(tmp_path: Path) -> None:
    """Memory, a file of a database and Redis are told apart by the address alone."""
    for address, kind in (
        ("memory", InMemoryBackend),
        (f"sqlite+aiosqlite:///{tmp_path}/state.db", DatabaseBackend),
        ("redis://127.0.0.1:1", RedisBackend),
    ):
        backend = open_backend(address, "p")
        assert isinstance(backend, kind)
        await backend.close()


@pytest.mark.parametrize("address", ["", "momery", "mysql://h/d", "redis:nothing"])
def test_an_address_of_nothing_is_refused(address: str) -> None:
    """What names no backend is an error that says what to write."""
    with pytest.raises(BadSettings):
        open_backend(address)
