"""Setting up, testing and watching a Twilio account; media, and what became of lost answers."""

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest

from providers import (
    AccountBroken,
    Check,
    Event,
    Flow,
    Lookalikes,
    MessageData,
    MessageResult,
    Recipient,
    Rejected,
    Request,
    Response,
    SendError,
    Text,
    Throttled,
    Unavailable,
    Uncertain,
    Unsupported,
    config_fields,
)
from providers.content import Image, Interactive, OutboundContent, Template
from providers.twilio_whatsapp import TwilioWhatsApp

from ..flows import answered, drive, first, recorded
from .samples import ACCOUNT, ANY_OF_SERVICE, AUTH_TOKEN, SERVICE, URL, sample
from .samples import IN_SERVICE as WITH_SERVICE

ASKED_AT = datetime(2026, 9, 29, 10, 15, tzinfo=UTC)
SENDER = "XE91b7d3f50c2e4a6880a1b2c3d4e5f607"
SANDBOX = msgspec.structs.replace(ACCOUNT, phone_number="+14155238886")
WITH_KEY = msgspec.structs.replace(ACCOUNT, api_key_sid="SK" + "0" * 32, api_key_secret="s")


def answer_of(name: str) -> Response:
    answer = sample(name)["http_response"]
    return recorded({**answer, "body_text": answer.get("text")})


def check_request(request: Request, name: str) -> None:
    expected = sample(name)["http_request"]
    assert (request.method, request.url) == (expected["method"], expected["url"])
    for header, value in expected["headers"].items():
        assert request.headers[header.lower()] == value


def probe(content: OutboundContent | None = None, **recipient: str) -> MessageData:
    return MessageData(
        to=Recipient(**(recipient or {"phone": "+15005550100"})),
        content=content or Text(body="probe"),
        organization_id="o",
        correlation_id="gw1:abc:1",
        created_at=ASKED_AT,
    )


ACTIVE = answer_of("ops_connection_account_ok")
SENDERS = answer_of("ops_senders_list")
UPDATED = answer_of("ops_sender_set_webhook")
MEDIA_URL = sample("ops_media_download")["http_request"]["url"]
FLOWS: dict[str, Any] = {
    "validate_config": lambda: WITH_SERVICE.validate_config(),
    "get_status": lambda: ACCOUNT.get_status(),
    "receive_messages": lambda: ACCOUNT.receive_messages(URL),
    "disconnect": lambda: ACCOUNT.disconnect(),
    "media": lambda: ACCOUNT.media("MM1.ME1"),
    "mark_read": lambda: ACCOUNT.mark_read("SM1", Recipient(phone="+15005550100"), typing=True),
    "find_message": lambda: ACCOUNT.find_message(probe()),
    "send_message": lambda: ACCOUNT.send_message(probe()),
    "send_buttons": lambda: ACCOUNT.send_message(probe(BUTTONS)),
}
READS = sorted(set(FLOWS) - {"send_message"})
BUTTONS = msgspec.convert(
    {"type": "interactive", "body": "b", "action": {"type": "buttons", "buttons": [{"id": "1", "title": "t"}]}},
    Interactive,
)


# ---------------------------------------------------------------- every flow


@pytest.mark.parametrize("name", FLOWS)
def test_a_transport_error_passes_through(name: str) -> None:
    """No flow takes a dead line for bad credentials, or for anything."""
    flow: Flow[Any] = FLOWS[name]()
    first(flow)
    thrown = Unavailable("refused")
    with pytest.raises(Unavailable) as caught:
        flow.throw(thrown)
    assert caught.value is thrown


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize(
    ("answer", "error"),
    [(Response(status=502, body=b"<html>"), Unavailable), (answered({"code": 20429}, 429), Throttled)],
)
def test_an_answer_about_the_moment_is_not_about_the_account(
    name: str, answer: Response, error: type[SendError]
) -> None:
    """A provider that is down or throttled is reported as such, never as bad configuration."""
    with pytest.raises(error):
        drive(FLOWS[name](), [answer])


def test_nothing_has_to_be_prepared() -> None:
    """Setting up calls nobody."""
    assert drive(ACCOUNT.setup(), []) == (None, [])


@pytest.mark.parametrize("name", sorted(set(READS) - {"media"}))
def test_an_answer_that_is_no_json_is_none(name: str) -> None:
    """A page of somebody in between, for one."""
    with pytest.raises(Unavailable):
        drive(FLOWS[name](), [Response(status=200, body=b"<html>")])


# ---------------------------------------------------------------- webhooks


def test_the_address_is_set_for_the_sender() -> None:
    """As in the sample, but with one address for messages and statuses: we have one."""
    expected = sample("ops_sender_set_webhook")["http_request"]["json"]
    address = expected["webhook"]["callback_url"]
    _, (asked, set_) = drive(ACCOUNT.receive_messages(address), [SENDERS, UPDATED])
    check_request(asked, "ops_senders_list")
    check_request(set_, "ops_sender_set_webhook")
    expected["webhook"]["status_callback_url"] = address
    assert json.loads(set_.body) == expected


def test_the_address_asks_for_retries() -> None:
    """Without, Twilio forgets a webhook after one failed attempt. Instructions that are there stay."""
    assert ACCOUNT.callback_url(URL) == f"{URL}#rc=5&rp=all"
    assert ACCOUNT.callback_url(f"{URL}#rc=1") == f"{URL}#rc=1"
    _, (_, set_) = drive(ACCOUNT.receive_messages(URL), [SENDERS, UPDATED])
    assert json.loads(set_.body)["webhook"]["callback_url"] == f"{URL}#rc=5&rp=all"


def test_disconnecting_empties_the_addresses() -> None:
    """Of our sender, if it is there still."""
    _, (_, set_) = drive(ACCOUNT.disconnect(), [SENDERS, UPDATED])
    webhook = json.loads(set_.body)["webhook"]
    assert (webhook["callback_url"], webhook["status_callback_url"]) == ("", "")
    assert len(drive(ACCOUNT.disconnect(), [answered({"senders": []})])[1]) == 1
    assert drive(SANDBOX.disconnect(), []) == (None, [])


def test_a_service_that_picks_the_sender_takes_what_comes_in_for_it() -> None:
    """Its own address, in place of those of its senders."""
    url = f"https://messaging.twilio.com/v1/Services/{SERVICE}"
    for flow, address in (
        (ANY_OF_SERVICE.receive_messages(URL), f"{URL}#rc=5&rp=all"),
        (ANY_OF_SERVICE.disconnect(), ""),
    ):
        _, (asked,) = drive(flow, [answered({"sid": SERVICE})])
        assert (asked.method, asked.url) == ("POST", url)
        assert dict(parse_qsl(asked.body.decode(), keep_blank_values=True)) == {
            "InboundRequestUrl": address,
            "StatusCallback": address,
            "UseInboundWebhookOnNumber": "false",
        }


def test_a_service_that_picks_the_sender_owns_what_any_of_them_gets() -> None:
    """Of its account alone."""
    event = Event(type="message.received", key="k", sender="+15005550111", account_id=ACCOUNT.account_sid)
    assert ANY_OF_SERVICE.owns(event)
    assert not WITH_SERVICE.owns(event)
    assert not ANY_OF_SERVICE.owns(msgspec.structs.replace(event, account_id="AC" + "0" * 32))


def test_a_sender_that_is_not_there_cannot_receive() -> None:
    """And the sandbox can only be set up by people."""
    with pytest.raises(Rejected) as caught:
        drive(ACCOUNT.receive_messages(URL), [answered({"senders": []})])
    assert caught.value.code == "sender_missing"
    with pytest.raises(Unsupported) as caught:
        first(SANDBOX.receive_messages(URL))
    assert caught.value.code == "sandbox"


def test_all_pages_of_senders_are_looked_through() -> None:
    """Of the next page only the query is taken: its host might be another one."""
    elsewhere = "https://elsewhere.example/v2/Channels/Senders?Channel=whatsapp&PageToken=x"
    page = answered({"senders": [{"sender_id": "whatsapp:+1"}, None], "meta": {"next_page_url": elsewhere}})
    _, requests = drive(ACCOUNT.receive_messages(URL), [page, SENDERS, UPDATED])
    assert requests[1].url == "https://messaging.twilio.com/v2/Channels/Senders?Channel=whatsapp&PageToken=x"
    with pytest.raises(Rejected):
        drive(ACCOUNT.receive_messages(URL), [page] * 20)
    with pytest.raises(Rejected):
        drive(ACCOUNT.receive_messages(URL), [answered({"senders": [], "meta": {"next_page_url": "https://[/x"}})])


# ---------------------------------------------------------------- test connection


def checks(*answers: Response, account: TwilioWhatsApp = ACCOUNT) -> dict[str, Check]:
    found, _ = drive(account.validate_config(), answers)
    return {check.name: check for check in found}


def senders(**sender: Any) -> Response:
    return answered({"senders": [{"sid": SENDER, "sender_id": "whatsapp:+15005550199", **sender}]})


def test_a_good_account_passes_all_checks() -> None:
    """Two calls, as in the samples; nothing is changed and nobody messaged."""
    found, requests = drive(ACCOUNT.validate_config(), [ACTIVE, SENDERS])
    assert [(check.name, check.passed, check.detail) for check in found] == [
        ("account", True, "Acme"),
        ("sender", True, "Acme"),
        ("webhook", True, "messages go to old.example.com; statuses only of messages sent from here"),
    ]
    check_request(requests[0], "ops_connection_account_ok")
    check_request(requests[1], "ops_senders_list")


def test_bad_credentials_are_fatal() -> None:
    """The first check fails and nothing else is asked. Another region's token looks just the same."""
    found = checks(answered({"code": 20003, "message": "Authenticate"}, 401))
    assert list(found) == ["account"]
    assert (found["account"].passed, found["account"].fatal) == (False, True)
    assert "region" in (found["account"].fix or "")


@pytest.mark.parametrize("state", ["suspended", "closed", "new"])
def test_an_account_that_is_not_active_cannot_send(state: str) -> None:
    """Whatever Twilio calls it."""
    account = {**json.loads(answer_of("ops_connection_account_suspended").body), "status": state}
    found = checks(answered(account), SENDERS)["account"]
    assert (found.passed, found.fatal, found.detail) == (False, True, f"the account is {state}")
    assert found.fix


def test_a_trial_is_pointed_out() -> None:
    """It works, for some."""
    found = checks(answered({"status": "active", "type": "Trial"}), SENDERS)["account"]
    assert found.passed
    assert "trial" in (found.detail or "")


def test_a_number_that_is_no_sender_is_fatal() -> None:
    """The fix names the number."""
    found = checks(ACTIVE, answered({"senders": []}))
    assert list(found) == ["account", "sender"]
    assert (found["sender"].passed, found["sender"].fatal) == (False, True)
    assert "+15005550199" in (found["sender"].fix or "")


def test_a_sender_that_is_offline_says_why() -> None:
    """In Twilio's words where there are some; it may be back by the time of a send."""
    reasons = [{"code": 63020, "message": "Payment problem.", "more_info": "See Meta."}, None]
    found = checks(ACTIVE, senders(status="OFFLINE", offline_reasons=reasons))
    assert (found["sender"].passed, found["sender"].fatal) == (False, False)
    assert found["sender"].fix == "Payment problem. See Meta."
    assert checks(ACTIVE, senders(status="DRAFT"))["sender"].fix


@pytest.mark.parametrize(
    ("address", "host"), [("https://a.example/secret#rc=1", "a.example"), ("https://[/x", "an unknown host")]
)
def test_of_a_webhook_only_the_host_is_shown(address: str, host: str) -> None:
    """The rest of the address may be what keeps others from posting to it."""
    webhook = {"callback_url": address, "status_callback_url": address}
    found = checks(ACTIVE, senders(status="ONLINE", webhook=webhook))["webhook"]
    assert (found.passed, found.detail) == (True, f"messages go to {host}")


def test_another_address_is_reported_where_ours_is_known() -> None:
    """With its host alone, and the cure."""
    for address, passed in ((URL, True), ("https://old.example.com/secret", False)):
        webhook = {"callback_url": address, "status_callback_url": address}
        flow = ACCOUNT.validate_config(URL)
        found, _ = drive(flow, [ACTIVE, senders(status="ONLINE", webhook=webhook)])
        check = next(check for check in found if check.name == "webhook")
        assert (check.passed, check.fatal, bool(check.fix)) == (passed, False, not passed)
        assert "secret" not in (check.detail or "")


def test_a_missing_webhook_is_reported_with_its_cure() -> None:
    """Sending works without."""
    found = checks(ACTIVE, senders(status="ONLINE", webhook={"callback_url": None}))["webhook"]
    assert (found.passed, found.fatal) == (False, False)
    assert found.fix


def test_an_api_key_is_tested_on_its_own() -> None:
    """The Auth Token asks for the account, the key for all else: each is tested by what needs it."""
    _, requests = drive(WITH_KEY.validate_config(), [ACTIVE, SENDERS])
    check_request(requests[0], "ops_connection_account_ok")
    assert requests[0].headers["authorization"] != requests[1].headers["authorization"]
    found = checks(ACTIVE, answered({"code": 20003}, 401), account=WITH_KEY)["sender"]
    assert (found.passed, found.fatal) == (False, True)
    assert "API key" in (found.fix or "")


def test_no_access_to_senders_is_not_fatal() -> None:
    """A good token that may send but not read them."""
    found = checks(ACTIVE, answered({"code": 20003}, 403))["sender"]
    assert (found.passed, found.fatal) == (False, False)


def test_the_sandbox_is_taken_as_it_is() -> None:
    """Nothing about it can be asked."""
    found = checks(ACTIVE, account=SANDBOX)
    assert [(check.name, check.passed, check.fatal) for check in found.values()] == [
        ("account", True, True),
        ("sender", True, False),
        ("webhook", True, False),
    ]
    assert (found["webhook"].checkable, bool(found["webhook"].fix)) == (False, True)


@pytest.mark.parametrize(
    ("answer", "passed", "fatal"),
    [
        (answered({"sid": SERVICE, "use_inbound_webhook_on_number": True}), True, False),
        (answered({"sid": SERVICE, "inbound_request_url": "https://x"}), False, False),
        (answered({"code": 20404}, 404), False, True),
        (answered({"code": 20003}, 403), False, False),
    ],
)
def test_a_service_must_be_there_and_leave_inbound_alone(answer: Response, passed: bool, fatal: bool) -> None:
    """It decides where messages of its senders go."""
    found, requests = drive(WITH_SERVICE.validate_config(), [ACTIVE, SENDERS, answer])
    check = found[-1]
    assert (check.name, check.passed, check.fatal) == ("messaging_service", passed, fatal)
    assert passed or check.fix
    assert requests[2].url == f"https://messaging.twilio.com/v1/Services/{SERVICE}"


@pytest.mark.parametrize(
    ("service", "passed"),
    [
        ({"inbound_request_url": URL}, True),
        ({"inbound_request_url": "https://other.example/secret"}, False),
        ({"inbound_request_url": None}, False),
        ({"inbound_request_url": URL, "use_inbound_webhook_on_number": True}, False),
    ],
)
def test_a_service_that_picks_the_sender_must_take_what_comes_in(service: dict[str, Any], passed: bool) -> None:
    """At our address; no sender is asked for."""
    flow = ANY_OF_SERVICE.validate_config(URL)
    found, requests = drive(flow, [ACTIVE, answered({"sid": SERVICE, **service})])
    assert [check.name for check in found] == ["account", "webhook"]
    assert (found[1].passed, found[1].fatal, bool(found[1].fix)) == (passed, False, not passed)
    assert "secret" not in (found[1].detail or "")
    assert len(requests) == 2


def test_an_error_in_the_middle_passes_through() -> None:
    """A line that dies after the first answer is no finding about the account."""
    flow = ACCOUNT.validate_config()
    next(flow)
    flow.send(ACTIVE)
    with pytest.raises(Uncertain):
        flow.throw(Uncertain("reset"))


# ---------------------------------------------------------------- status


@pytest.mark.parametrize(
    ("answers", "quality", "reasons"),
    [
        ((ACTIVE, SENDERS), "excellent", None),
        ((ACTIVE, senders(status="ONLINE:UPDATING")), "excellent", None),
        ((ACTIVE, senders(status="ONLINE", properties={"quality_rating": "MEDIUM"})), "good", None),
        ((ACTIVE, senders(status="ONLINE", properties={"quality_rating": "LOW"})), "poor", None),
        ((ACTIVE, senders(status="OFFLINE")), "disconnected", ["sender_offline"]),
        ((ACTIVE, senders()), "disconnected", ["sender_unknown"]),
        ((ACTIVE, answered({"senders": []})), "disconnected", ["sender_missing"]),
        ((answer_of("ops_connection_account_suspended"), SENDERS), "disconnected", ["account_suspended"]),
    ],
)
def test_the_state_of_a_sender(answers: tuple[Response, ...], quality: str, reasons: list[str] | None) -> None:
    """Connected or not, how well, and why not."""
    status, _ = drive(ACCOUNT.get_status(), answers)
    assert status.connection_quality == quality
    assert status.is_connected == (reasons is None)
    assert status.session_info.get("reasons") == reasons
    assert status.session_info["sender"] == "+15005550199"
    troubles = {"sender_missing": "credentials", "account_suspended": "account_restricted"}
    assert status.trouble == (troubles.get(reasons[0], "session_lost") if reasons else None)


def test_what_a_sender_tells_is_shown() -> None:
    """Its name, its quality, its limit."""
    status, _ = drive(ACCOUNT.get_status(), [ACTIVE, SENDERS])
    del status.session_info["sender"]
    assert status.session_info == {
        "verified_name": "Acme",
        "quality": "HIGH",
        "messaging_limit": "10K Customers/24hr",
    }


def test_bad_credentials_are_a_state() -> None:
    """The account is down, and why. The sandbox has an account, too."""
    status, _ = drive(ACCOUNT.get_status(), [answered({"code": 20003, "message": "Authenticate"}, 401)])
    assert (status.is_connected, status.session_info, status.detail) == (
        False,
        {"error_code": "20003"},
        "Authenticate",
    )
    assert status.trouble == "credentials"
    assert drive(SANDBOX.get_status(), [ACTIVE])[0].is_connected


# ---------------------------------------------------------------- media


@pytest.mark.parametrize("media_id", [MEDIA_URL, ".".join(MEDIA_URL.split("/")[-3::2])])
def test_where_a_medium_is(media_id: str) -> None:
    """Behind a redirect to another host, which gets no credentials; asked for by id or by the url of a webhook."""
    result = sample("ops_media_download")["result"]["next_request"]
    medium, (asked,) = drive(ACCOUNT.media(media_id), [answer_of("ops_media_download")])
    check_request(asked, "ops_media_download")
    assert (medium.url, medium.headers) == (result["url"], result["headers"])


def test_a_deleted_medium_is_no_trouble_of_the_account() -> None:
    """Gone for good."""
    with pytest.raises(Rejected) as caught:
        drive(ACCOUNT.media(MEDIA_URL), [answer_of("ops_media_gone")])
    assert (caught.value.code, caught.value.scope) == ("20404", "media")


@pytest.mark.parametrize(("status", "error"), [(500, Unavailable), (401, AccountBroken), (304, AccountBroken)])
def test_a_medium_that_is_not_given(status: int, error: type[SendError]) -> None:
    """An address beside an error is none."""
    headers = {} if status == 304 else {"location": "https://cdn.example/x"}
    with pytest.raises(error):
        drive(ACCOUNT.media("MM1.ME1"), [Response(status=status, headers=headers)])


def test_a_medium_without_a_redirect_is_where_it_was_asked_for() -> None:
    """With credentials: it is Twilio's own host. So is a redirect to it."""
    answer = Response(status=200, headers={"content-type": "image/png"}, body=b"png")
    medium, (asked,) = drive(ACCOUNT.media("MM1.ME1"), [answer])
    assert (medium.url, medium.mime_type) == (asked.url, "image/png")
    assert medium.headers == {"authorization": asked.headers["authorization"]}
    assert AUTH_TOKEN not in repr(medium)
    medium, _ = drive(ACCOUNT.media("MM1.ME1"), [Response(status=307, headers={"location": "/x"})])
    assert (medium.url, "authorization" in medium.headers) == ("https://api.twilio.com/x", True)


@pytest.mark.parametrize("place", ["http://cdn.example/x", "file:///etc/passwd", "https://[/x"])
def test_a_medium_is_at_no_address_without_tls(place: str) -> None:
    """Nor at one that is none."""
    with pytest.raises(Rejected):
        drive(ACCOUNT.media("MM1.ME1"), [Response(status=302, headers={"location": place})])


@pytest.mark.parametrize("place", ["https://api.twilio.com.evil.example/x", "https://api.twilio.com:444/x"])
def test_credentials_go_to_no_other_host(place: str) -> None:
    """Whatever it looks like."""
    medium, _ = drive(ACCOUNT.media("MM1.ME1"), [Response(status=302, headers={"location": place})])
    assert (medium.url, medium.headers) == (place, {})


def test_a_medium_is_no_less_safe_than_the_api() -> None:
    """An address without TLS, as of a simulator, may lead to another one without; never to anything else."""
    local = msgspec.structs.replace(ACCOUNT, base_url="http://127.0.0.1:8001")
    place = "http://127.0.0.1:8002/x?Signature=y"
    medium, _ = drive(local.media("MM1.ME1"), [Response(status=307, headers={"location": place})])
    assert (medium.url, medium.headers) == (place, {})
    with pytest.raises(Rejected):
        drive(local.media("MM1.ME1"), [Response(status=307, headers={"location": "ftp://127.0.0.1/x"})])


@pytest.mark.parametrize(
    "media_id", ["", "MM1", "MM1.", "../x.ME1", "MM1.ME1/../x", "MM1.ME1\n", f"{MEDIA_URL}?x", f"{MEDIA_URL}\n"]
)
def test_what_is_no_medium_is_not_asked_for(media_id: str) -> None:
    """The id may come from a caller of ours; it is no path."""
    with pytest.raises(Rejected):
        first(ACCOUNT.media(media_id))


def test_a_url_of_a_webhook_sends_us_nowhere_else() -> None:
    """Of a url only the two SIDs count."""
    request = first(ACCOUNT.media("https://evil.example/Messages/MM1/Media/ME1"))
    assert request.url == f"https://api.twilio.com/2010-04-01/Accounts/{ACCOUNT.account_sid}/Messages/MM1/Media/ME1"


# ---------------------------------------------------------------- lost answers

LISTED = answer_of("ops_reconcile_list")


def listing(*messages: dict[str, Any]) -> Response:
    (known,) = json.loads(LISTED.body)["messages"]
    return answered({"messages": [{**known, **message} for message in messages]})


def found(answer: Response, message: MessageData | None = None) -> MessageResult | None:
    result, _ = drive(ACCOUNT.find_message(message or probe()), [answer])
    return result


def test_a_lost_message_is_found() -> None:
    """Asked for as in the sample, and recognised by its words and by its time."""
    result, (asked,) = drive(ACCOUNT.find_message(probe()), [LISTED])
    check_request(asked, "ops_reconcile_list")
    assert result is not None
    assert result.provider_message_id == sample("ops_reconcile_list")["result"]["provider_message_id"]


@pytest.mark.parametrize(
    "difference",
    [
        {"body": "probe!"},
        {"num_media": "1"},
        {"direction": "inbound"},
        {"to": "whatsapp:+15005550101"},
        {"sid": None},
        {"date_created": "Tue, 29 Sep 2026 10:13:59 +0000"},
        {"date_created": "yesterday"},
        {"date_created": None},
    ],
)
def test_another_message_is_not_taken_for_it(difference: dict[str, Any]) -> None:
    """Other words, other people, another time."""
    assert found(listing(difference)) is None


def test_what_cannot_be_recognised_is_not_guessed() -> None:
    """Two alike, none, a message of which nobody knows when it was asked for."""
    assert found(listing({}, {})) is None
    assert found(listing()) is None
    assert found(LISTED, msgspec.structs.replace(probe(), created_at=None)) is None
    assert found(answered({"messages": [None, 1], "x": 1})) is None


def test_several_alike_are_each_their_own() -> None:
    """None of ours that was answered; of several that are looked for each its own; nothing while one is under way."""
    newest_first = [{"sid": f"SM{number:032x}"} for number in (3, 2, 1)]
    sids = [each["sid"] for each in reversed(newest_first)]
    for number, sid in enumerate(sids):
        lost = msgspec.structs.replace(probe(), lookalikes=Lookalikes(before=number, after=2 - number))
        result = found(listing(*newest_first), lost)
        assert result is not None
        assert result.provider_message_id == sid
    known = Lookalikes(known_ids=frozenset(sids[1:]))
    result = found(listing(*newest_first), msgspec.structs.replace(probe(), lookalikes=known))
    assert result is not None
    assert result.provider_message_id == sids[0]
    assert found(listing(*newest_first[:2]), msgspec.structs.replace(probe(), lookalikes=known)) is None
    assert found(LISTED, msgspec.structs.replace(probe(), lookalikes=None)) is None


def test_a_clock_that_is_behind_and_a_late_question_do_not_matter() -> None:
    """A minute before it was asked for, or hours after."""
    for time in ("10:14:00", "23:59:59"):
        assert found(listing({"date_created": f"Tue, 29 Sep 2026 {time} +0000"})) is not None


def test_a_message_of_any_sender_of_a_service_is_found() -> None:
    """By whom it went to alone."""
    result, (asked,) = drive(ANY_OF_SERVICE.find_message(probe()), [LISTED])
    assert asked.url.endswith("/Messages.json?To=whatsapp%3A%2B15005550100&PageSize=50")
    assert result is not None


def test_a_lost_picture_is_found_by_its_caption() -> None:
    """Or by having none."""
    picture = Image(url="https://x/a.png")
    assert found(listing({"body": "", "num_media": "1"}), probe(picture)) is not None
    assert found(listing({"body": "c", "num_media": "1"}), probe(picture)) is None


def test_templates_and_questions_are_not_looked_for() -> None:
    """Their words are not in what we sent."""
    for content in (Template(name="HX1", language="en"), BUTTONS):
        assert drive(ACCOUNT.find_message(probe(content)), []) == (None, [])


# ---------------------------------------------------------------- configuration

CONFIG = {"account_sid": "AC" + "0" * 32, "auth_token": "t", "phone_number": "+55 11 99999-9999"}
REQUIRED = ("account_sid", "auth_token")


def configured(**fields: Any) -> TwilioWhatsApp:
    return msgspec.convert({**CONFIG, **fields}, TwilioWhatsApp)


def test_the_smallest_configuration() -> None:
    """Three fields; the rest has defaults."""
    account = configured()
    assert (account.sender, account.base_url) == ("+5511999999999", "https://api.twilio.com")


@pytest.mark.parametrize(
    "number", ["+5511999999999", "5511999999999", "+55 (11) 99999-9999", "55.11.99999.9999", " +55 11 9 9999 9999 "]
)
def test_numbers_are_written_for_people(number: str) -> None:
    """And are E.164 from then on, also after a change."""
    account = configured(phone_number=number)
    assert account.phone_number == "+5511999999999"
    assert msgspec.structs.replace(account, auth_token="u") == configured(auth_token="u")


@pytest.mark.parametrize("field", CONFIG)
def test_no_required_field_may_be_missing_or_empty(field: str) -> None:
    """The error names the field."""
    with pytest.raises(msgspec.ValidationError, match=field):
        configured(**{field: ""})
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert({name: value for name, value in CONFIG.items() if name != field}, TwilioWhatsApp)


def test_a_service_can_do_without_a_number() -> None:
    """It picks one; then there is no number that sends."""
    account = configured(phone_number=None, messaging_service_sid=SERVICE)
    assert account.sender is None
    assert drive(account.get_status(), [ACTIVE])[0].is_connected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("account_sid", "AC1"),
        ("account_sid", "AC" + "0" * 32 + "\n"),
        ("account_sid", "../" + "0" * 31),
        ("auth_token", "t t"),
        ("auth_token", "t\n"),
        ("phone_number", "999"),
        ("phone_number", "+55 11 9999x9999"),
        ("phone_number", "0055 11 99999 9999"),
        ("phone_number", "+" + "9" * 16),
        ("messaging_service_sid", "SM" + "0" * 32),
        ("api_key_sid", "AC" + "0" * 32),
        ("base_url", "ftp://x"),
        ("base_url", "https://x?y"),
        ("api_key_secret", "alone"),
        ("shared_key_id", "alone"),
    ],
)
def test_what_would_break_a_request_is_refused_in_the_configuration(field: str, value: str) -> None:
    """Line breaks in headers, other paths, other schemes, half a pair."""
    with pytest.raises(msgspec.ValidationError, match=field):
        configured(**{field: value})


def test_what_is_no_number_is_refused_by_hand_too() -> None:
    """Patterns are for configurations that are read; a value that is made is checked as well."""
    with pytest.raises(ValueError, match="phone_number"):
        TwilioWhatsApp(account_sid="AC", auth_token="t", phone_number="x")


def test_fields_describe_themselves() -> None:
    """Title, secret or not, placeholder and pattern, also of optional fields: forms are made of them."""
    fields = {field.name: field for field in config_fields(TwilioWhatsApp)}
    assert [name for name, field in fields.items() if field.required] == list(REQUIRED)
    assert fields["auth_token"].secret
    assert not fields["account_sid"].secret
    assert fields["phone_number"].placeholder == "+55 11 99999-9999"
    assert fields["messaging_service_sid"].pattern
    assert all(field.title[0].isupper() for field in fields.values())


def test_an_account_error_of_a_call_is_raised() -> None:
    """Outside a connection test, a bad token is an error of the flow."""
    with pytest.raises(AccountBroken):
        drive(ACCOUNT.receive_messages(URL), [answered({"code": 20003}, 401)])
