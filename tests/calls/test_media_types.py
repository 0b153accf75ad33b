"""What a file is by its first bytes, and the names that files are given."""

import unicodedata
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.calls.media_types import UNKNOWN, attachment, declared_type, safe_name, served_type

JPEG, MP4, OGG, ZIP = b"\xff\xd8\xff\xe0", b"\x00\x00\x00\x20ftypisom", b"OggS\x00", b"PK\x03\x04"
WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


@pytest.mark.parametrize(
    ("start", "declared", "served"),
    [
        (JPEG, "image/jpeg", "image/jpeg"),
        (JPEG, "image/png", "image/jpeg"),
        (JPEG, None, "image/jpeg"),
        (JPEG, "text/html", "image/jpeg"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp", "image/webp"),
        (MP4, "video/mp4", "video/mp4"),
        (MP4, "audio/mp4", "audio/mp4"),
        (MP4, "text/html", "video/mp4"),
        (OGG, "audio/ogg; codecs=opus", "audio/ogg"),
        (ZIP, WORD, WORD),
        (ZIP, "image/svg+xml", "application/zip"),
        (b"%PDF-1.7", "application/pdf", "application/pdf"),
        (b"Hello", "text/plain", "text/plain"),
        (b"a;b\n1;2", "text/csv", "text/csv"),
        (b"BEGIN:VCARD", "text/vcard; charset=utf-8", "text/vcard"),
        # what says to be one thing and is another
        (b"<html><script>", "image/jpeg", UNKNOWN),
        (b"<html><script>", "text/html", UNKNOWN),
        (b"<html><script>", "text/plain", UNKNOWN),
        (b"\xef\xbb\xbf \n<!doctype html>", "text/plain", UNKNOWN),
        (b"\xff\xfe<\x00h\x00", "text/plain", UNKNOWN),
        (b"<svg xmlns='http://www.w3.org/2000/svg' onload='x'>", "image/svg+xml", UNKNOWN),
        (b"<?xml version='1.0'?>", "application/xml", UNKNOWN),
        (b"alert(1)", "text/javascript", UNKNOWN),
        (b"alert(1)", "application/xhtml+xml", UNKNOWN),
        (b"\x00\x01\x02", "image/png", UNKNOWN),
        (b"", "image/png", UNKNOWN),
        (b"", None, UNKNOWN),
    ],
)
def test_what_it_is_served_as(start: bytes, declared: str | None, served: str) -> None:
    assert served_type(start, declared) == served


@given(
    st.binary(max_size=64), st.one_of(st.none(), st.text(max_size=40), st.sampled_from(["text/html", "image/svg+xml"]))
)
def test_nothing_is_served_as_what_a_browser_runs(start: bytes, declared: str | None) -> None:
    kind = served_type(start, declared)
    assert declared_type(kind) == kind
    assert not any(word in kind for word in ("html", "svg", "javascript", "xml;", "/xml"))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("image/jpeg", "image/jpeg"),
        ("IMAGE/JPEG", "image/jpeg"),
        ("audio/ogg;codecs=opus", "audio/ogg; codecs=opus"),
        ("audio/ogg; codecs=opus", "audio/ogg; codecs=opus"),
        ("text/plain;", "text/plain"),
        ("", None),
        ("image", None),
        ("image/", None),
        ("image/jpeg\r\nX-Evil: 1", None),
        ("text/plain; charset=\r\nx", None),
        ("a/b; c", None),
    ],
)
def test_declared_types(text: str, kind: str | None) -> None:
    """It goes into the form for the provider, so nothing else may be in it."""
    assert declared_type(text) == kind


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("nota fiscal.pdf", "nota fiscal.pdf"),
        ("Não é ação.pdf", "Não é ação.pdf"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("..\\..\\boot.ini", "_.._boot.ini"),
        ("C:evil.exe", "C_evil.exe"),
        ("a\r\nX-Evil: 1.pdf", "aX-Evil_ 1.pdf"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        (".htaccess", "htaccess"),
        ("...", "media.pdf"),
        ("\x00\x01", "media.pdf"),
        ("", "media.pdf"),
        (None, "media.pdf"),
        ("x" * 300 + ".pdf", "x" * 116 + ".pdf"),
    ],
)
def test_names(name: str | None, safe: str) -> None:
    assert safe_name(name, "application/pdf", "media") == safe


@given(st.text(max_size=400))
def test_any_name_is_a_name(name: str) -> None:
    """One part of a path, one line, nothing that turns text round; and the header gives it back as it is."""
    safe = safe_name(name, "image/jpeg", "media")
    assert 0 < len(safe) <= 120
    assert not set(safe) & set('/\\:*?"<>|')
    assert not [one for one in safe if unicodedata.category(one) in ("Cc", "Cf", "Zl", "Zp")]
    header = attachment(safe)
    assert header.isascii()
    assert unquote(header.removeprefix("attachment; filename*=UTF-8''")) == safe
