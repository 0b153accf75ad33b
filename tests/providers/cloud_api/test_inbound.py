"""Webhooks of the WhatsApp Cloud API beyond what its samples show: those are in test_kit.py."""

import json
from typing import Any

import msgspec
import pytest

from providers import Contact, Event, Malformed, ReplyTo, _json
from providers.content import Text

from .samples import ACCOUNT, body, compact, facts, names, sample, signed

WEBHOOKS = names("in_*") + names("st_*") + names("other_*")


def parse(content: bytes) -> list[Event]:
    return ACCOUNT.parse(signed(content))


def envelope(*changes: Any, entry_id: Any = "210987654321098", time: Any = 1793801400) -> bytes:
    entry = {"id": entry_id, "time": time, "changes": list(changes)}
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()


def messages(*items: Any, **value: Any) -> dict[str, Any]:
    metadata = {"display_phone_number": "15550001111", "phone_number_id": "109876543210987"}
    return {"field": "messages", "value": {"metadata": metadata, "messages": list(items), **value}}


@pytest.mark.parametrize("name", WEBHOOKS)
def test_spacing_changes_nothing(name: str) -> None:
    """A pretty-printed body gives the very same events as a compact one."""
    assert facts(parse(body(name))) == facts(parse(compact(name)))


def test_raw_is_the_item() -> None:
    """Raw holds the message as the provider sent it, unknown keys included."""
    (event,) = parse(compact("in_quirk_extra_fields"))
    item = sample("in_quirk_extra_fields")["entry"][0]["changes"][0]["value"]["messages"][0]
    assert json.loads(bytes(event.raw)) == item


def test_a_redelivery_has_the_same_key() -> None:
    """The same message in another grouping is the same fact."""
    (first,) = parse(compact("in_redelivery_a"))
    _, again = parse(compact("in_redelivery_b"))
    assert first.key == again.key


@pytest.mark.parametrize("name", WEBHOOKS)
def test_keys_do_not_depend_on_the_order_of_keys(name: str) -> None:
    """A redelivery that is serialized otherwise has the same keys."""
    turned = json.dumps(_reversed(sample(name))).encode()
    assert [event.key for event in parse(turned)] == [event.key for event in parse(compact(name))]


def _reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reversed(item) for key, item in reversed(value.items())}
    return [_reversed(item) for item in value] if isinstance(value, list) else value


def test_facts_without_an_id_keep_their_key_in_another_grouping() -> None:
    """Items of one list that come alone the second time are the same facts."""
    whole = sample("other_contact_sync")
    both = [event.key for event in parse(compact("other_contact_sync"))]
    items = whole["entry"][0]["changes"][0]["value"]["state_sync"]
    whole["entry"][0]["changes"][0]["value"]["state_sync"] = items[1:]
    assert [event.key for event in parse(json.dumps(whole).encode())] == both[1:]


def test_keys_are_short() -> None:
    """A very long id becomes a digest: keys go into an index."""
    (event,) = parse(envelope(messages({"id": "w" * 5000, "type": "text", "text": {"body": "x"}})))
    assert len(event.key) == 64


def test_an_app_is_shared_and_its_events_are_not() -> None:
    """Of a batch for two numbers, each account owns its own events and nothing of the other's."""
    events = parse(compact("in_batch_mixed"))
    assert [ACCOUNT.owns(event) for event in events] == [True, True, True, True, True, False, False]
    other = msgspec.structs.replace(ACCOUNT, phone_number_id="119876543210987", waba_id="220987654321098")
    assert [other.owns(event) for event in events] == [not ACCOUNT.owns(event) for event in events]


def test_a_number_that_is_named_counts_more_than_the_account() -> None:
    """An event of another number of the same account is not ours."""
    (event,) = parse(compact("in_text_basic"))
    assert not ACCOUNT.owns(msgspec.structs.replace(event, sender_id="1"))
    assert not ACCOUNT.owns(msgspec.structs.replace(event, sender_id=None, account_id=None))


# ---------------------------------------------------------------- quirks


def test_half_an_emoji_becomes_a_replacement_character() -> None:
    """A lone surrogate is replaced in the text, the name and the raw; whole pairs stay."""
    item = {"id": "w1", "from": "15550002222", "type": "text", "text": {"body": "\U0001f600 \ud83d"}}
    (event,) = parse(envelope(messages(item)))
    assert event.message is not None
    assert event.message.content is not None
    assert msgspec.to_builtins(event.message.content)["body"] == "\U0001f600 \ufffd"
    assert json.loads(bytes(event.raw))["text"]["body"] == "\U0001f600 \ufffd"


def test_nul_is_replaced_wherever_it_hides() -> None:
    """In text, in keys, and inside the JSON text of a flow's answer."""
    reply = {"name": "flow", "body": "a\0", "response_json": '{"k\\u0000": "v\\u0000"}'}
    item = {"id": "w1", "type": "interactive", "interactive": {"type": "nfm_reply", "nfm_reply": reply}}
    (event,) = parse(envelope(messages({**item, "x\0": 1})))
    assert event.message is not None
    content = msgspec.to_builtins(event.message.content)
    assert content["body"] == "a\ufffd"
    assert content["data"] == {"k\ufffd": "v\ufffd"}
    assert "x\ufffd" in json.loads(bytes(event.raw))


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\a.pdf", "a.pdf"),
        ("a\nb\x7f.pdf", "ab.pdf"),
        ("família 👨‍👩‍👧.jpg", "família 👨‍👩‍👧.jpg"),
        ("..", None),
        ("dir/", None),
    ],
)
def test_a_file_name_is_no_path(name: str, safe: str | None) -> None:
    """Path parts and control characters go; the rest stays as it was written."""
    item = {"id": "w1", "type": "document", "document": {"id": "m1", "filename": name}}
    (event,) = parse(envelope(messages(item)))
    assert event.message is not None
    assert msgspec.to_builtins(event.message.content).get("filename") == safe


@pytest.mark.parametrize(
    ("price", "text"),
    [(19.9, "19.9"), ("5", "5"), (1234567.89, "1234567.89"), (1e21, "1000000000000000000000"), (0, "0")],
)
def test_prices_stay_exact(price: Any, text: str) -> None:
    """A price is decimal text without an exponent."""
    line = {"product_retailer_id": "p", "quantity": "2", "item_price": price, "currency": "BRL"}
    item = {"id": "w1", "type": "order", "order": {"catalog_id": "c", "product_items": [line]}}
    (event,) = parse(envelope(messages(item)))
    assert event.message is not None
    assert msgspec.to_builtins(event.message.content)["items"][0]["unit_price"] == text


@pytest.mark.parametrize("price", ["1e999999999", "NaN", "free", None, True])
def test_a_price_that_is_none_costs_only_its_message(price: Any) -> None:
    """It becomes a message of unknown content: nothing vanishes, nothing explodes."""
    line = {"product_retailer_id": "p", "quantity": 1, "item_price": price, "currency": "BRL"}
    item = {"id": "w1", "type": "order", "order": {"catalog_id": "c", "product_items": [line]}}
    (event,) = parse(envelope(messages(item)))
    assert event.type == "message.unknown"


@pytest.mark.parametrize("timestamp", ["", "soon", -1e400, 10**30, True, [1], None])
def test_a_time_that_is_none_falls_back_to_the_entry(timestamp: Any) -> None:
    """The entry's time, where a message has none that can be read."""
    item = {"id": "w1", "type": "text", "text": {"body": "x"}, "timestamp": timestamp}
    content = envelope(messages(item)).replace(b"-Infinity", b"-1e400")
    (event,) = parse(content)
    assert event.occurred_at is not None
    assert event.occurred_at.timestamp() == 1793801400


def test_the_only_contact_is_not_taken_for_somebody_else() -> None:
    """A card with another number and no id in common gives no name."""
    item = {"id": "w1", "from": "15550002222", "type": "text", "text": {"body": "x"}}
    card = {"wa_id": "15559998888", "profile": {"name": "Other"}}
    (event,) = parse(envelope(messages(item, contacts=[card])))
    assert event.contact is not None
    assert (event.contact.phone, event.contact.name) == ("+15550002222", None)


def test_the_only_contact_may_write_the_number_in_another_way() -> None:
    """Brazil's ninth digit makes nobody a stranger."""
    item = {"id": "w1", "from": "5551987654321", "type": "text", "text": {"body": "x"}}
    card = {"wa_id": "555187654321", "user_id": "BR.1", "profile": {"name": "Zé"}}
    (event,) = parse(envelope(messages(item, contacts=[card])))
    assert event.contact is not None
    assert (event.contact.phone, event.contact.user_id, event.contact.name) == (
        "+5551987654321",
        "BR.1",
        "Zé",
    )


def test_an_edit_of_unknown_content_is_still_an_edit() -> None:
    """What the new content is may be unknown; which message it replaces is not."""
    edit = {"original_message_id": "w0", "message": {"type": "hologram"}}
    (event,) = parse(envelope(messages({"id": "w1", "type": "edit", "edit": edit})))
    assert event.type == "message.edited"
    assert event.message is not None
    assert event.message.original_message_id == "w0"


# ---------------------------------------------------------------- totality


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"[]",
        b"1",
        b"\xff\xfe{",
        b'{"object": "whatsapp_business_account", "entry": 5}',
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"object": "whatsapp_business_account", "entry": [NaN]}',
        '{"object": "whatsapp_business_account", "entry": []}'.encode("utf-16"),
        b"\xef\xbb\xbf{}",
        b'{"object": "whatsapp_business_account", "entry": [], "x": ' + b"[" * 70 + b"]" * 70 + b"}",
        b'{"object": "whatsapp_business_account", "entry": [' + b"1," * 60_000 + b"1]}",
        b'{"object": "whatsapp_business_account", "x": "\\ud83d", "y":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"entry": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda content: repr(content[:40]),
)
def test_no_envelope_is_malformed(content: bytes) -> None:
    """What is no envelope, or too deep or too much to be one, raises Malformed and nothing else."""
    with pytest.raises(Malformed):
        parse(content)


def test_other_objects_hold_no_events() -> None:
    """A body about a page, or about nothing, is read and left alone."""
    assert parse(b"{}") == []
    assert parse(b'{"object": "page", "entry": 5}') == []


def test_depth_up_to_the_limit_is_read() -> None:
    """Sixty-four levels are fine, and a batch of a thousand messages is."""
    deep: Any = 1
    for _ in range(50):
        deep = [deep]
    assert len(parse(envelope({"field": "new", "value": {"deep": deep}}))) == 1
    many = [{"id": f"w{n}", "type": "text", "text": {"body": "x"}} for n in range(1000)]
    assert len(parse(envelope(messages(*many)))) == 1000


def test_no_item_of_a_batch_is_lost() -> None:
    """Whatever the shape of an item, there is an event for it."""
    odd: list[Any] = [None, 1, "x", [], {}, {"id": None}, {"id": "w1"}, {"id": 7, "type": 7}]
    assert len(parse(envelope(messages(*odd)))) == len(odd)
    assert len(parse(envelope(None, 1, {}, {"field": "messages"}, {"value": {}}))) == 5


# ---------------------------------------------------------------- what stands around a message


def test_an_opened_chat_keeps_the_ad_it_came_from() -> None:
    referral = {"source_type": "ad", "source_id": "1202", "ctwa_clid": "ARx"}
    item = {"id": "w1", "from": "15550002222", "type": "request_welcome", "referral": referral}
    (event,) = parse(envelope(messages(item)))
    assert event.account is not None
    assert event.account.details == {"message_id": "w1", "referral": referral}


@pytest.mark.parametrize("kind", ["edit", "revoke"])
@pytest.mark.parametrize("original", ["wamid.A", None])
@pytest.mark.parametrize("by", ["contact", "business"])
def test_an_edit_and_a_deletion_say_who_made_them(kind: str, original: str | None, by: str) -> None:
    """Whoever it was, also on the business' phone; nothing stands in for a message that is not named."""
    value = {"original_message_id": original, "message": {"type": "text", "text": {"body": "new"}}}
    item = {"id": "w1", "from": "15550002222", "to": "15550002222", "type": kind, kind: value}
    change = messages(item)
    if by == "business":
        change["field"], change["value"]["message_echoes"] = "smb_message_echoes", [item]
    (event,) = parse(envelope(change))
    assert event.message is not None
    assert event.type == ("message.edited" if kind == "edit" else "message.deleted")
    assert (event.message.by, event.message.original_message_id) == (by, original)
    assert event.message.content == (Text(body="new") if kind == "edit" else None)


def test_what_nobody_is_known_to_have_written_is_no_echo() -> None:
    """A new type out of the phone app is as unknown as one out of a person's."""
    change = messages()
    item = {"id": "w1", "from": "15550001111", "to": "15550002222", "type": "hologram"}
    change["field"], change["value"]["message_echoes"] = "smb_message_echoes", [item]
    (event,) = parse(envelope(change))
    assert event.type == "message.unknown"


@pytest.mark.parametrize(
    ("kind", "type_"),
    [
        ("edit", "message.edited"),
        ("revoke", "message.deleted"),
        ("pin", "message.unknown"),
        ("keep_in_chat", "message.unknown"),
        ("poll_creation", "message.received"),
        ("media_placeholder", "message.received"),
        ("video", "message.received"),
        ("something_new", "message.unknown"),
        (None, "message.received"),
    ],
)
def test_what_is_not_supported_is_what_it_is(kind: str | None, type_: str) -> None:
    """An edit of a message that is not named, as numbers without a phone get it; a pin is nothing that was written."""
    (event,) = parse(envelope(messages({"id": "w1", "type": "unsupported", "unsupported": {"type": kind}})))
    assert event.type == type_
    assert event.message is not None
    assert event.message.by == ("contact" if kind in ("edit", "revoke") else None)
    assert event.message.original_message_id is None


def test_an_edit_without_words_has_no_content() -> None:
    """Nobody wrote an empty message."""
    (event,) = parse(envelope(messages({"id": "w1", "type": "edit", "edit": {"original_message_id": "wamid.A"}})))
    assert event.message is not None
    assert (event.type, event.message.content) == ("message.edited", None)


@pytest.mark.parametrize(
    ("written", "author"),
    [
        ("15550001111", Contact(phone="+15550001111")),
        ("109876543210987", Contact(phone="+15550001111")),
        ("15550002222", Contact(phone="+15550002222")),
        ("BR.1", Contact(user_id="BR.1")),
        (None, None),
    ],
    ids=["business", "id of its number", "person", "user id", "nobody"],
)
def test_a_quotation_names_the_author(written: str | None, author: Contact | None) -> None:
    item = {"id": "w1", "from": "15550002222", "type": "text", "text": {"body": "x"}}
    card = {"wa_id": "15550002222", "profile": {"name": "N"}}
    context = {"id": "wamid.A", "from": written}
    (event,) = parse(envelope(messages({**item, "context": context}, contacts=[card])))
    assert event.message is not None
    assert event.message.reply_to == ReplyTo(id="wamid.A", author=author)


def test_nobody_is_the_author_where_nobody_is_named() -> None:
    """Nor is the number known that the message came to."""
    item = {"id": "w1", "type": "text", "text": {"body": "x"}, "context": {"id": "wamid.A"}}
    (event,) = parse(envelope({"field": "messages", "value": {"messages": [item]}}))
    assert event.message is not None
    assert event.message.reply_to == ReplyTo(id="wamid.A")


# ---------------------------------------------------------------- bodies that are made to cost much


def test_an_id_that_is_too_long_is_none() -> None:
    """It costs its item, which is empty then, and no neighbour; what the item had is in raw."""
    long = "wamid." + "x" * 900_000
    good = {"from": "5511987654321", "id": "wamid.good", "type": "text", "text": {"body": "x"}}
    change = messages({**good, "id": long}, good, statuses=[{"id": long, "status": "read"}])
    kinds = [(event.type, len(event.key), event.account and event.account.kind) for event in parse(envelope(change))]
    assert kinds == [
        ("message.unknown", 64, "malformed"),
        ("message.received", 26, None),
        ("message.unknown", 64, "malformed"),
    ]


@pytest.mark.parametrize("where", ["name", "username", "wa_id", "user_id", "phone_number_id", "time"])
def test_what_all_items_share_is_not_repeated_for_each(where: str) -> None:
    """A megabyte that stands once in a body would be gigabytes of events."""
    big = "9" * 1_000_000
    card = {"wa_id": "5511987654321", "profile": {"name": "N"}}
    change = messages(*[{"from": "5511987654321", "id": f"wamid.{n}"} for n in range(2_000)], 7, 8, contacts=[card])
    if where in ("name", "username"):
        card["profile"] = {where: big}
    elif where == "phone_number_id":
        change["value"]["metadata"] = {where: big}
    elif where != "time":
        card[where] = big
    events = parse(envelope(change, time=big if where == "time" else 1793801400))
    assert len(events) == 2_002
    assert sum(len(msgspec.json.encode(event)) for event in events) < 2_000_000
    assert all(len(event.key) < 100 for event in events)


@pytest.mark.parametrize(
    "item",
    [b"[]", b"{}", b'{"":0}', b"1e9", b'"\\"', b'"\\u0000"', b"9" * 4_000],
    ids=["lists", "objects", "keys", "numbers", "texts", "NUL", "digits"],
)
def test_what_takes_long_to_decode_is_refused_before_that(item: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder of 4 MiB of small values lets nothing else run for a third of a second."""

    def decode(_: bytes) -> Any:
        raise AssertionError("decoded")

    monkeypatch.setattr(_json, "_decode", decode)
    monkeypatch.setattr(_json.json, "loads", decode)
    with pytest.raises(Malformed):
        _json.read(b"[" + b",".join([item] * (4_000_000 // (len(item) + 1))) + b"]")


def test_commas_and_digits_in_a_text_are_no_values() -> None:
    text = ',[{"\\' * 60_000 + "7" * 4_000
    (event,) = parse(envelope(messages({"from": "5511987654321", "id": "1", "type": "text", "text": {"body": text}})))
    assert event.message is not None
    assert event.message.content == Text(body=text)
