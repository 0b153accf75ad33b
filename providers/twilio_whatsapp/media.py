"""Where the bytes of a medium at Twilio are.

Source: https://www.twilio.com/docs/messaging/api/media-resource.
"""

from urllib.parse import urljoin, urlsplit

from ..base import Response
from ..errors import Rejected
from ..messages import Media


def is_redirect(response: Response) -> bool:
    return 300 <= response.status < 400 and "location" in response.headers


def media_of(response: Response, *, url: str, headers: dict[str, str]) -> Media:
    """The medium behind *response*, the answer to a GET of *url* with *headers*.

    Usually a redirect to a store whose address is signed and short-lived. The store gets no credentials, and
    refuses two of a kind; *headers* are for *url*'s own host only.
    """
    if not is_redirect(response):
        return Media(url=url, headers=headers, mime_type=response.headers.get("content-type"))
    place = _place(url, response.headers["location"])
    return Media(url=place, headers=headers if urlsplit(place)[:2] == urlsplit(url)[:2] else {})


def _place(url: str, location: str) -> str:
    """The address that *url* redirects to: never less secure than *url*, which lacks TLS on one's own network only."""
    try:
        place = urljoin(url, location)
        target, here = urlsplit(place), urlsplit(url)
        is_trusted = target.netloc != "" and target.scheme in ("https", here.scheme)
    except ValueError:
        is_trusted = False
    if not is_trusted:
        raise Rejected("the medium is not at an address that can be trusted", code="media_host", scope="media")
    return place
