"""Media of the WhatsApp Cloud API: where the bytes of one are, and the form that gives it a file.

Source: https://developers.facebook.com/docs/whatsapp/cloud-api/reference/media.
"""

import base64
from urllib.parse import urlsplit

from .._values import Object, text, word
from ..base import Upload
from ..errors import Rejected
from ..limits import named
from ..messages import Media

_HOSTS = (".fbsbx.com", ".facebook.com", ".fbcdn.net", ".whatsapp.net")

_LONGEST_URL = 4096


def media_of(medium: Object, *, base_url: str, headers: dict[str, str]) -> Media:
    """*medium*, an answer about a media id, with the *headers* that its host asks for.

    The host comes out of a body, so it is not taken on trust: `Rejected` unless it is Meta's or *base_url*'s.
    """
    url = text(medium, "url") or ""
    if not _is_trusted(url, base_url):
        raise Rejected("the medium is not on a host of Meta", code="media_host", scope="media")
    return Media(
        url=url,
        headers=headers,
        mime_type=text(medium, "mime_type"),
        size_bytes=_size(word(medium, "file_size") or ""),
        sha256=_hex_digest(text(medium, "sha256") or ""),
    )


def upload_form(upload: Upload) -> tuple[bytes, bytes]:
    """What stands before and after the file in the form (multipart/form-data) that *upload* is sent as."""
    kind = named(upload.mime_type)
    part = f"--{upload.boundary}\r\nContent-Disposition: form-data; name="
    head = (
        f'{part}"messaging_product"\r\n\r\nwhatsapp\r\n'
        f'{part}"type"\r\n\r\n{kind}\r\n'
        f'{part}"file"; filename="{upload.filename.translate(_ESCAPED)}"\r\n'
        f"Content-Type: {kind}\r\n\r\n"
    )
    return head.encode("utf-8", "replace"), f"\r\n--{upload.boundary}--\r\n".encode()


# As browsers escape a name: RFC 7578 has no other way.
_ESCAPED = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})


def _is_trusted(address: str, base_url: str) -> bool:
    if len(address) > _LONGEST_URL:
        return False  # `urlsplit` keeps what it has read: nothing that is long
    try:
        url, base = urlsplit(address), urlsplit(base_url)
    except ValueError:
        return False
    if url.scheme == "https" and f".{url.hostname}".endswith(_HOSTS):
        return True
    return (url.scheme, url.netloc) == (base.scheme, base.netloc)


def _size(size: str) -> int | None:
    """From text or a number."""
    return int(size) if size.isascii() and size.isdecimal() and len(size) < 19 else None


def _hex_digest(digest: str) -> str | None:
    """A SHA-256 as lower-case hex. Some answers have it in hex, webhooks in base64: the length decides."""
    try:
        octets = base64.b64decode(digest, validate=True) if len(digest) == 44 else bytes.fromhex(digest)
    except ValueError:
        return None
    return octets.hex() if len(octets) == 32 else None
