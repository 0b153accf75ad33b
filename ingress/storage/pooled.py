"""Connections through a pooler that gives each transaction another session of the server, as PgBouncer does.

Nothing lasts from one transaction to the next, neither a role nor a setting nor a prepared statement. So each
transaction begins with all of them, in the message that begins it; each statement is in one; none is prepared by name.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import asyncpg

from .connections import atomic

Result = TypeVar("Result")


async def connect(url: str, session: Mapping[str, str], **more: Any) -> "PooledConnection":
    """A connection that has the settings of *session* in each transaction; *more* is asyncpg's."""
    # Planned each time anyway: with the values, fewer partitions are looked at.
    settings = {**session, "plan_cache_mode": "force_custom_plan"}
    del settings["application_name"]
    connection = await asyncpg.connect(
        url,
        connection_class=PooledConnection,
        statement_cache_size=0,
        # Without the release: a session outlives who had it, and migrations wait for who is of an older one.
        server_settings={"application_name": "whatsapp-ingress"},
        **more,
    )
    connection.settings = "select " + ", ".join(f"set_config('{name}', '{settings[name]}', true)" for name in settings)
    return connection


class PooledConnection(asyncpg.Connection):
    """Has each statement in a transaction, and each transaction begin with `settings`."""

    settings = ""

    async def execute(self, query: str, *arguments: Any, **more: Any) -> Any:
        if query.startswith("BEGIN"):  # asyncpg's own, of `transaction()`
            return await super().execute(query + self.settings, *arguments, **more)
        return await self._within(super().execute, query, *arguments, **more)

    async def fetch(self, *arguments: Any, **more: Any) -> Any:
        return await self._within(super().fetch, *arguments, **more)

    async def fetchrow(self, *arguments: Any, **more: Any) -> Any:
        return await self._within(super().fetchrow, *arguments, **more)

    async def fetchval(self, *arguments: Any, **more: Any) -> Any:
        return await self._within(super().fetchval, *arguments, **more)

    async def _within(self, ask: Callable[..., Awaitable[Result]], *arguments: Any, **more: Any) -> Result:
        """What *ask* gives, in a transaction of its own where it is in none."""
        if self.is_in_transaction():
            return await ask(*arguments, **more)
        async with atomic(self):
            return await ask(*arguments, **more)
