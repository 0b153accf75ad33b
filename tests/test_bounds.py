"""How long things may be: what is asked for, what people write, what providers answer, what is kept at hand."""

import importlib
import pkgutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

import ingress
import providers
from ingress.calls import driver
from ingress.receiving import excess
from providers import (
    Contact,
    MessageData,
    MessageResult,
    ProviderStatus,
    Recipient,
    Registry,
    Response,
    SendError,
    Text,
    Throttled,
    Uncertain,
    WhatsAppProvider,
    _values,
)
from providers.content import MAX_ID
from providers.errors import MAX_DETAIL, MAX_RETRY_AFTER_S
from providers.testing.driving import run

from .gateway import BODIES, Gateway, Organization, eventually

# ---------------------------------------------------------------- what is asked for


def unbounded(kind: Any, path: str, seen: set[type]) -> Iterator[str]:
    """Paths of what is of *kind* that may be as long as a body is."""
    inspect = msgspec.inspect
    match kind:
        case inspect.Metadata():
            yield from unbounded(kind.type, path, seen)
        case inspect.StrType():
            if kind.max_length is None and kind.pattern is None:
                yield path
        case inspect.ListType():
            if kind.max_length is None:
                yield path
            yield from unbounded(kind.item_type, f"{path}[]", seen)
        case inspect.DictType():
            if kind.max_length is None:
                yield path
            yield from unbounded(kind.key_type, f"{path}{{}}", seen)
            if not isinstance(kind.value_type, inspect.AnyType):  # free-form: as many values as MAX_VALUES
                yield from unbounded(kind.value_type, f"{path}{{}}", seen)
        case inspect.UnionType():
            for one in kind.types:
                yield from unbounded(one, path, seen)
        case inspect.StructType():
            if kind.cls not in seen:
                seen.add(kind.cls)
                for field in kind.fields:
                    yield from unbounded(field.type, f"{kind.cls.__name__}.{field.encode_name}", seen)
        case _:
            shorts = (inspect.IntType, inspect.FloatType, inspect.BoolType, inspect.NoneType, inspect.LiteralType)
            assert isinstance(kind, (*shorts, inspect.UUIDType, inspect.DateTimeType)), (path, kind)


@pytest.mark.parametrize("operation", ["send", "start_pairing"])
def test_every_value_of_a_request_has_a_bound(operation: str) -> None:
    seen: set[type] = set()
    assert [*unbounded(msgspec.inspect.type_info(BODIES[operation]), operation, seen)] == []
    assert operation != "send" or len(seen) > 30


def test_a_value_without_a_bound_is_found() -> None:
    kind = msgspec.defstruct("Loose", [("a", str), ("b", list[int]), ("c", dict[str, Any]), ("d", int)])
    found = [*unbounded(msgspec.inspect.type_info(kind), "", set())]
    assert found == ["Loose.a", "Loose.b", "Loose.c", "Loose.c{}"]


TO = "+5511987654321"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"to": TO, "body": "x" * 65_537}, "body"),
        ({"to": TO, "content": {"type": "text", "body": "x" * 65_537}}, "content.body"),
        ({"to": {"user_id": "x" * 513}, "body": "x"}, "to.user_id"),
        ({"to": {"group_id": "x" * 100_000}, "body": "x"}, "to.group_id"),
        ({"to": {"lid": "x" * 513}, "body": "x"}, "to.lid"),
        ({"to": TO, "body": "x", "reply_to": "x" * 257}, "reply_to"),
        ({"to": TO, "body": "x", "lead_id": "x" * 257}, "lead_id"),
        (
            {"to": TO, "attachments": [{"url": "https://x.example/a", "filename": "x" * 4097}]},
            "attachments[0].filename",
        ),
        (
            {"to": TO, "attachments": [{"url": "https://x.example/a", "mime_type": "x" * 513}]},
            "attachments[0].mime_type",
        ),
        ({"to": TO, "content": {"type": "image", "id": "x" * 4097}}, "content.id"),
        ({"to": TO, "content": {"type": "image", "url": "x" * 4097}}, "content.url"),
        ({"to": TO, "content": {"type": "contacts", "contacts": [{}] * 301}}, "content.contacts"),
        ({"to": TO, "content": {"type": "contacts", "contacts": [{"x" * 513: 1}]}}, "content.contacts[0]"),
        ({"to": TO, "content": {"type": "reaction", "message_id": "x" * 513}}, "content.message_id"),
        ({"to": TO, "content": {"type": "contacts", "contacts": [{"a": [[]] * 30_000}]}}, ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_too_long_is_named(organization: Organization, body: Any, path: str) -> None:
    answer = await organization.send(body)
    assert (answer.status, answer.json["code"]) == (422, "invalid_request"), answer.raw[:300]
    assert [error["path"].removesuffix("[...]") for error in answer.json["errors"]] == [path]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"to": TO, "body": "a\0b"}, "body"),
        ({"to": TO, "body": "x", "lead_id": "\0"}, "lead_id"),
        ({"to": TO, "body": "x", "reply_to": "a\0"}, "reply_to"),
        ({"to": {"user_id": "BR.1\0"}, "body": "x"}, "to.user_id"),
        ({"to": {"group_id": "\0"}, "body": "x"}, "to.group_id"),
        ({"to": TO, "content": {"type": "text", "body": "\0"}}, "content.body"),
        ({"to": TO, "content": {"type": "location", "latitude": 1, "longitude": 1, "name": "\0"}}, "content.name"),
        ({"to": TO, "content": {"type": "contacts", "contacts": [{}, {"a": {"b": "\0"}}]}}, "content.contacts[1].a.b"),
        ({"to": TO, "content": {"type": "contacts", "contacts": [{"\0": 1}]}}, "content.contacts[0]"),
        ({"to": TO, "attachments": [{"url": "https://x.example/\0"}]}, "attachments[0].url"),
        ({"to": TO, "content": {"type": "template", "name": "\0", "language": "en"}}, "content.name"),
        (
            {"to": TO, "content": {"type": "interactive", "body": "x",
                                   "action": {"type": "buttons", "buttons": [{"id": "1", "title": "\0"}]}}},
            "content.action.buttons[0].title",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
async def test_a_character_that_cannot_be_stored_is_named(organization: Organization, body: Any, path: str) -> None:
    """U+0000, in every field that is kept; nothing was accepted, and the key is free."""
    answer = await organization.send(body, idempotency_key="nul")
    assert (answer.status, answer.json["code"]) == (422, "invalid_request")
    assert [error["path"] for error in answer.json["errors"]] == [path]
    assert (await organization.send(idempotency_key="nul")).status == 200


async def test_what_only_looks_like_such_a_character_is_sent(organization: Organization) -> None:
    r"""A backslash and u0000, which JSON writes as \\u0000."""
    assert (await organization.send({"to": TO, "body": r"C:\u0000"})).status == 200


async def test_the_longest_text_goes_to_the_provider(organization: Organization) -> None:
    """Which then decides: what it takes is its own business."""
    answer = await organization.send({"to": TO, "body": "é" * 65_536})
    assert (answer.status, answer.json["error"]["code"]) == (422, "text_too_long")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("DELETE", "/keys/{}", 404),
        ("GET", "/keys?after={}", 422),
        ("GET", "/messages/{}", 404),
        ("GET", "/messages?before={}", 422),
        ("GET", "/messages?conversation_id={}", 422),
        ("POST", "/messages/{}/read", 404),
        ("GET", "/media/{}", 404),
        ("DELETE", "/media?id={}", 422),
        ("DELETE", "/media?id=1&config_id={}", 404),
        ("GET", "/events?after={}", 422),
        ("GET", "/quarantine/{}", 404),
        ("GET", "/quarantine?after={}", 422),
        ("GET", "/integrations/whatsapp/templates?after={}", 422),
        ("DELETE", "/integrations/whatsapp/provider/configs/{}", 404),
    ],
)
@pytest.mark.parametrize("text", ["x" * 30_000, "%00", "1" * 30_000], ids=["long", "nul", "digits"])
async def test_a_path_or_query_of_any_length_names_nothing(
    organization: Organization, method: str, path: str, status: int, text: str
) -> None:
    answer = await organization.call(method, path.format(text))
    # The provider may have a medium or a page of such a name: then it is asked, and has none.
    assert answer.status == status or (
        text == "%00" and "media?id" in path + "templates" and answer.status in (404, 422)
    )
    assert answer.status < 500


async def test_a_header_of_any_length_names_nothing(organization: Organization) -> None:
    assert (await organization.send(idempotency_key="x" * 256)).status == 400
    assert (await organization.call("GET", "/events", x_org_id="x" * 6_000)).status == 404


# ---------------------------------------------------------------- what people write


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("messages", 0, "text", "body"), "x" * 300_000),
        (("messages", 0, "text", "body"), "\U0001f600" * 80_000),
        (("messages", 0, "referral"), {"headline": "x" * 300_000}),
    ],
    ids=["text", "wide text", "referral"],
)
async def test_more_than_anybody_writes_is_an_event_without_it(
    organization: Organization, gateway: Gateway, place: tuple[Any, ...], value: Any
) -> None:
    """Its raw item has all that it said; who wrote it, where and when is known; what came with it is as ever."""
    inbound = gateway.meta.inbound(organization.numbers[0])
    body = inbound.text("small", phone="+5511900000001")
    content = body["entry"][0]["changes"][0]["value"]
    for part in place[:-1]:
        content = content[part]
    content[place[-1]] = value
    assert (await organization.post_webhook(body)).status == 200
    assert (await organization.post_webhook(inbound.text("after", phone="+5511900000001"))).status == 200

    async def of_people() -> list[Any]:
        return [one for one in await organization.events(raw=True) if "conversation" in one["data"]]

    [event, after] = await eventually(of_people, lambda found: len(found) == 2)  # large ones are read soon
    assert event["type"] == "message.unknown"
    assert event["data"]["message"]["content"] == {"type": "unknown", "raw_type": "too_large"}
    assert event["data"]["message"]["provider_message_id"]
    assert event["data"]["conversation"]["id"] == after["data"]["conversation"]["id"]
    assert event["data"]["conversation"]["contact"]["phone"] == "+5511900000001"
    assert len(msgspec.json.encode(event["data"] | {"raw": None})) < 2_000
    item = body["entry"][0]["changes"][0]["value"]["messages"][0]
    assert event["data"]["raw"] == item
    assert after["type"] == "message.received"


async def test_the_longest_text_of_an_app_is_read(organization: Organization, gateway: Gateway) -> None:
    """65,536 characters, as UTF-16 counts them."""
    longest = "愛" * 65_536
    assert (await organization.post_webhook(gateway.meta.inbound(organization.numbers[0]).text(longest))).status == 200
    [event] = await eventually(lambda: organization.events(kind="message.received"))
    assert event["data"]["message"]["content"]["body"] == longest


async def test_a_status_with_too_many_words_still_counts(organization: Organization, gateway: Gateway) -> None:
    answer = await organization.send()
    await organization.settled(answer.json["id"], "sent", "delivered", "read")
    number = organization.numbers[0]
    error = {"code": 131026, "title": "x" * 200_000, "error_data": {"details": "y" * 200_000}}
    status = {
        "id": answer.json["provider_message_id"],
        "status": "failed",
        "timestamp": str(int(time.time())),
        "recipient_id": "5511987654321",
        "errors": [error],
    }
    metadata = {"display_phone_number": "15550001111", "phone_number_id": number.phone_number_id}
    value = {"messaging_product": "whatsapp", "metadata": metadata, "statuses": [status]}
    body = {
        "object": "whatsapp_business_account",
        "entry": [{"id": number.waba_id, "changes": [{"field": "messages", "value": value}]}],
    }
    assert (await organization.post_webhook(body)).status == 200

    async def failed() -> list[Any]:
        return [one for one in await organization.events() if one["data"].get("status", {}).get("value") == "failed"]

    events = await eventually(failed)
    assert [event["data"]["status"]["error"]["code"] for event in events] == ["131026"]
    assert len(msgspec.json.encode(events)) < 5_000
    record = await organization.message(answer.json["id"])
    assert len(msgspec.json.encode(record)) < 5_000


def test_ids_that_are_too_long_stay_apart() -> None:
    """A digest stands for each, so that two people are not taken for one."""
    events = [
        providers.Event(
            type="message.received",
            key="k",
            contact=Contact(user_id=letter * 600, name=letter * 300_000),
            message=providers.Message(provider_message_id=letter * 600, content=Text(body="x")),
        )
        for letter in "ab"
    ]
    one, other = map(excess.without_excess, events)
    for event in (one, other):
        assert event.contact
        assert event.message
        assert 0 < len(event.contact.user_id or "") <= MAX_ID
        assert 0 < len(event.message.provider_message_id or "") <= MAX_ID
    assert one.contact != other.contact


# ---------------------------------------------------------------- what providers answer

ACCOUNTS: dict[str, dict[str, Any]] = {
    "meta_business": {
        "access_token": "EAAG-example",
        "phone_number_id": "109876543210987",
        "waba_id": "210987654321098",
        "app_secret": "0123456789abcdef0123456789abcdef",
        "verify_token": "my-verify-token",
    },
    "twilio_whatsapp": {
        "account_sid": "AC" + "0" * 32,
        "auth_token": "0" * 32,
        "phone_number": "+14155238886",
    },
    "whatsapp_web": {
        "base_url": "https://waha.example.com",
        "api_key": "0123456789abcdef",
        "session": "default",
        "hmac_key": "0123456789abcdef0123456789abcdef",
    },
}
HOSTILE = "9" * 4_000
MESSAGE = MessageData(to=Recipient(phone=TO), content=Text(body="x"), organization_id="o", correlation_id="send-1")


def account(name: str) -> WhatsAppProvider:
    return msgspec.convert(ACCOUNTS[name], Registry().get(name))


def answer_of(status: int, body: Any, **headers: str) -> Response:
    return Response(status=status, headers=headers, body=msgspec.json.encode(body))


@pytest.mark.parametrize("name", ACCOUNTS)
@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
def test_the_words_of_an_error_are_bounded(name: str, status: int) -> None:
    """Code, detail and wait, whatever the answer says, for they go into tables, logs and answers."""
    words = "\0\u2028" + HOSTILE * 50
    error = {"code": HOSTILE, "message": words, "title": words, "fbtrace_id": words, "error_data": {"details": words}}
    body = {"error": error, **error, "exception": {"message": words}, "status": words, "expected": [words]}
    headers = {
        "retry-after": "9" * 400,
        "twilio-request-id": words,
        "x-business-use-case-usage": '{"1":[{"estimated_time_to_regain_access":1e308}]}',
    }
    for operation in (lambda: account(name).send_message(MESSAGE), lambda: account(name).media("1")):
        end = run(operation, [Response(status=status, headers=headers, body=msgspec.json.encode(body))] * 4).end
        if isinstance(end, SendError):
            assert end.code is None or 0 < len(end.code) <= 64
            assert len(end.detail) <= MAX_DETAIL
            assert "\0" not in end.detail
            assert end.retry_after_s is None or 0 <= end.retry_after_s <= MAX_RETRY_AFTER_S


@pytest.mark.parametrize(("given", "kept"), [(-1.0, True), (float("inf"), True), (float("nan"), True), (5.0, False)])
def test_a_wait_is_a_time(given: float, kept: bool) -> None:
    assert Throttled(retry_after_s=given).retry_after_s == (MAX_RETRY_AFTER_S if kept else given)


@pytest.mark.parametrize("code", ["", "a" * 65, "new\nline", "\0", "über", "a b", '"'])
def test_a_code_is_a_word(code: str) -> None:
    assert SendError(code=code).code == "unreadable"


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("meta_business", lambda identity: {"messages": [{"id": identity}]}),
        ("twilio_whatsapp", lambda identity: {"sid": identity, "status": "queued"}),
        ("whatsapp_web", lambda identity: {"id": identity}),
    ],
)
def test_an_id_that_cannot_be_kept_leaves_a_send_uncertain(name: str, body: Callable[[str], Any]) -> None:
    """The message may be out; one that is as long as any real one is kept."""
    start = lambda: account(name).send_message(MESSAGE)  # noqa: E731  (made anew for each body)
    for length in (MAX_ID + 1, 900_000):
        end = run(start, [answer_of(200, body("x" * length))] * 4).end
        assert isinstance(end, Uncertain)
        assert end.code in ("unexpected_answer", "http_200")
    end = run(start, [answer_of(200, body("x" * 100))] * 4).end
    assert isinstance(end, MessageResult)


def test_the_status_of_an_account_is_short() -> None:
    """What a provider says of it is kept and shown: nothing long, and never its number lost for that."""
    info = {"sender": TO, "reasons": ["x" * 500] * 1_000, "name": "x" * 900_000}
    status = ProviderStatus(is_connected=True, connection_quality="good", session_info=info, detail=HOSTILE)
    assert status.session_info == {"sender": TO}
    assert status.detail == HOSTILE[:MAX_DETAIL]
    many = {f"fact{number}": number for number in range(5_000)}
    assert ProviderStatus(is_connected=True, connection_quality="good", session_info=many).session_info == {}
    usual = {"sender": TO, "reasons": ["x" * 500] * 10}
    assert ProviderStatus(is_connected=True, connection_quality="good", session_info=usual).session_info == usual


def test_an_address_that_is_too_long_is_none() -> None:
    """Of a medium, in an answer: it is refused before anything takes it apart, and keeps it."""
    url = f"https://lookaside.fbsbx.com/{'x' * 5_000}"
    end = run(lambda: account("meta_business").media("1"), [answer_of(200, {"url": url, "id": "1"})]).end
    assert isinstance(end, SendError)
    assert end.code == "media_host"


# ---------------------------------------------------------------- what is kept at hand

# Every cache of the service and the providers, with what bounds its keys.
CACHES = {
    "ingress.api.routes._description": "one document",
    "ingress.calls.driver._timeout": "tenths of a second up to a call's time",
    "ingress.calls.driver._url": "addresses of LONGEST_KEPT_URL characters at most",
    "ingress.console.languages.catalogue": "LANGUAGES",
    "ingress.console.rendering._files": "one table",
    "ingress.console.rendering._packed": "the files of that table",
    "ingress.console.rendering._templates": "one environment",
    "ingress.console.rendering._version": "one text",
    "ingress.identifiers._keyed": "ids of organizations",
    "ingress.receiving.answers.acknowledgement": "providers",
    "ingress.receiving.ingestion._known_target": "addresses of LONGEST_KEPT_TARGET characters at most",
    "ingress.receiving.normalise._dropped": "64 of names of headers, which have 64 KiB at most",
    "ingress.metrics.child": "labels, from closed sets",
    "ingress.storage.redis_state._digest": "scripts",
    "ingress.storage.statements.audit._by": "statements by sets of their columns",
    "ingress.storage.statements.receiving.inbound._store": "seven booleans",
    "providers.cloud_api.limits.pacing": "a number of a configuration",
    "providers._values._phone": "texts of _LONGEST_PHONE characters at most",
    "providers.twilio_whatsapp.provider._pacing": "a number of a configuration",
}


def test_every_cache_is_known() -> None:
    """A new one is added with what bounds its keys: strangers choose what is in a webhook.

    Beside them `urlsplit` and yarl keep some hundred addresses each: those that they are given are bounded.
    """
    names = [
        module.name
        for package in (ingress, providers)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not any(part in module.name for part in (".testing", ".dev", "__main__"))
    ]
    found = {
        f"{name}.{attribute}"
        for name in names
        for attribute, value in vars(importlib.import_module(name)).items()
        if hasattr(value, "cache_info") and value.__module__ not in {"urllib.parse", *names} - {name}
    }
    assert found == set(CACHES)


def test_nothing_long_is_kept_of_a_webhook() -> None:
    _values._phone.cache_clear()
    for length in (41, 1_000, 3_000_000):
        assert _values.phone("9" * length) is None
        assert _values.phone("+55 11" + " " * length) is None
    assert _values._phone.cache_info().currsize == 0
    assert _values.phone("+55 (11) 98765-4321") == TO


async def test_nothing_long_is_kept_of_an_address(organization: Organization) -> None:
    before = driver._url.cache_info().misses
    await organization.send()
    known = driver._url.cache_info().misses
    assert known > before
    for number in range(3):
        assert (await organization.call("DELETE", f"/media?id={str(number) * 250}")).status < 500
    assert driver._url.cache_info().misses == known + 3
    assert sys.getsizeof("x" * driver.LONGEST_KEPT_URL) < 1_000
