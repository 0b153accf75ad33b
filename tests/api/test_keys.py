"""API keys: their form, what they may do, and when they stop working."""

import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from ingress import cache
from ingress.settings import Settings
from ingress.storage.database import Database
from ingress.storage.statements import organizations
from ingress.storage.vault import Vault, generate_key, new_api_key, split_api_key
from ingress.web import auth
from ingress.web.auth import Authenticator
from ingress.web.problems import Problem

from ..conftest import serving
from ..gateway import SCOPES, Answer, Gateway, Organization, command, eventually


@pytest.fixture(scope="module")
async def owner(gateway: Gateway) -> Organization:
    """An organization without a provider, whose keys come and go."""
    return await gateway.organization("Keys")


async def new_key(owner: Organization, *scopes: str, **more: Any) -> Any:
    answer = await owner.call("POST", "/keys", {"scopes": list(scopes), **more})
    assert answer.status == 201, answer.raw
    return answer.json


async def read(gateway: Gateway, key: str | None, **headers: str) -> Answer:
    return await gateway.call("GET", "/events", key=key, **headers)


# ---------------------------------------------------------------- form


async def test_a_key_is_shown_once(owner: Organization) -> None:
    """At its making; afterwards nothing of its secret is shown."""
    made = await new_key(owner, "read", name="reporting")
    parts = split_api_key(made["key"])
    assert parts is not None
    assert parts[0] == made["id"]
    assert (made["name"], made["scopes"], made["expires_at"]) == ("reporting", ["read"], None)
    listed = await owner.call("GET", "/keys")
    [shown] = [key for key in listed.json["keys"] if key["id"] == made["id"]]
    assert set(shown) == {"id", "name", "scopes", "created_at", "expires_at", "revoked_at", "last_used_at", "made_by"}
    assert parts[1].encode() not in listed.raw


async def test_the_database_holds_only_a_hash(owner: Organization, gateway: Gateway, settings: Settings) -> None:
    """A dump of the table has no key that could be used, not even a part of one."""
    keys = [(await new_key(owner, "read"))["key"] for _ in range(5)]
    connection = await asyncpg.connect(settings.database_url)
    try:
        rows = await connection.fetch("select * from api_keys")
        dump = await connection.fetchval("select string_agg(api_keys::text, ' ') from api_keys")
    finally:
        await connection.close()
    stored = dump + " ".join(str(value) for row in rows for value in row)
    for key in keys:
        parts = split_api_key(key)
        assert parts is not None
        assert parts[1] not in stored
        assert parts[1].encode().hex() not in stored
    hashes = [row["secret_hash"] for row in rows]
    assert len(set(hashes)) == len(hashes)
    assert {len(one) for one in hashes} == {32}
    # What the table holds is no key either.
    for row in rows[:5]:
        forged = f"ingress_live_{row['id']}_{row['secret_hash'].hex()}"
        assert (await read(gateway, forged)).status == 401


class Clock:
    """`datetime` at a moment of the test's."""

    def __init__(self, at: datetime) -> None:
        self._at = at

    def now(self, _: object) -> datetime:
        return self._at


class NoDatabase:
    """Fails the test that asks it."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError("the database was asked")


async def test_a_mistyped_key_is_refused_before_the_database_is_asked() -> None:
    """A checksum keeps guesses and typing errors from costing a query."""
    authenticator = Authenticator(NoDatabase(), Vault(generate_key()), "platform_x")  # type: ignore[arg-type]
    _, _, key = new_api_key("live")
    wrong = [key[:-1] + ("0" if key[-1] != "0" else "1"), key[1:], key[:-1], key.upper(), key.replace("live", "test")]
    for given in [*wrong, "", " ", "x", "ingress_live__", "ingress_live_12345678_", "\udcff", "é" * 50, "a" * 100_000]:
        with pytest.raises(Problem) as caught:
            await authenticator.principal(f"Bearer {given}", None)
        assert caught.value.status == 401
    with pytest.raises(AssertionError, match="the database was asked"):
        await authenticator.principal(f"Bearer {key}", None)


async def test_every_refused_key_is_told_the_same(owner: Organization, gateway: Gateway) -> None:
    """Unknown, revoked, expired, mistyped, with another's secret: one answer."""
    revoked = await new_key(owner, "read")
    await owner.call("DELETE", f"/keys/{revoked['id']}")
    _, _, unknown = new_api_key("live")
    other = await new_key(owner, "read")
    mixed = unknown[: len("ingress_live_")] + other["id"] + unknown[len("ingress_live_") + 8 :]
    answers = [await read(gateway, key) for key in (None, "x", unknown, mixed, revoked["key"])]
    answers.append(await gateway.call("GET", "/events", authorization=f"Basic {other['key']}"))
    assert {answer.status for answer in answers} == {401}
    for answer in answers:
        assert answer.headers["www-authenticate"].startswith("Bearer")
    shown = [{name: value for name, value in answer.json.items() if name != "request_id"} for answer in answers]
    assert all(one == shown[0] for one in shown)


# ---------------------------------------------------------------- end of life


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the cache of keys believes to have passed: a list of one, for the test to change."""
    offset = [0.0]
    for each in cache._caches:
        monkeypatch.setattr(each, "_clock", lambda: time.monotonic() + offset[0])
    return offset


async def test_a_revoked_key_is_refused_within_five_seconds(
    owner: Organization, gateway: Gateway, clock: list[float]
) -> None:
    """A process may know a key for five seconds, and no longer."""
    assert auth.KEY_CACHE_S <= 5
    made = await new_key(owner, "read")
    assert (await read(gateway, made["key"])).status == 200
    assert (await owner.call("DELETE", f"/keys/{made['id']}")).status == 204
    clock[0] += 5
    # Its process is notified, and looks for itself after five seconds where it is not.
    in_time = auth.KEY_CACHE_S + 1
    await eventually(lambda: read(gateway, made["key"]), lambda answer: answer.status == 401, timeout=in_time)
    clock[0] = 0.0
    assert (await read(gateway, made["key"])).status == 401, "what was refused is not remembered as good"
    assert (await owner.call("DELETE", f"/keys/{made['id']}")).status == 404
    assert (await owner.call("DELETE", "/keys/00000000")).status == 404


async def test_a_use_does_not_prolong_the_life_of_a_revoked_key(
    owner: Organization, gateway: Gateway, clock: list[float]
) -> None:
    """Five seconds from the last look into the database, however often it is used meanwhile."""
    made = await new_key(owner, "read")
    assert (await read(gateway, made["key"])).status == 200
    await owner.call("DELETE", f"/keys/{made['id']}")
    for _ in range(3):
        clock[0] += 1.5
        await read(gateway, made["key"])
    clock[0] += 0.5
    assert (await read(gateway, made["key"])).status == 401


async def test_an_expired_key_is_refused(
    owner: Organization, gateway: Gateway, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it is known: nothing notifies of that."""
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    made = await new_key(owner, "read", expires_at=soon)
    assert (await read(gateway, made["key"])).status == 200
    connection = await asyncpg.connect(settings.database_url)
    try:
        await connection.execute(
            "update api_keys set expires_at = now() - interval '1 ms' where organization_id = $1 and id = $2",
            UUID(owner.id),
            made["id"],
        )
    finally:
        await connection.close()
    monkeypatch.setattr(auth, "datetime", Clock(datetime.now(UTC) + timedelta(hours=2)))
    assert (await read(gateway, made["key"])).status == 401


async def test_one_key_takes_the_place_of_another(owner: Organization, gateway: Gateway) -> None:
    """Both are valid until the former one is revoked."""
    former, later = await new_key(owner, "read"), await new_key(owner, "read")
    assert [(await read(gateway, key["key"])).status for key in (former, later)] == [200, 200]
    assert (await owner.call("DELETE", f"/keys/{former['id']}")).status == 204
    assert (await read(gateway, later["key"])).status == 200


async def test_keys_that_are_soon_over_are_counted(owner: Organization, settings: Settings) -> None:
    """Valid ones that will not be in two weeks; those that are over, revoked, or for ever, are not."""
    async with Database(settings.database_url) as database, database.worker() as connection:
        before = await organizations.expiring_keys(connection)
        now = datetime.now(UTC)
        soon = await new_key(owner, "read", expires_at=(now + timedelta(days=13)).isoformat())
        assert soon["expires_at"] == (now + timedelta(days=13)).isoformat().replace("+00:00", "Z")
        revoked = await new_key(owner, "read", expires_at=(now + timedelta(days=1)).isoformat())
        await owner.call("DELETE", f"/keys/{revoked['id']}")
        await new_key(owner, "read", expires_at=(now + timedelta(days=15)).isoformat())
        await new_key(owner, "read")
        assert await organizations.expiring_keys(connection) == before + 1
        await connection.execute("update api_keys set expires_at = now() where id = $1", soon["id"])
        assert await organizations.expiring_keys(connection) == before


async def test_the_command_line_makes_keys_that_end(owner: Organization) -> None:
    """And shows until when they are valid, and when they were used."""
    key = split_api_key((await command(owner, "key", "create", "--name", "cli", "--days", "30")).strip())
    assert key is not None
    answer = await owner.call("GET", "/integrations/whatsapp/audit?limit=1")
    ends = datetime.fromisoformat(answer.json["entries"][0]["after"]["expires_at"])
    assert timedelta(days=29) < ends - datetime.now(UTC) <= timedelta(days=30)
    head, *listed = (await command(owner, "key", "list")).splitlines()
    assert head.split()[4:6] == ["last_used_at", "expires_at"]
    assert f"{ends:%Y-%m-%d}" in next(line for line in listed if line.startswith(key[0]))


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": ["everything"]}, "scopes[0]"),
        ({"scopes": "read"}, "scopes"),
        ({}, "scopes"),
        ({"scopes": ["read"], "name": ""}, "name"),
        ({"scopes": ["read"], "name": "x" * 201}, "name"),
        ({"scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"scopes": ["read"], "expires_at": "2099-01-01T00:00:00"}, "expires_at"),
        ({"scopes": ["read"], "organization_id": str(UUID(int=1))}, "organization_id"),
    ],
    ids=str,
)
async def test_keys_that_cannot_be_made(owner: Organization, body: Any, path: str) -> None:
    answer = await owner.call("POST", "/keys", body)
    assert (answer.status, [error["path"] for error in answer.json["errors"]]) == (422, [path])


async def test_values_that_cannot_be_stored(owner: Organization) -> None:
    """Never a 5xx: what a caller sends is the caller's mistake."""
    assert (await owner.call("POST", "/keys", {"scopes": ["read"], "name": "a\x00b"})).status == 422
    assert (await owner.call("DELETE", "/keys/%00")).status in (404, 422)
    assert (await owner.call("GET", "/keys?after=%00")).status in (200, 422)


# ---------------------------------------------------------------- scopes

NEEDS = {
    "send": [("POST", "/send")],
    "read": [
        ("GET", "/messages"),
        ("GET", "/events"),
        ("GET", "/callback"),
        ("GET", "/quarantine"),
        ("GET", "/integrations/whatsapp/providers"),
        ("GET", "/integrations/whatsapp/provider/current"),
        ("GET", "/integrations/whatsapp/provider/configs"),
        ("GET", "/integrations/whatsapp/provider/fallback"),
    ],
    "configure": [
        ("POST", "/integrations/whatsapp/provider/configure"),
        ("PUT", "/integrations/whatsapp/provider/fallback"),
        ("POST", "/integrations/whatsapp/provider/switch"),
        ("POST", "/integrations/whatsapp/provider/rollback"),
        ("POST", "/integrations/whatsapp/provider/test"),
        ("PATCH", "/integrations/whatsapp/provider/configs/01a202b3-6905-7e00-bf87-8a05ab56d744"),
        ("DELETE", "/integrations/whatsapp/provider/configs/01a202b3-6905-7e00-bf87-8a05ab56d744"),
        ("PUT", "/callback"),
        ("DELETE", "/callback"),
        ("POST", "/callback/test"),
        ("POST", "/callback/replay"),
    ],
    "admin": [("GET", "/keys"), ("POST", "/keys"), ("GET", "/integrations/whatsapp/audit")],
}


async def test_the_matrix_of_scopes(owner: Organization, gateway: Gateway) -> None:
    """Each scope opens what it names and nothing else; 403 says which one is missing."""
    keys = {scope: (await new_key(owner, scope))["key"] for scope in SCOPES}
    for needed, routes in NEEDS.items():
        for method, path in routes:
            body = None if method in ("GET", "DELETE") else {}
            for scope, key in keys.items():
                answer = await gateway.call(method, path, body, key=key)
                if scope == needed:
                    assert answer.status not in (401, 403), (method, path, scope)
                else:
                    assert (answer.status, answer.json["code"]) == (403, "forbidden"), (method, path, scope)
                    assert repr(needed) in answer.json["detail"]


async def test_nobody_gives_what_they_do_not_have(owner: Organization, gateway: Gateway) -> None:
    """A key that may make keys cannot make a stronger one, for itself or others."""
    admin = (await new_key(owner, "admin"))["key"]
    for scopes in (["send"], ["admin", "read"], SCOPES):
        answer = await gateway.call("POST", "/keys", {"scopes": scopes}, key=admin)
        assert (answer.status, answer.json["code"]) == (403, "forbidden")
    made = await gateway.call("POST", "/keys", {"scopes": ["admin", "admin"]}, key=admin)
    assert (made.status, made.json["scopes"]) == (201, ["admin"])
    powerless = (await new_key(owner, "send", "read", "configure"))["key"]
    assert (await gateway.call("POST", "/keys", {"scopes": ["read"]}, key=powerless)).status == 403


async def test_making_and_revoking_is_audited(owner: Organization) -> None:
    made = await new_key(owner, "read")
    await owner.call("DELETE", f"/keys/{made['id']}")
    answer = await owner.call("GET", "/integrations/whatsapp/audit?limit=2")
    revoked, created = answer.json["entries"]
    assert (created["action"], created["after"]) == ("key_created", {"id": made["id"], "scopes": ["read"]})
    assert (revoked["action"], revoked["after"]) == ("key_revoked", {"id": made["id"]})
    assert created["actor"] == owner.key.split("_")[2]
    assert made["key"][-40:].encode() not in answer.raw


async def test_keys_are_listed_in_pages(gateway: Gateway) -> None:
    owner = await gateway.organization()
    made = {(await new_key(owner, "read"))["id"] for _ in range(4)} | {owner.key.split("_")[2]}
    found: list[str] = []
    query = "limit=2"
    while query:
        page = (await owner.call("GET", f"/keys?{query}")).json
        assert len(page["keys"]) <= 2
        found += [key["id"] for key in page["keys"]]
        query = f"limit=2&after={page['next']}" if "next" in page else ""
    assert sorted(found) == sorted(made)


async def test_live_keys_and_others_are_listed_by_themselves(gateway: Gateway, settings: Settings) -> None:
    owner = await gateway.organization()
    live, over, revoked = [(await new_key(owner, "read"))["id"] for _ in range(3)]
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute("update api_keys set expires_at = now() where id = $1", over)
    await connection.close()
    await owner.call("DELETE", f"/keys/{revoked}")
    for query, expected in (("true", {live, owner.key.split("_")[2]}), ("false", {over, revoked})):
        listed = (await owner.call("GET", f"/keys?live={query}")).json["keys"]
        assert {key["id"] for key in listed} == expected


# ---------------------------------------------------------------- when it was used


async def last_use(settings: Settings, key_id: str) -> Any:
    """When that was, and which version of the row says so."""
    connection = await asyncpg.connect(settings.database_url)
    try:
        return await connection.fetchrow("select last_used_at, xmin::text from api_keys where id = $1", key_id)
    finally:
        await connection.close()


async def test_the_last_use_of_a_key_is_written_now_and_then(
    owner: Organization, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for each request, and no row is written again within five minutes. A key that is refused was not used."""
    made, unused = await new_key(owner, "read"), await new_key(owner, "read")
    async with Database(settings.database_url) as database:
        authenticator = Authenticator(database, Vault(settings.encryption_keys), "x" * 40)
        authorization = f"Bearer {made['key']}"
        before = datetime.now(UTC)
        await authenticator.principal(authorization, None)
        assert (await last_use(settings, made["id"]))["last_used_at"] is None
        await authenticator.write_uses()
        first = await last_use(settings, made["id"])
        assert before <= first["last_used_at"] <= datetime.now(UTC)

        database.changes.add(UUID(owner.id))
        await authenticator.principal(authorization, None)
        await authenticator.write_uses()
        assert await last_use(settings, made["id"]) == first

        later = before + timedelta(minutes=6)
        monkeypatch.setattr(auth, "datetime", Clock(later))
        database.changes.add(UUID(owner.id))
        await authenticator.principal(authorization, None)
        await authenticator.write_uses()
        assert (await last_use(settings, made["id"]))["last_used_at"] == later

        with pytest.raises(Problem):
            await authenticator.principal(f"Bearer {unused['key'][:-1]}x", None)
        await authenticator.write_uses()
    listed = {key["id"]: key["last_used_at"] for key in (await owner.call("GET", "/keys?limit=200")).json["keys"]}
    assert datetime.fromisoformat(listed[made["id"]]) == later
    assert listed[unused["id"]] is None


# ---------------------------------------------------------------- the organization itself


async def test_an_organization_is_renamed(gateway: Gateway) -> None:
    owner = await gateway.organization("Former")
    shown = (await owner.call("GET", "/organization")).json
    assert (shown["id"], shown["name"]) == (owner.id, "Former")
    assert shown["retention"] == {
        "messages": 90,
        "audit_trail": 1826,
        "deduplication_keys": 30,
        "unmatched_statuses": 180,
    }
    assert (await owner.call("PATCH", "/organization", {"name": "Later"})).json == {**shown, "name": "Later"}
    assert (await owner.call("PATCH", "/organization", {"name": "Later"})).json["name"] == "Later"
    entries = (await owner.call("GET", "/integrations/whatsapp/audit")).json["entries"]
    assert [(each["action"], each["before"], each["after"]) for each in entries[:2]] == [
        ("organization_renamed", {"name": "Former"}, {"name": "Later"}),
        ("key_created", None, {"id": owner.key.split("_")[2], "scopes": sorted(SCOPES)}),
    ]
    assert (await owner.call("PATCH", "/organization", {"name": ""})).status == 422
    reader = (await new_key(owner, "read"))["key"]
    assert (await gateway.call("GET", "/organization", key=reader)).status == 200
    assert (await gateway.call("PATCH", "/organization", {"name": "x"}, key=reader)).status == 403


# ---------------------------------------------------------------- the platform's key


async def test_the_platform_key_acts_for_an_organization(owner: Organization, gateway: Gateway) -> None:
    """Named in X-Org-Id; without it only what is about organizations."""
    key = gateway.platform_key
    assert (await gateway.call("GET", "/organizations", key=key)).status == 200
    missing = await gateway.call("GET", "/keys", key=key)
    assert (missing.status, missing.json["code"]) == (400, "organization_missing")
    listed = await gateway.call("GET", "/keys", key=key, x_org_id=owner.id)
    assert {one["id"] for one in listed.json["keys"]} >= {owner.key.split("_")[2]}
    for unknown in (str(UUID(int=1)), "x", "", f"{owner.id}x"):
        answer = await gateway.call("GET", "/keys", key=key, x_org_id=unknown)
        assert answer.status == 404, unknown
    made = await gateway.call("POST", "/keys", {"scopes": SCOPES}, key=key, x_org_id=owner.id)
    assert made.status == 201
    audit = await gateway.call("GET", "/integrations/whatsapp/audit?limit=1", key=key, x_org_id=owner.id)
    assert audit.json["entries"][0]["actor"] == "platform"


async def test_organizations_are_the_platforms(owner: Organization, gateway: Gateway) -> None:
    """No key of an organization lists them, makes one, or learns of another."""
    for method, body in (("GET", None), ("POST", {"name": "Mine"})):
        assert (await owner.call(method, "/organizations", body)).status == 403
        assert (await owner.call(method, "/organizations", body, x_org_id=owner.id)).status == 403
    for body in ({"name": ""}, {}, {"name": "x" * 201}, {"name": "a\x00b"}):
        answer = await gateway.call("POST", "/organizations", body, key=gateway.platform_key)
        assert answer.status == 422
    found: list[str] = []
    query = "limit=3"
    while query:
        page = (await gateway.call("GET", f"/organizations?{query}", key=gateway.platform_key)).json
        found += [one["id"] for one in page["organizations"]]
        query = f"limit=200&after={page['next']}" if "next" in page else ""
    assert owner.id in found
    assert len(set(found)) == len(found)
    assert (await gateway.call("GET", "/organizations?after=x", key=gateway.platform_key)).status == 422


async def test_the_platform_finds_an_organization_by_a_part_of_its_name(gateway: Gateway) -> None:
    """In whatever case, or by its id, in pages by name; what a pattern would mean, means itself."""
    mark = secrets.token_hex(8)
    names = [f"Zoë {mark} %_", f"acme {mark}", f"ÁGUA {mark}", f"Beta {mark.upper()}"]
    made = {name: (await gateway.organization(name)).id for name in names}

    async def found(query: str) -> Any:
        answer = await gateway.call("GET", f"/organizations?{query}", key=gateway.platform_key)
        assert answer.status == 200, answer.raw
        return answer.json

    by_name = [names[1], names[3], names[0], names[2]]
    assert [one["name"] for one in (await found(f"search={mark}"))["organizations"]] == by_name
    first = await found(f"search={mark}&limit=3")
    assert [one["name"] for one in first["organizations"]] == by_name[:3]
    last = await found(f"search={mark}&limit=3&after={first['next']}")
    assert ([one["name"] for one in last["organizations"]], "next" in last) == (by_name[3:], False)
    assert [one["id"] for one in (await found(f"search={made[names[2]]}"))["organizations"]] == [made[names[2]]]
    assert [one["id"] for one in (await found(f"search={mark}+%25_"))["organizations"]] == [made[names[0]]]
    assert (await found(f"search={mark}%25"))["organizations"] == []


async def test_without_a_platform_key_nobody_is_the_platform() -> None:
    """An empty setting matches nothing, and certainly not an empty key."""
    authenticator = Authenticator(NoDatabase(), Vault(generate_key()), "")  # type: ignore[arg-type]
    for given in ("Bearer ", "Bearer", "", "Bearer  ", None):
        with pytest.raises(Problem) as caught:
            await authenticator.principal(given, None)
        assert caught.value.status == 401


async def test_the_cache_of_keys_is_bounded(
    owner: Organization, gateway: Gateway, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys cannot fill the memory; one that fell out is looked up again."""
    monkeypatch.setattr(auth, "MAX_CACHED_KEYS", 2)
    keys = [(await new_key(owner, "read"))["key"] for _ in range(4)]
    async with serving(settings) as url:
        for key in [*keys, *keys]:
            assert (await gateway.call("GET", f"{url}/messages", key=key)).status == 200


async def test_every_process_forgets_a_revoked_key(
    owner: Organization, gateway: Gateway, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what the database notifies of; five seconds are the end of its patience."""
    monkeypatch.setattr(auth, "KEY_CACHE_S", 3600.0)
    made = await new_key(owner, "read")
    async with serving(settings) as url:

        async def status() -> int:
            return (await gateway.call("GET", f"{url}/messages", key=made["key"])).status

        assert await status() == 200
        assert (await owner.call("DELETE", f"/keys/{made['id']}")).status == 204
        await eventually(status, lambda found: found == 401)


def test_the_lookup_refuses_what_is_over() -> None:
    """In the statement itself, so that no caller can forget it."""
    assert "revoked_at is null" in organizations.KEY
    assert "expires_at > now()" in organizations.KEY


async def test_a_key_outlives_a_rotation_of_the_encryption_keys(settings: Settings, gateway: Gateway) -> None:
    """Used once while both are there, it is known by the new one alone afterwards."""
    organization = await gateway.organization()
    newer = generate_key()
    for keys, status in ((f"{newer},{settings.encryption_keys}", 200), (newer, 200), (generate_key(), 401)):
        async with serving(msgspec.structs.replace(settings, encryption_keys=keys)) as url:
            answer = await gateway.call("GET", f"{url}/messages", key=organization.key)
            assert answer.status == status


# ---------------------------------------------------------------- what a key makes


async def audited(owner: Organization, count: int) -> list[Any]:
    entries = (await owner.call("GET", f"/integrations/whatsapp/audit?limit={count}")).json["entries"]
    return [(entry["action"], entry["after"]) for entry in reversed(entries)]


async def test_a_key_with_an_end_makes_none_that_outlives_it(owner: Organization, gateway: Gateway) -> None:
    """Whoever has it for an hour would have it for good."""
    ends = datetime.now(UTC) + timedelta(hours=1)
    lent = (await new_key(owner, "admin", "read", expires_at=ends.isoformat()))["key"]
    for more in ({}, {"expires_at": None}, {"expires_at": (ends + timedelta(seconds=1)).isoformat()}):
        answer = await gateway.call("POST", "/keys", {"scopes": ["read"], **more}, key=lent)
        assert (answer.status, answer.json["code"]) == (403, "forbidden")
        assert "expires_at" in answer.json["detail"]
    for end in (ends, ends - timedelta(minutes=1)):
        body = {"scopes": ["read"], "expires_at": end.isoformat()}
        assert (await gateway.call("POST", "/keys", body, key=lent)).status == 201


async def test_what_a_key_made_goes_with_it_if_asked(owner: Organization, gateway: Gateway) -> None:
    """And what that made; nothing else. Each is in the trail."""
    first = await new_key(owner, "admin", "read")
    made = (await gateway.call("POST", "/keys", {"scopes": ["admin", "read"]}, key=first["key"])).json
    last = (await gateway.call("POST", "/keys", {"scopes": ["read"]}, key=made["key"])).json
    beside = await new_key(owner, "read")
    listed = {key["id"]: key["made_by"] for key in (await owner.call("GET", "/keys?limit=200")).json["keys"]}
    me = owner.key.split("_")[2]
    assert [listed[key["id"]] for key in (first, made, last, beside)] == [me, first["id"], made["id"], me]
    assert listed[me] is None, "made by the platform"

    assert (await owner.call("DELETE", f"/keys/{made['id']}")).status == 204
    assert (await read(gateway, last["key"])).status == 200, "only that one was asked for"
    answer = await owner.call("DELETE", f"/keys/{first['id']}?made=1")
    assert (answer.status, answer.json) == (200, {"revoked": sorted([first["id"], last["id"]])})
    assert sorted(await audited(owner, 2), key=str) == sorted(
        [
            ("key_revoked", {"id": first["id"]}),
            ("key_revoked", {"id": last["id"], "made_by": first["id"]}),
        ],
        key=str,
    )
    assert (await owner.call("DELETE", f"/keys/{first['id']}?made=1")).status == 404
    live = {key["id"] for key in (await owner.call("GET", "/keys?limit=200")).json["keys"] if not key["revoked_at"]}
    assert beside["id"] in live
    assert not live & {first["id"], made["id"], last["id"]}


async def test_a_revoked_key_makes_no_other(owner: Organization, gateway: Gateway) -> None:
    """Though it is known for some seconds yet: what it made then would be left."""
    made = await new_key(owner, "admin")
    assert (await gateway.call("GET", "/keys", key=made["key"])).status == 200
    await owner.call("DELETE", f"/keys/{made['id']}?made=1")
    assert (await gateway.call("POST", "/keys", {"scopes": ["admin"]}, key=made["key"])).status == 401


async def test_keys_of_others_are_out_of_reach(owner: Organization, gateway: Gateway) -> None:
    other = await gateway.organization()
    theirs = await new_key(other, "read")
    for query in ("", "?made=1"):
        assert (await owner.call("DELETE", f"/keys/{theirs['id']}{query}")).status == 404
    assert (await read(gateway, theirs["key"])).status == 200
