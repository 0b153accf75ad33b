"""A database that was upgraded is made as a new one is."""

from pathlib import Path

import asyncpg

from ingress.storage.migration import migrate
from ingress.storage.upgrades import Post

from ..conftest import Logins
from .catalogue import catalogue

FIRST_RELEASE = (Path(__file__).parent / "first_release.sql").read_text()


async def test_the_two_ways_give_the_same(logins: Logins) -> None:
    """From schema.sql, and from the first release's with all migrations; by an owner who sees no row of its own."""
    superuser = await asyncpg.connect(logins.superuser)
    name = f"{await superuser.fetchval('select current_database()')}_2"
    await superuser.execute(f"create database {name} owner {logins.owner_name}")
    other = logins.owner.replace(f"/{name[:-2]}?", f"/{name}?")
    try:
        await migrate(logins.owner, logins.service_name)
        upgraded = await asyncpg.connect(other)
        await upgraded.execute(FIRST_RELEASE)
        found = await migrate(other, logins.service_name, post=Post.REQUIRED)
        assert (found.is_new, found.missing) == (False, [])
        assert list(found.applied) == ["0004_pre_partitions", "0004_post_partitions"]
        made = await asyncpg.connect(logins.owner)
        wanted, has = await catalogue(made), await catalogue(upgraded)
        await made.close()
        await upgraded.close()
    finally:
        await superuser.execute(f"drop database {name} with (force)")
        await superuser.close()
    assert all(lines for kind, lines in wanted.items() if kind != "other things")
    assert {kind: sorted(lines - has[kind]) for kind, lines in wanted.items() if lines - has[kind]} == {}
    assert {kind: sorted(has[kind] - lines) for kind, lines in wanted.items() if has[kind] - lines} == {}
