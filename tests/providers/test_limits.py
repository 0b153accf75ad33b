"""Limits as numbers, and how a message is measured. What each provider does with its own: the kit."""

from typing import Any

import msgspec
import pytest

from providers import Limits, OutboundContent, Rejected, SendError, Text, Unsupported
from providers.limits import OPUS, check, measured, named

SOURCE = "https://example.org/limits"
LIMITS = {
    "text": Limits(source=SOURCE, at_most={"text_characters": 3}),
    "image": Limits(source=SOURCE, at_most={"file_bytes": 10, "caption_characters": 0}, mime_types=("image/png",)),
    "audio": Limits(source=SOURCE, mime_types=("audio/mpeg", OPUS)),
    "voice": Limits(source=SOURCE, mime_types=(OPUS,)),
    "sticker": Limits(source=SOURCE, at_most={"file_bytes": 10}),
    "static_sticker": Limits(source=SOURCE, at_most={"file_bytes": 5}),
    "carousel": Limits(source=SOURCE, at_most={"cards": 3}, at_least={"cards": 2}),
    "buttons": Limits(source=SOURCE, at_most={"buttons": 1}, headers=("text", "image")),
    "template": Limits(source=SOURCE, at_most={"body_text_characters": 3}, headers=("image",)),
}
BUTTON = {"id": "1", "title": "t"}


def content(**fields: Any) -> OutboundContent:
    return msgspec.convert(fields, OutboundContent)


def tap(kind: str, header: Any = None, **action: Any) -> OutboundContent:
    return content(type="interactive", body="b", header=header, action={"type": kind, **action})


def refused(content: OutboundContent) -> SendError | None:
    try:
        check(content, LIMITS, "Example")
    except SendError as error:
        return error
    return None


def cards(number: int) -> OutboundContent:
    return tap("carousel", cards=[{"image_url": "https://x"}] * number)


def parameters(where: str, *found: Any) -> OutboundContent:
    return content(type="template", name="n", language="en", components=[{"type": where, "parameters": [*found]}])


@pytest.mark.parametrize(
    ("message", "error", "code", "detail"),
    [
        (Text(body="äöü😀"), Unsupported, "text_too_long", "text: 4 characters, and Example takes at most 3"),
        (Text(body=""), Rejected, "text_empty", "text: 0 characters, and Example takes at least 1"),
        (
            content(type="image", size_bytes=1_000_000),
            Unsupported,
            "media_too_large",
            "file: 1,000,000 bytes, and Example takes at most 10",
        ),
        (content(type="image", caption="c"), Unsupported, "caption_unsupported", "Example has no caption"),
        (content(type="image", mime_type="image/gif"), Unsupported, "mime_type_unsupported", "png, and not image/gif"),
        (content(type="audio", voice=True, mime_type="audio/mpeg"), Unsupported, "mime_type_unsupported", "as voice"),
        (content(type="sticker", animated=False, size_bytes=6), Unsupported, "media_too_large", "at most 5"),
        (cards(0), Rejected, "too_few_cards", "cards: 0, and Example takes at least 2"),
        (cards(1), Unsupported, "too_few_cards", "at least 2"),
        (cards(4), Unsupported, "too_many_cards", "cards: 4, and Example takes at most 3"),
        (tap("buttons", buttons=[]), Rejected, "too_few_buttons", "at least 1"),
        (tap("buttons", {"type": "video"}, buttons=[BUTTON]), Unsupported, "header_unsupported", "of the kind video"),
        (
            tap("buttons", {"type": "image", "size_bytes": 11}, buttons=[BUTTON]),
            Unsupported,
            "media_too_large",
            "at most 10",
        ),
        (parameters("body", {"type": "text", "text": "long"}), Unsupported, "body_text_too_long", "body text: 4"),
        (parameters("HEADER", {"type": "text", "text": "t"}), Unsupported, "header_unsupported", "of the kind text"),
    ],
)  # fmt: skip
def test_what_is_above_a_limit_says_by_how_much(
    message: OutboundContent, error: type[SendError], code: str, detail: str
) -> None:
    """Unsupported, for another provider may take it; Rejected where there is nothing that any could take."""
    found = refused(message)
    assert found is not None
    assert (type(found), found.code) == (error, code)
    assert detail in found.detail


@pytest.mark.parametrize(
    "message",
    [
        Text(body="😀" * 3),
        content(type="image", size_bytes=10, mime_type="image/PNG; charset=binary"),
        content(type="image"),
        content(type="audio", voice=True, mime_type="audio/ogg"),
        content(type="audio", mime_type="audio/mp3"),
        content(type="sticker", size_bytes=10),
        cards(2),
        cards(3),
        tap("buttons", "Hello", buttons=[BUTTON]),
        tap("list", button="", sections=[]),
        parameters("header", {"type": "image", "image": {"id": "1"}}),
        parameters("body", 5, {"text": "no type"}, {"type": "text"}, {"type": "text", "text": 4000}),
        content(type="location", latitude=1, longitude=2, name="n" * 4000),
    ],
)
def test_what_is_within_or_has_no_number_passes(message: OutboundContent) -> None:
    assert refused(message) is None


def test_no_error_repeats_what_people_wrote() -> None:
    error = refused(Text(body="secret words"))
    assert error is not None
    assert "secret" not in f"{error.detail}{error!r}"


def test_each_of_several_alike_is_measured() -> None:
    """The second row is as good a reason as the first."""
    rows = [{"id": "1", "title": "short"}, {"id": "2", "title": "a longer one", "description": "d"}]
    found = list(measured(tap("list", button="b", sections=[{"rows": rows}])))
    assert [size for part, size in found if part == "row_title_characters"] == [5, 12]
    assert ("rows", 2) in found


@pytest.mark.parametrize(
    ("mime_type", "name"),
    [
        ("audio/ogg", OPUS),
        ("audio/opus", OPUS),
        ("application/ogg", OPUS),
        ("Audio/OGG; Codecs=Opus", OPUS),
        ('audio/ogg; codecs="opus"', OPUS),
        ("audio/ogg; codecs=vorbis", "audio/ogg; codecs=vorbis"),
        ("audio/mp3", "audio/mpeg"),
        ("audio/x-m4a", "audio/mp4"),
        ("image/jpg", "image/jpeg"),
        ("text/plain; charset=utf-8", "text/plain; charset=utf-8"),
        ("", ""),
    ],
)
def test_a_type_has_the_name_that_is_taken(mime_type: str, name: str) -> None:
    """Nothing is called Opus that says it is something else."""
    assert named(mime_type) == name
