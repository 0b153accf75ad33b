"""Sends to the WhatsApp Cloud API beyond what its samples show: those are in test_kit.py."""

import hashlib
import hmac
import json
from typing import Any

import msgspec
import pytest

from providers import (
    Action,
    HeaderMedia,
    Interactive,
    MessageData,
    OutboundContent,
    Recipient,
    Rejected,
    Restricted,
    SendError,
    Text,
    Unsupported,
)

from ..flows import answered, drive, first
from .samples import ACCOUNT, APP_SECRET


def text_to(**recipient: str) -> MessageData:
    return message(Text(body="x"), **recipient)


def message(content: OutboundContent, **recipient: str) -> MessageData:
    to = Recipient(**(recipient or {"phone": "+5511987654321"}))
    return MessageData(to=to, content=content, organization_id="o", correlation_id="c")


# ---------------------------------------------------------------- what can be expressed


@pytest.mark.parametrize(
    ("content", "recipient", "code"),
    [
        ({"type": "text", "body": "x"}, {"lid": "1@lid"}, "recipient_unsupported"),
        ({"type": "text", "body": "x"}, {"name": None}, "recipient_unsupported"),
        ({"type": "location", "latitude": 1, "longitude": 2}, {"group_id": "g"}, "content_in_group_unsupported"),
        ({"type": "pin", "message_id": "w"}, {"phone": "+5511987654321"}, "pin_outside_group_unsupported"),
        ({"type": "audio", "id": "1", "caption": "c"}, {"phone": "+5511987654321"}, "caption_unsupported"),
    ],
)
def test_what_the_api_cannot_say_is_unsupported(content: dict[str, Any], recipient: dict[str, Any], code: str) -> None:
    """Nothing is called, so another provider may be asked."""
    known = {name: value for name, value in recipient.items() if value is not None}
    data = MessageData(
        to=Recipient(**known),
        content=msgspec.convert(content, OutboundContent),
        organization_id="o",
        correlation_id="c",
    )
    with pytest.raises(Unsupported) as caught:
        first(ACCOUNT.send_message(data))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("action", "parts", "error", "code"),
    [
        ({"type": "location_request"}, {"header": "h"}, Unsupported, "header_unsupported"),
        ({"type": "location_request"}, {"footer": "f"}, Unsupported, "footer_unsupported"),
        (
            {"type": "list", "button": "b", "sections": [{"rows": [{"id": "1", "title": "t"}]}]},
            {"header": {"type": "image", "id": "1"}},
            Unsupported,
            "header_unsupported",
        ),
        ({"type": "product_list", "catalog_id": "c", "sections": []}, {}, Rejected, "too_few_sections"),
        (
            {"type": "product_list", "catalog_id": "c", "sections": [{"title": "t", "products": ["p"]}]},
            {},
            Rejected,
            "header_empty",
        ),
        ({"type": "buttons", "buttons": []}, {}, Rejected, "too_few_buttons"),
        ({"type": "buttons", "buttons": [{"id": "1", "title": ""}]}, {}, Rejected, "button_title_empty"),
        ({"type": "cta_url", "title": "t" * 21, "url": "https://x"}, {}, Unsupported, "button_title_too_long"),
        ({"type": "flow", "cta": "go"}, {}, Rejected, "flow_missing"),
        ({"type": "carousel", "cards": [{"image_url": "https://x"}] * 2}, {}, Rejected, "card_without_action"),
        ({"type": "carousel", "cards": []}, {}, Rejected, "too_few_cards"),
        ({"type": "carousel", "cards": [{"image_url": "https://x"}]}, {}, Unsupported, "too_few_cards"),
        ({"type": "contact_request"}, {"body": None}, Rejected, "text_empty"),
        ({"type": "contact_request"}, {"body": "b" * 1025}, Unsupported, "text_too_long"),
        ({"type": "contact_request"}, {"footer": "f" * 61}, Unsupported, "footer_too_long"),
        (
            {
                "type": "list",
                "button": "b",
                "sections": [{"rows": [{"id": "1", "title": "t"}]}, {"rows": [{"id": "2", "title": "t"}]}],
            },
            {},
            Unsupported,
            "section_title_empty",
        ),
    ],
)
def test_parts_and_limits_of_interactive_messages(
    action: dict[str, Any], parts: dict[str, Any], error: type[SendError], code: str
) -> None:
    """Refused before any call: Unsupported where another provider might take it, Rejected where none could."""
    header = parts.get("header")
    content = Interactive(
        action=msgspec.convert(action, Action),
        body=parts.get("body", "b"),
        header=msgspec.convert(header, HeaderMedia) if isinstance(header, dict) else header,
        footer=parts.get("footer"),
    )
    with pytest.raises(error) as caught:
        first(ACCOUNT.send_message(message(content)))
    assert caught.value.code == code


def test_a_medium_needs_a_place() -> None:
    """Neither id nor url is refused; with both the id is used, as it fails at once where it is wrong."""
    image = {"type": "image", "id": "1", "url": "https://x"}
    request = first(ACCOUNT.send_message(message(msgspec.convert(image, OutboundContent))))
    assert json.loads(request.body)["image"] == {"id": "1"}
    with pytest.raises(Rejected) as caught:
        first(ACCOUNT.send_message(message(msgspec.convert({"type": "image"}, OutboundContent))))
    assert caught.value.code == "media_missing"


# ---------------------------------------------------------------- answers beyond the samples


@pytest.mark.parametrize(
    ("status", "error", "name"),
    [
        (400, {"code": 777777, "is_transient": True}, "Unavailable"),
        (500, {"code": 777777, "is_transient": True}, "Uncertain"),
        (200, {"code": 131047}, "Rejected"),
        (200, {"code": 777777}, "Uncertain"),
        (400, {"code": "131056"}, "Throttled"),
        (429, {"code": 777777}, "Throttled"),
        (302, None, "Uncertain"),
        (404, None, "Rejected"),
        (401, None, "AccountBroken"),
        (504, None, "Uncertain"),
        (400, {"code": True}, "Rejected"),
        (400, {"code": 100, "message": "Object does not exist"}, "AccountBroken"),
        (404, {"code": 803, "message": "Phone number not found"}, "AccountBroken"),
    ],
)
def test_the_code_decides_and_then_the_status(status: int, error: dict[str, Any] | None, name: str) -> None:
    """What was certainly not sent before what may have been, the code before the HTTP status."""
    answer = answered({"error": error} if error else {}, status)
    with pytest.raises(SendError) as caught:
        drive(ACCOUNT.send_message(text_to()), [answer])
    assert type(caught.value).__name__ == name


@pytest.mark.parametrize(
    ("headers", "code", "seconds"),
    [
        ({"retry-after": "7"}, 130429, 7),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, 130429, None),
        ({"x-business-use-case-usage": "not json"}, 80007, 300),
        ({"x-business-use-case-usage": '{"1":[{"estimated_time_to_regain_access":0}]}'}, 80007, 300),
        (
            {
                "x-business-use-case-usage": '{"1":[{"estimated_time_to_regain_access":1}],'
                '"2":[{"estimated_time_to_regain_access":2},{}]}'
            },
            4,
            120,
        ),
        ({}, 132069, 900),
        ({}, 138009, 30),
        ({}, 131016, None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], code: int, seconds: float | None) -> None:
    """What the answer says, else what the contract says, else nothing."""
    answer = answered({"error": {"code": code}}, 400, headers)
    with pytest.raises(SendError) as caught:
        drive(ACCOUNT.send_message(text_to()), [answer])
    assert caught.value.retry_after_s == seconds


def test_punishment_is_restricted_and_says_how_long() -> None:
    """A spam limit stops everything, unlike an ordinary throttle."""
    answer = answered({"error": {"code": 131048, "message": "(#131048) Spam rate limit hit"}}, 400)
    with pytest.raises(Restricted) as caught:
        drive(ACCOUNT.send_message(text_to()), [answer])
    assert caught.value.retry_after_s == 3600


def test_an_error_quotes_no_secret() -> None:
    """Meta repeats a malformed token in its message; ours does not."""
    text = "Malformed access token TEST_ACCESS_TOKEN"
    answer = answered({"error": {"code": 190, "message": text, "fbtrace_id": "Atrace"}}, 401)
    with pytest.raises(SendError) as caught:
        drive(ACCOUNT.send_message(text_to()), [answer])
    assert "TEST_ACCESS_TOKEN" not in str(caught.value)
    assert "Atrace" in caught.value.detail


def test_proof_of_the_app_secret_is_sent_where_asked_for() -> None:
    """HMAC-SHA256 of the token with the app secret, in the query; never the token itself."""
    account = msgspec.structs.replace(ACCOUNT, require_appsecret_proof=True)
    proof = hmac.new(APP_SECRET.encode(), b"TEST_ACCESS_TOKEN", hashlib.sha256).hexdigest()
    url = first(account.send_message(text_to())).url
    assert url == f"https://graph.facebook.com/v25.0/109876543210987/messages?appsecret_proof={proof}"


def test_another_host_and_version() -> None:
    """Both are configuration: tests and gateways have their own."""
    account = msgspec.structs.replace(ACCOUNT, base_url="http://127.0.0.1:8080/meta/", api_version="v26.0")
    url = first(account.send_message(text_to())).url
    assert url == "http://127.0.0.1:8080/meta/v26.0/109876543210987/messages"
