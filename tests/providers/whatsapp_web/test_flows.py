"""Setting up, testing, watching and linking a session of WAHA."""

import base64
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from providers import (
    AccountBroken,
    Check,
    Contact,
    Flow,
    Image,
    MessageData,
    Recipient,
    Rejected,
    Request,
    Response,
    Text,
    Throttled,
    Unavailable,
    Unsupported,
    config_fields,
)
from providers.content import OutboundContent, Reaction
from providers.whatsapp_web import WhatsAppWeb

from ..flows import answered, drive, first
from .samples import ACCOUNT, API_KEY, CALLBACK, HMAC_KEY, ROOT, answers_of, names, sample
from .test_outbound import recorded

# A call of no operation. An id that is asked for is known to nobody once the process dies that asked. Ours is made of
# the correlation id, which is stored before: it costs no call, and whoever gets it back knows what it is about.
UNASKED = {"ops_new_message_id"}

MISSING = answered({"message": "Session not found", "error": "Not Found", "statusCode": 404}, 404)
OK = answered({}, 201)
HEALTHY = answered({"status": "ok"})
NEWEST = answered({"version": "2026.7.1", "engine": "GOWS", "tier": "CORE"})
WORKING = recorded("ops_session_get_working")
SCAN = recorded("ops_session_get_qr")
ASKED = MessageData(to=Recipient(phone="+15005550100"), content=Text(body="x"), organization_id="o", correlation_id="c")

FLOWS: dict[str, Callable[[], Flow[Any]]] = {
    "setup": ACCOUNT.setup,
    "validate_config": ACCOUNT.validate_config,
    "get_status": ACCOUNT.get_status,
    "receive_messages": lambda: ACCOUNT.receive_messages(CALLBACK),
    "disconnect": ACCOUNT.disconnect,
    "pairing": ACCOUNT.pairing,
    "pairing_code": lambda: ACCOUNT.pairing_code("+15005550199"),
    "unpair": ACCOUNT.unpair,
    "mark_read": lambda: ACCOUNT.mark_read("false_1@c.us_A", Recipient(phone="+15005550100"), typing=True),
    "stop_typing": lambda: ACCOUNT.stop_typing(Recipient(phone="+15005550100")),
    "find_message": lambda: ACCOUNT.find_message(ASKED),
    "find_phone": lambda: ACCOUNT.find_phone("1@lid"),
    "find_contact": lambda: ACCOUNT.find_contact("+15005550100"),
}

BOTH = Contact(phone="+555491112222", lid="88@lid")


def session(**fields: Any) -> Response:
    """What the server says about a working session, with other fields."""
    return answered(sample("ops_session_get_working")["http_response"]["json"] | fields)


def config(*webhooks: Any, **more: Any) -> dict[str, Any]:
    return {"webhooks": list(webhooks), **more}


def asked_for(request: Request) -> tuple[str, str]:
    return request.method, request.url.removeprefix(ROOT)


def test_all_samples_are_used() -> None:
    """Each is named by one of these tests or of the sends, or is a call that nothing asks for."""
    used = {
        "ops_check_exists_brazil",
        "ops_check_exists_no",
        "ops_health_down",
        "ops_lid_found",
        "ops_lid_unknown",
        "ops_pairing_code",
        "ops_qr_json",
        "ops_qr_raw",
        "ops_session_create_exists",
        "ops_session_get_qr",
        "ops_session_get_working",
    }
    assert used | UNASKED == set(names("ops_*"))


@pytest.mark.parametrize("name", FLOWS)
def test_a_transport_error_passes_through(name: str) -> None:
    """No flow takes a dead line for a bad configuration, or for anything."""
    flow = FLOWS[name]()
    first(flow)
    thrown = Unavailable("refused")
    with pytest.raises(Unavailable) as caught:
        flow.throw(thrown)
    assert caught.value is thrown


@pytest.mark.parametrize("name", FLOWS)
def test_a_server_that_is_down_is_not_a_bad_configuration(name: str) -> None:
    """A provider that is down or throttled is reported as such."""
    for answer, error in ((Response(status=502, body=b"<html>"), Unavailable), (Response(status=429), Throttled)):
        answers = [answer, answer] if name == "find_message" else [answer]
        with pytest.raises(error):
            drive(FLOWS[name](), answers)


# ---------------------------------------------------------------- setup


def test_setup_creates_what_is_missing() -> None:
    """And starts it."""
    _, (asked, created) = drive(ACCOUNT.setup(), [MISSING, OK])
    assert asked_for(asked) == ("GET", "/api/sessions/acme")
    assert asked_for(created) == ("POST", "/api/sessions")
    noweb = {"markOnline": False, "store": {"enabled": True, "fullSync": False}}
    wanted = {"noweb": noweb, "webjs": {"tagsEventsOn": True}}
    assert json.loads(created.body) == {"name": "acme", "start": True, "config": wanted}


@pytest.mark.parametrize("name", ["plus_only_422", "other_session_422"])
def test_no_other_refusal_is_taken_for_a_session_that_is_there(name: str) -> None:
    """A 422 may say anything."""
    for flow in (ACCOUNT.setup(), ACCOUNT.receive_messages(CALLBACK)):
        with pytest.raises((Unsupported, AccountBroken)):
            drive(flow, [MISSING, *answers_of(name)])


@pytest.mark.parametrize("conflict", [recorded("ops_session_create_exists"), Response(status=409)])
def test_setup_does_not_mind_that_somebody_was_faster(conflict: Response) -> None:
    """Two processes may set up the same account."""
    drive(ACCOUNT.setup(), [MISSING, conflict])


@pytest.mark.parametrize(
    ("status", "step"),
    [("STOPPED", "start"), ("FAILED", "restart"), ("WORKING", None), ("SCAN_QR_CODE", None), ("STARTING", None)],
)
def test_setup_starts_what_does_not_run(status: str, step: str | None) -> None:
    """A session that runs is left alone."""
    answers = [session(status=status), OK][: 2 if step else 1]
    _, requests = drive(ACCOUNT.setup(), answers)
    assert [asked_for(request) for request in requests[1:]] == (
        [("POST", f"/api/sessions/acme/{step}")] if step else []
    )


def test_a_bad_key_is_an_error_of_the_flow() -> None:
    """Outside of a connection test."""
    with pytest.raises(AccountBroken):
        drive(ACCOUNT.setup(), [answered({"message": "Unauthorized"}, 401)])


# ---------------------------------------------------------------- the webhook


def written(*answers: Response, callback: str = CALLBACK) -> tuple[list[Request], Any]:
    """The requests, and the last one's body."""
    _, requests = drive(ACCOUNT.receive_messages(callback), answers)
    return requests, json.loads(requests[-1].body) if requests[-1].body else None


def test_the_webhook_is_written_into_the_session() -> None:
    """Address, events, key and repetitions; all else of the configuration stays, and so does what others wrote."""
    other = {"url": "https://other.example/hook", "events": ["message"], "hmac": None}
    held = config(other, debug=True, metadata={"a": "b"})
    requests, body = written(session(config=held, apps=[{"app": "calls"}]), OK)
    assert asked_for(requests[1]) == ("PUT", "/api/sessions/acme")
    kept, ours = body["config"].pop("webhooks")
    assert (kept, body) == (other, {"config": {"debug": True, "metadata": {"a": "b"}}, "apps": [{"app": "calls"}]})
    wanted = sample("ops_session_create_exists")["http_request"]["json"]["config"]["webhooks"][0]
    assert set(wanted.pop("events")) < set(ours.pop("events"))
    retries = ours.pop("retries")
    assert retries.keys() == wanted.pop("retries").keys()
    assert ours == {key: value for key, value in wanted.items() if value is not None}
    # An hour, and after an hour's outage the next one comes within minutes.
    assert retries["policy"] == "linear"
    pauses = [retries["delaySeconds"] * (number + 1) for number in range(retries["attempts"])]
    assert (sum(pauses) > 3_000, max(pauses) < 300) == (True, True)


def test_a_webhook_with_the_previous_key_is_replaced() -> None:
    """Wherever it goes: it is ours as well. What another key signs is not."""
    account = msgspec.structs.replace(ACCOUNT, hmac_key="renewed", hmac_key_previous=HMAC_KEY)
    elsewhere = "https://former.example/hook"
    held = [{"url": elsewhere, "events": ["*"], "hmac": {"key": key}} for key in (HMAC_KEY, "another")]
    _, requests = drive(account.receive_messages(CALLBACK), [session(config=config(*held)), OK])
    kept, ours = json.loads(requests[-1].body)["config"]["webhooks"]
    assert (kept, ours["url"], ours["hmac"]) == (held[1], CALLBACK, {"key": "renewed"})


def test_both_names_of_a_message_are_not_asked_for() -> None:
    """With `message` and `message.any` each one would come twice."""
    _, body = written(session(config={}), OK)
    events = body["config"]["webhooks"][0]["events"]
    assert "message.any" in events
    assert "message" not in events
    assert len(set(events)) == len(events)


def test_a_webhook_that_is_there_is_left_alone() -> None:
    """A session restarts when it is configured. The server adds fields of its own."""
    _, body = written(session(config={}), OK)
    held = body["config"]["webhooks"][0] | {"customHeaders": None}
    requests, _ = written(session(config=config(held)))
    assert len(requests) == 1


@pytest.mark.parametrize(
    "change", [{"url": "https://old.example/x"}, {"events": ["message"]}, {"hmac": {"key": "old"}}]
)
def test_an_older_webhook_of_ours_is_replaced(change: dict[str, Any]) -> None:
    """Known by our key, or by our address."""
    _, body = written(session(config={}), OK)
    ours = body["config"]["webhooks"][0]
    _, body = written(session(config=config(ours | change)), OK)
    assert body["config"]["webhooks"] == [ours]


def test_events_that_a_server_does_not_know_are_left_out() -> None:
    """One of them, and the server refuses the whole configuration; it says which it knows."""
    refused = msgspec.json.decode(answers_of("events_400")[0].body)
    refused["message"][0] = refused["message"][0].replace("message.ack.group, ", "")
    older = answered(refused, 400)
    _, body = written(session(config={}), older, session(config={}), OK)
    asked = body["config"]["webhooks"][0]["events"]
    assert ("message.ack.group" in asked, "message.edited" in asked) == (False, True)
    # It is there already, without them: nothing to restart for.
    requests, _ = written(
        session(config=body["config"] | {"webhooks": [{**body["config"]["webhooks"][0]}]}),
        older,
        session(config=body["config"]),
    )
    assert [request.method for request in requests] == ["GET", "PUT", "GET"]
    # Another refusal is one, and so is a second.
    for answers in ([session(config={}), answered({"message": "no"}, 400)], [session(config={}), older] * 2):
        with pytest.raises(Rejected):
            written(*answers)


def test_a_missing_session_is_created_without_the_events_that_are_not_known() -> None:
    requests, body = written(MISSING, *answers_of("events_400"), MISSING, OK)
    assert [asked_for(request)[0] for request in requests] == ["GET", "POST", "GET", "POST"]
    assert "message.ack.group" in body["config"]["webhooks"][0]["events"]


@pytest.mark.parametrize(
    ("engine", "config", "wanted"),
    [
        ("WEBJS", {"debug": True}, {"debug": True, "webjs": {"tagsEventsOn": True}}),
        ("WEBJS", {"webjs": {"tagsEventsOn": False, "a": 1}}, {"webjs": {"tagsEventsOn": True, "a": 1}}),
        ("NOWEB", None, {"noweb": {"store": {"enabled": True}}}),
        ("NOWEB", {"noweb": {"store": {"enabled": False, "fullSync": True}, "markOnline": False}},
         {"noweb": {"store": {"enabled": True, "fullSync": True}, "markOnline": False}}),
        ("GOWS", {"debug": True}, None),
        ("WPP", {"debug": True}, None),
        ("NOWEB", {"noweb": {"store": {"enabled": True}}}, None),
    ],
)  # fmt: skip
def test_what_a_session_lacks_is_found_and_switched_on_when_it_is_asked_for(
    engine: str, config: Any, wanted: Any
) -> None:
    """By whoever sets the webhook alone it is left as people have it."""
    _, body = written(session(config={}), OK)
    ours = body["config"]["webhooks"][0]
    held = session(engine={"engine": engine}, config={**(config or {}), "webhooks": [ours]})
    found = checks(held, HEALTHY)
    assert ("settings" in found) == (wanted is not None)
    requests, _ = written(held)
    assert len(requests) == 1
    after = session(config={"webhooks": [ours]})
    _, requests = drive(ACCOUNT.repair(CALLBACK), [held, OK, after] if wanted else [held, after])
    if wanted is not None:
        assert (found["settings"].passed, found["settings"].fatal) == (False, False)
        assert "provider/repair" in (found["settings"].fix or "")
        assert json.loads(requests[1].body)["config"] == {**wanted, "webhooks": [ours]}


def test_a_missing_session_is_created_with_its_webhook() -> None:
    """As in the sample."""
    requests, body = written(MISSING, OK)
    assert asked_for(requests[1]) == ("POST", "/api/sessions")
    expected = sample("ops_session_create_exists")["http_request"]
    assert requests[1].url == expected["url"]
    assert (body["name"], body["start"]) == (expected["json"]["name"], expected["json"]["start"])
    assert [entry["url"] for entry in body["config"]["webhooks"]] == [CALLBACK]


def test_a_session_that_appeared_meanwhile_is_configured() -> None:
    """A conflict means PUT."""
    requests, body = written(MISSING, recorded("ops_session_create_exists"), session(config={}), OK)
    assert requests[-1].method == "PUT"
    assert [entry["url"] for entry in body["config"]["webhooks"]] == [CALLBACK]


def test_disconnecting_stops_the_session_and_takes_the_webhook_out() -> None:
    """Others' stay, and so does the link to the phone."""
    _, body = written(session(config={}), OK)
    other = {"url": "https://other.example/hook"}
    held = session(config=config(other, body["config"]["webhooks"][0]))
    _, requests = drive(ACCOUNT.disconnect(), [held, OK, OK])
    assert [asked_for(request) for request in requests[1:]] == [
        ("POST", "/api/sessions/acme/stop"),
        ("PUT", "/api/sessions/acme"),
    ]
    assert json.loads(requests[-1].body)["config"]["webhooks"] == [other]


def test_disconnecting_what_is_not_there_is_done() -> None:
    """No session, or no webhook of ours."""
    drive(ACCOUNT.disconnect(), [MISSING])
    drive(ACCOUNT.disconnect(), [session(config={}), OK])


# ---------------------------------------------------------------- test connection


def checks(*answers: Response, account: WhatsAppWeb = ACCOUNT) -> dict[str, Check]:
    found, _ = drive(account.validate_config(), [*answers, NEWEST] if len(answers) > 1 else answers)
    return {check.name: check for check in found}


def test_a_good_session_passes() -> None:
    """With a webhook for all events; nothing is changed and nobody messaged."""
    _, body = written(session(config={}), OK)
    account = msgspec.structs.replace(ACCOUNT, phone_number="+15005550199")
    found, requests = drive(account.validate_config(), [session(config=body["config"]), HEALTHY, NEWEST])
    assert [check.name for check in found] == ["credentials", "server", "version", "session", "webhook", "number"]
    assert all(check.passed for check in found)
    assert (requests[0].method, requests[0].url) == ("GET", sample("ops_session_get_working")["http_request"]["url"])
    assert {request.method for request in requests} == {"GET"}


@pytest.mark.parametrize(("url", "passed"), [(CALLBACK, True), ("https://other.example/w", False)])
def test_the_address_of_webhooks_is_ours_or_not(url: str, passed: bool) -> None:
    """Where ours is known. Signed with our key and posted elsewhere is of no use."""
    _, body = written(session(config={}), OK)
    found, _ = drive(ACCOUNT.validate_config(url), [session(config=body["config"]), HEALTHY, NEWEST])
    check = next(check for check in found if check.name == "webhook")
    assert (check.passed, check.fatal, bool(check.fix)) == (passed, False, True)


def test_the_events_that_are_missing_are_named() -> None:
    """The webhook of the sample is an old one."""
    found = checks(WORKING, HEALTHY)
    assert (found["webhook"].passed, found["webhook"].fatal) == (False, False)
    assert "message.revoked" in (found["webhook"].detail or "")
    assert "message.ack," not in (found["webhook"].detail or "")


@pytest.mark.parametrize("status", [401, 403])
def test_a_bad_key_is_fatal(status: int) -> None:
    """The first check fails and nothing else is asked."""
    found = checks(answered({"message": "Unauthorized"}, status))
    assert list(found) == ["credentials"]
    assert (found["credentials"].passed, found["credentials"].fatal) == (False, True)


@pytest.mark.parametrize("body", [b"<html>", b'{"message":"Cannot GET /api/sessions/acme","statusCode":404}'])
def test_a_server_that_is_none_is_fatal(body: bytes) -> None:
    """Some other web server, which knows no sessions."""
    assert checks(Response(status=404, body=body))["credentials"].fatal


def test_a_session_that_waits_for_its_code_is_no_reason_to_refuse() -> None:
    """It is linked after it was saved."""
    found = checks(SCAN, HEALTHY)
    assert (found["session"].passed, found["session"].fatal) == (False, False)
    assert "QR" in (found["session"].fix or "")


@pytest.mark.parametrize(
    ("status", "fatal"),
    [("STOPPED", False), ("STARTING", False), ("FAILED", False), ("PASSKEY_REQUIRED", False), ("HIBERNATING", True)],
)
def test_what_setup_repairs_is_not_fatal(status: str, fatal: bool) -> None:
    """What nobody knows yet is."""
    found = checks(session(status=status), HEALTHY)["session"]
    assert (found.passed, found.fatal) == (False, fatal)


def test_a_session_that_is_missing_is_not_fatal() -> None:
    """Setup creates it."""
    found = checks(MISSING, HEALTHY)
    assert list(found) == ["credentials", "server", "version", "session"]
    assert (found["session"].passed, found["session"].fatal) == (False, False)


@pytest.mark.parametrize("webhook", [None, {"url": CALLBACK, "events": ["*"]}, {"hmac": {"key": "other"}}])
def test_a_webhook_that_is_not_signed_with_our_key_is_none(webhook: Any) -> None:
    """Its messages would be refused."""
    found = checks(session(config=config(webhook)), HEALTHY)["webhook"]
    assert not found.passed
    assert HMAC_KEY not in repr(msgspec.to_builtins(found))


def test_a_webhook_for_everything_is_enough() -> None:
    """As the server's own configuration may have it."""
    webhook = {"url": CALLBACK, "events": ["*"], "hmac": {"key": HMAC_KEY}}
    assert checks(session(config=config(webhook)), HEALTHY)["webhook"].passed


def test_another_phone_is_reported() -> None:
    """Somebody scanned with the wrong one."""
    account = msgspec.structs.replace(ACCOUNT, phone_number="+15005550198")
    found = checks(WORKING, HEALTHY, account=account)["number"]
    assert (found.passed, found.fatal) == (False, False)
    assert "+15005550199" in (found.detail or "")


def test_a_number_is_the_same_however_it_is_spelled() -> None:
    """Configured with Brazil's ninth digit, linked without."""
    account = msgspec.structs.replace(ACCOUNT, phone_number="+5554996634363")
    assert checks(session(me={"id": "555496634363@c.us"}), HEALTHY, account=account)["number"].passed


def test_a_server_without_space_is_reported() -> None:
    """Text still goes out. An old server has no such call."""
    found = checks(WORKING, recorded("ops_health_down"))["server"]
    assert (found.passed, found.fatal) == (False, False)
    assert checks(WORKING, Response(status=404))["server"].passed
    request = sample("ops_health_down")["http_request"]
    _, requests = drive(ACCOUNT.validate_config(), [WORKING, HEALTHY, NEWEST])
    assert requests[1].url == request["url"]


@pytest.mark.parametrize(
    ("version", "tier", "passed", "fatal", "words"),
    [
        ("2026.8.2", "CORE", True, False, "WAHA 2026.8.2"),
        ("2026.7.1", "CORE", True, False, "WAHA 2026.7.1 (no stickers)"),
        ("2026.6.1", "CORE", True, False, "WAHA 2026.6.1"),
        ("2026.12", "PLUS", True, False, "WAHA 2026.12"),
        ("2026.6.0", "CORE", False, False, "forgets the webhook"),
        ("2026.4.3", "PLUS", True, False, "WAHA 2026.4.3"),
        ("2026.4.2", "PLUS", False, False, "not found by its id"),
        ("2026.2.1", "CORE", False, False, "Plus only"),
        ("2025.12.2", "PLUS", False, False, "not found by its id"),
        ("2025.12.1", "PLUS", False, True, "too old"),
        ("2024.10.8", "CORE", False, True, "too old"),
    ],
)
def test_the_version_of_the_server(version: str, tier: str, passed: bool, fatal: bool, words: str) -> None:
    """What does not work is named; below 2025.12.2 that is too much."""
    flow = ACCOUNT.validate_config()
    found, requests = drive(flow, [WORKING, HEALTHY, answered({"version": version, "tier": tier, "engine": "NOWEB"})])
    check = next(check for check in found if check.name == "version")
    assert asked_for(requests[-1]) == ("GET", "/api/server/version")
    assert (check.passed, check.fatal, words in (check.detail or "")) == (passed, fatal, True)
    assert passed or "2026.6.1" in (check.fix or "")


@pytest.mark.parametrize(
    "answer",
    [
        Response(status=403),
        Response(status=404),
        Response(status=502),
        answered([]),
        answered({}),
        answered({"version": "x"}),
    ],
)
def test_a_version_that_is_not_known_is_nothing_wrong(answer: Response) -> None:
    """The key may not see it."""
    found, _ = drive(ACCOUNT.validate_config(), [WORKING, HEALTHY, answer])
    check = next(check for check in found if check.name == "version")
    assert (check.passed, check.checkable, check.fatal) == (True, False, False)
    assert drive(ACCOUNT.get_status(), [WORKING, answer])[0].trouble is None


def test_a_core_that_signs_nothing_is_no_source_of_webhooks() -> None:
    """Each of them is refused here, though all that can be asked of the session is as it should be."""
    for version, trouble in (("2024.11.5", "webhook_missing"), ("2024.11.6", None)):
        server = answered({"version": version, "tier": "CORE"})
        assert drive(ACCOUNT.get_status(), [WORKING, server])[0].trouble == trouble


def test_the_only_session_of_an_old_core_is_named() -> None:
    """The key is good; the name of the session is not."""
    [credentials, named] = drive(ACCOUNT.validate_config(), answers_of("other_session_422"))[0]
    assert (credentials.name, credentials.passed) == ("credentials", True)
    assert (named.name, named.passed, named.fatal, "default" in (named.fix or "")) == ("session", False, True, True)
    status, _ = drive(ACCOUNT.get_status(), answers_of("other_session_422"))
    assert (status.trouble, status.session_info) == ("session_lost", {"error_code": "only_default_session"})


def test_a_session_whose_server_forgot_everything() -> None:
    """As it was recorded: it is linked, it works, and nothing that people write arrives here."""
    status, _ = drive(ACCOUNT.get_status(), [*answers_of("session_working"), NEWEST])
    assert (status.is_connected, status.trouble, status.session_info["sender"]) == (
        True,
        "webhook_missing",
        "+15550001111",
    )
    requests, body = written(*answers_of("session_working"), OK)
    assert (requests[-1].method, [hook["url"] for hook in body["config"]["webhooks"]]) == ("PUT", [CALLBACK])


def test_a_punishment_is_reported() -> None:
    """Sending goes on, to those who wrote before."""
    me = {"id": "15005550199@c.us", "reachoutTimelock": {"isActive": True}}
    found = checks(session(me=me), HEALTHY)["restrictions"]
    assert (found.passed, found.fatal) == (False, False)


# ---------------------------------------------------------------- status


@pytest.mark.parametrize(
    ("fields", "connected", "quality"),
    [
        ({}, True, "excellent"),
        ({"status": "STARTING"}, False, "poor"),
        ({"status": "SCAN_QR_CODE"}, False, "disconnected"),
        ({"status": "FAILED"}, False, "disconnected"),
        ({"status": "STOPPED"}, False, "disconnected"),
        ({"status": "HIBERNATING"}, False, "disconnected"),
        ({"me": {"messageCapping": {"cappingStatus": "NONE"}}}, True, "excellent"),
        ({"me": {"messageCapping": {"cappingStatus": "FIRST_WARNING"}}}, True, "good"),
        ({"me": {"messageCapping": {"cappingStatus": "CAPPED"}}}, True, "poor"),
        ({"me": {"reachoutTimelock": {"isActive": True}}}, True, "poor"),
    ],
)
def test_how_an_account_is_doing(fields: dict[str, Any], connected: bool, quality: str) -> None:
    """By its state, and by what WhatsApp punishes."""
    status, _ = drive(ACCOUNT.get_status(), [session(**fields), NEWEST])
    assert (status.is_connected, status.connection_quality) == (connected, quality)
    assert (status.trouble is None) == (quality == "excellent")
    assert (status.detail is None) == connected


def test_what_is_known_of_the_account() -> None:
    """Number, name and engine, and when it was last active; no secret of its configuration."""
    status, _ = drive(ACCOUNT.get_status(), [WORKING, NEWEST])
    assert status.session_info == {
        "state": "working",
        "sender": "+15005550199",
        "name": "Acme 🧱",
        "engine": "GOWS",
        "version": "2026.7.1",
        "tier": "CORE",
    }
    assert status.last_activity is not None
    assert HMAC_KEY not in repr(msgspec.to_builtins(status))


def test_a_missing_session_and_a_bad_key_are_states() -> None:
    """The account is down, and why."""
    missing, _ = drive(ACCOUNT.get_status(), [MISSING])
    assert (missing.is_connected, missing.session_info) == (False, {"state": "missing"})
    assert missing.trouble == "session_lost"
    refused, _ = drive(ACCOUNT.get_status(), [answered({"message": "Unauthorized"}, 401)])
    assert (refused.is_connected, refused.session_info) == (False, {"error_code": "unauthorized"})
    assert refused.trouble == "credentials"


@pytest.mark.parametrize(
    ("fields", "trouble"),
    [
        ({"status": "SCAN_QR_CODE"}, "not_paired"),
        ({"status": "PASSKEY_REQUIRED"}, "not_paired"),
        ({"status": "FAILED"}, "session_lost"),
        ({"me": {"reachoutTimelock": {"isActive": True}}}, "account_restricted"),
        ({"config": None}, "webhook_missing"),
        (
            {"config": {"webhooks": [{"url": CALLBACK, "events": ["*"], "hmac": {"key": "somebody's"}}]}},
            "webhook_missing",
        ),
        ({"config": None, "status": "FAILED"}, "session_lost"),
    ],
)
def test_why_an_account_is_in_trouble(fields: dict[str, Any], trouble: str) -> None:
    """A phone that must be linked is another matter than a session that was lost."""
    assert drive(ACCOUNT.get_status(), [session(**fields), NEWEST])[0].trouble == trouble


def test_a_phone_is_unlinked() -> None:
    """Whether or not there is a session."""
    _, (asked,) = drive(ACCOUNT.unpair(), [answered({}, 201)])
    assert (asked.method, asked.url.rpartition("/api/")[2]) == ("POST", "sessions/acme/logout")
    drive(ACCOUNT.unpair(), [MISSING])
    with pytest.raises(AccountBroken):
        drive(ACCOUNT.unpair(), [answered({"message": "Unauthorized"}, 401)])


# ---------------------------------------------------------------- linking a phone


def test_the_code_as_text_and_as_a_picture() -> None:
    """Both, while the session waits for one."""
    answers = [SCAN, recorded("ops_qr_raw"), recorded("ops_qr_json")]
    pairing, requests = drive(ACCOUNT.pairing(), answers)
    for request, name in zip(requests[1:], ("ops_qr_raw", "ops_qr_json"), strict=True):
        expected = sample(name)["http_request"]
        assert (request.method, request.url) == (expected["method"], expected["url"])
        assert request.headers["accept"] == "application/json"
    assert (pairing.state, pairing.qr) == ("scan", sample("ops_qr_raw")["result"]["qr_text"])
    assert pairing.qr_png == base64.b64decode(sample("ops_qr_json")["result"]["qr_png_base64"])


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("STARTING", "starting"),
        ("WORKING", "linked"),
        ("FAILED", "failed"),
        ("STOPPED", "failed"),
        ("PASSKEY_REQUIRED", "scan"),
        ("HIBERNATING", "failed"),
    ],
)
def test_the_other_states_of_a_link(status: str, state: str) -> None:
    """There is no code to fetch, and except for a linked one a word on what to do."""
    pairing, _ = drive(ACCOUNT.pairing(), [session(status=status)])
    assert (pairing.state, pairing.qr, pairing.qr_png) == (state, None, None)
    assert (pairing.detail is None) == (status == "WORKING")


def test_a_session_that_is_missing_cannot_be_linked() -> None:
    """Until it is set up."""
    pairing, _ = drive(ACCOUNT.pairing(), [MISSING])
    assert pairing.state == "failed"


@pytest.mark.parametrize("status", ["WORKING", "STARTING", "FAILED"])
def test_a_code_that_was_just_scanned_is_asked_for_again(status: str) -> None:
    """Between the two calls the session went on."""
    gone = answered({"error": "Session status is not as expected", "status": status, "expected": ["SCAN_QR_CODE"]}, 422)
    pairing, _ = drive(ACCOUNT.pairing(), [SCAN, gone])
    assert pairing.state == "starting"
    pairing, _ = drive(ACCOUNT.pairing(), [SCAN, recorded("ops_qr_raw"), gone])
    assert pairing.state == "starting"


def test_a_code_that_may_not_be_seen_is_an_error() -> None:
    """A key that may read the session but not link it."""
    with pytest.raises(AccountBroken):
        drive(ACCOUNT.pairing(), [SCAN, answered({"message": "Forbidden resource"}, 403)])


def test_a_picture_that_is_none_is_left_out() -> None:
    """The text is enough to draw it."""
    pairing, _ = drive(ACCOUNT.pairing(), [SCAN, recorded("ops_qr_raw"), answered({"data": "no base64"})])
    assert (pairing.state, pairing.qr_png) == ("scan", None)
    assert pairing.qr


def test_a_code_for_the_phone() -> None:
    """Digits only."""
    expected = sample("ops_pairing_code")
    code, (asked,) = drive(ACCOUNT.pairing_code("+15005550199"), [recorded("ops_pairing_code")])
    assert (asked.method, asked.url) == (expected["http_request"]["method"], expected["http_request"]["url"])
    assert json.loads(asked.body) == expected["http_request"]["json"]
    assert code == expected["result"]["pairing_code"]


# ---------------------------------------------------------------- a message whose answer was lost

FOUND_ID = json.loads(first(ACCOUNT.send_message(ASKED)).body)["id"]


def test_a_message_is_found_by_its_id() -> None:
    """The id it was given, in the chat it went to."""
    held = answered({"id": f"true_15005550100@c.us_{FOUND_ID}", "timestamp": 1790676900, "ack": 1})
    result, (asked,) = drive(ACCOUNT.find_message(ASKED), [held])
    path = f"/api/acme/chats/15005550100%40c.us/messages/true_15005550100%40c.us_{FOUND_ID}"
    assert asked_for(asked) == ("GET", path)
    assert result is not None
    assert result.provider_message_id == FOUND_ID


@pytest.mark.parametrize("first_answer", [Response(status=404), Response(status=200), Response(status=500)])
def test_a_message_may_be_kept_under_the_hidden_number(first_answer: Response) -> None:
    """Among the last ones of the chat, by its bare id."""
    others = [{"id": "true_1@lid_3EB0OTHER"}, None, {"id": f"true_98765432101234@lid_{FOUND_ID}"}]
    result, (_, asked) = drive(ACCOUNT.find_message(ASKED), [first_answer, answered(others)])
    assert asked_for(asked) == (
        "GET",
        "/api/acme/chats/15005550100%40c.us/messages?limit=10&downloadMedia=false&filter.fromMe=true",
    )
    assert result is not None
    assert result.provider_message_id == FOUND_ID
    assert result.contact is not None
    assert result.contact.lid == "98765432101234@lid"


@pytest.mark.parametrize("listed", [[], [{"id": "true_15005550100@c.us_3EB0OTHER"}], {}, None])
def test_a_message_that_is_not_found_may_still_go_out(listed: Any) -> None:
    """So nothing is known about it, nor about one that looks like it."""
    result, _ = drive(ACCOUNT.find_message(ASKED), [Response(status=404), answered(listed)])
    assert result is None


@pytest.mark.parametrize("content", [Image(url="https://x/a.jpg"), Reaction(message_id="A", emoji="👍")])
def test_what_takes_no_id_cannot_be_found(content: OutboundContent) -> None:
    """Nothing is asked."""
    result, requests = drive(ACCOUNT.find_message(msgspec.structs.replace(ASKED, content=content)), [])
    assert (result, requests) == (None, [])


# ---------------------------------------------------------------- hidden numbers


@pytest.mark.parametrize("name", ["ops_lid_found", "ops_lid_unknown"])
@pytest.mark.parametrize("lid", ["98765432101234@lid", "98765432101234"])
def test_the_phone_behind_a_hidden_number(name: str, lid: str) -> None:
    """As in the samples; that the server does not know it is an answer."""
    phone, (asked,) = drive(ACCOUNT.find_phone(lid), [recorded(name)])
    expected = sample(name)["http_request"]
    assert (asked.method, asked.url) == (expected["method"], expected["url"])
    assert {header: asked.headers[header.lower()] for header in expected["headers"]} == expected["headers"]
    assert phone == sample(name)["result"]["phone"]


@pytest.mark.parametrize("answer", [[], None, {}, {"pn": 1}, {"pn": "98765432101234@lid"}, {"pn": "x@c.us"}])
def test_what_is_no_phone_is_none(answer: Any) -> None:
    """A hidden number is all digits, too."""
    assert drive(ACCOUNT.find_phone("98765432101234@lid"), [answered(answer)])[0] is None


@pytest.mark.parametrize("lid", ["", "Ana", "../sessions", "1@c.us"])
def test_what_is_no_hidden_number_is_not_asked_for(lid: str) -> None:
    with pytest.raises(Unsupported):
        first(ACCOUNT.find_phone(lid))


# ---------------------------------------------------------------- who has a number


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"numberExists": True, "chatId": "555491112222@c.us"}, Contact(phone="+555491112222")),
        ({"numberExists": True, "chatId": "88@lid", "pn": "555491112222@s.whatsapp.net"}, BOTH),
        ({"numberExists": True, "chatId": "88@lid"}, Contact(lid="88@lid")),
        ({"numberExists": True}, Contact(phone="+5554991112222")),
        ({"numberExists": False}, None),
    ],
)
def test_who_has_a_number(answer: Any, expected: Contact | None) -> None:
    found, (asked,) = drive(ACCOUNT.find_contact("+5554991112222"), [answered(answer)])
    assert asked_for(asked) == ("GET", "/api/contacts/check-exists?phone=5554991112222&session=acme")
    assert found == expected


@pytest.mark.parametrize("answer", [[], {}, {"numberExists": None}, {"numberExists": "yes"}])
def test_what_does_not_say_who_has_a_number(answer: Any) -> None:
    """It is not taken for a number that is not on WhatsApp."""
    with pytest.raises(Unavailable):
        drive(ACCOUNT.find_contact("+5554991112222"), [answered(answer)])


# ---------------------------------------------------------------- receipts


@pytest.mark.parametrize(
    ("read", "to", "body"),
    [
        (
            "false_15005550100@c.us_A",
            {"phone": "+15005550100"},
            {"chatId": "15005550100@c.us", "messageIds": ["false_15005550100@c.us_A"]},
        ),
        (
            "false_1@g.us_A_15005550100:3@s.whatsapp.net",
            {"group_id": "1@g.us"},
            {
                "chatId": "1@g.us",
                "messageIds": ["false_1@g.us_A_15005550100:3@s.whatsapp.net"],
                "participant": "15005550100@c.us",
            },
        ),
        ("A", {"lid": "1@lid"}, {"chatId": "1@lid"}),
    ],
)
def test_what_is_shown_as_read(read: str, to: dict[str, str], body: dict[str, Any]) -> None:
    """The message; in a group with its author; the chat, where the message is not one of theirs."""
    _, (asked,) = drive(ACCOUNT.mark_read(read, Recipient(**to)), [OK])
    assert asked_for(asked) == ("POST", "/api/sendSeen")
    assert json.loads(asked.body) == {"session": "acme", **body}


def test_typing_comes_after_reading() -> None:
    """As a person does it."""
    flow = ACCOUNT.mark_read("false_1@c.us_A", Recipient(phone="+15005550100"), typing=True)
    _, requests = drive(flow, [Response(status=201), answered({"result": True}, 201)])
    assert [asked_for(request) for request in requests] == [("POST", "/api/sendSeen"), ("POST", "/api/startTyping")]


# ---------------------------------------------------------------- media


def test_a_file_of_the_server_is_fetched_from_it() -> None:
    """Under the address of the configuration, with the key."""
    medium, requests = drive(ACCOUNT.media("http://localhost:3000/api/files/acme/a.jpeg?x=y"), [])
    assert requests == []
    assert medium.url == f"{ROOT}/api/files/acme/a.jpeg?x=y"
    assert medium.headers == {"x-api-key": API_KEY}


def test_a_file_in_a_storage_that_the_server_passes_on_needs_the_key() -> None:
    """S3, by way of the server: the bucket comes before the session."""
    medium, _ = drive(ACCOUNT.media("http://localhost:3000/api/s3/waha-media/acme/a.jpeg"), [])
    assert (medium.url, medium.headers) == (f"{ROOT}/api/s3/waha-media/acme/a.jpeg", {"x-api-key": API_KEY})


@pytest.mark.parametrize("path", ["/api/files/acme/a", "/waha/api/files/acme/a"])
def test_a_server_may_be_below_a_path(path: str) -> None:
    """Which it writes into its addresses, or does not."""
    account = msgspec.structs.replace(ACCOUNT, base_url="https://tools.example/waha/")
    medium, _ = drive(account.media(f"http://localhost:3000{path}"), [])
    assert medium.url == "https://tools.example/waha/api/files/acme/a"
    assert medium.headers == {"x-api-key": API_KEY}


@pytest.mark.parametrize(
    "address",
    [
        "https://s3.example.net/waha-media/a.jpeg?X-Amz-Signature=abc",
        f"{ROOT}/api/sessions/acme",
        "https://s3.example.net/files/acme/a",
    ],
)
def test_no_other_address_gets_the_key(address: str) -> None:
    """Nor any other path of the server."""
    medium, _ = drive(ACCOUNT.media(address), [])
    assert (medium.url, medium.headers) == (address, {})


@pytest.mark.parametrize(
    "address",
    [
        "",
        "a.jpeg",
        "file:///etc/passwd",
        "https://[x/a",
        "https://user:pass@localhost/api/files/acme/a",
        "http://localhost:3000/api/files/umbrella/a.jpeg",
        "http://localhost:3000/api/s3/acme/umbrella/a.jpeg",
        "http://localhost:3000/api/s3/acme",
        "http://localhost:3000/api/s3/bucket/acme/../umbrella/a",
        "http://localhost:3000/api/files/acme/../../sessions/acme",
        "http://localhost:3000/api/files/acme/%2e%2e/%2e%2e/sessions",
        "http://localhost:3000/api/files/acme/..\\..\\sessions",
        "http://localhost:3000/api/files/acme%2f..%2f..%2fsessions",
    ],
)
def test_an_address_is_not_trusted(address: str) -> None:
    """It may come from a caller: no file of another session, and no other call under our key."""
    with pytest.raises(Rejected) as caught:
        drive(ACCOUNT.media(address), [])
    assert caught.value.scope == "media"


# ---------------------------------------------------------------- configuration

CONFIG = {"base_url": ROOT, "api_key": "k", "hmac_key": "h"}


def test_the_smallest_configuration() -> None:
    """Three fields; the rest has defaults."""
    account = msgspec.convert(CONFIG, WhatsAppWeb)
    assert (account.session, account.sender) == ("default", None)


@pytest.mark.parametrize("field", CONFIG)
def test_no_required_field_may_be_missing_or_empty(field: str) -> None:
    """The error names the field. There is no account without a key that signs."""
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert({**CONFIG, field: ""}, WhatsAppWeb)
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert({name: value for name, value in CONFIG.items() if name != field}, WhatsAppWeb)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("base_url", "ftp://x"),
        ("base_url", "https://x?y"),
        ("base_url", "https://user:pass@x"),
        ("base_url", "https://x\n"),
        ("api_key", "k\n"),
        ("hmac_key", "h h"),
        ("session", ""),
        ("session", "../x"),
        ("session", "a\n"),
        ("phone_number", "15005550199"),
    ],
)
def test_what_would_break_a_request_is_refused_in_the_configuration(field: str, value: str) -> None:
    """Line breaks in headers, other paths, other schemes."""
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert({**CONFIG, field: value}, WhatsAppWeb)


def test_an_address_may_have_a_path_and_no_tls() -> None:
    """A server behind a proxy, or beside us."""
    account = msgspec.convert({**CONFIG, "base_url": "http://127.0.0.1:3000/waha/"}, WhatsAppWeb)
    assert first(account.get_status()).url == "http://127.0.0.1:3000/waha/api/sessions/default"


def test_fields_describe_themselves() -> None:
    """Title, secret or not, and the pattern: forms are made of them."""
    fields = {field.name: field for field in config_fields(WhatsAppWeb)}
    assert [name for name, field in fields.items() if field.secret] == ["api_key", "hmac_key", "hmac_key_previous"]
    assert not fields["phone_number"].required
    assert all(fields[name].pattern for name in fields)
    assert all(field.title[0].isupper() for field in fields.values())


def test_what_a_person_needs_to_choose_it() -> None:
    """Free, unofficial, and that it may cost the number."""
    info = WhatsAppWeb.info
    assert (info.pricing, info.stability, info.official) == ("free", "unstable", False)
    assert "whatsapp-web.js" in info.description
    assert "Baileys" in info.description
    assert "WPPConnect" in info.description
    assert "ban" in info.description
    assert info.pacing is not None
    assert info.pacing.messages_per_minute > 0
