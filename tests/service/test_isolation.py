"""One organization never sees, changes or names what is another's: over every route, and in every table."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from starlette.routing import BaseRoute, Mount, Route

from ingress.api.routes import ROUTES
from ingress.dev.sandbox import ErrorCode, StatusPolicy, encode
from ingress.dev.sandbox.meta.bodies import envelope, metadata, status_item
from ingress.identifiers import id_at
from ingress.settings import Settings
from ingress.storage import statements
from ingress.storage.connections import APP, INGEST, WORKER
from ingress.storage.database import Database
from ingress.storage.statements import configs, health, switches
from ingress.storage.statements.sending import messages
from ingress.storage.vault import new_api_key
from ingress.web.openapi import walk

from ..gateway import SCOPES, Answer, Gateway, Organization, eventually
from ..populated import Data, connected, random_ids, tables_of, untouched

# ---------------------------------------------------------------- the routes, as the application has them


class Endpoint(NamedTuple):
    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def endpoints(routes: "list[BaseRoute]", prefix: str = "") -> Iterator[Endpoint]:
    for route in routes:
        if isinstance(route, Mount):
            yield from endpoints(list(route.routes), prefix + route.path)
        elif isinstance(route, Route):
            for method in sorted((route.methods or set()) - {"HEAD"}):
                yield Endpoint(method, prefix + route.path)


# Open to everybody, each for a reason: nothing behind them is an organization's.
PUBLIC = re.compile(r"/(healthz|readyz|livez|startupz|openapi\.json|docs|console)(/.*)?$")
ALL = list(endpoints(list(ROUTES)))
GUARDED = [endpoint for endpoint in ALL if not PUBLIC.match(endpoint.path)]
PLATFORM_ONLY = [
    Endpoint("GET", "/organizations"),
    Endpoint("POST", "/organizations"),
    Endpoint("POST", "/integrations/whatsapp/providers/reload"),
    Endpoint("GET", "/apps"),
    Endpoint("POST", "/apps"),
    Endpoint("PATCH", "/apps/{app_id}"),
    Endpoint("DELETE", "/apps/{app_id}"),
]
WITH_IDS = [endpoint for endpoint in GUARDED if "{" in endpoint.path and endpoint not in PLATFORM_ONLY]
READING = [endpoint for endpoint in GUARDED if endpoint.method == "GET" and endpoint not in PLATFORM_ONLY]


def test_the_table_of_routes_is_read() -> None:
    assert len(GUARDED) >= 25
    assert set(PLATFORM_ONLY) <= set(GUARDED)
    assert any(endpoint.path.startswith("/integrations/whatsapp/") for endpoint in GUARDED)


def filled(endpoint: Endpoint, ids: dict[str, str]) -> str:
    """The path with *ids* in it. A parameter without one needs an entry in `populated` and `random_ids`."""
    return re.sub(r"{(\w+)(?::\w+)?}", lambda match: ids[match[1]], endpoint.path)


async def asked(gateway: Gateway, endpoint: Endpoint, ids: dict[str, str], key: str | None, **more: Any) -> Answer:
    return await gateway.call(endpoint.method, filled(endpoint, ids), key=key, **more)


def alike(answers: list[Answer]) -> None:
    """The same to the byte, headers too, but for what differs between any two requests."""
    shapes = [
        (answer.status, answer.raw, {name for name in answer.headers if name.lower() not in ("date", "x-request-id")})
        for answer in answers
    ]
    assert all(shape == shapes[0] for shape in shapes), [answer.raw for answer in answers]


@pytest.fixture(scope="module")
async def dead_keys(gateway: Gateway, settings: Settings) -> dict[str, str]:
    """Keys that are none any more, or never were, by what is wrong with them."""
    owner = await gateway.organization("Dead keys")
    keys = {}
    for reason in ("revoked", "expired"):
        made = (await owner.call("POST", "/keys", {"scopes": SCOPES})).json
        keys[reason] = made["key"]
        async with connected(settings) as connection:
            column = {"revoked": "revoked_at", "expired": "expires_at"}[reason]
            await connection.execute(f"update api_keys set {column} = now() where id = $1", made["id"])
    return keys | {"unknown": new_api_key("live")[2], "malformed": "ingress_live_x", "empty": "", "odd": "é" * 60}


@pytest.mark.parametrize("endpoint", GUARDED, ids=str)
async def test_nobody_gets_in_without_a_good_key(
    gateway: Gateway, pair: tuple[Data, Data], dead_keys: dict[str, str], endpoint: Endpoint
) -> None:
    """No key, a malformed, revoked, expired, unknown one: 401, before anything else is looked at."""
    victim = pair[0]
    answers = [await asked(gateway, endpoint, victim.ids, None)]
    answers += [await asked(gateway, endpoint, victim.ids, key) for key in dead_keys.values()]
    answers.append(await asked(gateway, endpoint, victim.ids, dead_keys["revoked"], x_org_id=victim.organization.id))
    answers.append(await asked(gateway, endpoint, victim.ids, None, raw=b"{" * 1000))
    assert {(answer.status, answer.json["code"]) for answer in answers} == {(401, "unauthorized")}
    for answer in answers:
        assert not any(name in answer.raw for name in victim.names)


@pytest.fixture(scope="module")
async def weak_keys(gateway: Gateway) -> dict[str, str]:
    """A key for each scope, of an organization that has nothing."""
    owner = await gateway.organization("Weak keys")
    made = [await owner.call("POST", "/keys", {"scopes": [scope]}) for scope in SCOPES]
    return dict(zip(SCOPES, [answer.json["key"] for answer in made], strict=True))


@pytest.mark.parametrize("endpoint", GUARDED, ids=str)
async def test_one_scope_opens_a_route(gateway: Gateway, weak_keys: dict[str, str], endpoint: Endpoint) -> None:
    """Exactly one; the others get 403. What is the platform's no scope opens."""
    opened = []
    for scope, key in weak_keys.items():
        url = gateway.url + filled(endpoint, random_ids())
        headers = {"authorization": f"Bearer {key}"}
        # The body is not read: a stream has no end.
        async with gateway.session.request(endpoint.method, url, headers=headers) as answer:
            assert answer.status != 401
            assert answer.status < 500
            if answer.status != 403:
                opened.append(scope)
    assert len(opened) == (0 if endpoint in PLATFORM_ONLY else 1), opened


@pytest.mark.parametrize("endpoint", GUARDED, ids=str)
async def test_the_header_names_ones_own_organization_or_none(
    gateway: Gateway, pair: tuple[Data, Data], endpoint: Endpoint
) -> None:
    """X-Org-Id of another organization, of none, of no shape: 404, telling nothing."""
    victim, intruder = pair
    key = intruder.organization.key
    for ids in (victim.ids, random_ids()):
        answers = [
            await asked(gateway, endpoint, ids, key, x_org_id=value)
            for value in (victim.organization.id, str(uuid4()), "no-uuid", "' or 1=1", "0")
        ]
        assert answers[0].status == 404
        alike(answers)


@pytest.mark.parametrize("endpoint", WITH_IDS, ids=str)
async def test_another_organizations_ids_name_nothing(
    gateway: Gateway, pair: tuple[Data, Data], endpoint: Endpoint
) -> None:
    """With every scope and a real id of somebody else: the very answer that a made-up id gets."""
    victim, intruder = pair
    key = intruder.organization.key
    foreign = await asked(gateway, endpoint, victim.ids, key)
    unknown = await asked(gateway, endpoint, random_ids(), key)
    named = await asked(gateway, endpoint, victim.ids, key, x_org_id=intruder.organization.id)
    assert foreign.status == 404
    alike([foreign, unknown, named])
    for odd in ("%00", "..", "x", "%F0%9F%98%80", "1" * 500, "00000000-0000-0000-0000-000000000000"):
        if odd == ".." and endpoint.path == "/contacts/{contact_id}/messages":
            continue  # clients make `/messages` of it
        answer = await asked(gateway, endpoint, dict.fromkeys(victim.ids, odd), key)
        assert 400 <= answer.status < 500, (odd, answer.raw)


@pytest.mark.parametrize("endpoint", PLATFORM_ONLY, ids=str)
async def test_the_platforms_routes(gateway: Gateway, pair: tuple[Data, Data], endpoint: Endpoint) -> None:
    path = filled(endpoint, random_ids())
    answer = await gateway.call(endpoint.method, path, {"name": "x"}, key=pair[0].organization.key)
    assert (answer.status, answer.json["code"]) == (403, "forbidden")


# ---------------------------------------------------------------- what is shown


async def shown(gateway: Gateway, organization: Organization, path: str) -> bytes:
    """Everything that *path* lists, page by page; of a stream, what is there already."""
    url, found = gateway.url + path, b""
    if path.startswith(("/events/stream", "/integrations/whatsapp/status")):
        headers = {"authorization": f"Bearer {organization.key}", "last-event-id": "0"}
        async with gateway.session.get(url, headers=headers) as answer:
            assert answer.status == 200
            while b"data:" not in found:
                found += await answer.content.readany()
        return found
    answer = await organization.call("GET", path)
    # No phone is linked to the accounts of these organizations, which can say of no number whether it is on WhatsApp.
    assert answer.status == 422 if "/pairing" in path or "/lookup" in path else answer.status in (200, 404), (
        path,
        answer.raw,
    )
    return answer.raw


@pytest.mark.parametrize("endpoint", READING, ids=str)
async def test_lists_hold_ones_own_things_only(gateway: Gateway, pair: tuple[Data, Data], endpoint: Endpoint) -> None:
    """Both have a row in every table; neither sees a name of the other's."""
    for own, other in (pair, pair[::-1]):
        answer = await shown(gateway, own.organization, f"{filled(endpoint, own.ids)}?limit=200")
        assert [name for name in other.names if name in answer] == []


async def test_ones_own_medium_and_message(gateway: Gateway, pair: tuple[Data, Data]) -> None:
    """Or the tests with another organization's ids would prove nothing of these routes."""
    for own in pair:
        event_id = own.ids["event_id"]
        medium = await own.organization.call("GET", f"/media/{event_id}")
        assert (medium.status, medium.raw) == (200, b"\xff\xd8\xff" + own.names[0])
        for act in ("read", "typing"):
            assert (await own.organization.call("POST", f"/messages/{event_id}/{act}")).status == 204


LISTS = {
    "/messages": "message_id",
    "/contacts": "contact_id",
    "/events?raw=1": "organization_id",
    "/events/stream": "organization_id",
    "/keys": "key_id",
    "/quarantine": "quarantine_id",
    "/callback/parked": "conversation_id",
    "/integrations/whatsapp/audit": "config_id",
    "/integrations/whatsapp/status": "config_id",
    "/integrations/whatsapp/provider/configs": "config_id",
    "/integrations/whatsapp/provider/current": "config_id",
    "/integrations/whatsapp/provider/fallback": "fallback_id",
    "/integrations/whatsapp/provider/figures": "config_id",
    "/integrations/whatsapp/provider/usage": "config_id",
    "/integrations/whatsapp/templates": "template",
}


@pytest.mark.parametrize("path", LISTS)
async def test_lists_do_hold_ones_own_things(gateway: Gateway, pair: tuple[Data, Data], path: str) -> None:
    """Or the test above would prove nothing."""
    for own in pair:
        assert own.ids[LISTS[path]].encode() in await shown(gateway, own.organization, path)


# Where else a config can be named: `*` in a query or body. `own` is one of who asks.
NAMING = [
    'PUT /integrations/whatsapp/provider/fallback {"config_ids": ["*"]}',
    'POST /integrations/whatsapp/provider/fallback {"config_ids": ["own", "*"], "policy": {}}',
    'POST /integrations/whatsapp/provider/switch {"config_id": "*"}',
    'POST /integrations/whatsapp/provider/switch {"config_id": "*", "dry_run": true}',
    'POST /integrations/whatsapp/provider/switch {"config_id": "*", "force": true, "reason": "mine"}',
    'POST /integrations/whatsapp/provider/switch {"config_id": "*", "dry_run": true, "force": true}',
    'POST /integrations/whatsapp/provider/test {"config_id": "*"}',
    'POST /integrations/whatsapp/provider/repair {"config_id": "*"}',
    'POST /integrations/whatsapp/provider/pairing {"config_id": "*"}',
    "GET /integrations/whatsapp/provider/pairing?config_id=*",
    "GET /integrations/whatsapp/provider/pairing?config_id=*&format=png",
    "DELETE /integrations/whatsapp/provider/pairing?config_id=*",
    "GET /integrations/whatsapp/templates?config_id=*",
    "POST /media?config_id=* x",
    "DELETE /media?id=1&config_id=*",
]


def test_every_body_that_names_something_by_its_id_is_tried() -> None:
    for path, method, route in walk(list(ROUTES)):
        body = route.body
        if body is not None and b'"uuid"' in msgspec.json.encode(msgspec.json.schema(body)):
            assert any(case.startswith(f"{method} {path} {{") for case in NAMING), (method, path)


@pytest.mark.parametrize("case", NAMING)
async def test_configs_in_bodies_and_queries(
    gateway: Gateway, settings: Settings, pair: tuple[Data, Data], case: str
) -> None:
    """Another organization's config is as good as one made up: 404, and nothing of either is changed or written."""
    victim, intruder = pair
    method, path, body = [*case.replace("own", intruder.ids["config_id"]).split(" ", 2), ""][:3]
    kind = "application/json" if body.startswith("{") else "text/plain"
    ids = (victim.ids["config_id"], victim.ids["fallback_id"], str(uuid4()))
    async with untouched(settings, victim.organization, intruder.organization):
        answers = [
            await intruder.organization.call(
                method, path.replace("*", one), raw=body.replace("*", one).encode(), content_type=kind
            )
            for one in ids
        ]
    assert answers[0].status == 404
    alike(answers)


async def test_a_new_configuration_takes_nobodys_place(gateway: Gateway, pair: tuple[Data, Data]) -> None:
    """A body that names a config beside its configuration is refused, whoever's that is."""
    victim, intruder = pair
    new = {"provider_type": "meta_business", "config_data": {}}
    for path in ("configure", "switch", "test"):
        for one in (victim.ids["config_id"], intruder.ids["config_id"], str(uuid4())):
            body = new | {"config_id": one}
            answer = await intruder.organization.call("POST", f"/integrations/whatsapp/provider/{path}", body)
            assert (answer.status, answer.json["code"]) == (422, "invalid_request")


async def test_other_ids_in_bodies_and_queries(gateway: Gateway, pair: tuple[Data, Data]) -> None:
    """Messages, conversations, events, cursors: another organization's are as good as made up."""
    victim, intruder = pair
    ids, other = victim.ids, intruder.organization
    for name in ("conversation_id", "message_id"):
        answer = await other.call("GET", f"/messages?conversation_id={ids[name]}")
        assert answer.json == {"messages": []}
    for name in ("conversation_id", "contact_id"):
        for path in ("/messages", "/events"):
            answer = await other.call("GET", f"{path}?{name}={ids[name]}")
            assert answer.json in ({"messages": []}, {"events": [], "next": 0})
    answers = [
        await other.send({"to": "+5511987654321", "body": "x", "reply_to": one})
        for one in (ids["message_id"], str(uuid4()))
    ]
    found = [{name: value for name, value in answer.json.items() if name != "request_id"} for answer in answers]
    assert (answers[0].status, found[0]) == (404, found[1])
    assert (await other.call("POST", "/callback/replay", {"sequences": victim.sequences})).json == {"replayed": 0}
    for cursor in victim.sequences[:1]:
        answer = await other.call("GET", f"/events?after={cursor}&limit=1000")
        assert not any(name in answer.raw for name in victim.names)
    parked = await victim.organization.call("GET", "/callback/parked")
    assert len(parked.json["parked"]) == 1


# ---------------------------------------------------------------- the same provider, number and ids


@pytest.fixture
async def twins(gateway: Gateway) -> tuple[Organization, Organization]:
    """Two organizations with configs of the same two numbers, which post no statuses of their own accord.

    Where nobody vouches for whose they are; each with a secret of its own, as of two apps.
    """
    first, second = await gateway.organization("First"), await gateway.organization("Second")
    await first.configure(host="localhost")
    await first.configure(active=False, host="localhost")
    for number in first.numbers:
        gateway.meta.set_statuses(number, StatusPolicy(statuses=()))
        twin = msgspec.structs.replace(number, app_secret=f"{number.app_secret}-2")
        await second.configure(twin, active=number is first.numbers[0], host="localhost")
    return first, second


async def test_what_one_organization_does_leaves_its_twin_as_it_was(
    gateway: Gateway, settings: Settings, twins: tuple[Organization, Organization]
) -> None:
    """Not a row of it: whatever is received, sent, acknowledged, switched or deleted, of the same ids in both."""
    key = f"shared-{uuid4()}"
    hook = gateway.meta.inbound(twins[0].numbers[0]).text("hello", phone="+5511900000003")
    sent: list[str] = []
    # The second is further with its message: what it says of that would move the other's, too.
    for (doer, other), value in ((twins, "delivered"), (twins[::-1], "read")):
        async with untouched(settings, other):
            answer = (await doer.send(idempotency_key=key)).json
            assert (await doer.send(idempotency_key=key)).json == answer
            sent.append(answer["id"])
            async with connected(settings) as connection:
                # From the second round on both have sent what the provider calls the same.
                rename = """update messages set provider_message_id = 'wamid.SHARED', message_key = 'wamid.SHARED'
                    where organization_id = $1"""
                await connection.execute(rename, UUID(doer.id))
            statuses = [
                status_item(wamid, value, {"to": "+5511987654321"}) for wamid in ("wamid.SHARED", "wamid.EARLY")
            ]
            for body in (hook, hook, envelope((doer.numbers[0], {"statuses": statuses}))):
                assert (await doer.post_webhook(body)).status == 200
            assert (await doer.message(answer["id"]))["status"] == value
            assert len(await doer.events(kind="message.received")) == 1
            assert len(await doer.events(kind="message.status")) == 3
            first, second = (config["config_id"] for config in doer.configs)
            await doer.fall_back_to(second)
            for body in ({"config_id": second}, {"config_id": first, "force": True}):
                switched = await doer.call("POST", "/integrations/whatsapp/provider/switch", body)
                assert switched.status == 200, switched.raw
            gone = await doer.call("DELETE", f"/integrations/whatsapp/provider/configs/{second}")
            assert gone.status == 204
    assert len(set(sent)) == 2


async def test_an_account_that_one_organization_may_not_use_any_more_is_its_twins_still(
    gateway: Gateway, twins: tuple[Organization, Organization]
) -> None:
    """What is known of an account is known of a config: the credentials of the other one are good."""
    first, second = twins
    for twin in twins:
        await twin.fall_back_to(twin.configs[1]["config_id"])
    await gateway.meta.script(first.numbers[0], ErrorCode(code=190))
    for twin, place in ((first, 1), (first, 1), (second, 0)):
        assert (await twin.send()).json["config_id"] == twin.configs[place]["config_id"]


async def test_webhooks_know_their_own_organization_only(organization: Organization, pair: tuple[Data, Data]) -> None:
    """One's own signature, on a status that names another's message: neither its state nor its trail changes."""
    victim = pair[0]
    number = organization.numbers[0]
    before = await victim.organization.message(victim.ids["message_id"])
    message = UUID(victim.ids["message_id"])
    item = status_item(before["provider_message_id"], "played", {"to": "+5511987654321"})
    for tracker in (f"gw1:{message.hex}:1", None):
        answer = item | ({"biz_opaque_callback_data": tracker} if tracker else {})
        assert (await organization.post_webhook(envelope((number, {"statuses": [answer]})))).status == 200
    # Also with the victim's number in it: put aside, unseen by both.
    theirs = {"id": victim.organization.numbers[0].waba_id, "changes": [{"field": "messages"}]}
    value = metadata(victim.organization.numbers[0]) | {"statuses": [item]}
    body = {
        "object": "whatsapp_business_account",
        "entry": [theirs | {"changes": [{"value": value, "field": "messages"}]}],
    }
    assert (await organization.post_webhook(encode(body))).status == 200
    assert await victim.organization.message(victim.ids["message_id"]) == before
    assert not any(
        event["data"].get("status", {}).get("value") == "played" for event in await victim.organization.events()
    )


async def test_metrics_name_no_organization(gateway: Gateway, pair: tuple[Data, Data]) -> None:
    answer = (await gateway.metrics()).raw
    for data in pair:
        assert [name for name in data.names if name in answer] == []


# ---------------------------------------------------------------- the second wall: row-level security


@asynccontextmanager
async def within(connection: asyncpg.Connection, organization_id: str) -> AsyncIterator[None]:
    """A transaction as `Database.organization` makes it, undone at its end."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute("select set_config('app.org_id', $1, true)", organization_id)
        yield
    finally:
        await transaction.rollback()


async def test_every_table_has_its_policies(settings: Settings) -> None:
    """Enabled, forced for the owner too, and one for the role of the API."""
    async with connected(settings) as connection:
        tables = await tables_of(connection)
        assert len(tables) >= 14
        for table, column in tables.items():
            security = await connection.fetchrow(
                "select relrowsecurity, relforcerowsecurity from pg_class where oid = $1::regclass", table
            )
            assert tuple(security) == (True, True), table
            policies = await connection.fetch(
                "select qual, with_check, cmd from pg_policies where tablename = $1 and roles = '{ingress_app}'"
                " and permissive = 'PERMISSIVE'",
                table,
            )
            [(using, check, command)] = policies
            assert command == "ALL"
            assert using == check
            # Never current_setting(...)::uuid alone: it is '' after a transaction that set it.
            assert re.fullmatch(rf"\({column} = \(NULLIF\(current_setting\('app\.org_id'.*\)\)::uuid\)", using), using


async def test_nobody_reads_a_partition_by_itself(settings: Settings) -> None:
    """Policies are those of the table it is of: it has none, so by its own name it shows nothing, and to no role."""
    async with connected(settings) as connection:
        parts = await connection.fetch(
            "select oid::regclass::text as name, relrowsecurity and relforcerowsecurity as is_secured from pg_class"
            " where relispartition and relkind = 'r' and relnamespace = 'public'::regnamespace"
        )
        assert {part["name"].rpartition("_p")[0] for part in parts} >= {"events", "messages", "inbound_dedup"}
        for part in parts:
            assert part["is_secured"], part["name"]
            policies = await connection.fetch("select from pg_policies where tablename = $1", part["name"])
            assert policies == [], part["name"]
            for role in (APP, INGEST, WORKER):
                may = "select has_table_privilege($1, $2, 'select, insert, update, delete, truncate')"
                assert not await connection.fetchval(may, role, part["name"]), (role, part["name"])


async def test_no_role_gets_around_it(settings: Settings) -> None:
    async with connected(settings) as connection:
        roles = await connection.fetch(
            "select rolname, rolsuper, rolbypassrls, rolcanlogin, rolcreaterole, rolcreatedb from pg_roles"
            " where rolname like 'ingress%'"
        )
        assert {row["rolname"] for row in roles} == {APP, INGEST, WORKER}
        assert all(tuple(row)[1:] == (False,) * 5 for row in roles)
        owned = "select relname from pg_class where relowner::regrole::text like 'ingress%'"
        assert await connection.fetch(owned) == []
        members = "select roleid::regrole::text, member::regrole::text from pg_auth_members"
        assert not [row for row in await connection.fetch(members) if row["member"].startswith("ingress")]


async def test_the_service_connects_in_its_roles(settings: Settings) -> None:
    """And is in them again after a connection went back to its pool."""
    async with Database(settings.database_url) as database:
        for _ in range(3):
            async with database.organization(uuid4()) as connection:
                assert await connection.fetchval("select current_user") == APP
            async with database.worker() as connection:
                assert await connection.fetchval("select current_user") == WORKER
                assert not await connection.fetchval("select current_setting('app.org_id', true)")
        connection = await database.connect(INGEST)
        assert await connection.fetchval("select current_user") == INGEST
        await connection.close()


async def test_queries_without_a_condition_see_one_organization(settings: Settings, pair: tuple[Data, Data]) -> None:
    """In every table: nothing without the setting, one's own rows with it, nothing again after it."""
    async with connected(settings) as owner, connected(settings, APP) as connection:
        tables = await tables_of(owner)
        del tables["inbound_webhooks"], tables["held_events"]  # not even one's own: see below
        await owner.executemany(  # leased, and in nobody's way
            "insert into unread_webhooks (organization_id, sequence, config_id, query, headers, body, leased_until)"
            " values ($1, 1::bigint << 62, $1, '', '', '', 'infinity') on conflict do nothing",
            [(UUID(data.organization.id),) for data in pair],
        )
        await owner.execute(  # waits for ever, and for nobody
            "insert into switches (organization_id, config_id, kind, actor, former_state, waits_until)"
            " select organization_id, id, 'switch', 'system', state, 'infinity' from whatsapp_provider_configs"
            " where organization_id = any($1) and state = 'active' on conflict do nothing",
            [UUID(data.organization.id) for data in pair],
        )
        for table, column in tables.items():
            counts = {}
            hidden = " and not foreign_item" if table == "quarantine" else ""
            for data in pair:
                count = f"select count(*) from {table} where {column} = $1{hidden}"
                counts[data.organization.id] = await owner.fetchval(count, UUID(data.organization.id))
            assert all(counts.values()), f"{table} is empty: the test proves nothing"
            everything = f"select {column} from {table}"
            assert await connection.fetch(everything) == [], table
            for organization_id, count in counts.items():
                async with within(connection, organization_id):
                    seen = await connection.fetch(everything)
                    assert {str(row[0]) for row in seen} == {organization_id}, table
                    assert len(seen) >= count
                # The setting is '' now, which is no uuid: nothing, and no error.
                assert await connection.fetchval("select current_setting('app.org_id', true)") == ""
                assert await connection.fetch(everything) == [], table
            async with within(connection, str(uuid4())):
                assert await connection.fetch(everything) == [], table


async def test_nothing_can_be_put_into_another_organization(settings: Settings, pair: tuple[Data, Data]) -> None:
    """Neither as a new row nor by moving one; a change without a condition changes one's own rows only."""
    own, other = (data.organization.id for data in pair)
    async with connected(settings) as owner, connected(settings, APP) as connection:
        for table, column in (await tables_of(owner)).items():
            columns = await owner.fetchval(
                "select string_agg(format('%I', attname), ', ') from pg_attribute where attrelid = $1::regclass"
                " and attnum > 0 and not attisdropped and attidentity = '' and attgenerated = '' and attname <> $2",
                table,
                column,
            )
            statements = [
                f"insert into {table} ({column}, {columns}) select '{other}', {columns} from {table} limit 1",
                f"update {table} set {column} = '{other}'",
            ]
            for statement in statements:
                async with within(connection, own):
                    with pytest.raises(asyncpg.InsufficientPrivilegeError):
                        await connection.execute(statement)
            if table not in ("provider_audit_log", "inbound_webhooks", "unread_webhooks", "held_events"):
                async with within(connection, own):
                    changed = await connection.execute(f"update {table} set {column} = {column}")
                    assert changed == f"UPDATE {await connection.fetchval(f'select count(*) from {table}')}"
                    untouched = await connection.execute(f"delete from {table} where {column} = '{other}'")
                    assert untouched == "DELETE 0"


async def test_the_api_does_not_read_raw_bodies(settings: Settings, pair: tuple[Data, Data]) -> None:
    """The tenants of one app share a signature, so a body may hold items of several organizations."""
    for table, body in (("inbound_webhooks", "body"), ("unread_webhooks", "body"), ("held_events", "raw")):
        async with connected(settings, APP) as connection, within(connection, pair[0].organization.id):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch(f"select {body} from {table}")


async def test_items_of_somebody_else_are_seen_by_nobody(settings: Settings, pair: tuple[Data, Data]) -> None:
    """Not even by the organization under whose address they came in, and by no query that forgot to say so."""
    own = pair[0].organization.id
    async with connected(settings) as owner, connected(settings, APP) as connection:
        there = "select count(*) from quarantine where organization_id = $1 and foreign_item"
        assert await owner.fetchval(there, UUID(own)) > 0
        async with within(connection, own):
            assert await connection.fetchval(there, UUID(own)) == 0
            assert await connection.fetchval("select bool_or(foreign_item) from quarantine") is False
            assert (
                await connection.execute("update quarantine set foreign_item = false where foreign_item") == "UPDATE 0"
            )
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute("update quarantine set foreign_item = true")


FORBIDDEN_TO_INGEST = [
    "api_keys",
    "whatsapp_provider_configs",
    "organizations",
    "account_owners",
    "provider_apps",
    "provider_audit_log",
    "inbound_webhooks",
    "unread_webhooks",
    "quarantine",
]


@pytest.mark.parametrize("table", FORBIDDEN_TO_INGEST)
async def test_who_writes_webhooks_reads_no_secrets(settings: Settings, table: str) -> None:
    """The role that takes bytes from the internet can neither read nor change what others left."""
    async with connected(settings, INGEST) as connection:
        for statement in (
            f"select * from {table}",
            f"update {table} set organization_id = null",
            f"delete from {table}",
        ):
            with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedColumnError)) as caught:
                await connection.execute(statement)
            assert isinstance(caught.value, asyncpg.InsufficientPrivilegeError) or table in (
                "organizations",
                "provider_apps",
            )


async def test_the_trail_is_append_only(settings: Settings, pair: tuple[Data, Data]) -> None:
    """For every role by privilege, for the owner, a superuser, and who deletes what is years old by a trigger."""
    changes = [
        "update provider_audit_log set actor = 'nobody'",
        "delete from provider_audit_log",
        "truncate provider_audit_log",
        "update provider_audit_log set actor = 'nobody' where false",
    ]
    own, by_trigger = pair[0].organization.id, asyncpg.IntegrityConstraintViolationError
    async with connected(settings) as owner:
        before = await owner.fetch("select * from provider_audit_log where organization_id = $1", UUID(own))
        for change in changes:
            with pytest.raises(by_trigger):
                await owner.execute(change)
        for role in (APP, INGEST, WORKER):
            async with connected(settings, role) as connection:
                for change in changes:
                    async with within(connection, own):
                        by_privilege = role != WORKER or not change.startswith("delete")
                        refused = asyncpg.InsufficientPrivilegeError if by_privilege else by_trigger
                        with pytest.raises(refused):
                            await connection.execute(change)
        # Nor by way of the table it hangs on.
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await owner.execute("delete from organizations where id = $1", UUID(own))
        assert await owner.fetch("select * from provider_audit_log where organization_id = $1", UUID(own)) == before


# What has no such condition names its organization in the row it puts in, or the one that it is about.
PUTTING = {"put_callback", "add_key", "notify", "mark", "set_own", "ask"}


def forgetful() -> Iterator[tuple[ModuleType, str, str]]:
    """Every statement that is run for one organization, in its role, with the condition that says so taken out."""
    for found in pkgutil.walk_packages(statements.__path__, f"{statements.__name__}."):
        module = importlib.import_module(found.name)
        for name, function in inspect.getmembers(module, inspect.iscoroutinefunction):
            if function.__module__ == module.__name__ and re.search(
                r"\(organization(, worker|; worker where \*foreign\*)?\)", inspect.getdoc(function) or ""
            ):
                constants = set(_statements_of(module, function))
                assert constants, name
                for constant in constants:
                    forgot = re.sub(
                        r"\b(\w+\.)?(organization_id|id) = \$1\b", "$1::uuid is not null", getattr(module, constant)
                    )
                    assert forgot != getattr(module, constant) or name in PUTTING, name
                    yield module, constant, forgot


def _statements_of(module: ModuleType, function: Any) -> Iterator[str]:
    """The names of the statements that it runs, or one that it calls."""
    for name in function.__code__.co_names:
        value = getattr(module, name, None)
        if isinstance(value, str) and re.fullmatch("[A-Z][A-Z_]*", name):
            yield name
        elif inspect.isfunction(value) and value.__module__ == module.__name__:
            yield from _statements_of(module, value)


async def test_without_their_conditions_the_statements_still_know_one_organization(
    gateway: Gateway, settings: Settings, pair: tuple[Data, Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that the API reads and writes with `organization_id = $1` taken out: no row of the other."""
    for module, name, forgot in list(forgetful()):  # some share a statement
        monkeypatch.setattr(module, name, forgot)
    for own, other in (pair, pair[::-1]):
        organization, key = own.organization, own.organization.key
        async with untouched(settings, other.organization):
            for endpoint in READING:
                found = await shown(gateway, organization, f"{filled(endpoint, own.ids)}?limit=200")
                assert [name for name in other.names if name in found] == [], str(endpoint)
            for endpoint in WITH_IDS:
                assert (await asked(gateway, endpoint, other.ids, key)).status == 404, str(endpoint)
            for case in NAMING:
                await test_configs_in_bodies_and_queries(gateway, settings, (other, own), case)
            # An Idempotency-Key that the other has used, too.
            body, used = {"to": "+5511987654321", "body": "x"}, f"key-{other.names[0].decode()[-1]}"
            sent = [await organization.send(body, idempotency_key=used) for _ in range(2)]
            assert [answer.status for answer in sent] == [200, 200]
            assert sent[0].json["id"] == sent[1].json["id"]
            await organization.settled(sent[0].json["id"], "read")  # the last that happens by itself
            await changed_and_back(own)
            await looked_at(settings, own, other)


async def changed_and_back(data: Data) -> None:
    """Every change that an organization can make of its own, and the way back."""
    active, standby = data.ids["config_id"], data.ids["fallback_id"]
    for method, path, body in (
        ("POST", "provider/switch", {"config_id": standby, "dry_run": True}),
        ("POST", "provider/switch", {"config_id": standby}),
        ("POST", "provider/rollback", {}),
        ("PUT", "provider/fallback", {"config_ids": [standby]}),
        ("PATCH", f"provider/configs/{standby}", {"name": "Renamed"}),
        ("POST", "provider/test", {"config_id": active}),
    ):
        answer = await data.organization.call(method, f"/integrations/whatsapp/{path}", body)
        assert answer.status == 200, (path, answer.raw)
    made = await data.organization.call("POST", "/keys", {"scopes": ["read"]})
    assert (await data.organization.call("DELETE", f"/keys/{made.json['id']}")).status == 204
    assert (await data.organization.call("GET", "/integrations/whatsapp/audit/verify")).json["intact"] is True
    assert await data.organization.configure(active=False)
    last = f"/integrations/whatsapp/provider/configs/{data.organization.configs.pop()['config_id']}"
    data.organization.numbers.pop()
    assert (await data.organization.call("DELETE", last)).status == 204


async def looked_at(settings: Settings, own: Data, other: Data) -> None:
    """What no route leads to: what a look at an account asks and writes."""
    ids = [UUID(data.organization.id) for data in (own, other)]
    config_id, since = UUID(other.ids["config_id"]), datetime(2020, 1, 1, tzinfo=UTC)
    async with connected(settings, APP) as connection, within(connection, own.organization.id):
        made = await switches.made_lately(connection, ids[0], since)
        assert {str(row.config_id) for row in made} == {own.ids["config_id"], own.ids["fallback_id"]}
        assert (await switches.sent_since(connection, ids[0], config_id, since)).sends == 0
        assert await health.pairing(connection, ids[0], config_id) is None
        assert await switches.take_up(connection, ids[0], config_id) is None


async def test_who_sees_every_organization_asks_for_one(settings: Settings, pair: tuple[Data, Data]) -> None:
    """The worker's role has no wall: a statement given an id of another organization finds and changes nothing."""
    early = id_at(datetime(2020, 1, 1, tzinfo=UTC))
    late = id_at(datetime.now(UTC) + timedelta(days=1))
    for own, other in (pair, pair[::-1]):
        organization_id = UUID(own.organization.id)
        config_id, message_id = UUID(other.ids["config_id"]), UUID(other.ids["message_id"])
        times = {"attempts_since": early, "sent_since": early, "sent_until": late}
        async with (
            Database(settings.database_url) as database,
            database.worker() as connection,
            untouched(settings, other.organization),
        ):
            route = await configs.route(connection, organization_id)
            assert [str(config.id) for config in route.configs] == [own.ids["config_id"], own.ids["fallback_id"]]
            assert await configs.by_id(connection, organization_id, config_id) is None
            foreign = [configs.ConfigKey(organization_id, config_id)]
            assert await health.looks(connection, foreign) == []
            assert await health.traffic(connection, foreign, **times) == {}
            assert await messages.by_id(connection, organization_id, message_id) is None
            assert await messages.attempts(connection, organization_id, message_id) == []
            await health.set_session(connection, organization_id, config_id, b'{"is_connected": false}')
            await configs.set_broken(connection, organization_id, config_id)


async def test_a_forgotten_condition_does_not_deliver_to_another(pair: tuple[Data, Data], gateway: Gateway) -> None:
    """The callbacks of both are their own: an event of one is queued for one."""
    first, second = (data.organization for data in pair)
    body = gateway.meta.inbound(first.numbers[0]).text("to the first")
    assert (await first.post_webhook(body)).status == 200
    await eventually(lambda: first.events(kind="message.received"), lambda found: len(found) == 4)
    assert len(await second.events(kind="message.received")) == 3
