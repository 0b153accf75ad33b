"""Sends to WAHA beyond what its samples show: those are in test_kit.py."""

import json
import re
from random import Random
from typing import Any
from uuid import UUID

import msgspec
import pytest

from ingress.identifiers import correlation, new_id
from providers import (
    Action,
    Flow,
    HeaderMedia,
    Interactive,
    MessageData,
    MessageResult,
    OutboundContent,
    Recipient,
    Rejected,
    Response,
    Restricted,
    SendError,
    Text,
    Unavailable,
    Uncertain,
    Unsupported,
)
from providers.content import Template
from providers.limits import OPUS
from providers.whatsapp_web.addresses import chosen_id, correlation_in

from ..flows import answered, drive, first
from .samples import ACCOUNT, API_KEY, HMAC_KEY, ROOT, answers_of, names, sample

# What our vocabulary has no word for: no MessageData says it, so nothing asks for the call.
WITHOUT_A_WORD = {
    "send_delete": "we delete nothing that was sent",
    "send_edit": "we edit nothing that was sent",
    "send_image_base64": "media are sent by URL",
    "send_poll": "no content of ours is a poll",
}
SENDS = [name for name in names("send_*") if name not in WITHOUT_A_WORD]
# Errors whose request is not what their envelope asks for: a broken body, a file in base64, half a list.
ANSWER_ONLY = {"send_error_400_validation", "send_error_413_too_large", "send_error_422_not_implemented"}

PHONE = "+15005550100"
CHAT = "15005550100@c.us"


def recorded(name: str) -> Response:
    """The answer of a sample."""
    answer = sample(name)["http_response"]
    content = answer["text"] if "text" in answer else json.dumps(answer["json"])
    headers = {header.lower(): value for header, value in answer["headers"].items()}
    return Response(status=answer["status"], headers=headers, body=content.encode())


def message(content: OutboundContent, correlation_id: str = "c", **to: str) -> MessageData:
    return MessageData(
        to=Recipient(**(to or {"phone": PHONE})), content=content, organization_id="o", correlation_id=correlation_id
    )


def content(**fields: Any) -> OutboundContent:
    return msgspec.convert(fields, OutboundContent)


def sent(content: OutboundContent, **to: str) -> Any:
    """The body of the request for *content*."""
    return json.loads(first(ACCOUNT.send_message(message(content, **to))).body)


def refusal(data: MessageData) -> SendError:
    """The error that *data* raises before anything is called."""
    with pytest.raises(SendError) as caught:
        first(ACCOUNT.send_message(data))
    return caught.value


def failure(answer: Response, content: OutboundContent | None = None) -> SendError:
    """The error that *answer* to a send of *content* means."""
    with pytest.raises(SendError) as caught:
        drive(ACCOUNT.send_message(message(content or Text(body="x"))), [answer])
    return caught.value


def test_all_samples_are_here() -> None:
    """The samples came along: an empty folder would pass everything below."""
    assert (len(SENDS), len(WITHOUT_A_WORD)) == (50, 4)
    assert WITHOUT_A_WORD.keys() <= set(names("send_*"))


# ---------------------------------------------------------------- requests


@pytest.mark.parametrize(
    "asked",
    [
        content(type="text", body="x"),
        content(type="location", latitude=1, longitude=2),
        content(type="contacts", contacts=[{"name": {"formatted_name": "A"}, "phones": [{"phone": "+1"}]}]),
    ],
)
def test_a_message_has_an_id_of_ours(asked: OutboundContent) -> None:
    """As engines write them, the same for the same correlation id, another for another."""
    ids = [
        json.loads(first(ACCOUNT.send_message(message(asked, correlation_id))).body)["id"]
        for correlation_id in ("gw1:1:1", "gw1:1:1", "gw1:1:2")
    ]
    assert re.fullmatch(r"3EB0[0-9A-F]{18}", ids[0])
    assert ids[0] == ids[1] != ids[2]


def test_the_id_of_a_message_tells_the_services_correlation_id() -> None:
    """In a length that engines write themselves; another for each attempt, which what comes back is then about."""
    correlations = [correlation(new_id(), attempt) for attempt in (1, 2, 9, 10, 15)]
    ids = [json.loads(first(ACCOUNT.send_message(message(Text(body="x"), one))).body)["id"] for one in correlations]
    assert all(re.fullmatch(r"3EB0[0-9A-F]{36}", one) for one in ids)
    assert len(set(ids)) == len(ids)
    assert [correlation_in(one) for one in ids] == correlations


@pytest.mark.parametrize(
    "correlation_id",
    ["c", f"gw1:{'0' * 32}:1", correlation(new_id(), 16), correlation(new_id(), 0)],
    ids=["word", "nobody", "attempt-16", "attempt-0"],
)
def test_any_other_correlation_id_is_digested(correlation_id: str) -> None:
    """There is no room for it."""
    assert re.fullmatch(r"3EB0[0-9A-F]{18}", chosen_id(correlation_id))
    assert correlation_in(chosen_id(correlation_id)) is None


def test_an_id_of_somebody_else_is_not_taken_for_ours() -> None:
    """Other clients of the number write ids of that length, too, at random."""
    dice = Random(7)
    assert not any(correlation_in("3EB0" + dice.randbytes(18).hex().upper()) for _ in range(50_000))
    # Of this id no neighbour has the same check digits; of one in a hundred some neighbour has.
    ours = chosen_id(correlation(UUID("0199c3a1-5f3e-7c52-9b1d-6e2f4a8c0d17"), 1))
    for index in range(len(ours)):
        changed = "A" if ours[index] != "A" else "B"
        assert correlation_in(ours[:index] + changed + ours[index + 1 :]) is None
    assert correlation_in(ours + "0") is None


def test_buttons_have_an_id_of_ours() -> None:
    """They go out as text, whose call takes one."""
    buttons = msgspec.convert({"type": "buttons", "buttons": [{"id": "y", "title": "Yes"}]}, Action)
    assert sent(Interactive(action=buttons, body="B"))["id"] == chosen_id("c")


def test_a_medium_has_no_id_of_ours() -> None:
    """Its calls take none, and neither does that of lists."""
    assert "id" not in sent(content(type="image", url="https://x/a.jpg"))
    menu = {"type": "list", "button": "b", "sections": [{"rows": [{"id": "1", "title": "t"}]}]}
    assert "id" not in sent(Interactive(action=msgspec.convert(menu, Action), body="B"))


@pytest.mark.parametrize(
    ("to", "chat"),
    [
        ({"phone": PHONE}, CHAT),
        ({"phone": PHONE, "lid": "98765432101234@lid"}, CHAT),
        ({"lid": "98765432101234@lid"}, "98765432101234@lid"),
        ({"lid": "98765432101234"}, "98765432101234@lid"),
        ({"group_id": "120363000000000042@g.us"}, "120363000000000042@g.us"),
    ],
)
def test_where_a_message_goes(to: dict[str, str], chat: str) -> None:
    """The phone where it is known."""
    assert sent(Text(body="x"), **to)["chatId"] == chat


@pytest.mark.parametrize(
    ("named", "to", "own_phone", "target"),
    [
        ("false_1@c.us_3EB0AA", {"phone": PHONE}, None, "false_1@c.us_3EB0AA"),
        ("3EB0AA", {"phone": PHONE}, None, f"true_{CHAT}_3EB0AA"),
        ("3EB0AA", {"group_id": "1@g.us"}, None, "true_1@g.us_3EB0AA"),
        ("3EB0AA", {"group_id": "1@g.us"}, "+15005550199", "true_1@g.us_3EB0AA_15005550199@c.us"),
    ],
)
def test_messages_are_named_as_the_server_wants_it(
    named: str, to: dict[str, str], own_phone: str | None, target: str
) -> None:
    """The ids that events have: whole ones of others, bare ones of ours. In a quotation and in a reaction."""
    account = msgspec.structs.replace(ACCOUNT, phone_number=own_phone)
    reply = msgspec.structs.replace(message(Text(body="x"), **to), reply_to=named)
    assert json.loads(first(account.send_message(reply)).body)["reply_to"] == target
    reaction = message(content(type="reaction", message_id=named, emoji="👍"), **to)
    assert json.loads(first(account.send_message(reaction)).body)["messageId"] == target


@pytest.mark.parametrize(
    ("body", "preview", "group", "expected"),
    [
        ("see https://x", False, False, {"linkPreview": False}),
        ("see https://x", True, False, {}),
        ("@15005550100 hi", False, False, {}),
        ("@15005550100 @15005550100 @1 a@15005550100", False, True, {"mentions": [CHAT]}),
    ],
)
def test_what_a_text_asks_for(body: str, preview: bool, group: bool, expected: dict[str, Any]) -> None:
    """No preview unless asked for, which is the other way round at WAHA; mentions in groups."""
    to = {"group_id": "1@g.us"} if group else {"phone": PHONE}
    found = sent(Text(body=body, preview_url=preview), **to)
    assert {key: found[key] for key in ("linkPreview", "mentions") if key in found} == expected


@pytest.mark.parametrize(
    ("fields", "call", "file"),
    [
        ({"type": "image", "url": "https://x/a.png?y=z"}, "sendImage", {"mimetype": "image/png"}),
        ({"type": "image", "url": "https://x/a"}, "sendImage", {"mimetype": "image/jpeg"}),
        ({"type": "document", "url": "https://x/a", "filename": "A.PDF"}, "sendFile", {"mimetype": "application/pdf"}),
        ({"type": "document", "url": "https://x/a"}, "sendFile", {"mimetype": "application/octet-stream"}),
        ({"type": "audio", "url": "https://x/a.mp3"}, "sendFile", {"mimetype": "audio/mpeg"}),
        ({"type": "audio", "url": "https://x/a.oga", "voice": True}, "sendVoice", {"mimetype": OPUS}),
        (
            {"type": "audio", "url": "https://x/a", "voice": True, "mime_type": "audio/ogg"},
            "sendVoice",
            {"mimetype": OPUS},
        ),
        ({"type": "audio", "url": "https://x/a", "mime_type": "audio/opus"}, "sendFile", {"mimetype": OPUS}),
        ({"type": "sticker", "url": "https://x/a"}, "sendSticker", {"mimetype": "image/webp"}),
    ],
)
def test_how_a_medium_is_sent(fields: dict[str, Any], call: str, file: dict[str, str]) -> None:
    """The call for its kind, and a type where nobody gave one."""
    request = first(ACCOUNT.send_message(message(content(**fields))))
    assert request.url == f"{ROOT}/api/{call}"
    body = json.loads(request.body)
    assert file.items() <= body["file"].items()
    assert body.get("convert", False) is False


def test_what_is_no_opus_is_converted_to_a_voice_note_by_the_server() -> None:
    """A voice note was asked for; Vorbis is in Ogg, too, and says so."""
    for mime_type in ("audio/mpeg", "audio/ogg; codecs=vorbis"):
        body = sent(content(type="audio", url="https://x/a", voice=True, mime_type=mime_type))
        assert (body["convert"], body["file"]["mimetype"]) == (True, mime_type)


def test_a_card_with_more_than_a_number_goes_as_a_vcard() -> None:
    """Nothing of it is lost, and nothing breaks out of its line."""
    card = {
        "name": {"formatted_name": "A; B\nTEL:+666"},
        "org": {"company": "C, D"},
        "phones": [{"phone": "+1 500", "wa_id": "1500"}, {"phone": "+2"}],
        "emails": [{"email": "a@b.example"}],
        "urls": [{"url": "https://x"}],
    }
    (found,) = sent(content(type="contacts", contacts=[card]))["contacts"]
    assert found["vcard"].splitlines() == [
        "BEGIN:VCARD",
        "VERSION:3.0",
        "FN:A\\; B TEL:+666",
        "ORG:C\\, D",
        "TEL;waid=1500:+1 500",
        "TEL:+2",
        "EMAIL:a@b.example",
        "URL:https://x",
        "END:VCARD",
    ]


def test_a_received_card_goes_on_as_it_came() -> None:
    """Its text is in it."""
    (found,) = sent(content(type="contacts", contacts=[{"name": {}, "vcard": "BEGIN:VCARD\nEND:VCARD"}]))["contacts"]
    assert found == {"vcard": "BEGIN:VCARD\nEND:VCARD"}


def test_buttons_become_text() -> None:
    """WhatsApp shows none of WhatsApp Web; header and footer stay around them."""
    buttons = msgspec.convert({"type": "buttons", "buttons": [{"id": "y", "title": "Yes"}]}, Action)
    asked = Interactive(action=buttons, header="H", body="B", footer="F")
    assert sent(asked)["text"] == "H\nB\n1. Yes\nF"


def test_a_template_is_the_text_that_is_given_for_it() -> None:
    """There are none here; without its text another provider may have it."""
    template = Template(name="order_update", language="en", rendered="Hi Ana, see https://x")
    assert sent(template) | {"id": ""} == {
        "session": "acme",
        "chatId": CHAT,
        "text": "Hi Ana, see https://x",
        "linkPreview": False,
        "id": "",
    }
    for rendered in (None, ""):
        found = refusal(message(msgspec.structs.replace(template, rendered=rendered)))
        assert (type(found), found.code) == (Unsupported, "template_unsupported")


def test_a_list_needs_a_title() -> None:
    """The body stands in for it, and is not repeated."""
    action = msgspec.convert(
        {"type": "list", "button": "b", "sections": [{"rows": [{"id": "1", "title": "t"}]}]}, Action
    )
    found = sent(Interactive(action=action, body="B"))["message"]
    rows = [{"title": "t", "rowId": "1"}]
    assert found == {"title": "B", "button": "b", "sections": [{"title": "b", "rows": rows}]}


# ---------------------------------------------------------------- what can be expressed


@pytest.mark.parametrize(
    ("fields", "to", "error", "code"),
    [
        ({"type": "text", "body": "x"}, {"user_id": "BR.1"}, Unsupported, "recipient_unsupported"),
        ({"type": "text", "body": "x"}, {"lid": "Ana"}, Unsupported, "recipient_unsupported"),
        ({"type": "text", "body": "x"}, {"group_id": "Y2FwaV9ncm91cA"}, Unsupported, "recipient_unsupported"),
        ({"type": "text", "body": ""}, {"phone": PHONE}, Rejected, "text_empty"),
        ({"type": "image", "id": "m1"}, {"phone": PHONE}, Unsupported, "media_id_unsupported"),
        ({"type": "image"}, {"phone": PHONE}, Rejected, "media_missing"),
        ({"type": "image", "url": "file:///etc/passwd"}, {"phone": PHONE}, Rejected, "media_url"),
        ({"type": "image", "url": "https://[x/a"}, {"phone": PHONE}, Rejected, "media_url"),
        ({"type": "audio", "url": "https://x", "caption": "c"}, {"phone": PHONE}, Unsupported, "caption_unsupported"),
        ({"type": "contacts", "contacts": [{"phones": []}]}, {"phone": PHONE}, Rejected, "contact_name_empty"),
        ({"type": "contacts", "contacts": []}, {"phone": PHONE}, Rejected, "contact_name_empty"),
        (
            {"type": "contacts", "contacts": [{"url": "https://x/a.vcf", "mime_type": "text/vcard"}]},
            {"phone": PHONE},
            Unsupported,
            "contact_file_unsupported",
        ),
    ],
)
def test_what_cannot_be_sent_is_refused_before_any_call(
    fields: dict[str, Any], to: dict[str, str], error: type[SendError], code: str
) -> None:
    """Unsupported where another provider could, Rejected where none could."""
    found = refusal(message(content(**fields), **to))
    assert (type(found), found.code) == (error, code)


def test_parts_that_are_not_there() -> None:
    """A picture above a list, a list in a group."""
    action = msgspec.convert({"type": "list", "button": "b", "sections": []}, Action)
    header = msgspec.convert({"type": "image", "url": "https://x"}, HeaderMedia)
    assert refusal(message(Interactive(action=action, header=header))).code == "header_unsupported"
    grouped = message(Interactive(action=action, body="b"), group_id="1@g.us")
    assert refusal(grouped).code == "content_in_group_unsupported"


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("name", sorted(WITHOUT_A_WORD))
def test_the_answers_to_what_we_do_not_ask_are_read(name: str) -> None:
    """The shape of an answer does not depend on what was asked."""
    key = sample(name)["outcome"].get("message_key")
    if key is not None:
        result, _ = drive(ACCOUNT.send_message(message(Text(body="x"))), [recorded(name)])
        assert result.provider_message_id == key


@pytest.mark.parametrize(
    ("answer", "identity"),
    [
        ({"id": "true_1@c.us_A"}, "A"),
        ({"id": "A"}, "A"),
        ({"id": {"_serialized": "true_1@c.us_A"}}, "A"),
        ({"id": {"$1": "true_1@g.us_A_2@c.us"}}, "A"),
        ({"id": {"fromMe": True, "remote": {"server": "c.us", "user": "1"}, "id": "A"}}, "A"),
        ({"id": {"fromMe": True, "remote": {"_serialized": "1@g.us"}, "id": "A", "participant": "2@c.us"}}, "A"),
        ({"key": {"remoteJid": "1@g.us", "fromMe": True, "id": "A", "participant": "2:3@s.whatsapp.net"}}, "A"),
        ({"key": {"remoteJid": "1@s.whatsapp.net", "id": "A"}}, "A"),
    ],
)
def test_every_shape_of_an_answer_has_its_id(answer: Any, identity: str) -> None:
    """One extractor for all engines."""
    result, _ = drive(ACCOUNT.send_message(message(Text(body="x"))), [answered(answer, 201)])
    assert result.provider_message_id == identity


@pytest.mark.parametrize(
    "answer", [{}, [], None, 1, {"id": None}, {"id": {}}, {"id": {"id": "A"}}, {"key": {"id": "A"}}, {"key": 1}]
)
def test_an_answer_without_an_id_is_uncertain(answer: Any) -> None:
    """It was taken, or not."""
    assert isinstance(failure(answered(answer, 201)), Uncertain)


def test_a_result_has_the_recipient_and_the_time() -> None:
    """As the engine knows them."""
    result, _ = drive(ACCOUNT.send_message(message(Text(body="x"))), [recorded("send_text_noweb")])
    assert result.contact is not None
    assert result.contact.phone == PHONE
    assert result.timestamp is not None
    assert result.timestamp.timestamp() == 1790676900


def exception(text: str, status: int = 500) -> Response:
    """A 500 as WAHA writes it: with our request in it."""
    request = {"path": "/api/sendText", "body": {"text": "what a person wrote"}}
    return answered({"statusCode": status, "exception": {"message": text}, "request": request}, status)


# Answers with the class and the code that they mean: the first row that fits. What fits none is refused on 4xx and
# uncertain above.
ERROR_ANSWERS = [
    (answered({"statusCode": 400, "message": "chatId must be a string"}, 400), "Rejected", "http_400"),
    (answered({"message": "Unauthorized"}, 401), "AccountBroken", "unauthorized"),
    (answered({"message": "Forbidden resource"}, 403), "AccountBroken", "forbidden"),
    (answered({"message": "Session not found"}, 404), "AccountBroken", "session_missing"),
    (answered({"message": "Cannot POST /api/sendList"}, 404), "Unsupported", "path_missing"),
    (answered({"message": "Cannot PUT /waha/api/reaction"}, 404), "Unsupported", "path_missing"),
    (answered({"message": "Cannot GET /elsewhere/api/sessions/acme"}, 404), "AccountBroken", "path_missing"),
    (answered({"message": "Cannot GET /api/sessions/acme"}, 404), "AccountBroken", "path_missing"),
    (Response(status=404, body=b"<html>"), "AccountBroken", "path_missing"),
    (Response(status=413), "Unsupported", "too_large"),
    (answered({"status": "STARTING", "expected": ["WORKING"]}, 422), "Unavailable", "session_starting"),
    (answered({"status": "SCAN_QR_CODE", "expected": ["WORKING"]}, 422), "AccountBroken", "session_not_working"),
    (answered({"status": "HIBERNATING", "expected": ["WORKING"]}, 422), "AccountBroken", "session_not_working"),
    (answered({"error": 'Session "acme" does not exist', "session": "acme"}, 422), "AccountBroken", "session_missing"),
    (answered({"message": "Session acme is none that exists"}, 422), "Rejected", "unprocessable"),
    (answered({"message": "The method is not implemented by the engine."}, 422), "Unsupported", "not_implemented"),
    (Response(status=501), "Unsupported", "not_implemented"),
    (answered({"message": "other"}, 422), "Rejected", "unprocessable"),
    (Response(status=429), "Throttled", "too_many_requests"),
    (exception("server returned error 463"), "Restricted", "463"),
    (exception("server returned error 479"), "Uncertain", "server_error"),
    (exception("server returned error 400"), "Uncertain", "server_error"),
    (exception("server returned error 429"), "Throttled", "rate_overlimit"),
    (exception("rate-overlimit"), "Throttled", "rate_overlimit"),
    (exception("invalid media type"), "Rejected", "media_unreadable"),
    (exception("ffmpeg exited with code 1"), "Rejected", "media_unreadable"),
    (exception("Protocol error"), "Uncertain", "browser_gone"),
    (exception("Target closed"), "Uncertain", "browser_gone"),
    (exception("Session closed."), "Uncertain", "browser_gone"),
    (exception("Execution context was destroyed"), "Uncertain", "browser_gone"),
    (exception("Attempted to use detached Frame"), "Uncertain", "browser_gone"),
    (exception("14 UNAVAILABLE: Connection Closed by the engine"), "Uncertain", "http_500"),
    (exception("something new"), "Uncertain", "http_500"),
    (exception("rate-overlimit", 503), "Uncertain", "http_503"),
    (Response(status=502, body=b"<html>"), "Uncertain", "http_502"),
    (Response(status=504), "Uncertain", "http_504"),
    (Response(status=302), "Uncertain", "http_302"),
    (Response(status=418), "Rejected", "http_418"),
]


# What real servers answered, as it was recorded.
RECORDED = {
    "connection_closed_500": ("Unavailable", "connection_closed"),
    "events_400": ("Rejected", "http_400"),
    "list_section_title_400": ("Rejected", "http_400"),
    "no_key_401": ("AccountBroken", "unauthorized"),
    "not_implemented_501": ("Unsupported", "not_implemented"),
    "noweb_store_400": ("Rejected", "http_400"),
    "other_session_422": ("AccountBroken", "only_default_session"),
    "plus_only_422": ("Unsupported", "plus_only"),
    "request_code_not_started_404": ("AccountBroken", "session_missing"),
    "scan_qr_422_after_10s": ("AccountBroken", "session_not_working"),
    "session_deleted_422_after_5s": ("AccountBroken", "session_missing"),
    "stopped_422_after_5s": ("AccountBroken", "session_not_working"),
}


def test_errors_show_nothing_that_a_person_wrote() -> None:
    """A 500 repeats our request."""
    for answer, _, _ in ERROR_ANSWERS:
        assert "what a person wrote" not in failure(answer).detail


def test_a_file_that_cannot_be_fetched_was_not_sent() -> None:
    """Fetching comes first: it may be there later, or never. Without a file the same words are a riddle."""
    wanted = [Unavailable, Rejected, Rejected, Unavailable, Unavailable, Unavailable, Rejected, Rejected, Rejected]
    for answer, kind in zip(answers_of("file_fetch_500"), wanted, strict=True):
        fetched = failure(answer, content(type="image", url="https://files.example.com/a"))
        assert (type(fetched), fetched.code, fetched.scope) == (kind, "file_unreachable", "media"), answer.body
        assert isinstance(failure(answer), Uncertain)
    for text in ("14 UNAVAILABLE: read ECONNRESET", "Protocol error: Request failed with status code 404 in the page"):
        assert isinstance(failure(exception(text), content(type="image", url="https://files.example.com/a")), Uncertain)


def test_an_empty_201_is_an_acceptance_without_an_id() -> None:
    """As 2024.10 answers a card. An empty 200 is none of WAHA's."""
    card = content(type="contacts", contacts=[{"name": {"formatted_name": "Ana"}, "phones": [{"phone": PHONE}]}])
    result, _ = drive(ACCOUNT.send_message(message(card)), [Response(status=201)])
    assert (result.provider_message_id, result.status) == (None, "sent")
    assert isinstance(failure(Response(status=200), card), Uncertain)


def test_a_section_of_a_list_has_a_title() -> None:
    """An empty one is refused: what opens the list stands where there is none."""
    sections = [{"rows": [{"id": "1", "title": "Um"}]}, {"title": "B", "rows": [{"id": "2", "title": "Dois"}]}]
    action = {"type": "list", "button": "Ver", "sections": sections}
    body = sent(content(type="interactive", body="Escolha", action=action))
    assert [section["title"] for section in body["message"]["sections"]] == ["Ver", "B"]


def test_what_a_real_server_answered_to_a_text() -> None:
    """By NOWEB, which took no id of ours."""
    result, _ = drive(ACCOUNT.send_message(message(Text(body="x"))), answers_of("send_text_201"))
    assert result.provider_message_id == "3EB0DC702C83926D3C1039"


@pytest.mark.parametrize(
    ("headers", "answer", "seconds"),
    [
        ({"retry-after": "7"}, {}, 7),
        ({"retry-after": "0"}, {}, 0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, {}, 30),
        ({"retry-after": "9" * 400}, {}, 30),
        ({}, {}, 30),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], answer: Any, seconds: float) -> None:
    """What the answer says, else what the table says."""
    assert failure(answered(answer, 429, headers)).retry_after_s == seconds


def test_punishment_is_restricted() -> None:
    """Moving the traffic would spread it."""
    assert isinstance(failure(recorded("send_error_500_463_restricted")), Restricted)


# ---------------------------------------------------------------- a number under an older form

BRAZIL = "+5511955501234"
NO_LID = recorded("send_error_500_no_lid")


def to_brazil() -> Flow[MessageResult]:
    return ACCOUNT.send_message(message(Text(body="x"), phone=BRAZIL))


def test_an_older_form_of_the_number_is_asked_for_and_used() -> None:
    """Accounts from before 2012 live under the number without the ninth digit. Nothing went out before."""
    name = "ops_check_exists_brazil"
    accepted = answered({"id": "true_551155501234@c.us_A"}, 201)
    result, (one, asked, two) = drive(to_brazil(), [NO_LID, recorded(name), accepted])
    assert (asked.method, asked.url) == ("GET", sample(name)["http_request"]["url"])
    assert json.loads(one.body)["chatId"] == "5511955501234@c.us"
    assert json.loads(two.body) == json.loads(one.body) | {"chatId": sample(name)["result"]["chat_id"]}
    assert result.provider_message_id == "A"


def test_a_number_that_is_not_on_whatsapp_is_rejected() -> None:
    """For good, and about the recipient."""
    with pytest.raises(Rejected) as caught:
        drive(to_brazil(), [NO_LID, recorded("ops_check_exists_no")])
    assert (caught.value.code, caught.value.scope) == ("not_on_whatsapp", "recipient")


@pytest.mark.parametrize("chat", ["5511955501234@c.us", None, 7])
def test_a_number_that_is_there_is_tried_later(chat: Any) -> None:
    """The store is not synchronized yet."""
    with pytest.raises(Unavailable):
        drive(to_brazil(), [NO_LID, answered({"numberExists": True, "chatId": chat})])


def test_only_phones_are_looked_up() -> None:
    """A hidden number has no other form; and there is no second look-up."""
    with pytest.raises(Rejected):
        drive(ACCOUNT.send_message(message(Text(body="x"), lid="1@lid")), [NO_LID])
    with pytest.raises(Rejected):
        drive(to_brazil(), [NO_LID, recorded("ops_check_exists_brazil"), NO_LID])


# ---------------------------------------------------------------- secrets


def test_an_error_quotes_no_secret() -> None:
    """Not even where the server repeats it."""
    found = failure(exception(f"bad key {API_KEY} and {HMAC_KEY}"))
    assert API_KEY not in found.detail
    assert HMAC_KEY not in found.detail
    short = msgspec.structs.replace(ACCOUNT, api_key="key")
    with pytest.raises(SendError) as caught:
        drive(short.send_message(message(Text(body="x"))), [exception("bad key: monkey")])
    assert caught.value.detail.endswith("bad …: monkey")
