"""What is not there any more, as it is older than what is kept: 410, and from when on everything is there."""

from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from ...envelope import timestamp
from ...identifiers import moment_of
from ...storage.statements.lifetime import retention
from ...web.problems import Problem, not_found


def _gone(since: datetime, **more: Any) -> Problem:
    return Problem(410, "gone", "It is older than what is kept.", since=timestamp(since), **more)


async def missing_event(connection: asyncpg.Connection, organization_id: UUID, sequence: int | None) -> Problem:
    """What is said of an event that is not there: that it is gone, or that there never was one."""
    if sequence is None:
        return not_found()
    kept = await retention.kept(connection, organization_id)
    return _gone(kept.since) if kept and sequence <= kept.sequence else not_found()


async def missing_message(connection: asyncpg.Connection, organization_id: UUID, message_id: UUID) -> Problem:
    """The same of a message: its id says when it was made, and the organization's own from when on there were any."""
    kept = await retention.kept(connection, organization_id)
    if kept and message_id.version == 7 and moment_of(organization_id) <= moment_of(message_id) < kept.since:
        return _gone(kept.since)
    return not_found()


async def check_cursor(connection: asyncpg.Connection, organization_id: UUID, after: int) -> None:
    """Raises `Problem` where events above *after* are gone: with the cursor that the oldest kept ones follow.

    0 is the beginning of what is kept, whatever that is.
    """
    if after and (kept := await retention.kept(connection, organization_id)) and after < kept.sequence:
        raise _gone(kept.since, next=kept.sequence)
