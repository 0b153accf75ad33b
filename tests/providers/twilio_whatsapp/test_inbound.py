"""Webhooks of Twilio beyond what its samples show: those are in test_kit.py."""

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus, urlencode

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers import ButtonReply, Contact, Contacts, Document, Event, Image, Malformed, ReplyTo, Webhook
from providers.twilio_whatsapp.inbound import Fact

from .samples import ACCOUNT, FORM, URL, batch, form, hook, names, sample

WEBHOOKS = names("msg_*") + names("status_*") + names("events_*")
FORMS = [name for name in WEBHOOKS if "form" in sample(name)]
MESSAGE = {"MessageSid": "SM1", "From": "whatsapp:+15005550100", "To": "whatsapp:+15005550199"}
STATUS = {"MessageSid": "SM1", "MessageStatus": "sent", "To": "whatsapp:+15005550100"}


def read(fields: dict[str, str], url: str = URL) -> Event:
    (event,) = ACCOUNT.parse(form(fields, url))
    return event


def content(**fields: str) -> Any:
    event = read({**MESSAGE, **fields})
    assert event.message is not None
    assert event.message.content is not None
    return msgspec.to_builtins(event.message.content)


@pytest.mark.parametrize("name", FORMS)
def test_raw_is_the_form(name: str) -> None:
    """All pairs in their order, as JSON: unknown, blank and repeated ones too."""
    (event,) = ACCOUNT.parse(hook(name))
    assert json.loads(bytes(event.raw)) == sample(name)["form"]


def test_raw_is_the_item_of_a_batch() -> None:
    """As it came, one by one."""
    items = json.loads(sample("events_batch")["body"])
    assert [json.loads(bytes(event.raw)) for event in ACCOUNT.parse(hook("events_batch"))] == items


def test_a_retry_has_the_same_key() -> None:
    """And so has the same status out of Event Streams: one fact, however often it comes."""
    (first,), (again,) = ACCOUNT.parse(hook("msg_text_basic")), ACCOUNT.parse(hook("msg_text_retry_duplicate"))
    assert first == again
    (event,) = ACCOUNT.parse(hook("status_delivered"))
    assert event.key in {other.key for other in ACCOUNT.parse(hook("events_batch"))}


@pytest.mark.parametrize("fields", [MESSAGE, STATUS], ids=["message", "status"])
def test_an_id_that_is_too_long_is_none(fields: dict[str, str]) -> None:
    event = read({**fields, "MessageSid": "SM" * 100_000})
    assert (event.type, len(event.key)) == ("message.unknown", 64)


def test_a_status_tells_which_send_it_is_about() -> None:
    """By the reference in the address that was given with the send, also where a batch repeats that address."""
    (event,) = ACCOUNT.parse(hook("status_with_reference_query"))
    assert event.correlation_id == "msg_01k6zq9s7f"
    assert read(STATUS, f"{URL}?ref=gw1%3Aabc%3A1").correlation_id == "gw1:abc:1"
    assert read(STATUS, f"{URL}?ref=gw1:abc:1&ref=2").correlation_id == "gw1:abc:1"
    assert read(STATUS, f"{URL}?ref=%00%ff").correlation_id == "\ufffd\ufffd"
    assert read(STATUS, f"{URL}?ref=").correlation_id is None
    assert read(STATUS).correlation_id is None
    assert read(STATUS, "https://[/?ref=1").correlation_id is None
    data = {"messageSid": "SM1", "messageStatus": "SENT", "statusCallBackUrl": f"{URL}?ref=gw1:abc:1#rc=5"}
    (streamed,) = ACCOUNT.parse(batch({"id": "EZ1", "type": "com.twilio.messaging.message.sent", "data": data}))
    assert streamed.correlation_id == "gw1:abc:1"


@pytest.mark.parametrize(
    ("sender", "author"),
    [
        ("whatsapp:+15005550199", Contact(phone="+15005550199")),
        ("whatsapp:US.1", Contact(user_id="US.1")),
        ("x", None),
    ],
)
def test_a_quotation_names_the_author(sender: str, author: Contact | None) -> None:
    """Also where Twilio does not know the message."""
    fields = {**MESSAGE, "Body": "x", "OriginalRepliedMessageSender": sender}
    quoted = [read({**fields, **more}).message for more in ({}, {"OriginalRepliedMessageSid": "SM2"})]
    assert [message and message.reply_to for message in quoted] == [
        author and ReplyTo(author=author),
        ReplyTo(id="SM2", author=author),
    ]


@pytest.mark.parametrize(
    ("fields", "type_", "expected"),
    [
        ({"MessageType": "never_seen"}, "message.unknown", {"type": "unknown", "raw_type": "never_seen"}),
        ({"MessageType": "never_seen", "Body": "x"}, "message.received", {"type": "text", "body": "x"}),
        ({"MessageType": "order"}, "message.received", {"type": "unsupported", "kind": "order"}),
        ({}, "message.received", {"type": "unsupported"}),
    ],
)
def test_nothing_becomes_a_message_that_nobody_wrote(fields: dict[str, str], type_: str, expected: Any) -> None:
    """The list of what somebody writes is closed."""
    assert (read({**MESSAGE, **fields}).type, content(**fields)) == (type_, expected)


def test_the_copies_in_the_metadata_fill_gaps() -> None:
    """And nothing else: parameters of their own count."""
    context = {"ProfileName": "Ana", "Forwarded": "true", "ButtonText": "Sim", "Body": "x", "WaId": 7}
    metadata = json.dumps({"type": "whatsapp", "data": {"context": context}})
    event = read({**MESSAGE, "ButtonText": "Yes", "ChannelMetadata": metadata})
    assert event.contact == Contact(phone="+15005550100", name="Ana")
    assert event.message is not None
    assert event.message.forwarded
    assert event.message.content == ButtonReply(id="Yes", title="Yes", source="template")


def test_all_files_of_a_form_are_read() -> None:
    """The first is the content, which has the caption."""
    files = {f"MediaUrl{index}": f"https://x/{index}" for index in range(3)}
    types = {"MediaContentType0": "image/jpeg", "MediaContentType1": "text/vcard"}
    event = read({**MESSAGE, **files, **types, "NumMedia": "3", "Body": "c"})
    assert event.message is not None
    assert event.message.content == Image(url="https://x/0", mime_type="image/jpeg", caption="c")
    card = Contacts(contacts=[{"url": "https://x/1", "mime_type": "text/vcard"}])
    assert event.message.more_media == [card, Document(url="https://x/2")]


def test_one_token_serves_all_senders_of_an_account() -> None:
    """Another number or another account is not ours; the smallest statuses name neither, and are."""
    (event,) = ACCOUNT.parse(hook("msg_text_basic"))
    assert not ACCOUNT.owns(msgspec.structs.replace(event, sender="+15005550198"))
    assert not ACCOUNT.owns(msgspec.structs.replace(event, account_id="AC0"))
    brazilian = msgspec.structs.replace(ACCOUNT, phone_number="+5554996634363")
    spelled = msgspec.structs.replace(event, sender="+555496634363")
    assert brazilian.owns(spelled)
    assert brazilian.account_of(spelled) in brazilian.accounts
    (smallest,) = ACCOUNT.parse(hook("status_minimal_delivered"))
    assert (smallest.sender, smallest.account_id) == (None, None)


# ---------------------------------------------------------------- content


def test_what_is_there_decides_before_what_it_is_called() -> None:
    """`MessageType` is a hint. A flow's answer beats a list, that a button, that a place, that a medium, that text."""
    fields = {"Body": "b", "MessageType": "text"}
    assert content(**fields)["type"] == "text"
    for more, kind in (
        ({"MediaUrl0": "https://x", "MediaContentType0": "video/mp4"}, "video"),
        ({"Latitude": "1", "Longitude": "2"}, "location"),
        ({"ButtonPayload": "p"}, "button_reply"),
        ({"ListId": "l"}, "list_reply"),
        ({"FlowData": "{}"}, "flow_reply"),
    ):
        fields |= more
        assert content(**fields)["type"] == kind


def test_blank_is_absent() -> None:
    """Twilio sends blanks for what is not there."""
    blanks = {"ButtonText": "", "ListId": "", "Latitude": "", "Longitude": "", "MediaUrl0": "", "InteractiveData": ""}
    assert content(Body="x", **blanks) == {"type": "text", "body": "x"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ButtonText": "Yes"}, {"id": "Yes", "title": "Yes", "source": "template"}),
        ({"ButtonPayload": "y", "Body": "Yes"}, {"id": "y", "title": "Yes", "source": "template"}),
        (
            {"ButtonText": "Yes", "ButtonPayload": "y", "MessageType": "interactive"},
            {"id": "y", "title": "Yes", "source": "interactive"},
        ),
        ({"ListTitle": "T"}, {"id": "T", "title": "T"}),
        ({"ListId": "l", "ListTitle": "T", "ListDescription": "d"}, {"id": "l", "title": "T", "description": "d"}),
    ],
)
def test_taps(fields: dict[str, str], expected: dict[str, str]) -> None:
    """A missing id is the label, a missing label the text."""
    found = content(**fields)
    del found["type"]
    assert found == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        ('"{\\"a\\": 1}"', {"a": 1}),
        ("[1]", None),
        ('"', None),
        ("[" * 5000, None),
        ('{"a": "\\u0000"}', {"a": "\ufffd"}),
    ],
)
def test_answers_of_flows(data: str, expected: Any) -> None:
    """An object, maybe encoded twice; whatever it is, its text is kept."""
    found = content(InteractiveData=data)
    assert (found["raw"], found.get("data")) == (data, expected)


@pytest.mark.parametrize(
    ("mime_type", "fields", "kind"),
    [
        ("image/webp", {}, "sticker"),
        ("image/webp", {"Body": "c"}, "image"),
        ("image/webp", {"Body": "c", "MessageType": "sticker"}, "sticker"),
        ("audio/ogg; codecs=opus", {}, "audio"),
        ("IMAGE/JPEG", {}, "image"),
        ("text/x-vcard", {}, "contacts"),
        ("text/plain", {}, "document"),
        ("", {}, "document"),
    ],
)
def test_kinds_of_media(mime_type: str, fields: dict[str, str], kind: str) -> None:
    """By the type of the file."""
    assert content(MediaUrl0="https://x/y", MediaContentType0=mime_type, **fields)["type"] == kind


def test_a_medium_has_an_id_of_two_sids() -> None:
    """Where its address is of Twilio's form."""
    base = "https://api.twilio.com/2010-04-01/Accounts/AC1/Messages/MM1/Media/ME1"
    assert content(MediaUrl0=base)["id"] == "MM1.ME1"
    for other in (f"{base}/x", f"{base}\n", "https://x/Messages/../Media/ME1", "https://[/Messages/a/Media"):
        assert "id" not in content(MediaUrl0=other)


@pytest.mark.parametrize(("latitude", "longitude"), [("91", "0"), ("0", "181"), ("NaN", "0"), ("x", "1"), ("inf", "1")])
def test_a_place_that_is_none_is_unread(latitude: str, longitude: str) -> None:
    """It does not become another place, and does not vanish."""
    event = read({**MESSAGE, "Latitude": latitude, "Longitude": longitude})
    assert event.type == "message.unknown"
    assert event.message is not None
    assert event.message.provider_message_id == "SM1"
    assert event.contact == Contact(phone="+15005550100")
    assert "Latitude" in dict(json.loads(bytes(event.raw)))


def test_a_reaction() -> None:
    """Not documented; taken for what it says. An empty one takes it back."""
    target = {"MessageType": "reaction", "OriginalRepliedMessageSid": "SM0"}
    assert content(**target, Body="👍") == {"type": "reaction", "message_id": "SM0", "emoji": "👍"}
    assert content(**target) == {"type": "reaction", "message_id": "SM0"}
    assert content(MessageType="reaction", Body="👍")["type"] == "text"
    # It is no answer to the message, as at the other providers.
    event = read({**MESSAGE, **target, "Body": "👍"})
    assert event.message is not None
    assert event.message.reply_to is None


def test_another_channel_of_the_same_number_is_unknown() -> None:
    """An SMS is no WhatsApp message, although it comes to the same address."""
    event = read({**MESSAGE, "From": "+15005550100", "To": "+15005550199", "Body": "x", "ButtonText": "y"})
    assert event.type == "message.unknown"
    assert msgspec.to_builtins(event.message)["content"] == {"type": "unknown", "raw_type": "sms"}
    event = read({**STATUS, "To": "+15005550100", "From": "+15005550199"})
    assert event.type == "message.unknown"
    assert read({**MESSAGE, "From": "messenger:1"}).type == "message.unknown"


@pytest.mark.parametrize(
    ("fields", "phone", "user_id"),
    [
        ({"From": "whatsapp:+5511987654321", "WaId": "551187654321"}, "+5511987654321", None),
        ({"From": "whatsapp:BR.1", "WaId": "5511987654321"}, "+5511987654321", "BR.1"),
        ({"From": "whatsapp:BR.1", "ExternalUserId": "whatsapp:BR.ENT.2"}, None, "BR.ENT.2"),
        ({"From": "whatsapp:+15005550100", "ExternalUserId": "BR.2"}, "+15005550100", "BR.2"),
    ],
)
def test_a_person_may_have_two_ids(fields: dict[str, str], phone: str | None, user_id: str | None) -> None:
    """Number and business-scoped id, from wherever they are."""
    contact = read({**MESSAGE, **fields, "ProfileName": "Ana"}).contact
    assert contact is not None
    assert (contact.phone, contact.user_id, contact.name) == (phone, user_id, "Ana")


# ---------------------------------------------------------------- statuses


@pytest.mark.parametrize(
    ("word", "value"),
    [("scheduled", "accepted"), ("partially_delivered", "delivered"), ("READ", "read"), ("canceled", "failed")],
)
def test_words_of_statuses(word: str, value: str) -> None:
    """Forms have them in lower case, batches in upper case; the key is the same."""
    event = read({**STATUS, "MessageStatus": word})
    assert event.status is not None
    assert (event.status.value, event.key) == (value, f"SM1|{word.lower()}")


def test_a_status_under_its_old_name() -> None:
    """`SmsStatus` says the same; of an inbound message it is `received`."""
    event = read({"SmsSid": "SM1", "SmsStatus": "sent", "To": "whatsapp:+15005550100"})
    assert event.status is not None
    assert event.status.value == "sent"
    assert read({**MESSAGE, "SmsStatus": "received", "MessageStatus": "received"}).type == "message.received"


def test_a_masked_recipient_is_nobody() -> None:
    """An address with crossed-out digits is no address."""
    assert read({**STATUS, "To": "whatsapp:+1500555XXXX"}).contact is None


def test_an_error_without_a_code_is_kept() -> None:
    """What the channel says, as a failure of the message."""
    event = read({**STATUS, "MessageStatus": "failed", "ChannelStatusMessage": "no"})
    assert event.status is not None
    assert msgspec.to_builtins(event.status.error) == {"class": "Rejected", "detail": "no"}


# ---------------------------------------------------------------- batches


def test_times_of_a_batch() -> None:
    """The item's own, else the envelope's, in UTC."""
    data = {"messageSid": "SM1", "messageStatus": "SENT"}

    def at(**times: Any) -> datetime | None:
        item = {"type": "com.twilio.messaging.message.sent", "time": times.get("time")}
        (event,) = ACCOUNT.parse(batch({**item, "data": {**data, "timestamp": times.get("timestamp")}}))
        return event.occurred_at

    noon = datetime(2026, 9, 29, 12, tzinfo=UTC)
    assert at(timestamp="2026-09-29T14:00:00+02:00", time="2026-01-01T00:00:00Z") == noon
    assert at(time="2026-09-29T12:00:00") == noon
    for nonsense in ("", "soon", 5, None, "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
        assert at(timestamp=nonsense) is None


def test_no_item_of_a_batch_is_lost() -> None:
    """Whatever the shape of an item, there is an event for it; the same one twice is one fact."""
    sent = "com.twilio.messaging.message.sent"
    odd: list[Any] = [
        None,
        1,
        "x",
        [],
        {},
        {"id": "EZ1"},
        {"id": 7, "type": 7, "data": 7},
        {"type": sent},
        {"type": sent, "data": {"": 1, "messageSid": 5, "messageStatus": ["x"], "to": None}},
        {"type": sent, "data": {"messageSid": "SM1", "messageStatus": "x", "errorCode": True, "to": 1.5}},
    ]
    events = ACCOUNT.parse(batch(*odd, *odd))
    assert len(events) == len(odd)
    assert [event.type for event in events] == ["message.unknown"] * len(odd)


def test_a_single_event_is_a_batch_of_one() -> None:
    """Without the list around it."""
    item = json.loads(sample("events_batch")["body"])[1]
    headers = {"content-type": "application/json; charset=utf-8"}
    hook = Webhook(method="POST", url=URL, headers=headers, body=json.dumps(item).encode())
    assert [event.type for event in ACCOUNT.parse(hook)] == ["message.status"]


def test_places_and_flags_of_a_batch() -> None:
    """Numbers and booleans mean what they mean in a form."""
    data = {**{name[0].lower() + name[1:]: value for name, value in MESSAGE.items()}, "latitude": -23.5, "longitude": 2}
    kind = "com.twilio.messaging.inbound-message.received"
    (event,) = ACCOUNT.parse(batch({"type": kind, "data": {**data, "forwarded": True}}))
    assert event.message is not None
    assert event.message.forwarded is True
    assert msgspec.to_builtins(event.message.content) == {"type": "location", "latitude": -23.5, "longitude": 2}


# ---------------------------------------------------------------- totality


def test_what_cannot_be_stored_is_replaced() -> None:
    """U+0000 and bytes that are no text, in names and values, in the event and in its raw."""
    body = urlencode(MESSAGE).encode() + b"&Body=a%00%ed%a0%bd%ff&n%00=1&\xff=\xfe"
    (event,) = ACCOUNT.parse(Webhook(method="POST", url=URL, headers={"content-type": FORM}, body=body))
    assert event.message is not None
    assert msgspec.to_builtins(event.message.content)["body"] == "a\ufffd" + "\ufffd" * 4
    assert ["n\ufffd", "1"] in json.loads(bytes(event.raw))
    _check_storable(event)


@pytest.mark.parametrize("body", [b"", b"&&&", b"&".join([b"a=b"] * 1001)])
def test_an_empty_or_endless_form_is_malformed(body: bytes) -> None:
    """There is nothing to read in it, or too much."""
    with pytest.raises(Malformed):
        ACCOUNT.parse(Webhook(method="POST", url=URL, headers={"content-type": FORM}, body=body))


@pytest.mark.parametrize("body", [b"", b"x", b"1", b'"x"', b"null", b"\xff", b"[" * 200_000])
def test_a_batch_that_is_none_is_malformed(body: bytes) -> None:
    """Neither list nor object."""
    with pytest.raises(Malformed):
        ACCOUNT.parse(Webhook(method="POST", url=URL, headers={"content-type": "application/json"}, body=body))


def test_a_form_about_something_else_is_unknown() -> None:
    """It has no message to be about; its digest is its key."""
    first, again, other = read({"Sid": "CH1"}), read({"Sid": "CH1"}), read({"Sid": "CH2"})
    assert first.type == "message.unknown"
    assert first.account is not None
    assert first.account.kind == "unknown_field"
    assert first.key == again.key != other.key
    assert read({"MessageSid": "SM1"}).type == "message.unknown"


def test_no_repr_shows_what_people_write() -> None:
    """It ends up in logs."""
    event = read({**MESSAGE, "Body": "PRIVATE", "ProfileName": "PRIVATE"})
    for value in (event, event.message, event.contact, Fact({"Body": "PRIVATE"}, msgspec.Raw(b'"PRIVATE"'))):
        assert "PRIVATE" not in repr(value)


def test_keys_are_short() -> None:
    """A very long id becomes a digest: keys go into an index."""
    assert len(read({**MESSAGE, "MessageSid": "S" * 5000}).key) == 64


def _check_storable(event: Event) -> None:
    def strings(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [text for key, item in value.items() for text in (key, *strings(item))]
        if isinstance(value, list):
            return [text for item in value for text in strings(item)]
        return [value] if isinstance(value, str) else []

    for text in strings(json.loads(msgspec.json.encode(event))):
        assert "\0" not in text
        text.encode()


@given(text=st.text(max_size=60))
@settings(max_examples=100, derandomize=True, deadline=None)
def test_a_text_comes_out_as_it_went_in(text: str) -> None:
    """Through the percent encoding, less what cannot be stored."""
    body = urlencode({**MESSAGE, "MessageType": "text"}) + "&Body=" + quote_plus(text + "!", errors="surrogatepass")
    hook = Webhook(method="POST", url=URL, headers={"content-type": FORM}, body=body.encode())
    (event,) = ACCOUNT.parse(hook)
    assert event.message is not None
    assert msgspec.to_builtins(event.message.content)["body"] == (text + "!").replace("\0", "\ufffd")
