"""What is a message of WhatsApp Web and what is none, and what stands around it, of every engine."""

import json
from typing import Any

import msgspec
import pytest

from providers import Contact, Event, Image, Location, Message, PollVote, ReplyTo, Text, UnsupportedContent
from providers.content import Content

from .samples import ACCOUNT, sample, signed

CHAT = "15005550100@c.us"
GROUP = "120363000000000042@g.us"
OWN, OWN_LID = "15005550199@c.us", "77000111222333@lid"
TARGET = {"remoteJid": CHAT, "fromMe": False, "id": "A0A0"}


def webhook(payload: dict[str, Any], event: str = "message.any", id: str = "evt_1") -> Event:
    envelope = {"id": id, "timestamp": 1795977600123, "event": event, "session": "acme"}
    content = json.dumps({**envelope, "me": {"id": OWN, "lid": OWN_LID}, "payload": payload})
    (found,) = ACCOUNT.parse(signed(content.encode()))
    return found


def read(data: dict[str, Any], event: str = "message.any", **payload: Any) -> Event:
    """The event of a message of which the engine has *data*, and which has nothing else but *payload*."""
    message = {"id": f"false_{CHAT}_B2B2", "timestamp": 1795977600, "from": CHAT, "fromMe": False, "body": None}
    return webhook({**message, "hasMedia": False, "media": None, "replyTo": None, "_data": data, **payload}, event)


def message_of(event: Event) -> Message:
    assert event.message is not None
    return event.message


def content_of(event: Event) -> Content:
    content = message_of(event).content
    assert content is not None
    return content


def kind_of(event: Event) -> str:
    """The type of *event*; of an account update its kind."""
    return event.account.kind if event.account else event.type


@pytest.mark.parametrize("case", sample("engine_webhooks"), ids=lambda case: case["name"])
def test_every_engine_is_read(case: dict[str, Any]) -> None:
    """As the engines' own mapping functions write them: none is malformed, each is what it is."""
    (event,) = ACCOUNT.parse(signed(json.dumps(case["webhook"]).encode()))
    found = json.loads(msgspec.json.encode(event))
    beside = ("raw", "key", "sender", "sender_id", "occurred_at", "reported_at")
    assert {name: value for name, value in found.items() if name not in beside} == case["event"]


# ---------------------------------------------------------------- what is a message

WRAPPERS = ["ephemeralMessage", "viewOnceMessage", "viewOnceMessageV2Extension", "deviceSentMessage", "futureWrapper"]


@pytest.mark.parametrize("field", ["message", "Message"])
@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ({"neverSeenMessage": {"x": 1}}, "message.unknown"),
        ({}, "message.unknown"),
        ({"conversation": ""}, "message.unknown"),
        ({"ephemeralMessage": {}}, "message.unknown"),
        ({"call": {"callKey": "AAAA"}}, "protocol_message"),
        ({"pinInChatMessage": {"key": TARGET, "type": 1}}, "protocol_message"),
        ({"keepInChatMessage": {"key": TARGET, "keepType": 1}}, "protocol_message"),
        ({"protocolMessage": {"type": 3, "ephemeralExpiration": 86400}}, "protocol_message"),
        ({"protocolMessage": {"type": 5, "historySyncNotification": {}}}, "protocol_message"),
        ({"pollUpdateMessage": {"pollCreationMessageKey": TARGET}}, "protocol_message"),
        ({"encReactionMessage": {"targetMessageKey": TARGET}}, "protocol_message"),
        ({"albumMessage": {"expectedImageCount": 2}}, "protocol_message"),
        ({"secretEncryptedMessage": {"targetMessageKey": TARGET, "secretEncType": 1}}, "protocol_message"),
        ({"secretEncryptedMessage": {"targetMessageKey": TARGET}}, "protocol_message"),
        ({"senderKeyDistributionMessage": {}, "messageContextInfo": {}}, "protocol_message"),
        ({"placeholderMessage": {"type": 0}}, "message_waiting"),
        ({"viewOnceMessageV2": {}}, "message.received"),
        ({"orderMessage": {"orderId": "1"}}, "message.received"),
        ({"groupInviteMessage": {"groupJid": GROUP}}, "message.received"),
        ({"senderKeyDistributionMessage": {}, "conversation": "x"}, "message.received"),
        ({"call": {"callKey": "AAAA"}, "conversation": "x"}, "message.received"),
        *[({wrapper: {"message": {"conversation": "x"}}}, "message.received") for wrapper in WRAPPERS],
        *[({wrapper: {"message": {"call": {"callKey": "A"}}}}, "protocol_message") for wrapper in WRAPPERS],
    ],
)
def test_nothing_becomes_a_message_that_nobody_wrote(field: str, message: dict[str, Any], kind: str) -> None:
    """The list of what somebody writes is closed: what is new is unknown, and not an empty message."""
    assert kind_of(read({field: message})) == kind


@pytest.mark.parametrize(
    ("source", "kind"), [("app", "message.unknown"), (None, "message.unknown"), ("api", "message.echo")]
)
def test_nor_does_an_echo_that_nobody_wrote(source: str | None, kind: str) -> None:
    """Of what came out of a program it is evidence all the same: it may be a lost send of ours."""
    mine = {"id": f"true_{CHAT}_B2B2", "fromMe": True, "source": source}
    assert kind_of(read({"message": {"neverSeenMessage": {"x": 1}}}, **mine)) == kind
    assert kind_of(read({"message": {"productMessage": {}}}, **mine)) == "message.echo"


@pytest.mark.parametrize(
    ("data", "payload", "kind"),
    [
        ({"type": "never_seen"}, {}, "message.unknown"),
        ({"type": "never_seen"}, {"body": "x"}, "message.received"),
        ({"type": "chat"}, {}, "message.unknown"),
        # The body of a notice: the group's new name.
        ({"type": "gp2", "subtype": "subject"}, {"body": "New name"}, "protocol_message"),
        ({"type": "notification_template"}, {"body": "x"}, "protocol_message"),
        ({"type": "pinned_message"}, {}, "protocol_message"),
        ({"type": "ciphertext"}, {}, "message_waiting"),
        ({"type": "product"}, {}, "message.received"),
        ({"messageStubType": "CALL_MISSED_VOICE"}, {}, "protocol_message"),
        ({"messageStubType": 27}, {}, "protocol_message"),
        ({"messageStubType": 2}, {}, "message_waiting"),
        ({"messageStubType": 0, "message": {"conversation": "x"}}, {}, "message.received"),
        ({}, {}, "message.unknown"),
    ],
)
def test_nor_do_the_notices_of_the_other_engines(data: dict[str, Any], payload: dict[str, Any], kind: str) -> None:
    """WhatsApp Web's own types, and what Baileys calls stubs."""
    assert kind_of(read(data, **payload)) == kind


@pytest.mark.parametrize(
    "before",
    [
        {"senderKeyDistributionMessage": {"groupId": GROUP}, "messageContextInfo": {}},
        {"messageContextInfo": {}},
        {"protocolMessage": {"type": 3}},
    ],
    ids=["keys", "context", "protocol"],
)
@pytest.mark.parametrize("field", ["message", "Message"])
def test_what_nobody_wrote_keeps_no_message_away(field: str, before: dict[str, Any]) -> None:
    """The first message of a member of a group comes in two parts with one id, of which GOWS may report each."""
    assert read({field: before}).key != read({field: {"conversation": "x"}}).key


def test_what_cannot_be_decrypted_yet_keeps_no_message_away() -> None:
    """The message may follow under the same id: it is another fact."""
    waiting = read({"type": "ciphertext"})
    assert waiting.key == read({"type": "ciphertext"}, "message.waiting").key
    assert waiting.key != read({"type": "chat"}, body="x").key


@pytest.mark.parametrize("event", ["message.any", "message.reaction", "message.edited"])
def test_stories_and_channels_are_no_conversations(event: str) -> None:
    """Whatever people do there."""
    for chat, kind in (
        ("status@broadcast", "status_broadcast"),
        ("1@newsletter", "newsletter"),
        ("1@broadcast", "broadcast"),
    ):
        found = read({}, event, id=f"false_{chat}_B2B2", body="x", reaction={"messageId": "A0A0", "text": "👍"})
        assert kind_of(found) == kind


# ---------------------------------------------------------------- edits and deletions

ENCRYPTED = {
    "secretEncryptedMessage": {"targetMessageKey": TARGET, "encPayload": "AAAA", "secretEncType": "MESSAGE_EDIT"}
}
EDITED = {"protocolMessage": {"key": TARGET, "type": 14, "editedMessage": {"conversation": "new"}}}
GOWS_KEY = {"remoteJID": CHAT, "fromMe": False, "ID": "A0A0"}


@pytest.mark.parametrize("event", ["message.any", "message.edited"])
@pytest.mark.parametrize(
    ("message", "content"),
    [
        (ENCRYPTED, None),
        ({"secretEncryptedMessage": {"targetMessageKey": GOWS_KEY, "secretEncType": 2}}, None),
        ({"ephemeralMessage": {"message": ENCRYPTED}}, None),
        (EDITED, Text(body="new")),
        ({"editedMessage": {"message": EDITED}}, Text(body="new")),
        ({"protocolMessage": {**EDITED["protocolMessage"], "key": GOWS_KEY}}, Text(body="new")),
    ],
)
def test_an_edit_is_of_the_message_that_it_names(event: str, message: dict[str, Any], content: Content | None) -> None:
    """Also where it comes as a message, and where its words are encrypted. It never names itself."""
    found = read({"message": message}, event)
    assert found.type == "message.edited"
    assert message_of(found) == Message(
        provider_message_id=f"false_{CHAT}_B2B2",
        content=content,
        original_message_id=f"false_{CHAT}_A0A0",
        by="contact",
    )


def test_an_edit_that_comes_twice_is_one_fact_until_its_words_are_known() -> None:
    """As a message and as an edit; the words may come later."""
    first, again = read({"message": ENCRYPTED}), read({"message": ENCRYPTED}, "message.edited")
    assert first.key == again.key
    assert first.key != read({"message": ENCRYPTED}, "message.edited", body="new", editedMessageId="A0A0").key


def test_nothing_stands_in_for_a_message_that_is_not_named() -> None:
    """And two edits of an unknown message are two facts, as they have no other difference."""
    found = read({}, "message.edited", body="new")
    assert (found.type, message_of(found).original_message_id) == ("message.edited", None)
    item = {"id": f"false_{CHAT}_B2B2", "_data": {}}
    found = webhook({"after": item, "before": None}, "message.revoked")
    assert (found.type, message_of(found).original_message_id) == ("message.deleted", None)
    edit = {**item, "body": "new"}
    assert webhook(edit, "message.edited").key != webhook(edit, "message.edited", id="evt_2").key


@pytest.mark.parametrize(
    "after",
    [
        {"_data": {"message": {"protocolMessage": {"key": TARGET, "type": 0}}}},
        {"_data": {"Message": {"protocolMessage": {"key": GOWS_KEY, "type": "REVOKE"}}}},
        {"_data": {"type": "revoked", "protocolMessageKey": {"id": "A0A0"}}},
        # Of WEBJS the message itself turns into its deletion.
        {"_data": {"type": "revoked"}, "id": f"false_{CHAT}_A0A0"},
    ],
)
@pytest.mark.parametrize("event", ["message.any", "message.revoked"])
def test_a_deletion_is_of_the_message_that_it_names(event: str, after: dict[str, Any]) -> None:
    """Also on servers that do not say it in a field of its own."""
    item = {"id": f"false_{CHAT}_B2B2", **after}
    found = webhook({"after": item, "before": None} if event == "message.revoked" else item, event)
    assert (found.type, message_of(found).by) == ("message.deleted", "contact")
    assert message_of(found).original_message_id == f"false_{CHAT}_A0A0"


def test_a_deletion_of_two_keys_is_read() -> None:
    """WPP has no messages there."""
    after = {"fromMe": False, "id": "B2B2", "remoteJid": "15005550100@s.whatsapp.net"}
    payload = {"revokedMessageId": "A0A0", "before": {**after, "id": "A0A0"}, "after": after, "_data": {}}
    found = webhook(payload, "message.revoked")
    assert found.contact == Contact(phone="+15005550100")
    assert message_of(found).original_message_id == f"false_{CHAT}_A0A0"


@pytest.mark.parametrize(("author", "original"), [(CHAT, f"false_{GROUP}_A0A0_{CHAT}"), (OWN, "A0A0")])
def test_an_admin_deletes_what_others_wrote(author: str, original: str) -> None:
    """The message is its author's, in a group; who did it is the admin."""
    admin = f"false_{GROUP}_B2B2_15005550177@c.us"
    key = {"remoteJid": GROUP, "id": "A0A0", "participant": author}
    item = {"id": admin, "_data": {"message": {"protocolMessage": {"key": key, "type": 0}}}}
    found = webhook({"after": item, "revokedMessageId": "A0A0"}, "message.revoked")
    assert found.contact == Contact(phone="+15005550177")
    assert (message_of(found).original_message_id, message_of(found).by) == (original, "contact")


def test_who_deletes_may_be_named_in_two_ways() -> None:
    """By the phone in the key and by the hidden number in the id, or as it was before: it is one message."""
    lid = "98765432101234@lid"
    key = {"remoteJid": GROUP, "id": "A0A0", "participant": CHAT}
    data = {"key": {"participantAlt": CHAT}, "message": {"protocolMessage": {"key": key, "type": 0}}}
    item = {"id": f"false_{GROUP}_B2B2_{lid}", "_data": data}
    found = webhook({"after": item, "revokedMessageId": "A0A0"}, "message.revoked")
    assert message_of(found).original_message_id == f"false_{GROUP}_A0A0_{lid}"
    before = {"id": f"false_{GROUP}_A0A0_{CHAT}"}
    found = webhook({"after": item, "before": before, "revokedMessageId": "A0A0"}, "message.revoked")
    assert message_of(found).original_message_id == before["id"]
    own = {"id": f"true_{GROUP}_B2B2_{OWN}", "_data": {"message": {"protocolMessage": {"key": key, "type": 0}}}}
    found = webhook({"after": own}, "message.revoked")
    assert (message_of(found).original_message_id, message_of(found).by) == (before["id"], "business")
    key["participant"] = OWN
    assert message_of(webhook({"after": own}, "message.revoked")).original_message_id == "A0A0"


@pytest.mark.parametrize(("revoker", "by"), [(OWN, "business"), (OWN_LID, "business"), (CHAT, "contact")])
def test_who_deleted_is_not_always_the_author(revoker: str, by: str) -> None:
    """WEBJS has the message, and beside it who deleted it."""
    item = {"id": f"false_{GROUP}_A0A0_{CHAT}", "_data": {"type": "revoked", "revokeSender": {"_serialized": revoker}}}
    assert message_of(webhook({"after": item}, "message.revoked")).by == by


# ---------------------------------------------------------------- what stands around a message

AD = {
    "title": "Sofas",
    "body": "All of them",
    "mediaType": 1,
    "thumbnailUrl": "https://x/t",
    "sourceType": "ad",
    "sourceId": "120211111111111111",
    "sourceUrl": "https://fb.me/xYz12",
    "ctwaClid": "AfINVENTED",
    "greetingMessageBody": "Hello",
}
REFERRAL = {
    "headline": "Sofas",
    "body": "All of them",
    "media_type": "image",
    "thumbnail_url": "https://x/t",
    "source_type": "ad",
    "source_id": "120211111111111111",
    "source_url": "https://fb.me/xYz12",
    "ctwa_clid": "AfINVENTED",
    "welcome_message": {"text": "Hello"},
}


@pytest.mark.parametrize(
    "data",
    [
        {"message": {"extendedTextMessage": {"text": "x", "contextInfo": {"externalAdReply": AD}}}},
        {"message": {"ephemeralMessage": {"message": {"imageMessage": {"contextInfo": {"externalAdReply": AD}}}}}},
        {
            "Message": {
                "extendedTextMessage": {
                    "contextInfo": {
                        "externalAdReply": {
                            **{k: v for k, v in AD.items() if not k.endswith(("Id", "Url"))},
                            "mediaType": "IMAGE",
                            "thumbnailURL": "https://x/t",
                            "sourceID": "120211111111111111",
                            "sourceURL": "https://fb.me/xYz12",
                        }
                    }
                }
            }
        },
        {"type": "chat", "ctwaContext": {**{k: v for k, v in AD.items() if k != "body"}, "description": "All of them"}},
    ],
    ids=["noweb", "wrapped", "gows", "webjs"],
)
def test_an_ad_is_a_referral(data: dict[str, Any]) -> None:
    """In the words that Meta and Twilio have for it."""
    assert message_of(read(data, body="x")).referral == REFERRAL


def test_a_preview_of_a_link_is_no_ad() -> None:
    card = {"title": "A page", "body": "of mine", "mediaType": [], "thumbnailUrl": "https://x/t", "sourceId": {}}
    data = {"message": {"extendedTextMessage": {"contextInfo": {"externalAdReply": card}}}}
    assert message_of(read(data, body="x")).referral is None


@pytest.mark.parametrize(
    "data",
    [
        {"message": {"extendedTextMessage": {"contextInfo": {"mentionedJid": [CHAT, "98765432101234@lid", CHAT, 7]}}}},
        {"Message": {"imageMessage": {"contextInfo": {"mentionedJID": [CHAT, "98765432101234@lid"]}}}},
        {"type": "chat", "mentionedJidList": [{"_serialized": CHAT}, "98765432101234@lid"]},
    ],
    ids=["noweb", "gows", "webjs"],
)
def test_who_is_mentioned(data: dict[str, Any]) -> None:
    """Each once."""
    assert message_of(read(data, body="@x")).mentions == [
        Contact(phone="+15005550100"),
        Contact(lid="98765432101234@lid"),
    ]


QUOTED = {"imageMessage": {"mimetype": "image/jpeg", "caption": "q"}}


@pytest.mark.parametrize(
    ("reply", "data"),
    [
        ({"id": "A0A0", "participant": CHAT, "body": "q", "_data": QUOTED}, {}),
        (
            {
                "id": f"false_{CHAT}_A0A0",
                "participant": CHAT,
                "body": "q",
                "hasMedia": True,
                "_data": {"type": "image"},
            },
            {},
        ),
        ({"participant": CHAT, "body": "q", "hasMedia": True, "_data": {"type": "image"}}, {"quotedStanzaID": "A0A0"}),
        (
            None,
            {
                "message": {
                    "extendedTextMessage": {
                        "contextInfo": {"stanzaId": "A0A0", "participant": CHAT, "quotedMessage": QUOTED}
                    }
                }
            },
        ),
        (
            None,
            {
                "Message": {
                    "videoMessage": {"contextInfo": {"stanzaID": "A0A0", "participant": CHAT, "quotedMessage": QUOTED}}
                }
            },
        ),
    ],
    ids=["noweb", "webjs", "webjs-group", "noweb-raw", "gows-raw"],
)
def test_what_is_quoted(reply: dict[str, Any] | None, data: dict[str, Any]) -> None:
    """Its id, its words, of what kind it was and who wrote it."""
    found = message_of(read(data, body="x", replyTo=reply)).reply_to
    assert found == ReplyTo(
        id=f"false_{CHAT}_A0A0",
        text="q",
        type="image",
        author=Contact(phone="+15005550100"),
    )


def test_nothing_is_made_up_about_what_is_quoted() -> None:
    """A picture in base64 is no text, and words alone may be a caption."""
    place = {
        "id": "A0A0",
        "body": "/9j/4AAQ",
        "_data": {"locationMessage": {"degreesLatitude": 1, "degreesLongitude": 2}},
    }
    assert message_of(read({}, body="x", replyTo=place)).reply_to == ReplyTo(id="A0A0", type="location")
    assert message_of(read({}, body="x", replyTo={"body": "q"})).reply_to == ReplyTo(text="q")
    assert message_of(read({}, body="x", replyTo={"id": ""})).reply_to is None


# ---------------------------------------------------------------- content


@pytest.mark.parametrize(
    "message",
    [
        {"conversation": "x"},
        {"ephemeralMessage": {"message": {"extendedTextMessage": {"text": "x"}}}},
        {"templateMessage": {"hydratedTemplate": {"hydratedContentText": "x"}}},
        {"viewOnceMessage": {"message": {"interactiveMessage": {"body": {"text": "x"}}}}},
        {"buttonsMessage": {"contentText": "x", "buttons": []}},
        {"listMessage": {"title": "t", "description": "x"}},
        {"viewOnceMessage": {"message": {"listMessage": {"title": "x", "buttonText": "b"}}}},
    ],
    ids=lambda message: str(next(iter(message))),
)
def test_words_are_read_wherever_they_are(message: dict[str, Any]) -> None:
    """Also of what another business sent, which WAHA may leave without a body."""
    assert content_of(read({"message": message})) == Text(body="x")


@pytest.mark.parametrize(
    ("data", "payload"),
    [
        ({}, {"location": {"latitude": "1.5", "longitude": 2, "description": "Office\nRua 1"}}),
        (
            {
                "message": {
                    "locationMessage": {
                        "degreesLatitude": 1.5,
                        "degreesLongitude": 2,
                        "name": "Office",
                        "address": "Rua 1",
                    }
                }
            },
            {},
        ),
        ({"type": "location", "lat": 1.5, "lng": 2, "loc": "Office\nRua 1"}, {"body": "/9j/4AAQ"}),
    ],
    ids=["webjs", "old noweb", "wpp"],
)
def test_a_place_is_read_wherever_it_is(data: dict[str, Any], payload: dict[str, Any]) -> None:
    expected = Location(latitude=1.5, longitude=2, name="Office", address="Rua 1")
    assert content_of(read(data, **payload)) == expected


@pytest.mark.parametrize(
    ("data", "payload"),
    [
        ({"message": {"contactMessage": {"vcard": "BEGIN:VCARD\nFN:Bo\nEND:VCARD"}}}, {}),
        ({"message": {"contactsArrayMessage": {"contacts": [{"vcard": "BEGIN:VCARD\nFN:Bo\nEND:VCARD"}]}}}, {}),
        ({"type": "vcard"}, {"body": "BEGIN:VCARD\nFN:Bo\nEND:VCARD"}),
        ({"type": "multi_vcard", "vcardList": [{"vcard": "BEGIN:VCARD\nFN:Bo\nEND:VCARD"}]}, {}),
    ],
    ids=["old noweb", "two", "wpp", "wpp-two"],
)
def test_a_card_is_read_wherever_it_is(data: dict[str, Any], payload: dict[str, Any]) -> None:
    content = msgspec.to_builtins(content_of(read(data, **payload)))
    assert [card["name"] for card in content["contacts"]] == [{"formatted_name": "Bo"}]


def test_a_card_without_anything_on_it_is_none() -> None:
    assert content_of(read({"type": "vcard"}, body="")) == UnsupportedContent(kind="vcard")


@pytest.mark.parametrize("caption", [None, "Look"])
def test_a_preview_of_a_picture_is_no_caption(caption: str | None) -> None:
    """WEBJS has it in the body of what cannot be fetched, as of a picture that may be seen once."""
    data = {"type": "image", "body": "/9j/4AAQSkZJRg", "caption": caption}
    assert content_of(read(data, body="/9j/4AAQSkZJRg")) == Image(caption=caption)


def test_a_vote_without_an_id_of_its_own_is_the_voters() -> None:
    """WPP names the poll in its place, which is ours: two votes are two facts, and neither is an echo."""
    poll = {"id": f"true_{CHAT}_A0A0", "fromMe": True}
    vote = {"id": f"true_{CHAT}_A0A0", "from": CHAT, "fromMe": False, "selectedOptions": ["x"], "timestamp": 1795977600}
    first = webhook({"poll": poll, "vote": vote}, "poll.vote")
    assert (first.type, first.contact) == ("message.received", Contact(phone="+15005550100"))
    assert message_of(first) == Message(content=PollVote(poll_id="A0A0", options=["x"]))
    assert first.key != webhook({"poll": poll, "vote": vote}, "poll.vote", id="evt_2").key


def test_who_votes_and_who_calls_may_be_in_the_engines_object() -> None:
    """The phone behind a hidden number, and the name."""
    lid = "98765432101234@lid"
    data = {"Info": {"SenderAlt": "15005550100@s.whatsapp.net", "PushName": "Ana"}}
    vote = {"id": f"false_{lid}_B2B2", "from": lid, "fromMe": False, "selectedOptions": []}
    found = webhook({"poll": {"id": f"true_{lid}_A0A0"}, "vote": vote, "_data": data}, "poll.vote")
    assert found.contact == Contact(phone="+15005550100", lid=lid, name="Ana")
    call = {"id": "C1", "from": lid, "_data": {"callerPn": "15005550100@s.whatsapp.net"}}
    assert webhook(call, "call.received").contact == Contact(phone="+15005550100", lid=lid)


@pytest.mark.parametrize(
    "error", ["Failed\n    at /app/dist/media.js:1", {"message": "Failed\n    at /app", "details": "/app"}]
)
def test_an_error_is_told_without_the_servers_paths(error: Any) -> None:
    """It is a trace: its first line says what is wrong."""
    media = {"url": None, "mimetype": "image/jpeg", "error": error}
    (found,) = message_of(read({"message": {"imageMessage": {}}}, hasMedia=True, media=media)).errors
    assert (found.title, found.detail) == ("Failed", "/app" if isinstance(error, dict) else None)
