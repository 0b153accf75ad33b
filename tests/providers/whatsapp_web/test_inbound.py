"""Webhooks of WAHA beyond what its samples show: those are in test_kit.py."""

import json
from typing import Any

import msgspec
import pytest

from providers import Event, Malformed, Media, Message
from providers.content import MediaContent
from providers.whatsapp_web.addresses import chosen_id

from ..flows import drive
from .samples import ACCOUNT, hook, names, sample, signed

WEBHOOKS = names("msg_*") + names("ack_*") + names("session_*") + names("other_*")


def parse(content: bytes) -> list[Event]:
    return ACCOUNT.parse(signed(content))


def event_of(name: str) -> Event:
    (event,) = ACCOUNT.parse(hook(name))
    return event


def changed(name: str, **payload: Any) -> Event:
    """The event of a sample with other fields in its payload."""
    envelope = json.loads(sample(name)["body"])
    envelope["payload"] |= payload
    (event,) = parse(json.dumps(envelope).encode())
    return event


def message_of(event: Event) -> Message:
    assert event.message is not None
    return event.message


def content_of(event: Event) -> Any:
    return msgspec.to_builtins(message_of(event).content)


def quoted_id(event: Event) -> str | None:
    quoted = message_of(event).reply_to
    assert quoted is not None
    return quoted.id


def media_of(event: Event) -> dict[str, Media]:
    content = event.message.content if event.message else None
    if not isinstance(content, MediaContent) or content.id is None:
        return {}
    found, _ = drive(ACCOUNT.media(content.id), [])
    return {content.id: found}


def test_all_samples_are_here() -> None:
    """The samples came along: an empty folder would pass everything below."""
    assert len(WEBHOOKS) == 72


@pytest.mark.parametrize("name", WEBHOOKS)
def test_what_happened(name: str) -> None:
    """The type of each event, which the samples do not state in our words."""
    event = event_of(name)
    (expected,) = sample(f"{name}.expected")
    if expected["kind"] == "message" and expected["direction"] == "outbound":
        assert event.type == "message.echo"
    elif expected["kind"] == "message":
        wanted = {"edit": "message.edited", "revoke": "message.deleted", "unknown": "message.unknown"}
        assert event.type == wanted.get(expected["type"], "message.received")
    elif expected["kind"] == "status":
        assert event.type == "message.status"
    elif expected["type"] in ("message.sparkle", "ack_unknown"):
        assert event.type == "message.unknown"
    else:
        assert event.type == "account.updated"


@pytest.mark.parametrize("name", WEBHOOKS)
def test_raw_is_the_payload(name: str) -> None:
    """An event's raw is the payload as strict JSON, and the event itself encodes."""
    event = event_of(name)
    assert json.loads(bytes(event.raw)) == json.loads(sample(name)["body"])["payload"]
    assert b"\\u0000" not in msgspec.json.encode(event)


@pytest.mark.parametrize("name", WEBHOOKS)
def test_keys_do_not_depend_on_how_it_is_written(name: str) -> None:
    """Another order of keys and other spaces are the same fact."""
    envelope = json.loads(sample(name)["body"])
    turned = json.dumps(dict(reversed(envelope.items())), indent=2).encode()
    (event,) = parse(turned)
    assert event.key == event_of(name).key


def test_the_same_message_under_two_events_is_one() -> None:
    """`message` and `message.any`, and a retry, have one key."""
    keys = {
        event_of(name).key for name in ("msg_text_gows_unicode", "msg_text_any_duplicate", "msg_retry_same_request_id")
    }
    assert len(keys) == 1


def test_another_session_is_not_ours() -> None:
    """A server may sign for all its sessions with one key."""
    other = msgspec.structs.replace(ACCOUNT, session="umbrella")
    assert not other.owns(event_of("msg_text_noweb"))


def test_the_number_may_come_from_the_configuration() -> None:
    """Where a webhook does not name our number."""
    account = msgspec.structs.replace(ACCOUNT, phone_number="+15005550199")
    (event,) = account.parse(hook("session_failed"))
    assert (event_of("session_failed").sender, event.sender) == (None, "+15005550199")


# ---------------------------------------------------------------- identities


@pytest.mark.parametrize(
    ("name", "phone", "lid"),
    [
        ("msg_lid_gows_with_phone", "+15005550100", "98765432101234@lid"),
        ("msg_lid_noweb_with_phone", "+15005550100", "98765432101234@lid"),
        ("msg_lid_webjs_unknown_phone", None, "98765432101234@lid"),
        ("msg_group_webjs_lid_participant", None, "98765432101234@lid"),
        ("msg_device_jid", "+15005550100", None),
        ("ack_read_gows_lid", None, "98765432101234@lid"),
    ],
)
def test_a_hidden_number_is_never_taken_for_a_phone(name: str, phone: str | None, lid: str | None) -> None:
    """Both are kept where both are known."""
    contact = event_of(name).contact
    assert contact is not None
    assert (contact.phone, contact.lid) == (phone, lid)


def test_a_phone_with_a_hidden_twin_has_both() -> None:
    """Where the chat shows the phone and the engine shows the hidden number."""
    envelope = json.loads(sample("msg_text_noweb")["body"])
    envelope["payload"]["_data"]["key"]["remoteJidAlt"] = "98765432101234@lid"
    (event,) = parse(json.dumps(envelope).encode())
    assert event.contact is not None
    assert (event.contact.phone, event.contact.lid) == ("+15005550100", "98765432101234@lid")


def test_an_own_message_to_a_hidden_number_does_not_name_us() -> None:
    """The sender's twin is our own number; the recipient's is the person's."""
    envelope = json.loads(sample("msg_own_phone_gows")["body"])
    payload = envelope["payload"]
    payload["id"] = "true_98765432101234@lid_3EB07F1D81B566508A579A"
    payload["_data"]["Info"] |= {
        "SenderAlt": "15005550199@s.whatsapp.net",
        "RecipientAlt": "15005550100@s.whatsapp.net",
    }
    (event,) = parse(json.dumps(envelope).encode())
    assert event.contact is not None
    assert (event.contact.phone, event.contact.lid) == ("+15005550100", "98765432101234@lid")


def test_an_own_message_in_a_group_names_nobody() -> None:
    """Nobody in particular is at its other end."""
    identity = "true_120363000000000042@g.us_3EB0AA_15005550199@c.us"
    event = changed("msg_own_phone_gows", id=identity, participant="15005550199@c.us")
    assert (event.type, event.contact, event.group_id) == ("message.echo", None, "120363000000000042@g.us")


# ---------------------------------------------------------------- one id a message


def test_what_comes_back_of_a_send_names_it() -> None:
    """Acks and the message itself, by the id that was made of its correlation id; of nobody else's message."""
    ours = f"gw1:{'019ab2c3d4e5' + '7' + 'abc' + '8' + 'def012345678901'}:2"
    chat, bare = "15005550100@c.us", chosen_id(ours)
    for name in ("ack_device_gows", "msg_own_api_webjs"):
        assert changed(name, id=f"true_{chat}_{bare}").correlation_id == ours
        assert event_of(name).correlation_id is None
    group = "120363000000000042@g.us"
    receipt = changed("ack_device_gows", id=f"true_{group}_{bare}_{chat}", participant=chat)
    assert receipt.correlation_id == ours
    assert changed("msg_text_gows_unicode", id=f"false_{chat}_{bare}").correlation_id is None


def test_what_we_sent_has_its_bare_id_wherever_it_is_named() -> None:
    """The echo, the receipts under either name of the chat, and reactions: one and the same id."""
    assert message_of(event_of("msg_own_api_webjs")).provider_message_id == "6F5D81FD6FFCEE8610C8001358CBBAFA"
    statuses = [event_of(name).status for name in ("ack_read_gows_lid", "ack_device_gows")]
    assert {status.provider_message_id for status in statuses if status} == {"3EB0F8796E3BBCCE81C20C"}
    assert content_of(event_of("msg_reaction_removed_gows"))["message_id"] == "3EB00E50D8A0F64960DFBC"
    assert content_of(event_of("msg_poll_vote"))["poll_id"] == "3A9EB42491185ABB588A"
    assert quoted_id(event_of("msg_reply_bare_id")) == "3EB001655239BF17B0EE80"
    assert quoted_id(event_of("msg_reply_serialized_id")) == "3096BC4F489387231E93ECA2EC059AE5"


def test_what_others_wrote_is_named_by_the_id_it_came_with() -> None:
    """An edit, a deletion and a quotation lead to the very id of the message they are about."""
    assert message_of(event_of("msg_edited")).original_message_id == "false_15005550100@c.us_3EB0BF3B116557F8012960"
    assert message_of(event_of("msg_revoked")).original_message_id == "false_15005550100@c.us_3AB22E86EEB3F5AE0FDE"
    quoted = {"id": "3EB0AA", "participant": "15005550100@s.whatsapp.net", "body": "mine"}
    assert quoted_id(changed("msg_reply_bare_id", replyTo=quoted)) == "false_15005550100@c.us_3EB0AA"


def test_a_quotation_in_a_group_names_the_author() -> None:
    """As the id of the quoted message did."""
    quoted = {"id": "3EB0AA", "participant": "15005550177@c.us"}
    event = changed("msg_group_noweb", replyTo=quoted)
    assert quoted_id(event) == "false_120363000000000042@g.us_3EB0AA_15005550177@c.us"


@pytest.mark.parametrize(("own", "by"), [("true", "business"), ("false", "contact")])
@pytest.mark.parametrize("name", ["msg_edited", "msg_revoked"])
def test_an_edit_and_a_deletion_say_who_made_them(name: str, own: str, by: str) -> None:
    """Also where it was somebody of the business, on the phone."""
    envelope = json.loads(sample(name)["body"])
    item = envelope["payload"].get("after") or envelope["payload"]
    item["id"] = item["id"].replace("false", own)
    (event,) = parse(json.dumps(envelope).encode())
    assert event.type == ("message.edited" if name == "msg_edited" else "message.deleted")
    assert message_of(event).by == by


def test_nobody_is_taken_for_us_where_we_are_not_known() -> None:
    """A webhook without `me`, and an author without a phone."""
    envelope = json.loads(sample("msg_reply_bare_id")["body"])
    del envelope["me"]
    envelope["payload"]["replyTo"]["participant"] = "98765432101234@lid"
    (event,) = parse(json.dumps(envelope).encode())
    assert quoted_id(event) == "false_15005550100@c.us_3EB001655239BF17B0EE80"


def test_two_edits_of_one_message_are_two_facts() -> None:
    """WEBJS gives an edit the id of the message."""
    envelope = json.loads(sample("msg_edited")["body"])
    envelope["payload"]["editedMessageId"] = "3EB0FF5EE9ED58D127A41F"
    (first,) = parse(json.dumps(envelope).encode())
    (again,) = parse(json.dumps(envelope).encode())
    envelope["id"] = "evt_other"
    (second,) = parse(json.dumps(envelope).encode())
    assert first.key == again.key != second.key
    assert message_of(first).original_message_id == "false_15005550100@c.us_3EB0FF5EE9ED58D127A41F"


def test_an_old_server_hides_what_was_revoked() -> None:
    """In the raw message, where the field of its own is missing."""
    envelope = json.loads(sample("msg_revoked")["body"])
    del envelope["payload"]["revokedMessageId"]
    protocol = {"type": 0, "key": {"id": "3AOLD"}}
    envelope["payload"]["after"]["_data"]["message"]["protocolMessage"] = protocol
    (event,) = parse(json.dumps(envelope).encode())
    assert message_of(event).original_message_id == "false_15005550100@c.us_3AOLD"


# ---------------------------------------------------------------- quirks of the engines


@pytest.mark.parametrize("source", ["app", "api"])
def test_an_echo_says_who_wrote_it(source: str) -> None:
    """A person on the phone, or a program: that may have been us."""
    assert message_of(changed("msg_own_phone_gows", source=source)).source == source
    assert message_of(changed("msg_text_noweb", source=source)).source is None


def test_a_reaction_may_come_as_a_message() -> None:
    """From some versions of NOWEB, with the key of the other message."""
    envelope = json.loads(sample("msg_text_noweb")["body"])
    envelope["payload"]["body"] = None
    key = {"remoteJid": "15005550100@s.whatsapp.net", "fromMe": True, "id": "3EB0AA"}
    envelope["payload"]["_data"]["message"] = {"reactionMessage": {"key": key, "text": "👍"}}
    (event,) = parse(json.dumps(envelope).encode())
    assert content_of(event) == {"type": "reaction", "message_id": "3EB0AA", "emoji": "👍"}


def test_a_reaction_to_nothing_is_unknown_content() -> None:
    """It costs its content, not its message."""
    assert changed("msg_reaction_webjs_fraction", reaction={"text": "👍"}).type == "message.unknown"


def test_a_vote_in_no_poll_is_malformed() -> None:
    """There is nothing it could be about."""
    assert changed("msg_poll_vote", poll={}).type == "message.unknown"


@pytest.mark.parametrize(
    ("data", "body_", "expected"),
    [
        ({"type": "buttons_response", "selectedButtonId": "yes"}, "Yes", {"id": "yes", "title": "Yes"}),
        (
            {"message": {"buttonsResponseMessage": {"selectedButtonId": "y", "selectedDisplayText": "Y"}}},
            "Y",
            {"id": "y", "title": "Y"},
        ),
        (
            {"Message": {"templateButtonReplyMessage": {"selectedID": "t"}}},
            "T",
            {"id": "t", "title": "T", "source": "template"},
        ),
        (
            {
                "message": {
                    "interactiveResponseMessage": {"nativeFlowResponseMessage": {"paramsJson": '{"id": "q\\u0000"}'}}
                }
            },
            "Q",
            {"id": "q\ufffd", "title": "Q", "source": "interactive"},
        ),
        (
            {"type": "list_response", "listResponse": {"title": "B", "singleSelectReply": {"selectedRowId": "b"}}},
            "B",
            {"type": "list_reply", "id": "b", "title": "B"},
        ),
        (
            {
                "message": {
                    "interactiveResponseMessage": {"nativeFlowResponseMessage": {"name": "flow", "paramsJson": "["}}
                }
            },
            "F",
            {"type": "flow_reply", "raw": "[", "name": "flow"},
        ),
    ],
)
def test_what_was_tapped(data: dict[str, Any], body_: str, expected: dict[str, Any]) -> None:
    """Each engine has its own place for it."""
    content = content_of(changed("msg_text_noweb", _data=data, body=body_))
    assert expected.items() <= content.items()


@pytest.mark.parametrize(
    ("data", "mime_type", "expected"),
    [
        ({"type": "ptt"}, "audio/ogg; codecs=opus", {"type": "audio", "voice": True}),
        ({"type": "audio"}, "audio/mpeg", {"type": "audio"}),
        ({"Info": {"MediaType": "ptt"}}, "audio/ogg; codecs=opus", {"type": "audio", "voice": True}),
        ({"message": {"audioMessage": {"ptt": False}}}, "audio/ogg; codecs=opus", {"type": "audio"}),
        ({"type": "sticker"}, "image/webp", {"type": "sticker"}),
        ({}, "image/webp", {"type": "image"}),
        ({}, "video/mp4", {"type": "video"}),
        ({}, "audio/ogg; codecs=opus", {"type": "audio", "voice": True}),
        ({}, "application/zip", {"type": "document"}),
        ({}, None, {"type": "document"}),
        ({"message": {"viewOnceMessageV2": {"message": {"imageMessage": {}}}}}, None, {"type": "image"}),
        ({"type": "ptv"}, "video/mp4", {"type": "video"}),
    ],
)
def test_the_kind_of_a_medium(data: dict[str, Any], mime_type: str | None, expected: dict[str, Any]) -> None:
    """By the engine's mark, else by its type."""
    media = {"url": "http://localhost:3000/api/files/acme/x", "mimetype": mime_type, "filename": None}
    content = content_of(changed("msg_text_noweb", _data=data, body=None, hasMedia=True, media=media))
    assert expected.items() <= content.items()
    assert ("voice" in content) == ("voice" in expected)


def test_a_file_name_is_no_path() -> None:
    """The sender chose it."""
    media = {"url": "http://x/api/files/acme/x", "mimetype": "application/pdf", "filename": "../../etc/passwd"}
    assert content_of(changed("msg_document_webjs", media=media))["filename"] == "passwd"


def test_forwarding_is_where_the_engine_has_it() -> None:
    """In the raw object, or beside its content."""
    assert message_of(changed("msg_text_webjs", _data={"isForwarded": True, "type": "chat"})).forwarded
    context = {"contextInfo": {"isForwarded": True, "forwardingScore": 127}}
    message = message_of(changed("msg_text_noweb", _data={"message": {"extendedTextMessage": context}}))
    assert (message.forwarded, message.frequently_forwarded) == (True, True)


@pytest.mark.parametrize(
    "data",
    [
        {"type": "e2e_notification"},
        {"message": {"protocolMessage": {"type": 5}}},
        {"Message": {"senderKeyDistributionMessage": {}}},
    ],
)
def test_what_nobody_wrote_is_no_message(data: dict[str, Any]) -> None:
    """Notices of the clients among themselves."""
    event = changed("msg_text_webjs", body="", _data=data)
    assert event.type == "account.updated"
    assert event.account is not None
    assert event.account.kind == "protocol_message"


def test_a_card_is_read() -> None:
    """Name, number and id of the number, with the text itself."""
    (card,) = content_of(event_of("msg_contacts_gows"))["contacts"]
    assert card["name"] == {"formatted_name": "José Ñ."}
    assert card["phones"] == [{"phone": "+34 600 00 00 01", "type": "CELL", "wa_id": "34600000001"}]
    assert card["vcard"].startswith("BEGIN:VCARD")


def test_all_of_a_card_is_read() -> None:
    """Folded lines, groups and escapes."""
    lines = ["BEGIN:VCARD", "FN:A\\, B", "item1.TEL:+1", "EMAIL;type=WORK:a@b.example", "ORG:C\\;D;", "URL:https://x"]
    vcard = "\r\n".join([*lines, "NOTE:fold", " ed", "END:VCARD"])
    (card,) = content_of(changed("msg_contacts_gows", vCards=[vcard]))["contacts"]
    del card["vcard"]
    assert card == {
        "name": {"formatted_name": "A, B"},
        "phones": [{"phone": "+1"}],
        "emails": [{"email": "a@b.example", "type": "WORK"}],
        "urls": [{"url": "https://x"}],
        "org": {"company": "C;D"},
    }


@pytest.mark.parametrize(
    ("place", "type_"),
    [
        ({"latitude": "91", "longitude": 0}, "message.unknown"),
        ({"latitude": "NaN", "longitude": 0}, "message.unknown"),
        ({"latitude": True, "longitude": 0}, "message.unknown"),
        ({"latitude": "1.5", "longitude": 2}, "message.received"),
    ],
)
def test_a_place_that_is_none_is_unknown_content(place: dict[str, Any], type_: str) -> None:
    """It costs its content, not its message."""
    assert changed("msg_location_gows", location=place).type == type_


@pytest.mark.parametrize(
    ("status", "health"),
    [
        ("STOPPED", "down"),
        ("STARTING", "degraded"),
        ("SCAN_QR_CODE", "down"),
        ("PASSKEY_REQUIRED", "down"),
        ("WORKING", "retest"),
        ("FAILED", "down"),
        ("HIBERNATING", "down"),
        (None, "down"),
    ],
)
def test_what_a_state_means_for_sending(status: str | None, health: str) -> None:
    """Only a session that works can send; whether it does is asked again."""
    event = changed("session_working", status=status)
    assert event.account is not None
    assert (event.account.kind, event.account.health) == ("session", health)


def test_a_punished_account_is_degraded() -> None:
    """The newest builds have it beside the state."""
    envelope = json.loads(sample("session_working")["body"])
    envelope["me"]["reachoutTimelock"] = {"isActive": True}
    envelope["me"]["messageCapping"] = {"cappingStatus": "CAPPED"}
    (event,) = parse(json.dumps(envelope).encode())
    assert event.account is not None
    assert event.account.health == "degraded"
    assert event.account.details["restrictions"] == ["reachout_timelock", "message_capping_capped"]


def test_the_states_before_are_told() -> None:
    """With their times: how long it has been down."""
    event = event_of("session_working")
    assert event.account is not None
    states = [state["status"] for state in event.account.details["statuses"]]
    assert states == ["STARTING", "SCAN_QR_CODE", "WORKING"]


def test_a_rotated_code_is_a_fact_of_its_own() -> None:
    """The same state again: the QR code has to be fetched anew."""
    assert event_of("session_scan_qr").key != event_of("session_scan_qr_rotated").key


@pytest.mark.parametrize("ack", [-1, 0, 1, 2, 3, 4])
def test_an_ack_without_its_name_is_known_by_its_number(ack: int) -> None:
    """Older servers."""
    event = changed("ack_device_gows", ack=ack, ackName=None)
    assert event.status is not None
    assert event.status.value == ["accepted", "sent", "delivered", "read", "played", "failed"][ack]


def test_a_receipt_of_the_whole_group_is_the_messages() -> None:
    """WEBJS writes ourselves where others write the member."""
    event = changed("ack_group_read", participant="15005550199@c.us")
    assert event.status is not None
    assert event.status.participant is None


def test_ourselves_in_a_group_however_the_number_is_spelled() -> None:
    """Configured with Brazil's ninth digit, and the webhook does not say who is linked."""
    envelope = json.loads(sample("ack_group_read")["body"])
    envelope["payload"]["participant"] = "555496634363@c.us"
    del envelope["me"]
    account = msgspec.structs.replace(ACCOUNT, phone_number="+5554996634363")
    (event,) = account.parse(signed(json.dumps(envelope).encode()))
    assert event.status is not None
    assert event.status.participant is None


@pytest.mark.parametrize(
    ("error", "class_"),
    [
        ({"code": 463}, "Restricted"),
        ({"code": "463"}, "Restricted"),
        ({"code": "500", "blocked": True}, "Restricted"),
        ({"code": "1", "blocked": False}, "Rejected"),
        ({"code": None}, "Rejected"),
    ],
)
def test_why_a_message_failed(error: dict[str, Any], class_: str) -> None:
    """463 is a punishment of the account, and so is what the server calls blocked; all else is about the message."""
    event = changed("ack_error_463_noweb", error=error)
    assert event.status is not None
    assert event.status.error is not None
    assert event.status.error.class_ == class_


def test_half_an_emoji_and_nul_are_replaced() -> None:
    """In the text and in the raw."""
    envelope = json.loads(sample("msg_text_noweb")["body"])
    envelope["payload"]["body"] = "\U0001f600 \ud83d \0"
    (event,) = parse(json.dumps(envelope).encode())
    assert content_of(event)["body"] == "\U0001f600 \ufffd \ufffd"
    assert json.loads(bytes(event.raw))["body"] == "\U0001f600 \ufffd \ufffd"


def test_keys_are_short() -> None:
    """A very long id becomes a digest: keys go into an index."""
    assert len(changed("msg_text_noweb", id=f"false_15005550100@c.us_{'A' * 5000}").key) == 64


@pytest.mark.parametrize("payload", [None, [], "x", {}, {"id": 7}, {"id": "3EB0"}, {"id": "false_1@c.us_"}])
@pytest.mark.parametrize("event", ["message", "message.ack", "message.reaction", "message.revoked", "poll.vote"])
def test_a_payload_that_is_none_is_an_event(event: str, payload: Any) -> None:
    """Nothing vanishes."""
    (found,) = parse(json.dumps({"event": event, "session": "acme", "payload": payload}).encode())
    assert found.type == "message.unknown"
    assert found.account is not None
    assert found.account.kind == "malformed"
    assert ACCOUNT.owns(found)


# ---------------------------------------------------------------- totality


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"[]", b"1", b"{}", b'{"event": "message"}', b'{"event": 1, "session": "a"}', b"[" * 200_000],
    ids=lambda content: repr(content[:40]),
)
def test_no_envelope_is_malformed(content: bytes) -> None:
    """What is no envelope raises Malformed and nothing else."""
    with pytest.raises(Malformed):
        parse(content)
