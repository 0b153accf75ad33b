"""What is wrong with what people wrote: all of it at once, and nothing of what they wrote."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest

from ingress.api.providers import ConfigureRequest
from ingress.api.send import SendRequest
from ingress.settings import Settings
from ingress.validation import MAX_WRONG, wrong_fields
from ingress.web.bodies import decode, decode_query
from ingress.web.problems import Problem

SEND = msgspec.json.Decoder(SendRequest)


def errors(body: bytes) -> dict[str, str]:
    with pytest.raises(Problem) as caught:
        decode(body, SEND, any_text=True)
    assert (caught.value.status, caught.value.code) == (422, "invalid_request")
    return dict(caught.value.errors)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"to":"+5511987654321","nobody":1}', {"nobody": "is not a known field"}),
        (b'{"body":"x"}', {"to": "is missing"}),
        (b'{"to":{"phone":"12"}}', {"to.phone": "must be text, like +5511987654321, or null"}),
        (b'{"to":"12"}', {"to": "must be text, like +5511987654321, or an object"}),
        (b'{"to":7}', {"to": "must be text, like +5511987654321, or an object"}),
        (b'{"to":"+5511987654321","content":{"type":"text"}}', {"content.body": "is missing"}),
        (
            b'{"to":"+5511987654321","content":{"type":"text","body":"x","nobody":1}}',
            {"content.nobody": "is not a known field"},
        ),
        (
            b'{"to":"+5511987654321","expires_at":"tomorrow"}',
            {"expires_at": "must be a time with its zone, like 2030-01-31T12:00:00Z, or null"},
        ),
        (b"[]", {"": "must be an object"}),
        (b"7", {"": "must be an object"}),
    ],
)
def test_one_wrong_field(body: bytes, found: dict[str, str]) -> None:
    assert errors(body) == found


def test_every_wrong_field_at_once() -> None:
    body = {
        "to": {"phone": "12", "group_id": 7},
        "content": {
            "type": "interactive",
            "body": 1,
            "action": {"type": "list", "sections": [{"title": "a", "rows": []}, {"rows": [{"id": 1}]}], "button": []},
        },
        "fallback": "perhaps",
        "lead_id": "",
        "on_uncertain": "pray",
        "attachments": [{"url": "x"}, {"url": ""}, {"mime_type": "image/png"}],
        "who": "me",
    }
    found = errors(msgspec.json.encode(body))
    assert set(found) >= {
        "to.phone",
        "to.group_id",
        "content.body",
        "content.action.button",
        "content.action.sections[1].rows[0].id",
        "fallback",
        "lead_id",
        "on_uncertain",
        "attachments[1].url",
        "attachments[2].url",
        "who",
    }
    assert found["lead_id"] == "must be text of 1 to 256 characters or null"
    assert found["fallback"] == "must be true or false"
    assert found["on_uncertain"].startswith("must be one of ")


def test_an_unknown_kind_of_content_says_which_are_known() -> None:
    found = errors(b'{"to":"+5511987654321","content":{"type":"smoke"}}')
    assert found["content.type"].startswith("must be one of audio, ")
    assert errors(b'{"to":"+5511987654321","content":{}}')["content.type"].startswith("is missing: one of audio, ")


def test_nothing_that_was_sent_is_repeated() -> None:
    """But the names of fields, cut."""
    secret = "Hunter2-" * 9
    body = {
        "to": secret,
        "body": 7,
        "content": {"type": secret},
        "reply_to": [secret],
        "on_uncertain": secret,
        secret: 1,
    }
    found = errors(msgspec.json.encode(body))
    assert secret[:64] in found
    assert secret not in str(found)
    assert "Hunter2" not in str(list(found.values()))


def test_what_is_wrong_is_bounded() -> None:
    body = {"to": "+5511987654321", **{f"x{number}": number for number in range(4_000)}}
    assert len(errors(msgspec.json.encode(body))) == MAX_WRONG
    many = {"to": "+5511987654321", "attachments": [*[{"url": "x"}] * 3_000, {"url": 7}]}
    assert errors(msgspec.json.encode(many)) == {"attachments": "must be a list of at most 100 items or null"}
    deep: Any = 7
    for _ in range(500):
        deep = {"type": deep}
    assert errors(msgspec.json.encode({"to": "+5511987654321", "content": deep}))
    lists = {"to": "+5511987654321", "attachments": [{"url": ""}] * 3_000}
    assert errors(msgspec.json.encode(lists)) == {
        **{f"attachments[{place}].url": "must be text of 1 to 2048 characters" for place in range(MAX_WRONG)}
    }


def test_what_no_type_says_comes_with_the_rest() -> None:
    """Texts that cannot be stored, or not be shown."""
    with pytest.raises(Problem) as caught:
        decode(
            b'{"provider_type":"x\\u0000","name":"a\\nb","config_data":{"a":"\\u0007"},"is_active":7}',
            msgspec.json.Decoder(ConfigureRequest),
        )
    assert [path for path, _ in caught.value.errors] == ["provider_type", "name", "is_active"]


def test_broken_json_is_no_list_of_fields() -> None:
    for body in (b'{"to": 7, "body"', b"[" * 100_000, b"\xff", b""):
        with pytest.raises(Problem) as caught:
            decode(body, SEND)
        assert caught.value.code == "invalid_json"


class Asked(msgspec.Struct):
    after: UUID | None = None
    limit: Annotated[int, msgspec.Meta(ge=0, le=9)] = 5
    deep: bool = False


@pytest.mark.parametrize(
    ("query", "paths"),
    [
        (b"after=x&limit=-1&deep=perhaps&other=7", ["after", "limit", "deep"]),
        (b"limit=10", ["limit"]),
        (b"limit=%C2%B2", ["limit"]),
        (b"limit=" + b"9" * 5_000, ["limit"]),
        (b"limit=&after=&deep=&&=", []),
    ],
)
def test_a_query_is_looked_at_whole(query: bytes, paths: list[str]) -> None:
    if not paths:
        assert decode_query(query, Asked) == Asked()
        return
    with pytest.raises(Problem) as caught:
        decode_query(query, Asked)
    assert [path for path, _ in caught.value.errors] == paths


def test_a_query_has_the_types_of_its_struct() -> None:
    found = decode_query(b"after=0190b8a4-7e5c-7cc0-9f3a-5d1c2b3a4e5f&limit=3&limit=4&deep=true", Asked)
    assert found == Asked(UUID("0190b8a4-7e5c-7cc0-9f3a-5d1c2b3a4e5f"), 4, True)


def test_what_is_right_has_nothing_wrong() -> None:
    assert wrong_fields({"to": "+5511987654321", "body": "x"}, SendRequest) == []
    assert wrong_fields(msgspec.to_builtins(Settings()), Settings) == []
