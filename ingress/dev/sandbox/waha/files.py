"""Files that people sent: downloaded from WAHA itself, with the key, and gone after a while."""

import msgspec
from aiohttp import web

from .bodies import Body, waha_encode

_SUFFIXES = {"image/jpeg": "jpeg", "audio/ogg; codecs=opus": "oga", "video/mp4": "mp4", "application/pdf": "pdf"}


class WahaFile(msgspec.Struct, frozen=True):
    data: bytes
    mime_type: str


class WahaFiles:
    """*public_url* is the address that the server takes for its own: often one that means nothing elsewhere."""

    def __init__(self, public_url: str) -> None:
        self.public_url = public_url
        self._files: dict[tuple[str, str], WahaFile] = {}

    def add(self, session: str, bare: str, data: bytes, mime_type: str, filename: str | None = None) -> Body:
        """Keep *data*; the ``media`` of the message *bare*."""
        name = f"{bare}.{_SUFFIXES.get(mime_type, 'bin')}"
        self._files[session, name] = WahaFile(data, mime_type)
        url = f"{self.public_url}/api/files/{session}/{name}"
        return {"url": url, "mimetype": mime_type, "filename": filename, "error": None}

    def expire(self) -> None:
        """Remove all of them, as the server does after its WHATSAPP_FILES_LIFETIME."""
        self._files.clear()

    def download(self, session: str, name: str) -> web.Response:
        file = self._files.get((session, name))
        if file is None:
            error = {"error": {"code": 404, "key": "FILE_NOT_FOUND", "message": "File not found"}}
            return web.Response(body=waha_encode(error), status=404, content_type="application/json")
        return web.Response(body=file.data, headers={"Content-Type": file.mime_type})
