"""Which backend an address means."""

from __future__ import annotations

from adgovernor.contracts.errors import BadSettings
from adgovernor.stores.backends import InMemoryBackend, StateBackend


def open_backend(address: str, prefix: str = "adgovernor") -> StateBackend:
    """The backend at an address; the caller closes it.

    ``memory``; ``redis://…``, ``redis+sentinel://…``, ``redis+cluster://…`` (``rediss`` for TLS); or a database:
    ``postgresql+asyncpg://…``, ``sqlite+aiosqlite:///FILE``. ``prefix`` tells deployments on one server apart: the
    beginning of Redis's keys, of a database's table.

    Raises:
        BadSettings: where the address names none of these.
    """
    if address == "memory":
        return InMemoryBackend()
    # Only who uses a server pays for the import of its client.
    if address.startswith("redis"):
        from adgovernor.stores.redis_backend import RedisBackend
        from adgovernor.stores.redis_client import RedisConfig

        return RedisBackend(RedisConfig.from_url(address), prefix)
    if "://" not in address:
        raise BadSettings(f"{address!r} names no backend: write memory, a redis:// or a database's address")
    from adgovernor.stores.database import DatabaseBackend

    return DatabaseBackend(address, table=f"{prefix}_state")
