"""Sends to Twilio beyond what its samples show: those are in test_kit.py."""

import json
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest

from providers import (
    Flow,
    MessageData,
    OutboundContent,
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
    errors,
)
from providers.twilio_whatsapp import TwilioWhatsApp

from ..flows import answered, drive, first, recorded
from .envelopes import message_data
from .samples import ACCOUNT, ANY_OF_SERVICE, IN_SERVICE, SERVICE, URL, account_of, names, sample

MADE = [name for name in names("send_*") if sample(name)["envelope"]["type"] in ("interactive", "content_create")]


NO_CONTENT = answered({"contents": [], "meta": {"key": "contents"}})
MADE_CONTENT = recorded(sample("send_content_create_quick_reply")["http_response"])


def flow_of(name: str) -> Flow[Any]:
    envelope = sample(name)["envelope"]
    if envelope["type"] == "typing":
        return ACCOUNT.mark_read(envelope["target_id"], Recipient(phone=envelope["to"]), typing=True)
    if sample(name)["http_request"] is None:
        return ACCOUNT.send_message(message_data(envelope))
    return account_of(name).send_message(message_data(envelope))


def message(content: OutboundContent | dict[str, Any], **recipient: str) -> MessageData:
    return MessageData(
        to=Recipient(**(recipient or {"phone": "+5511987654321"})),
        content=msgspec.convert(content, OutboundContent) if isinstance(content, dict) else content,
        organization_id="o",
        correlation_id="gw1:abc:1",
    )


TEXT = message(Text(body="x"))


def fields(request: Request) -> dict[str, Any]:
    """The decoded form, its JSON as a value."""
    form = dict(parse_qsl(request.body.decode(), keep_blank_values=True, strict_parsing=True))
    return {**form, "ContentVariables": json.loads(form.get("ContentVariables", "null"))}


def _check_request(request: Request, expected: dict[str, Any], beyond: set[str]) -> None:
    assert (request.method, request.url) == (expected["method"], expected["url"])
    assert request.headers == {name.lower(): value for name, value in expected["headers"].items()}
    wanted = dict(expected["form"])
    wanted["ContentVariables"] = json.loads(wanted.get("ContentVariables", "null"))
    found = fields(request)
    for name in beyond:
        wanted.pop(name, None)
        found.pop(name, None)
    assert found == wanted


@pytest.mark.parametrize("name", MADE)
def test_something_to_tap_is_made_and_then_sent(name: str) -> None:
    """The content is looked for, made where it is not there, and sent by its SID."""
    flow = flow_of(name)
    wanted = sample(name)["http_request"]
    sid = dict(wanted["form"])["ContentSid"] if "form" in wanted else "HX1"
    asked, made = first(flow), flow.send(NO_CONTENT)
    assert asked.url.startswith("https://content.twilio.com/v2/Content?ContentName=gw_")
    expected = sample("send_content_create_quick_reply")["http_request"] if "form" not in wanted else None
    if expected is not None:
        assert (made.method, made.url) == (expected["method"], expected["url"])
        assert made.headers == {header.lower(): value for header, value in expected["headers"].items()}
        # How the name is made up is ours.
        assert {**json.loads(made.body), "friendly_name": expected["json"]["friendly_name"]} == expected["json"]
    sent = flow.send(answered({"sid": sid}, 201))
    if expected is None:
        _check_request(sent, wanted, set())
    assert fields(sent)["ContentSid"] == sid


def test_content_that_is_there_is_not_made_again() -> None:
    """It is found by its name, which is the digest of what it is; texts are variables."""
    envelope = sample("send_interactive_buttons")["envelope"]
    flow = ACCOUNT.send_message(message_data(envelope))
    name = dict(parse_qsl(first(flow).url.partition("?")[2]))["ContentName"]
    other = {"friendly_name": f"{name}0", "sid": "HX0"}
    sent = flow.send(answered({"contents": [None, other, {"friendly_name": name, "sid": "HX9"}]}))
    assert fields(sent)["ContentSid"] == "HX9"
    envelope["interactive"]["body"] = "Another question"
    assert name in first(ACCOUNT.send_message(message_data(envelope))).url
    envelope["interactive"]["buttons"][0]["title"] = "Sure"
    assert name not in first(ACCOUNT.send_message(message_data(envelope))).url


@pytest.mark.parametrize("lost", [0, 1])
def test_what_is_lost_before_the_message_is_surely_not_sent(lost: int) -> None:
    """A line that dies while content is made may be tried again; afterwards it may not."""
    flow = flow_of("send_interactive_buttons")
    first(flow)
    if lost:
        flow.send(NO_CONTENT)
    with pytest.raises(Unavailable) as caught:
        flow.throw(Uncertain("reset", code="connection_reset"))
    assert caught.value.code == "connection_reset"
    flow = flow_of("send_interactive_buttons")
    first(flow)
    flow.send(NO_CONTENT)
    flow.send(MADE_CONTENT)
    with pytest.raises(Uncertain):
        flow.throw(Uncertain("reset"))


@pytest.mark.parametrize("status", [400, 404, 405])
def test_content_is_made_where_it_cannot_be_looked_for(status: int) -> None:
    """An address that knows no search."""
    flow = flow_of("send_interactive_buttons")
    first(flow)
    assert flow.send(Response(status=status)).method == "POST"


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([Response(status=500)], Unavailable),
        ([answered({"code": 20003}, 401)], errors.AccountBroken),
        ([NO_CONTENT, Response(status=502)], Unavailable),
        ([NO_CONTENT, answered({"code": 20422}, 400)], Rejected),
        ([NO_CONTENT, answered({"friendly_name": "x"}, 201)], Unavailable),
        ([NO_CONTENT, answered({"code": 20429}, 429)], Throttled),
    ],
)
def test_content_that_cannot_be_made(answers: list[Response], error: type[SendError]) -> None:
    """Never uncertain: no message was sent."""
    with pytest.raises(error):
        drive(flow_of("send_interactive_buttons"), answers)


def _answer(http_response: dict[str, Any]) -> Response:
    return recorded({**http_response, "body_text": http_response.get("text")})


def test_what_the_answer_says_is_kept() -> None:
    """The time, the recipient as Twilio knows them, and the cost where there is one."""
    result, _ = drive(flow_of("send_text"), [_answer(sample("send_text")["http_response"])])
    assert result.timestamp.isoformat() == "2026-09-29T10:15:00+00:00"
    assert (result.contact.phone, result.cost, result.status) == ("+15005550100", None, "sent")
    priced = {"sid": "SM1", "price": "-0.00750", "price_unit": "USD", "to": "whatsapp:US.1", "date_created": "soon"}
    result, _ = drive(ACCOUNT.send_message(TEXT), [answered(priced, 201)])
    assert (result.cost, result.timestamp, result.contact.user_id) == ("0.00750 USD", None, "US.1")


def test_a_message_that_failed_at_once_was_taken() -> None:
    """It exists, and its status says the rest: to send it again is another decision."""
    failed = {"sid": "SM1", "status": "failed", "error_code": 63016}
    result, _ = drive(ACCOUNT.send_message(TEXT), [answered(failed, 201)])
    assert result.provider_message_id == "SM1"


# ---------------------------------------------------------------- what can be expressed

BUTTONS = {"type": "buttons", "buttons": [{"id": "1", "title": "t"}]}
ROWS = [{"id": "1", "title": "t"}]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"type": "image", "id": "1"}, "media_id_unsupported"),
        ({"type": "template", "name": "hello_world", "language": "en"}, "template_name_unsupported"),
        (
            {
                "type": "template",
                "name": "HX1",
                "language": "en",
                "components": [{"type": "header", "parameters": [{"type": "text", "text": "x"}]}],
            },
            "template_parameter_unsupported",
        ),
        (
            {
                "type": "template",
                "name": "HX1",
                "language": "en",
                "components": [{"type": "body", "parameters": [{"type": "image", "image": {}}]}],
            },
            "template_parameter_unsupported",
        ),
        (
            {"type": "template", "name": "HX1", "language": "en", "components": [{"parameters": [5]}]},
            "template_parameter_unsupported",
        ),
        (
            {"type": "interactive", "body": "b", "header": "h", "action": BUTTONS},
            "header_unsupported",
        ),
        (
            {"type": "interactive", "body": "b", "footer": "f", "action": BUTTONS},
            "footer_unsupported",
        ),
        (
            {
                "type": "interactive",
                "body": "b",
                "action": {"type": "buttons", "buttons": [{"id": "1", "title": "{{1}}"}]},
            },
            "braces_unsupported",
        ),
        (
            {
                "type": "interactive",
                "body": "b",
                "action": {"type": "list", "button": "b", "sections": [{"rows": ROWS, "title": "t"}]},
            },
            "section_title_unsupported",
        ),
        (
            {
                "type": "interactive",
                "body": "b",
                "action": {"type": "list", "button": "b", "sections": [{"rows": ROWS}, {"rows": ROWS}]},
            },
            "too_many_sections",
        ),
    ],
)
def test_what_twilio_cannot_say_is_unsupported(content: dict[str, Any], code: str) -> None:
    """Nothing is called, so another provider may be asked."""
    with pytest.raises(Unsupported) as caught:
        first(ACCOUNT.send_message(message(content)))
    assert caught.value.code == code


@pytest.mark.parametrize("recipient", [{"lid": "1@lid"}, {"group_id": "g"}])
def test_only_people_with_a_number_or_an_id_can_be_reached(recipient: dict[str, str]) -> None:
    """No groups, no hidden identities of WhatsApp Web."""
    with pytest.raises(Unsupported) as caught:
        first(ACCOUNT.send_message(message(Text(body="x"), **recipient)))
    assert caught.value.code == "recipient_unsupported"


def test_a_message_without_its_essence_is_rejected() -> None:
    """A medium without a place, a question without words: no provider could send it."""
    for content, code in (
        ({"type": "image"}, "media_missing"),
        ({"type": "text", "body": ""}, "text_empty"),
        ({"type": "contacts", "contacts": []}, "too_few_contacts"),
        ({"type": "interactive", "action": BUTTONS}, "text_empty"),
    ):
        with pytest.raises(Rejected) as caught:
            first(ACCOUNT.send_message(message(content)))
        assert caught.value.code == code


def test_parameters_of_templates() -> None:
    """Those of the body are numbered, others named; currencies and times go out as their own text."""
    components = [
        {"type": "header", "parameters": [{"type": "text", "parameter_name": "title", "text": "T"}]},
        {
            "type": "body",
            "parameters": [
                {"type": "text", "text": "Ana"},
                {"type": "currency", "currency": {"fallback_value": "R$ 5", "code": "BRL", "amount_1000": 5000}},
                {"type": "date_time", "date_time": {"fallback_value": "today"}},
            ],
        },
        {"type": "button", "parameters": [{"type": "payload", "parameter_name": "4", "payload": "p"}]},
    ]
    template = {"type": "template", "name": "HX1", "language": "en", "components": components}
    variables = fields(first(ACCOUNT.send_message(message(template))))["ContentVariables"]
    assert variables == {"title": "T", "1": "Ana", "2": "R$ 5", "3": "today", "4": "p"}


@pytest.mark.parametrize(
    ("place", "body", "action"),
    [
        ({"latitude": 1e-7, "longitude": -180}, "0.0000001,-180.0", "geo:0.0000001,-180.0"),
        ({"latitude": 1, "longitude": 2, "address": "a|b"}, "a|b", "geo:1.0,2.0|a/b"),
        ({"latitude": 1, "longitude": 2, "name": "n"}, "n", "geo:1.0,2.0|n"),
    ],
)
def test_places(place: dict[str, Any], body: str, action: str) -> None:
    """Without an exponent, with one pipe, and never without a body."""
    found = fields(first(ACCOUNT.send_message(message({"type": "location", **place}))))
    assert (found["Body"], found["PersistentAction"]) == (body, action)


def test_who_sends() -> None:
    """The number, also where it is one of a service's; only a service without one picks among its own."""
    service = ("MessagingServiceSid", SERVICE)
    sender = ("From", "whatsapp:+15005550199")
    for account, named in ((ACCOUNT, [sender]), (IN_SERVICE, [sender, service]), (ANY_OF_SERVICE, [service])):
        form = parse_qsl(first(account.send_message(TEXT)).body.decode())
        assert [field for field in form if field[0] in ("From", "MessagingServiceSid")] == named


@pytest.mark.parametrize(("valid_for_s", "period"), [(None, None), (1, "1"), (600, "600"), (86_400, "36000")])
def test_how_long_a_message_may_wait_at_twilio(valid_for_s: int | None, period: str | None) -> None:
    """As long as it is worth anything, within what Twilio allows; without a limit none is sent."""
    data = msgspec.structs.replace(TEXT, valid_for_s=valid_for_s)
    assert fields(first(ACCOUNT.send_message(data))).get("ValidityPeriod") == period


@pytest.mark.parametrize(
    ("cards", "code"),
    [
        ([{"name": {"formatted_name": "Ana"}}], "contacts_unsupported"),
        ([{"url": "https://x/a.vcf"}, {"url": "https://x/b.vcf"}], "too_many_contacts"),
        ([{"url": 1}], "contacts_unsupported"),
    ],
)
def test_a_card_goes_out_as_the_one_file_it_is_in(cards: list[Any], code: str) -> None:
    """Twilio has no words for one; another provider may have some."""
    with pytest.raises(Unsupported) as caught:
        first(ACCOUNT.send_message(message({"type": "contacts", "contacts": cards})))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (URL, f"{URL}?ref=gw1:abc:1"),
        (f"{URL}?a=%2F", f"{URL}?a=%2F&ref=gw1:abc:1"),
        (f"{URL}#rc=5&rp=all", f"{URL}?ref=gw1:abc:1#rc=5&rp=all"),
    ],
)
def test_statuses_come_back_with_the_reference(callback: str, expected: str) -> None:
    """In the query, before instructions about retries."""
    data = msgspec.structs.replace(TEXT, callback_url=callback)
    assert fields(first(ACCOUNT.send_message(data)))["StatusCallback"] == expected
    assert "StatusCallback" not in fields(first(ACCOUNT.send_message(TEXT)))


# ---------------------------------------------------------------- secrets and hosts


def test_an_error_quotes_no_secret() -> None:
    """Whatever Twilio repeats in its message; what its support asks for is kept."""
    account = msgspec.structs.replace(
        ACCOUNT, auth_token_secondary="secondary-token", api_key_sid="SK" + "0" * 32, api_key_secret="key-secret"
    )
    request = first(account.send_message(TEXT))
    header = request.headers["authorization"].removeprefix("Basic ")
    secrets = ["secondary-token", "key-secret", account.auth_token, account.shared_key_secret, header]
    problem = {"code": 20003, "message": f"bad: {secrets}", "detail": header}
    answer = answered(problem, 401, {"twilio-request-id": "RQ1"})
    with pytest.raises(SendError) as caught:
        drive(account.send_message(TEXT), [answer])
    assert not [secret for secret in secrets if secret is not None and secret in str(caught.value)]
    assert "RQ1" in caught.value.detail


@pytest.mark.parametrize("header", ["twilio-request-id", "t-request-id"])
def test_an_error_names_the_request_that_support_asks_for(header: str) -> None:
    """Each of Twilio's hosts has a header of its own for it."""
    with pytest.raises(SendError) as caught:
        drive(ACCOUNT.send_message(TEXT), [answered({"code": 20003, "message": "Authenticate"}, 401, {header: "RQ1"})])
    assert caught.value.detail == "Authenticate; request RQ1"


def test_no_repr_shows_a_secret() -> None:
    """Neither the account, nor its requests and errors, show a field that is marked as secret."""
    secrets = {field.name: f"SECRET-{field.name}" for field in config_fields(TwilioWhatsApp) if field.secret}
    assert set(secrets) == {"auth_token", "auth_token_secondary", "api_key_secret", "shared_key_secret"}
    account = msgspec.structs.replace(ACCOUNT, api_key_sid="SK" + "0" * 32, **secrets)
    request = first(account.send_message(TEXT))
    shown = [account, request, [account], {"x": request}, errors.AccountBroken("SECRET-auth_token")]
    for text in (*map(repr, shown), str(account), str(request), str(dict(account.__rich_repr__()))):
        assert "SECRET" not in text


def test_an_api_key_authorizes_sends() -> None:
    """In place of the Auth Token; the address keeps the account."""
    account = msgspec.structs.replace(ACCOUNT, api_key_sid="SK" + "0" * 32, api_key_secret="s")
    request = first(account.send_message(TEXT))
    assert request.headers["authorization"].startswith("Basic U0swMDAw")
    assert ACCOUNT.account_sid in request.url


@pytest.mark.parametrize(
    ("base_url", "api", "messaging"),
    [
        ("https://api.twilio.com", "https://api.twilio.com", "https://messaging.twilio.com"),
        ("https://api.twilio.com/", "https://api.twilio.com", "https://messaging.twilio.com"),
        (
            "https://api.dublin.ie1.twilio.com",
            "https://api.dublin.ie1.twilio.com",
            "https://messaging.dublin.ie1.twilio.com",
        ),
        ("http://127.0.0.1:8080/twilio/", "http://127.0.0.1:8080/twilio", "http://127.0.0.1:8080/twilio"),
        ("https://api.twilio.com.evil.example", "https://api.twilio.com.evil.example", None),
        ("https://api.evil-twilio.com", "https://api.evil-twilio.com", None),
    ],
)
def test_other_hosts_follow_the_address(base_url: str, api: str, messaging: str | None) -> None:
    """Each product of Twilio's has a host of its own, per region; any other address serves all of them."""
    account = msgspec.structs.replace(ACCOUNT, base_url=base_url)
    assert first(account.send_message(TEXT)).url.startswith(f"{api}/2010-04-01/Accounts/")
    typing = account.mark_read("SM1", Recipient(phone="+15005550100"), typing=True)
    assert first(typing).url == f"{messaging or api}/v2/Indicators/Typing.json"
