"""Media that people sent, looked up by id and downloaded from a URL that expires; and those that are uploaded.

Source: https://developers.facebook.com/documentation/business-messaging/whatsapp/business-phone-numbers/media
"""

import hashlib
import re
import secrets
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import BodyPartReader, web

from .bodies import MetaNumber
from .errors import GraphError

DOWNLOAD_PATH = "/whatsapp_business/attachments/"
MAX_UPLOAD_BYTES = 100 * 1024 * 1024
# What Meta takes, beside documents, of which it takes more than it lists.
UPLOADED_TYPES = re.compile(
    r"image/(jpeg|png|webp)|video/(mp4|3gpp)|audio/(aac|amr|mpeg|mp4|ogg)|text/plain"
    r"|application/(pdf|msword|vnd\.ms-(excel|powerpoint)|vnd\.openxmlformats-officedocument\..+)"
)


class Medium(msgspec.Struct, kw_only=True):
    owner: str  # phone_number_id
    data: bytes
    mime_type: str
    key: str  # in the URL; a new one makes the old URL expire


class MetaMedia:
    """*url_for* gives a number's base URL, *token_of* its token; both take the phone_number_id."""

    def __init__(self, *, url_for: Callable[[str], str], token_of: Callable[[str], str]) -> None:
        self._url_for = url_for
        self._token_of = token_of
        self._media: dict[str, Medium] = {}

    def add(self, number: MetaNumber, data: bytes, mime_type: str) -> tuple[str, str]:
        """Keep *data*; returns (media id, URL)."""
        # Random: an id that a database kept from an earlier run must not name another medium now.
        media_id = str(701_000_000_000_000 + secrets.randbelow(10**12))
        self._media[media_id] = Medium(
            owner=number.phone_number_id, data=data, mime_type=mime_type, key=secrets.token_urlsafe(12)
        )
        return media_id, self._url(media_id)

    def expire_url(self, media_id: str) -> None:
        """From now on the URL given out before answers 404; the id still gives a new one."""
        self._media[media_id].key = secrets.token_urlsafe(12)

    def medium(self, media_id: str) -> Medium | None:
        """What is kept under *media_id*, for a test to look at."""
        return self._media.get(media_id)

    def remove(self, media_id: str) -> None:
        del self._media[media_id]

    def clear(self) -> None:
        self._media.clear()

    def describe(self, media_id: str, token: str) -> dict[str, Any] | None:
        """The answer of GET /{media_id}, or None where it does not exist for *token*.

        Source: https://github.com/facebook/openapi (`retrieveMediaUrl`)
        """
        medium = self._media.get(media_id)
        if medium is None or not self._may_read(medium, token):
            return None
        return {
            "messaging_product": "whatsapp",
            "url": self._url(media_id),
            "mime_type": medium.mime_type,
            "sha256": hashlib.sha256(medium.data).hexdigest(),
            "file_size": str(len(medium.data)),  # text
            "id": media_id,
        }

    def download(self, request: web.BaseRequest, token: str) -> web.Response:
        """The bytes. That what is refused has no body is judgement: nobody recorded it."""
        medium = self._media.get(request.query.get("mid", ""))
        if medium is None or request.query.get("hash") != medium.key:
            return web.Response(status=404, content_type="text/html")
        if not self._may_read(medium, token):
            return web.Response(status=401, content_type="text/html")
        return web.Response(body=medium.data, headers={"Content-Type": medium.mime_type})

    def _may_read(self, medium: Medium, token: str) -> bool:
        return self._token_of(medium.owner) == token

    def _url(self, media_id: str) -> str:
        medium = self._media[media_id]
        return f"{self._url_for(medium.owner)}{DOWNLOAD_PATH}?mid={media_id}&hash={medium.key}"


async def read_form(request: web.BaseRequest) -> tuple[str, bytes]:
    """(type, bytes) of an upload, as Meta wants its form. Raises `GraphError`."""
    if not request.content_type.startswith("multipart/form-data"):
        raise GraphError(100, message="(#100) The parameter file is required.")
    fields: dict[str, str] = {}
    kind, data = "", b""
    async for part in await request.multipart():
        assert isinstance(part, BodyPartReader)
        if part.name == "file":
            kind, data = part.headers.get("Content-Type", ""), bytes(await part.read())
        else:
            fields[part.name or ""] = await part.text()
    if fields.get("messaging_product") != "whatsapp":
        raise GraphError(100, message="(#100) The parameter messaging_product is required.")
    if not fields.get("type"):
        raise GraphError(100, message="(#100) The parameter type is required.")
    if not kind or len(data) > MAX_UPLOAD_BYTES or not UPLOADED_TYPES.fullmatch(kind.partition(";")[0].strip()):
        raise GraphError(100, "Param file must be a file with one of the following types: ...")
    return kind, data
