"""The trail: whoever changes it afterwards is found out, a superuser too."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from ingress import app, log
from ingress.api import audit as trail
from ingress.api import quarantine
from ingress.audit import verification
from ingress.audit.trail import Actor, AuditEntry, record
from ingress.audit.verification import verify
from ingress.dev.sandbox import CrmSimulator, example_number
from ingress.settings import Settings
from ingress.storage.database import Database, StoreUnavailable
from ingress.storage.statements import audit, organizations
from ingress.storage.vault import Vault, generate_key
from providers.meta_business import MetaBusiness

from .conftest import serving
from .gateway import Gateway, Organization, eventually

BASE = "/integrations/whatsapp"


@pytest.fixture
async def superuser(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """Somebody for whom no trigger fires and no policy holds."""
    connection = await asyncpg.connect(settings.database_url, server_settings={"session_replication_role": "replica"})
    yield connection
    await connection.close()


@pytest.fixture
async def kept(organization: Organization) -> Organization:
    """An organization with a trail of some length."""
    for _ in range(4):
        await organization.fall_back_to()
    return organization


async def verdict(organization: Organization, query: str = "") -> Any:
    answer = await organization.call("GET", f"{BASE}/audit/verify{query}")
    assert answer.status == 200, answer.raw
    return answer.json


async def test_an_untouched_trail_is_intact(kept: Organization) -> None:
    """Numbered without gaps from the organization's creation on, and its end is shown."""
    entries = (await kept.call("GET", f"{BASE}/audit?limit=200")).json["entries"]
    assert [entry["id"] for entry in entries] == list(range(len(entries), 0, -1))
    assert entries[-1]["action"] == "organization_created"
    assert len({entry["hash"] for entry in entries}) == len(entries)
    assert await verdict(kept) == {"intact": True, "entries": len(entries), "hash": entries[0]["hash"]}


@pytest.mark.parametrize(
    ("trusted", "forwarded", "address"),
    [
        ("", "198.51.100.7", "127.0.0.1"),
        ("10.0.0.0/8", "198.51.100.7", "127.0.0.1"),
        ("127.0.0.1/32", "198.51.100.7", "198.51.100.7"),
        ("127.0.0.1/32,10.0.0.0/8", "203.0.113.9, 198.51.100.7,10.0.0.2 , ::ffff:10.0.0.1", "198.51.100.7"),
        ("127.0.0.1/32,10.0.0.0/8", "10.0.0.1", "10.0.0.1"),
        ("127.0.0.1/32", "2001:db8::0:7", "2001:db8::7"),
        ("127.0.0.1/32", "198.51.100.7, somebody", "127.0.0.1"),
        ("127.0.0.1/32", "", "127.0.0.1"),
    ],
    ids=["nobody", "not-this-one", "proxy", "chain", "the-proxy-itself", "ipv6", "no-address", "empty"],
)
async def test_the_address_of_a_client_behind_proxies(
    settings: Settings, gateway: Gateway, organization: Organization, trusted: str, forwarded: str, address: str
) -> None:
    """As far as the proxies are ours: what is left of the first that is not, the client may have written."""
    async with serving(msgspec.structs.replace(settings, trusted_proxies=trusted)) as url:
        body, key = {"scopes": ["read"]}, organization.key
        made = await gateway.call("POST", f"{url}/keys", body, key=key, x_forwarded_for=forwarded)
        assert made.status == 201, made.raw
    entry = (await organization.call("GET", f"{BASE}/audit?limit=1")).json["entries"][0]
    assert (entry["action"], entry["address"]) == ("key_created", address)


async def test_entries_of_many_changes_at_once_are_one_chain(kept: Organization) -> None:
    """Of different kinds, some under the lock of a switch and some not."""
    await asyncio.gather(
        *(kept.call("POST", "/keys", {"scopes": ["read"]}) for _ in range(10)),
        *(kept.fall_back_to() for _ in range(5)),
        *(kept.configure(active=False) for _ in range(3)),
    )
    result = await verdict(kept)
    assert result["intact"], result
    assert result["entries"] >= 18 + 8


async def test_a_trail_is_looked_through(kept: Organization, superuser: asyncpg.Connection) -> None:
    """By what was done, by whom, to which config, how it ended, and when; in pages like the whole."""
    await kept.call("POST", "/keys", {"scopes": ["nonsense"]})
    config_id = kept.configs[0]["config_id"]
    entries = (await kept.call("GET", f"{BASE}/audit?limit=200")).json["entries"]

    async def found(query: str) -> list[int]:
        answer = await kept.call("GET", f"{BASE}/audit?{query}")
        assert answer.status == 200, answer.raw
        return [entry["id"] for entry in answer.json["entries"]]

    def those(**fields: str) -> list[int]:
        return [entry["id"] for entry in entries if fields.items() <= entry.items()]

    changes = those(action="fallback_changed")
    assert len(changes) == 4
    assert await found("action=fallback_changed") == changes
    assert await found(f"action=fallback_changed&limit=2&before={changes[1]}") == changes[2:]
    assert await found("actor=platform") == those(actor="platform")
    assert await found(f"config_id={config_id}") == those(config_id=config_id) != []
    assert await found("outcome=refused") == those(outcome="refused", action="create_key") != []
    both = those(action="fallback_changed", outcome="done", actor=entries[1]["actor"])
    assert await found(f"action=fallback_changed&outcome=done&actor={entries[1]['actor']}") == both != []
    assert await found("action=nothing") == []
    middle = entries[3]
    assert await found(f"since={middle['at']}") == [entry["id"] for entry in entries[:4]]
    assert await found(f"until={middle['at']}") == [entry["id"] for entry in entries[4:]]
    assert await found(f"since={middle['at']}&until={entries[1]['at']}") == [entries[2]["id"], middle["id"]]
    assert await found("since=2999-01-01T00:00:00Z") == await found("until=1999-01-01T00:00:00Z") == []
    for wrong in ("since=2026-11-30", "outcome=lost", "config_id=1", f"action={'a' * 65}"):
        assert (await kept.call("GET", f"{BASE}/audit?{wrong}")).status == 422
    await superuser.execute("delete from provider_audit_log where organization_id = $1 and id = 4", UUID(kept.id))
    assert await found(f"since={middle['at']}") == [entry["id"] for entry in entries[:4]], "a gap hides nothing"


CHANGES = {
    "at": "at + interval '1 microsecond'",
    "action": "'other'",
    "actor": "'nobody'",
    "address": "'192.0.2.1'",
    "config_id": "'01a202b3-6905-7e00-bf87-8a05ab56d744'",
    "provider": "'other'",
    "outcome": "case outcome when 'done' then 'undone' else 'done' end",
    "version": "coalesce(version, 0) + 1",
    "before": "'{}'",
    "after": "'{\"fallback_config_ids\": []}'",
    "reason": "'because'",
    "hash": "decode(repeat('00', 41), 'hex')",
}


@pytest.mark.parametrize("column", CHANGES)
async def test_an_edited_entry(kept: Organization, superuser: asyncpg.Connection, column: str) -> None:
    """Whichever of its columns; that is all of them."""
    columns = await superuser.fetch(
        "select attname from pg_attribute where attrelid = 'provider_audit_log'::regclass and attnum > 0"
    )
    assert {row["attname"] for row in columns} == {*CHANGES, "organization_id", "id"}
    done = await superuser.execute(
        f"update provider_audit_log set {column} = {CHANGES[column]} where organization_id = $1 and id = 5",
        UUID(kept.id),
    )
    assert done == "UPDATE 1"
    result = await verdict(kept)
    assert (result["intact"], result["first_broken"]) == (False, 5), result


@pytest.mark.parametrize("time", ["infinity", "-infinity", "294276-01-01", "4713-01-01 BC", "0001-01-01 00:00+14"])
async def test_a_time_that_cannot_be_read(kept: Organization, superuser: asyncpg.Connection, time: str) -> None:
    """It hides nothing, and stops nobody from reading the others."""
    await superuser.execute(
        f"update provider_audit_log set at = '{time}' where organization_id = $1 and id = 5", UUID(kept.id)
    )
    result = await verdict(kept)
    assert (result["intact"], result["first_broken"]) == (False, 5), result
    listed = await kept.call("GET", f"{BASE}/audit?limit=200")
    assert [entry["id"] for entry in listed.json["entries"] if entry["at"] is None] == [5]


COPY = """
insert into provider_audit_log
select organization_id, {number}, at, action, actor, address, config_id, provider, outcome, version, before, after,
    reason, hash
from provider_audit_log where organization_id = $1 and id = 6"""


@pytest.mark.parametrize(
    ("statements", "first"),
    [
        (["delete from provider_audit_log where organization_id = $1 and id = 4"], 4),
        (["delete from provider_audit_log where organization_id = $1 and id <= 3"], 1),
        (["delete from provider_audit_log where organization_id = $1"], 1),
        # One more at the end, and one in the middle, for which those after it moved up.
        ([COPY.format(number="(select max(id) + 1 from provider_audit_log where organization_id = $1)")], None),
        (
            [
                "update provider_audit_log set id = id + 1000 where organization_id = $1 and id > 6",
                COPY.format(number=7),
                "update provider_audit_log set id = id - 999 where organization_id = $1 and id > 1000",
                "update organizations set audit_entries = audit_entries + 1 where id = $1",
            ],
            7,
        ),
        # Two in each other's place, and one closed up over a gap.
        (
            [
                "update provider_audit_log set id = 0 where organization_id = $1 and id = 3",
                "update provider_audit_log set id = 3 where organization_id = $1 and id = 4",
                "update provider_audit_log set id = 4 where organization_id = $1 and id = 0",
            ],
            3,
        ),
        (
            [
                "delete from provider_audit_log where organization_id = $1 and id = 4",
                "update provider_audit_log set id = id + 1000 where organization_id = $1 and id > 4",
                "update provider_audit_log set id = id - 1001 where organization_id = $1 and id > 1000",
                "update organizations set audit_entries = audit_entries - 1 where id = $1",
            ],
            4,
        ),
    ],
    ids=["delete", "delete-first", "delete-all", "append", "insert", "reorder", "close-up"],
)
async def test_deleted_inserted_and_moved_entries(
    kept: Organization, superuser: asyncpg.Connection, statements: list[str], first: int | None
) -> None:
    last = (await verdict(kept))["entries"]
    for statement in statements:
        assert not (await superuser.execute(statement, UUID(kept.id))).endswith(" 0"), statement
    result = await verdict(kept)
    assert (result["intact"], result["first_broken"]) == (False, first or last + 1), result


END = """
update organizations o set audit_entries = l.id, audit_hash = l.hash from provider_audit_log l
where o.id = $1 and l.organization_id = $1
    and l.id = (select max(id) from provider_audit_log where organization_id = $1)"""


@pytest.mark.parametrize("mended", [False, True], ids=["cut", "cut-and-mended"])
async def test_an_end_that_was_cut_off(kept: Organization, superuser: asyncpg.Connection, mended: bool) -> None:
    """Also where the organization's row is made to tell the entry before: its seal cannot be made from that."""
    last = (await verdict(kept))["entries"]
    await superuser.execute(
        "delete from provider_audit_log where organization_id = $1 and id > $2", UUID(kept.id), last - 2
    )
    if mended:
        assert await superuser.execute(END, UUID(kept.id)) == "UPDATE 1"
    result = await verdict(kept)
    assert (result["intact"], result["first_broken"]) == (False, last - 2 if mended else last - 1), result


async def test_the_whole_put_back_is_found_by_who_noted_the_end(
    kept: Organization, superuser: asyncpg.Connection
) -> None:
    """What the database alone cannot tell."""
    end = "select audit_entries, audit_hash, audit_seal from organizations where id = $1"
    earlier = await superuser.fetchrow(end, UUID(kept.id))
    assert earlier is not None
    await kept.fall_back_to()
    noted = await verdict(kept)
    query = f"?entries={noted['entries']}&hash={noted['hash']}"
    await superuser.execute(
        "delete from provider_audit_log where organization_id = $1 and id > $2", UUID(kept.id), earlier[0]
    )
    await superuser.execute(
        "update organizations set audit_entries = $2, audit_hash = $3, audit_seal = $4 where id = $1",
        UUID(kept.id),
        *earlier,
    )
    assert (await verdict(kept))["intact"]
    result = await verdict(kept, query)
    assert (result["intact"], result["first_broken"]) == (False, noted["entries"])
    # And where something else was written in its place.
    await kept.fall_back_to()
    assert (await verdict(kept))["intact"]
    result = await verdict(kept, query)
    assert (result["intact"], result["first_broken"]) == (False, noted["entries"])
    assert (await verdict(kept, f"?entries={earlier[0]}&hash={earlier[1].hex()}"))["intact"]


async def test_a_trail_survives_a_rotation_of_keys(settings: Settings, superuser: asyncpg.Connection) -> None:
    """Entries of both keys are one chain, as long as both are known."""
    old, new = generate_key(), generate_key()
    organization_id = UUID(bytes=bytes.fromhex(new[:8]) * 4)
    async with Database(settings.database_url) as database:
        async with database.worker() as connection:
            await organizations.add(connection, organization_id, "Rotating")
        for keys in (old, f"{new},{old}"):
            async with database.organization(organization_id) as connection:
                await record(
                    connection,
                    Vault(keys),
                    organization_id,
                    AuditEntry(action="tested", actor=Actor("x"), after={"of": "é"}),
                )
        assert (await verify(database, Vault(f"{new},{old}"), organization_id)).broken is None
        lost = await verify(database, Vault(new), organization_id)
        assert (lost.broken, "INGRESS_ENCRYPTION_KEYS" in (lost.reason or "")) == (1, True)
        assert (await verify(database, Vault(generate_key()), organization_id)).broken == 1


async def test_one_organizations_entries_prove_nothing_in_another(
    kept: Organization, superuser: asyncpg.Connection
) -> None:
    """Nor do those of one that was created at the same moment: the organization is in what is signed."""
    other = await kept.gateway.organization()
    moved = """
        with taken as (delete from provider_audit_log where organization_id = $2)
        insert into provider_audit_log
        select $2, id, at, action, actor, address, config_id, provider, outcome, version, before, after, reason, hash
        from provider_audit_log where organization_id = $1 and id <= 2"""
    rows = await superuser.fetch("select id from provider_audit_log where organization_id = $1", UUID(other.id))
    await superuser.execute("delete from provider_audit_log where organization_id = $1", UUID(other.id))
    await superuser.execute(moved, UUID(kept.id), UUID(other.id))
    await superuser.execute("update organizations set audit_entries = $2 where id = $1", UUID(other.id), len(rows))
    result = await verdict(other)
    assert (result["intact"], result["first_broken"]) == (False, 1)


NOW_DUE = "update organizations set audit_due_at = {at} where id = any($1::uuid[])"
CHECKED = """
select count(*) from organizations where id = any($1::uuid[])
    and audit_due_at between now() + interval '50 minutes' and now() + interval '1 hour'"""


async def test_every_hour_the_ends_are_logged_and_a_broken_trail_is_an_alarm(
    kept: Organization,
    settings: Settings,
    superuser: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One line for each organization, the metric for all; in both directions, and whoever put it off for ever."""
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(log, "wide", lambda event, **fields: lines.append({"event": event, **fields}))
    monkeypatch.setattr(app, "TRAILS_POLL_S", 0.02)
    monkeypatch.setattr(app, "GAUGES_EVERY_S", 0.02)
    other = await kept.gateway.organization()
    ids = [UUID(kept.id), UUID(other.id)]

    async def checked(at: str) -> dict[UUID, dict[str, Any]]:
        lines.clear()
        caplog.clear()
        await superuser.execute(NOW_DUE.format(at=at), ids)
        await eventually(lambda: superuser.fetchval(CHECKED, ids), lambda count: count == 2)
        await eventually(lambda: {line.get("organization") for line in lines} >= set(ids))
        return {line["organization"]: line for line in lines if line["event"] == "audit_chain"}

    async def gauge() -> float:
        text = (await kept.gateway.metrics()).raw.decode()
        [line] = [line for line in text.splitlines() if line.startswith("whatsapp_ingress_audit_chain_valid ")]
        return float(line.rpartition(" ")[2])

    alarms = "ingress.audit", "ERROR"
    async with serving(settings):
        end = await verdict(kept)
        line = (await checked("now()"))[UUID(kept.id)]
        assert (line["entries"], line["hash"], line["broken"]) == (end["entries"], end["hash"], None)
        await eventually(gauge, lambda value: value == 1)
        entry = "provider_audit_log where organization_id = $1 and id = 3"
        for edit in ("actor = 'nobody'", "at = '4713-01-01 BC'"):
            before = await superuser.fetchrow(f"select actor, at from {entry}", ids[0])
            assert before is not None
            await superuser.execute(
                f"update provider_audit_log set {edit} where organization_id = $1 and id = 3", ids[0]
            )
            found = await checked("'infinity'")
            assert (found[ids[0]]["broken"], found[ids[1]]["broken"]) == (3, None)
            errors = [each.getMessage() for each in caplog.records if (each.name, each.levelname) == alarms]
            assert any(kept.id in each and "entry 3:" in each for each in errors), errors
            assert not any(other.id in each for each in errors)
            await eventually(gauge, lambda value: value == 0)
            mended = "update provider_audit_log set actor = $2, at = $3 where organization_id = $1 and id = 3"
            await superuser.execute(mended, ids[0], *before)
        assert (await verdict(kept))["intact"]
        await checked("now()")
        await eventually(gauge, lambda value: value == 1)


@pytest.fixture
async def looked(
    kept: Organization, settings: Settings, superuser: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], Awaitable[tuple[int | None, int]]]]:
    """Has the trail verified in the background, in small parts: the first wrong entry, and how many were read."""
    monkeypatch.setattr(verification, "MOST", 3)
    monkeypatch.setattr(verification, "AGAIN", 2)
    read: list[int] = []
    forward = audit.forward

    async def counted(*arguments: Any) -> Any:
        found = await forward(*arguments)
        read.append(len(found))
        return found

    monkeypatch.setattr(audit, "forward", counted)
    async with Database(settings.database_url) as database:

        async def look() -> tuple[int | None, int]:
            read.clear()
            await verification.verify_on(database, Vault(settings.encryption_keys), UUID(kept.id))
            broken = "select audit_broken from organizations where id = $1"
            return await superuser.fetchval(broken, UUID(kept.id)), sum(read)

        yield look


async def test_a_long_trail_is_verified_from_where_it_was(
    kept: Organization, superuser: asyncpg.Connection, looked: Callable[[], Awaitable[tuple[int | None, int]]]
) -> None:
    """And what is before, a part each time; who asks for all of it gets it in parts, too."""
    entries = (await kept.call("GET", f"{BASE}/audit?limit=200")).json["entries"]
    end = {"intact": True, "entries": len(entries), "hash": entries[0]["hash"]}
    assert await looked() == (None, len(entries))
    assert await looked() == (None, 2)
    assert await looked() == (None, 2 + 1)  # and the entry that those follow
    assert await verdict(kept) == end | {"first": len(entries) + 1}
    assert await verdict(kept, "?after=0") == end | {"next": 3}
    assert await verdict(kept, f"?after={len(entries) - 1}") == end | {"first": len(entries)}
    await kept.fall_back_to()
    newer = await verdict(kept)
    assert (newer["intact"], newer["entries"], newer["first"]) == (True, len(entries) + 1, len(entries) + 1)
    await superuser.execute(
        "update provider_audit_log set actor = 'nobody' where organization_id = $1 and id = 2", UUID(kept.id)
    )
    assert (await verdict(kept))["intact"], "it was right when it was verified"
    assert (await verdict(kept, "?after=0"))["first_broken"] == 2
    found = [(await looked())[0] for _ in range(len(entries))]
    assert found[-1] == 2, "sooner or later its part is verified again, and it stays broken"


async def test_who_has_the_database_alone_cannot_say_that_a_trail_was_verified(
    kept: Organization, superuser: asyncpg.Connection, looked: Callable[[], Awaitable[tuple[int | None, int]]]
) -> None:
    entries = (await kept.call("GET", f"{BASE}/audit?limit=200")).json["entries"]
    end = len(entries), bytes.fromhex(entries[0]["hash"])
    edit = "update provider_audit_log set actor = 'nobody' where organization_id = $1 and id = $2"
    await superuser.execute(edit, UUID(kept.id), 4)
    forge = """update organizations set audit_checked = $2, audit_checked_hash = $3, audit_checked_seal = audit_seal,
        audit_rechecked = 5 where id = $1"""
    await superuser.execute(forge, UUID(kept.id), *end)
    assert (await verdict(kept))["next"] == 3, "from the beginning"
    assert (await verdict(kept, "?after=3"))["first_broken"] == 4
    found = [(await looked())[0] for _ in range(len(entries))]
    assert found[-1] == 4


def test_a_signature_is_bound_to_its_content() -> None:
    vault = Vault(generate_key())
    signed = vault.sign(b"content")
    assert vault.signed(signed, b"content")
    assert not vault.signed(signed, b"other")
    assert not vault.signed(signed[:-1], b"content")
    assert not vault.signed(signed[:-1] + bytes([signed[-1] ^ 1]), b"content")


# ---------------------------------------------------------------- what people do with what was put aside


async def actions(organization: Organization, count: int) -> list[tuple[str, Any, str, bool]]:
    entries = (await organization.call("GET", f"/integrations/whatsapp/audit?limit={count}")).json["entries"]
    return [(one["action"], one["after"], one["actor"], bool(one["address"])) for one in reversed(entries)]


async def test_what_is_done_with_the_quarantine_is_written_down(organization: Organization, gateway: Gateway) -> None:
    """Reading again, letting go; who looked at a body, and what could not be read again. Nothing else of it."""
    me = organization.key.split("_")[2]
    for _ in range(2):
        assert (await organization.post_webhook(b"unreadable")).status == 200
    items = (await organization.call("GET", "/quarantine")).json["quarantine"]
    about = [{name: item[name] for name in ("id", "config_id", "reason")} for item in items]
    assert (await organization.call("POST", f"/quarantine/{items[0]['id']}/replay")).status == 409
    for _ in range(3):  # which is one entry
        assert (await organization.call("GET", f"/quarantine/{items[0]['id']}")).status == 200
    assert await actions(organization, 2) == [
        ("replay_quarantine", {"status": 409}, me, True),
        ("quarantine_shown", about[0], me, True),
    ]
    for item in items:
        assert (await organization.call("POST", f"/quarantine/{item['id']}/discard")).status == 200
    assert await actions(organization, 2) == [("quarantine_discarded", item, me, True) for item in about]

    foreign = gateway.meta.inbound(organization.numbers[0]).text("of somebody else")
    foreign["entry"][0]["changes"][0]["value"]["metadata"]["phone_number_id"] = "1"
    assert (await organization.post_webhook(foreign)).status == 200
    as_platform = {"key": gateway.platform_key, "x_org_id": organization.id}
    [item] = (await gateway.call("GET", "/quarantine?foreign=1", **as_platform)).json["quarantine"]
    assert (await gateway.call("GET", f"/quarantine/{item['id']}?foreign=1", **as_platform)).status == 200
    assert (await gateway.call("POST", f"/quarantine/{item['id']}/discard?foreign=1", **as_platform)).status == 200
    about_it = {name: item[name] for name in ("id", "config_id", "reason")}
    assert await actions(organization, 2) == [
        ("quarantine_shown", about_it, "platform", True),
        ("quarantine_discarded", about_it, "platform", True),
    ]
    assert (await organization.call("GET", "/integrations/whatsapp/audit/verify")).json["intact"]


async def test_a_body_that_is_read_after_all_is_written_down(
    organization: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the transaction that closes it: where the entry cannot be written, it stays open."""
    parse = MetaBusiness.parse

    def broken(self: MetaBusiness, hook: Any) -> Any:
        raise ValueError

    monkeypatch.setattr(MetaBusiness, "parse", broken)
    assert (await organization.post_webhook(gateway.meta.inbound(organization.numbers[0]).text("x"))).status == 200
    monkeypatch.setattr(MetaBusiness, "parse", parse)
    [item] = (await organization.call("GET", "/quarantine")).json["quarantine"]

    async def unwritten(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(quarantine, "note", unwritten)
        assert (await organization.call("POST", f"/quarantine/{item['id']}/replay")).status == 503
        assert (await organization.call("POST", f"/quarantine/{item['id']}/discard")).status == 503
    assert (await organization.call("GET", "/quarantine")).json["quarantine"] == [item]
    answer = await organization.call("POST", f"/quarantine/{item['id']}/replay")
    assert answer.json == {"state": "replayed", "events": 0}, "its event is here since the first time"
    [(action, after, _, _)] = await actions(organization, 1)
    assert (action, after["id"]) == ("quarantine_replayed", item["id"])


async def test_callbacks_are_audited_without_their_path(organization: Organization, crm: CrmSimulator) -> None:
    """Path and query may be what lets us in: an origin, and a fingerprint to tell two addresses apart."""
    secret = "hook-5f0c7d1e"
    url = f"{crm.url_for('audited')}?token={secret}"
    assert (await organization.call("PUT", "/callback", {"url": url})).status == 200
    answer = await organization.call("POST", "/callback/test")
    assert (await organization.call("POST", "/callback/replay", {})).json == {"replayed": 0}
    (put, after, *_), (tested, outcome, *_), (replayed, *_) = await actions(organization, 3)
    assert (put, tested, replayed) == ("callback_set", "callback_tested", "parked_replayed")
    assert outcome == {name: answer.json[name] for name in ("id", "outcome")}
    origin = "/".join(url.split("/")[:3])
    assert after["url"].startswith(f"{origin}/… (")
    assert secret not in repr(after)
    reader = (await organization.call("POST", "/keys", {"scopes": ["read"]})).json["key"]
    shown = await organization.gateway.call("GET", "/callback", key=reader)
    assert shown.json["url"] == after["url"]
    assert (await organization.call("GET", "/callback")).json["url"] == url, "whole for who may set it"
    assert (await organization.call("DELETE", "/callback")).status == 204


# ---------------------------------------------------------------- what was not made


async def newest(organization: Organization) -> Any:
    return (await organization.call("GET", f"{BASE}/audit?limit=1")).json["entries"][0]


SECRET = "EAAG-a-secret-that-nobody-may-read"
UNKNOWN = "a_secret_in_the_place_of_a_name"
CONFIG = {"phone_number_id": "123", "access_token": SECRET, "app_secret": 17, "waba_id": [SECRET], UNKNOWN: SECRET}
REFUSED: dict[str, tuple[str, str, Any, str, str]] = {
    "a configuration": ("POST", f"{BASE}/provider/configure", CONFIG, "configure", "invalid_configuration"),
    "a switch": ("POST", f"{BASE}/provider/switch", CONFIG, "switch", "invalid_configuration"),
    "a body that is none": ("POST", f"{BASE}/provider/switch", {UNKNOWN: "\u200e"}, "switch", "invalid_request"),
    "a policy": (
        "PUT",
        f"{BASE}/provider/fallback",
        {"config_ids": [], "policy": {"min_stay_s": SECRET, UNKNOWN: 1}},
        "put_fallback",
        "invalid_request",
    ),
    "a callback": ("PUT", "/callback", {"url": f"http://127.0.0.1/{SECRET}\0"}, "put_callback", "invalid_request"),
    "a key": ("POST", "/keys", {"scopes": [SECRET]}, "create_key", "invalid_request"),
    "a replay": ("POST", "/callback/replay", {"sequences": [0]}, "replay_parked", "invalid_request"),
    "a discard": ("POST", f"/quarantine/{UUID(int=1)}/discard", None, "discard_quarantine", "not_found"),
    "what is called dry": (
        "POST",
        f"{BASE}/provider/configure",
        {"provider_type": "meta_business", "config_data": {}, "dry_run": True},
        "configure",
        "invalid_request",
    ),
    "an organization": ("POST", "/organizations", {"name": SECRET}, "create_organization", "forbidden"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_was_refused_is_an_entry(organization: Organization, what: str) -> None:
    """With who asked for what and why not, in one chain with the rest, and nothing of what was wrong in the request."""
    method, path, body, action, reason = REFUSED[what]
    if body is CONFIG:
        body = {"provider_type": "meta_business", "config_data": CONFIG}
    answer = await organization.call(method, path, body)
    assert answer.status >= 400, answer.raw
    entry = await newest(organization)
    assert (entry["action"], entry["outcome"], entry["reason"]) == (action, "refused", reason), entry
    assert entry["actor"] not in ("system", "platform")
    assert entry["after"]["status"] == answer.status
    assert SECRET not in str(entry)
    assert UNKNOWN not in str(entry)
    assert (await verdict(organization))["intact"]
    if SECRET in str(body.get("config_data") if isinstance(body, dict) else None):
        assert entry["provider"] == "meta_business"
        shown = entry["after"]["config_data"]
        assert shown["phone_number_id"] == "123"
        assert set(shown) == set(CONFIG) - {UNKNOWN}
        assert "config_data.app_secret" in entry["after"]["errors"]


async def test_a_change_of_a_config_that_was_refused_names_it(organization: Organization) -> None:
    """And nobody else's: what another organization has is not there."""
    config_id = organization.configs[0]["config_id"]
    change = {"config_data": {"phone_number_id": ""}}
    assert (await organization.call("PATCH", f"{BASE}/provider/configs/{config_id}", change)).status == 400
    entry = await newest(organization)
    assert (entry["action"], entry["config_id"], entry["provider"]) == ("edit_config", config_id, "meta_business")
    other = await organization.gateway.organization()
    assert (await other.call("DELETE", f"{BASE}/provider/configs/{config_id}")).status == 404
    entry = await newest(other)
    assert (entry["action"], entry["config_id"], entry["provider"]) == ("delete_config", None, None)


async def test_a_key_that_may_not_change_anything_tried_to(organization: Organization) -> None:
    made = (await organization.call("POST", "/keys", {"scopes": ["read"]})).json
    answer = await organization.gateway.call("POST", "/keys", {"scopes": ["admin"]}, key=made["key"])
    assert answer.status == 403
    entry = await newest(organization)
    assert (entry["action"], entry["actor"], entry["reason"]) == ("create_key", made["id"], "forbidden")


async def test_what_changes_nothing_leaves_no_entry(organization: Organization) -> None:
    """A test, a dry run, a message, and what cannot be read."""
    before = await newest(organization)
    wrong = {"provider_type": "meta_business", "config_data": {}}
    for method, path, body in (
        ("POST", f"{BASE}/provider/test", wrong),
        ("POST", f"{BASE}/provider/switch", wrong | {"dry_run": True}),
        ("POST", "/send", {"to": 1}),
        ("GET", f"{BASE}/audit?limit=x", None),
    ):
        assert (await organization.call(method, path, body)).status >= 400
    assert await newest(organization) == before


async def test_a_switch_that_is_undone_leaves_one_entry_for_that(organization: Organization) -> None:
    """Which names the configuration that was tried, and the event the provider of the config that it is about."""
    number = example_number(7301)
    data = number.config_data(await organization.gateway.meta.add_number(number)) | {"access_token": SECRET}
    body = {"provider_type": "meta_business", "config_data": data}
    before = (await newest(organization))["id"]
    assert (await organization.call("POST", f"{BASE}/provider/switch", body)).status >= 400
    entry = await newest(organization)
    assert (entry["id"], entry["action"], entry["outcome"]) == (before + 1, "rolled_back", "undone")
    assert (entry["provider"], entry["after"]["config_data"]["phone_number_id"]) == (
        "meta_business",
        number.phone_number_id,
    )
    assert SECRET not in str(entry)
    [event] = await organization.events(kind="provider.rolled_back")
    assert (event["data"]["provider"], event["data"]["failed_provider"]) == ("meta_business", "meta_business")


async def test_refusals_without_end_grow_the_trail_little(
    settings: Settings, organization: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first ones have an entry each; the others are counted, and the count is written, at the end at the latest."""
    monkeypatch.setattr(trail, "REFUSALS_AT_ONCE", 3)
    before = (await newest(organization))["id"]
    async with serving(settings) as url:
        for _ in range(20):
            answer = await organization.gateway.call("PUT", f"{url}/callback", {"url": 1}, key=organization.key)
            assert answer.status == 422
        assert (await newest(organization))["id"] == before + 3
    entry = await newest(organization)
    assert (entry["id"], entry["action"], entry["outcome"]) == (before + 4, "more_refused", "refused")
    assert entry["after"] == {"requests": 17, "by_operation": {"put_callback invalid_request": 17}}
    assert (await verdict(organization))["intact"]


async def test_what_cannot_be_written_is_counted(
    organization: Organization, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is why the change was refused, and the trail has it later."""

    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable

    async with serving(settings) as url:
        with monkeypatch.context() as patch:
            patch.setattr(trail, "record", away)
            answer = await organization.gateway.call("PUT", f"{url}/callback", {"url": 1}, key=organization.key)
        assert answer.status == 422
    assert (await newest(organization))["after"]["requests"] == 1
