"""Where the bytes of a WhatsApp Web medium are.

Source: https://waha.devlike.pro/docs/how-to/receive-messages/#files.
"""

from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import Rejected
from ..messages import Media

# With S3 for a storage whose files it passes on itself (WAHA_S3_PROXY_FILES), the bucket comes before the session.
_FILES, _S3 = "/api/files/", "/api/s3/"


def media_of(media_id: str, *, base_url: str, session: str, api_key: str) -> Media:
    """The medium that the webhook found at *media_id*, with the key where WAHA itself serves it.

    WAHA writes its own address as it knows it, often http://localhost:3000: ours takes its place. Any other address
    (S3, presigned) stays, and never gets the key. `Rejected` where *media_id* is no address of a file.
    """
    url = _address(media_id)
    # A server below a path of its own writes that path as well.
    path = url.path.removeprefix(urlsplit(base_url).path.rstrip("/"))
    if not path.startswith((_FILES, _S3)):
        return Media(url=media_id)
    _check_path(path, session)
    query = f"?{url.query}" if url.query else ""
    return Media(url=f"{base_url.rstrip('/')}{path}{query}", headers={"x-api-key": api_key})


def _address(media_id: str) -> SplitResult:
    try:
        url = urlsplit(media_id)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and "@" not in url.netloc
    except ValueError:
        usable = False
    if not usable:
        raise Rejected("the medium has no address", code="media_address", scope="media")
    return url


def _check_path(path: str, session: str) -> None:
    """The key opens more than files, and files of other sessions: the address came from outside."""
    parts = unquote(path).replace("\\", "/").split("/")
    place = 4 if path.startswith(_S3) else 3
    if parts[place : place + 1] != [session] or {".", ".."} & set(parts):
        raise Rejected("the medium belongs to another session", code="media_session", scope="media")
