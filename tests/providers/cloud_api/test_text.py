"""The short way through a webhook of plain texts: it gives what the long way gives, or leaves the body to it."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from providers import Malformed
from providers.cloud_api.inbound import everything
from providers.cloud_api.text import texts

from .samples import compact, facts, names, sample

WEBHOOKS = names("in_*") + names("st_*") + names("other_*")


def plain(**more: Any) -> dict[str, Any]:
    message = {
        "from": "5511987654321",
        "id": "wamid.A",
        "timestamp": "1793801400",
        "type": "text",
        "text": {"body": "Olá 🎁"},
    }
    return {**message, **more}


def envelope(*messages: Any, card: Any = None, **value: Any) -> bytes:
    card = {"profile": {"name": "Ana"}, "wa_id": "5511987654321"} if card is None else card
    metadata = {"display_phone_number": "15550001111", "phone_number_id": "109876543210987"}
    change = {
        "value": {
            "messaging_product": "whatsapp",
            "metadata": metadata,
            "contacts": [card],
            "messages": [*messages],
            **value,
        },
        "field": "messages",
    }
    entry = {"id": "210987654321098", "changes": [change]}
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()


def test_plain_texts_go_the_short_way() -> None:
    """Else nothing below would say anything."""
    taken = [name for name in WEBHOOKS if texts(compact(name))]
    assert len(taken) >= 5
    both = {"profile": {"name": "Ana"}, "wa_id": "5511987654321", "user_id": "BR.1"}
    for body in (envelope(plain(), plain(id="wamid.B")), envelope(plain(from_user_id="BR.1"), card=both)):
        events = texts(body)
        assert events
        assert facts(events) == facts(everything(body))


@pytest.mark.parametrize("name", WEBHOOKS)
def test_a_sample_gives_the_same_either_way(name: str) -> None:
    short = texts(compact(name))
    assert short is None or facts(short) == facts(everything(compact(name)))


@pytest.mark.parametrize(
    "body",
    [
        envelope(plain(context={"id": "wamid.0"})),
        envelope(plain(referral={"source_id": "1"})),
        envelope(plain(type="image", image={"id": "1"})),
        envelope(plain(text={"body": 1})),
        envelope(plain(text={"body": "x", "more": 1})),
        envelope(plain(id="")),
        envelope(plain(id=7)),
        envelope(plain(id="w" * 600)),
        envelope(plain(**{"from": "5511987654322"})),
        envelope(plain(**{"from": "BR.1"}), card={"profile": {"name": "Ana"}, "wa_id": "BR.1"}),
        envelope(plain(from_user_id="BR.1")),
        envelope(plain(), card={"profile": {"name": "Ana", "username": "@ana"}, "wa_id": "5511987654321"}),
        envelope(plain(), contacts=[]),
        envelope(plain(), statuses=[]),
        envelope(plain(), errors=[{"code": 1}]),
        envelope(plain(text={"body": "\x00"})),
        envelope(plain(text={"body": "\ud83c"})),
    ],
    ids=range(17),
)
def test_what_is_unusual_goes_the_long_way(body: bytes) -> None:
    assert texts(body) is None
    everything(body)


_VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just({}) | st.just([]) | st.just("BR.1")


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in _paths(item, (*path, key)))]


@given(data=st.data())
@settings(max_examples=500, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_value_replaced_anywhere_gives_the_same_either_way(data: st.DataObject) -> None:
    value = json.loads(envelope(plain(), plain(id="wamid.B", from_user_id="BR.1")))
    for _ in range(data.draw(st.integers(0, 2))):
        holder, path = value, data.draw(st.sampled_from(_paths(value)[1:]))
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = data.draw(_VALUES)
    body = json.dumps(value).encode()
    short = texts(body)
    if short is not None:
        assert facts(short) == facts(everything(body))


@given(cut=st.integers(0, 600), flip=st.integers(0, 255))
@settings(max_examples=500, derandomize=True, deadline=None)
def test_a_damaged_body_gives_the_same_either_way(cut: int, flip: int) -> None:
    content = bytearray(json.dumps(sample("in_text_basic"), separators=(",", ":")).encode())
    content[cut % len(content)] = flip
    short = texts(bytes(content))
    if short is None:
        return
    try:
        assert facts(short) == facts(everything(bytes(content)))
    except Malformed:
        pytest.fail("the long way does not read it")
    for event in short:
        msgspec.json.decode(event.raw)
