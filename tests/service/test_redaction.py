"""Nothing secret and nothing personal leaves by a side door: logs, metrics, errors, the trail, reprs, tables."""

import asyncio
import gc
import importlib
import json
import logging
import pkgutil
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import msgspec
import pytest
import redis.asyncio

import ingress
import providers
from ingress import log
from ingress.accounts.config import Config
from ingress.api.history import messages
from ingress.delivery import relay
from ingress.dev.sandbox import (
    Bare5xx,
    CrmSimulator,
    CrmStatus,
    EmptyAnswer,
    ErrorCode,
    HalfAnswer,
    MetaNumber,
    MetaSimulator,
    ResetBeforeAccept,
    encode,
    signature,
)
from ingress.receiving import completion
from ingress.settings import Settings
from ingress.storage.statements import audit
from ingress.storage.statements.receiving import inbound
from ingress.storage.statements.sending import messages as stored_messages
from ingress.switching import manager
from providers.meta_business import MetaBusiness

from ..conftest import serving
from ..gateway import SCOPES, Answer, Gateway, Organization, Process, Served, eventually, unused_port

MARK = uuid4().hex[:8]
PERSON = "5511970" + f"{int(MARK, 16) % 10**6:06d}"
# What people wrote, and who they are. It is the organization's own, and stays in its tables and answers.
PERSONAL = [f"canarytext{MARK}", f"canaryname{MARK}", f"canaryfile{MARK}", PERSON, f"canarylead{MARK}"]
TEXT, NAME, FILE, _, LEAD = PERSONAL
NUMBER = MetaNumber(
    phone_number_id=f"1065{int(MARK, 16)}",
    waba_id=f"2109{int(MARK, 16)}",
    display_phone_number="+15559990001",
    access_token=f"EAAGcanaryaccess{MARK}",
    app_secret=f"canaryappsecret{MARK}",
    verify_token=f"canaryverify{MARK}",
    app_id="550987654321000",
)


class Drama:
    """Everything that can happen to one organization, with canaries wherever a value is given."""

    def __init__(self, gateway: Gateway, crm: CrmSimulator) -> None:
        self.gateway = gateway
        self.crm = crm
        self.secrets = [NUMBER.access_token, NUMBER.app_secret, NUMBER.verify_token, gateway.platform_key]
        self.problems: list[Answer] = []
        self.masked: list[Answer] = []  # answers about the configuration and the trail
        self.organization: Organization

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        answer = await self.organization.call(method, path, body, **more)
        if answer.status >= 400:
            self.problems.append(answer)
        return answer

    async def open(self) -> None:
        """An organization with a config, a callback and keys; every secret is known to `secrets`."""
        self.organization = await self.gateway.organization()
        self.secrets.append(self.organization.key.split("_", 3)[3])
        config_data = NUMBER.config_data(await self.gateway.meta.add_number(NUMBER))
        body = {"provider_type": "meta_business", "config_data": config_data}
        made = await self.call("POST", "/integrations/whatsapp/provider/configure", body)
        assert made.status == 200, made.raw
        self.organization.configs.append(made.json)
        self.organization.numbers.append(NUMBER)
        self.secrets.append(made.json["webhook_url"].rpartition("/")[2])
        self.masked.append(msgspec.structs.replace(made, raw=made.raw.replace(self.secrets[-1].encode(), b"")))
        for _ in range(2):
            self.secrets.append((await self.call("PUT", "/callback", {"url": self.crm.url})).json["secret"])
        self.crm.set_secret(self.secrets[-1])
        for _ in range(2):
            key = (await self.call("POST", "/keys", {"scopes": SCOPES})).json
            self.secrets.append(key["key"].split("_", 3)[3])
        await self.call("DELETE", f"/keys/{key['id']}")

    @property
    def webhook(self) -> str:
        url: str = self.organization.configs[0]["webhook_url"]
        return url

    async def post(self, raw: bytes, **headers: str) -> Answer:
        """A webhook as the provider signs it, unless *headers* say otherwise."""
        given = {"x_hub_signature_256": signature(NUMBER.app_secret, raw)} | headers
        answer = await self.gateway.call("POST", self.webhook, raw=raw, **given)
        if answer.status >= 400:
            self.problems.append(answer)
        return answer

    def inbound(self) -> Any:
        people = self.gateway.meta.inbound(NUMBER)
        body = people.text(f"{TEXT} and more", phone=f"+{PERSON}")
        for contact in body["entry"][0]["changes"][0]["value"]["contacts"]:
            contact["profile"]["name"] = NAME
        return body

    async def receive(self) -> None:
        """Good webhooks, bad signatures, unreadable bodies, handshakes, wrong addresses."""
        people = self.gateway.meta.inbound(NUMBER)
        good = encode(self.inbound())
        assert (await self.post(good)).status == 200
        assert (await self.post(good)).status == 200
        for body in (people.image(TEXT, phone=f"+{PERSON}"), people.document(FILE, phone=f"+{PERSON}")):
            assert (await self.post(encode(body))).status == 200
        foreign = good.replace(NUMBER.phone_number_id.encode(), b"1").replace(NUMBER.waba_id.encode(), b"2")
        assert (await self.post(foreign)).status == 200
        for wrong in ("", "x", "sha256=", "sha256=" + "0" * 64, signature("other", good), f"sha256={TEXT}", "sha1=é"):
            assert (await self.post(good, x_hub_signature_256=wrong)).status == 401
        for raw in (TEXT.encode(), f'{{"{TEXT}":'.encode(), b"\xff" + TEXT.encode(), json.dumps([TEXT]).encode()):
            assert (await self.post(raw)).status == 200
        assert (await self.post(TEXT.encode() * 300_000)).status == 413
        assert (await self.post(good, content_encoding="gzip")).status == 415
        for token in (NUMBER.verify_token, "wrong" + TEXT):
            query = f"hub.mode=subscribe&hub.challenge=1&hub.verify_token={token}"
            await self.gateway.call("GET", f"{self.webhook}?{query}", authorization=f"Bearer {TEXT}")
        for path in (f"/webhooks/{TEXT}", f"/webhooks/{TEXT}/{PERSON}", f"{self.webhook}/{TEXT}", f"/{TEXT}"):
            answer = await self.gateway.call("POST", path, raw=good, cookie=f"session={NUMBER.access_token}")
            assert answer.status == 404, (path, answer.status)
            self.problems.append(answer)

    async def send(self) -> None:
        """Sends that go well, that the provider refuses with words that quote us, and that are no sends."""
        message = {"to": f"+{PERSON}", "body": TEXT, "lead_id": LEAD}
        quoting = f"(#1) {TEXT} to {PERSON} with token {NUMBER.access_token} was not sent"
        faults = [
            ErrorCode(code=131026, message=quoting, details=quoting),
            ErrorCode(code=132001, message=quoting, details=quoting),
            ErrorCode(code=999999, http_status=400, message=quoting, details=f"{quoting} {NUMBER.app_secret}"),
            ErrorCode(code=131031, message=quoting),
            Bare5xx(status=500),
            HalfAnswer(),
            EmptyAnswer(accepted=False),
            ResetBeforeAccept(),
        ]
        await self.gateway.meta.script(NUMBER, *faults)
        for _ in faults:
            answer = await self.call("POST", "/send", message, prefer="wait=0")
            assert answer.status == 202, answer.raw
            await self.organization.settled(answer.json["id"], "failed", "unknown", "accepted")
            await eventually(
                lambda message_id=answer.json["id"]: self.organization.message(message_id),
                lambda message: message["state"] != "sending",
            )
        await self.gateway.meta.clear_faults(NUMBER)
        assert (await self.call("POST", "/send", message, idempotency_key=MARK)).status == 200
        assert (await self.call("POST", "/send", message | {"body": "x"}, idempotency_key=MARK)).status == 422
        for change in ({"to": TEXT}, {"to": f"+{PERSON}x"}, {TEXT: 1}, {"content": {"type": TEXT}}, {"body": [TEXT]}):
            assert (await self.call("POST", "/send", message | change)).status == 422
        for raw in (f'{{"to": "+{PERSON}", "body": "{TEXT}'.encode(), TEXT.encode(), b'"\xff"'):
            assert (await self.call("POST", "/send", raw=raw, content_type="application/json")).status == 422
        await self.call("GET", f"/messages/{TEXT}")
        await self.call("GET", f"/messages?conversation_id={TEXT}")
        await self.call("GET", f"/events?after={quote(TEXT)}")

    async def deliver(self) -> None:
        """To a CRM that answers with words of its own, and to a test."""
        self.crm.script(CrmStatus(status=400, body=TEXT))
        for _ in range(2):
            assert (await self.post(encode(self.inbound()))).status == 200
        await self.call("POST", "/callback/test")
        await self.crm.wait_received(3)

    async def configure_badly(self) -> None:
        """Configurations that are refused, with secrets in right and wrong places."""
        good = NUMBER.config_data("http://127.0.0.1:1")
        bad: list[Any] = [
            good,
            good | {"access_token": f"{NUMBER.access_token} x"},
            good | {"phone_number_id": NUMBER.access_token},
            good | {"base_url": f"https://{NUMBER.access_token}@x/"},
            good | {"base_url": f"https://10.0.0.1/{NUMBER.access_token}"},
            good | {"api_version": NUMBER.app_secret},
            {"access_token": NUMBER.access_token},
            good | {"base_url": self.gateway.meta.url_for(NUMBER), "access_token": f"{NUMBER.access_token}x"},
        ]
        for config_data in bad:
            body = {"provider_type": "meta_business", "config_data": config_data, "allow_second": True}
            answer = await self.call("POST", "/integrations/whatsapp/provider/configure", body)
            assert answer.status in (400, 502)
        body = {"provider_type": "meta_business", "config_data": [NUMBER.access_token]}
        assert (await self.call("POST", "/integrations/whatsapp/provider/configure", body)).status == 422
        for url in (f"http://u:{NUMBER.access_token}@x/", f"ftp://{NUMBER.access_token}"):
            assert (await self.call("PUT", "/callback", {"url": url})).status == 422
        for path in ("provider/current", "provider/configs", "provider/fallback", "providers", "audit?limit=200"):
            self.masked.append(await self.call("GET", f"/integrations/whatsapp/{path}"))
        self.masked += [await self.call("GET", path) for path in ("/keys", "/callback")]
        for key in (f"{self.organization.key}x", TEXT, ""):
            self.problems.append(await self.gateway.call("GET", "/events", key=key, x_org_id=TEXT))

    async def play(self) -> None:
        await self.open()
        await self.receive()
        await self.send()
        await self.deliver()
        await self.configure_badly()
        self.masked.append(await self.gateway.metrics())


def hits(canaries: list[str], data: "bytes | str") -> list[str]:
    """Those of *canaries* that are in *data*, in any spelling that a log or a JSON might give them."""
    text = data.decode("latin-1") if isinstance(data, bytes) else data
    return [one for one in canaries if one in text or one.encode().hex() in text or quote(one, safe="") in text]


def records(lines: bytes) -> list[Any]:
    """Each line as JSON, which each has to be."""
    parsed = [json.loads(line) for line in lines.splitlines()]
    for record in parsed:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", record["at"]), record
        assert record.get("event") or record.get("message") is not None, record
    return parsed


@pytest.fixture
async def crm() -> AsyncIterator[CrmSimulator]:
    """One of this module's own: it answers with canaries."""
    async with CrmSimulator() as simulator:
        yield simulator


# ---------------------------------------------------------------- the service as a process of its own


@pytest.fixture(scope="module")
async def database(settings: Settings) -> AsyncIterator[str]:
    """A database of its own: a process that takes work from others would have the log of others."""
    name = f"redaction_{MARK}"
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute(f"create database {name}")
    yield settings.database_url.replace("/postgres?", f"/{name}?")
    await connection.execute(f"drop database {name} with (force)")
    await connection.close()


async def test_the_log_of_a_process(
    settings: Settings, database: str, meta: MetaSimulator, crm: CrmSimulator, free_port: int, tmp_path: Path
) -> None:
    """At the lowest level, from its start to its end: JSON lines with a time, and nothing of anybody."""
    assert database != settings.database_url
    path, metrics_port = tmp_path / "log", unused_port()
    process = Process(
        {
            "DATABASE_URL": database,
            "REDIS_URL": settings.redis_url,
            "INGRESS_PORT": str(free_port),
            "INGRESS_METRICS_PORT": str(metrics_port),
            "INGRESS_PLATFORM_KEY": settings.platform_key,
            "INGRESS_ENCRYPTION_KEYS": settings.encryption_keys,
            "INGRESS_EGRESS_ALLOW": "127.0.0.0/8",
            "INGRESS_LOG_LEVEL": "debug",
        },
        path,
    )
    await process.start()
    try:
        async with aiohttp.ClientSession() as session:
            drama = Drama(Gateway(Served(free_port, metrics_port), settings.platform_key, session, meta), crm)
            await drama.play()
    finally:
        assert await process.stop() == 0
    answer = path.read_bytes()
    seen = {record.get("event") for record in records(answer)}
    assert {"webhook", "send_attempt", "delivery"} <= seen
    assert hits([*drama.secrets, *PERSONAL, *settings.encryption_keys.split(":")], answer) == []
    await check_answers(drama)
    await check_tables(drama, database, settings)


async def check_answers(drama: Drama) -> None:
    """Problems and shown configurations: no secret, and of a person only what a send's own answer quotes."""
    for answer in [*drama.problems, *drama.masked]:
        assert hits(drama.secrets, answer.raw) == [], answer.raw
        assert hits(drama.secrets, str(answer.headers)) == []
        if answer.status != 422:  # which names what its own caller has just said
            assert hits(PERSONAL, answer.raw) == [], answer.raw
    assert len(drama.problems) > 30
    for answer in drama.problems:
        if answer.headers["content-type"] == "application/problem+json" and answer.status != 404:
            assert answer.json["request_id"] == answer.headers["x-request-id"]


async def check_tables(drama: Drama, database: str, settings: Settings) -> None:
    """A dump of everything: no credential in any column, and in the trail no person either."""
    connection = await asyncpg.connect(database)
    try:
        names = await connection.fetch("select relname from pg_class where relkind = 'r' and relnamespace = 2200")
        for (table,) in names:
            for row in await connection.fetch(f"select * from {table}"):
                for value in row:
                    answer = value.decode("latin-1") if isinstance(value, bytes) else str(value)
                    assert hits(drama.secrets, answer) == [], (table, answer[:200])
                    if table in ("provider_audit_log", "api_keys", "callbacks", "whatsapp_provider_configs"):
                        assert hits(PERSONAL, answer) == [], (table, answer[:200])
        kept = await connection.fetchval("select count(*) from events where data::text like $1", f"%{TEXT}%")
        assert kept > 0, "the events are there, or nothing was proved"
    finally:
        await connection.close()
    async with redis.asyncio.Redis.from_url(settings.redis_url) as client:
        async for key in client.scan_iter(match=f"*{drama.organization.id}*"):
            assert hits([*drama.secrets, *PERSONAL], await client.get(key)) == []


# ---------------------------------------------------------------- inside, where things break


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Everything that would be written, at level debug."""
    written: list[bytes] = []
    monkeypatch.setattr(log, "_write", lambda data: written.append(bytes(data)))
    handler, root = log._JsonHandler(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield written
    root.removeHandler(handler)
    root.setLevel(level)


class Broken(Exception):
    """Carries what an exception might quote."""

    def __init__(self) -> None:
        super().__init__(f"{TEXT} {NAME} +{PERSON} {NUMBER.access_token} {NUMBER.app_secret}")


def broken(*_: Any, **__: Any) -> Any:
    raise Broken


async def broken_later(*_: Any, **__: Any) -> Any:
    raise Broken


async def test_exceptions_are_told_without_their_words(
    settings: Settings,
    meta: MetaSimulator,
    crm: CrmSimulator,
    lines: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A plug-in, a statement, the relay, a handler that breaks: where and what kind, never the text."""
    async with serving(settings) as url, aiohttp.ClientSession() as session:
        drama = Drama(Gateway(url, settings.platform_key, session, meta), crm)
        await drama.open()
        good = encode(drama.inbound())
        message = {"to": f"+{PERSON}", "body": TEXT, "lead_id": LEAD}
        with monkeypatch.context() as patch:
            patch.setattr(MetaBusiness, "parse", broken)
            assert (await drama.post(good)).status == 200
            [aside] = (await drama.call("GET", "/quarantine")).json["quarantine"]
            # Still broken: it stays where it is.
            answer = await drama.call("POST", f"/quarantine/{aside['id']}/replay")
            assert (answer.status, answer.json["code"]) == (409, "still_unreadable")
        with monkeypatch.context() as patch:
            patch.setattr(MetaBusiness, "send_message", broken)
            answer = await drama.call("POST", "/send", message, prefer="wait=1")
            assert answer.status == 504
            assert answer.json["error"]["code"] == "plugin_failed"
        for target, name, path in (
            (stored_messages, "by_id", f"/messages/{uuid4()}"),
            (audit, "trail", "/integrations/whatsapp/audit"),
            (inbound, "quarantined", "/quarantine"),
            (manager.WhatsAppProviderManager, "configs", "/integrations/whatsapp/provider/configs"),
            (messages, "shown", "/messages"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(target, name, broken_later if name != "shown" else broken)
                answer = await drama.call("GET", path)
                assert (answer.status, answer.json["code"]) == (500, "internal"), path
        with monkeypatch.context() as patch:
            patch.setattr(completion, "_keyed", broken)  # put aside, so that the provider does not come again
            assert (await drama.post(good)).status == 200
        with monkeypatch.context() as patch:
            patch.setattr(inbound, "_store", broken)
            assert (await drama.post(good)).status == 503
        with monkeypatch.context() as patch:
            patch.setattr(relay, "render", broken)
            before = len(lines)
            assert (await drama.post(good)).status == 200
            await eventually(lambda: any(b"a delivery broke off" in line for line in lines[before:]))
        # What the database says of a value quotes the value.
        assert (await drama.call("POST", "/keys", {"scopes": ["read"], "name": f"{TEXT}\x00"})).status == 422
        replay = {"sequences": [2**64]}
        assert (await drama.call("POST", "/callback/replay", replay)).status == 422
        drama.problems = [answer for answer in drama.problems if answer.status != 504]
        for answer in drama.problems:
            assert hits([*drama.secrets, *PERSONAL], answer.raw) == [], answer.raw
    log.flush()
    shown = b"".join(lines)
    assert sum(record.get("error") == "Broken" for record in records(shown)) >= 7
    assert any("trace" in record and "test_redaction.py" in record["trace"] for record in records(shown))
    assert hits([*drama.secrets, *PERSONAL], shown) == []


async def test_a_task_that_nobody_waits_for(lines: list[bytes]) -> None:
    """asyncio writes the repr of its exception into the message itself."""
    task: Any = asyncio.create_task(broken_later())
    await asyncio.wait([task])
    del task
    gc.collect()
    [record] = [record for record in records(b"".join(lines)) if record.get("logger") == "asyncio"]
    assert record["error"] == "Broken"
    assert record["message"] == "Task exception was never retrieved"
    assert hits([*PERSONAL, NUMBER.access_token], b"".join(lines)) == []


def test_a_log_line_cannot_be_steered(lines: list[bytes]) -> None:
    """One line whatever it says: line breaks, control and bidirectional characters are replaced, length is bounded."""
    hostile = 'a\r\n{"at":"forged"}\x00\x1b[31m\u202eevil\u2066\x85' + "x" * 5000
    logging.getLogger("ingress.test").warning("%s", hostile)
    logging.getLogger(f"odd\n{hostile}").error("x")
    log.wide("webhook", outcome=hostile)
    log.flush()
    answer = b"".join(lines)
    assert answer.count(b"\n") == 3
    assert len(records(answer)) == 3
    for character in ("\r", "\x00", "\x1b", "\u202e", "\u2066", "\x85"):
        assert character not in answer.decode()
    assert all(len(record.get("message", "")) <= 1024 for record in records(answer))


# ---------------------------------------------------------------- reprs


def structs() -> list[type]:
    """Every struct of the contract and of the service; simulators and the kit hold what was made up."""
    for package in (providers, ingress):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not re.search(r"\.dev\b|testing|__main__", module.name):
                importlib.import_module(module.name)

    def below(kind: type) -> Iterator[type]:
        for other in kind.__subclasses__():
            yield other
            yield from below(other)

    ours = {
        kind for kind in below(msgspec.Struct) if re.match(r"(providers|ingress)\b(?!\.(dev|testing))", kind.__module__)
    }
    return sorted(ours, key=lambda kind: (kind.__module__, kind.__qualname__))


# Fields that hold what a person wrote, who a person is, or a secret.
TELLING = set(
    re.findall(
        r"\w+",
        """access_token address app_secret app_secret_previous attachments base_url body buttons caption cards
        config_data contacts content data database_url description detail details emoji encryption_keys
        filename flow footer header headers help identity_hash idempotency_key items key lead_id lid name names
        new_phone new_user_id old_phone old_user_id only_card parent_user_id participant payload person phone
        platform_key pricing product raw redis_url referral request rows saved_addresses secret secrets
        sections session_info text title to token url user_id username validation_errors values verify_token""",
    )
)
# Structs whose fields of such a name hold something else.
HARMLESS = {
    "providers.description.ProviderInfo": "about the plug-in, public",
    "providers.description.ConfigField": "about a field, public",
    "providers.limits.Limits": "about a provider, public",
    "providers.base.Check": "the outcome of a connection test, shown to the organization; never logged",
    "providers.registry.RegistryEntry": "about the plug-in, public",
    "providers._verdicts.Verdict": "a class of error",
    "ingress.web.auth.Principal": "the name is the id of a key",
    "ingress.switching.routes._Active": "the name of a plug-in",
    "ingress.delivery.standard_webhooks.PostAnswer": "error is a status or the name of an exception",
    "ingress.retention.report.TableKept": "how many rows",
    "ingress.retention.retention.LetGo": "how many rows",
    "ingress.api.organizations.NewOrganization": "the organization's own name, which the platform gives",
    "ingress.api.organizations.NewKey": "the key's name, not the key",
    "ingress.doctor.examination.CheckResult": "the check's own name",
}


# Fields that a struct looks at when it is made.
CHECKED = {"phone_number": "+15005550199", "provider_message_id": "wamid.1"}


@pytest.mark.parametrize("kind", structs(), ids=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
def test_no_repr_tells(kind: Any) -> None:
    """Neither repr, str nor format: one of them ends up in a log sooner or later."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    if getattr(kind, "__abstractmethods__", None) or name in HARMLESS or kind.__module__ == "ingress.web.openapi":
        return
    values = {field: "canary" if field in TELLING else 7 for field in kind.__struct_fields__}
    made = kind(**values | {field: value for field, value in CHECKED.items() if field in values})
    assert "canary" not in f"{made!r} {made!s} {made}"


def test_exceptions_tell_no_more_than_their_code() -> None:
    """A repr of an error has no detail: providers quote the message in it."""
    for kind in (providers.Rejected, providers.Uncertain, providers.AccountBroken, providers.Throttled):
        assert TEXT not in repr(kind(TEXT, code="1", scope="message"))
    nobody = cast("providers.WhatsAppProvider", None)
    config = Config(UUID(int=2), UUID(int=1), "p", TEXT, "active", PERSON, nobody, TEXT, UUID(int=3))
    assert str(UUID(int=1)) in repr(config)
    assert TEXT not in repr(config)
