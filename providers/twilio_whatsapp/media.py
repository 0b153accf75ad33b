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
    try:
        place = urljoin(url, response.headers["location"])
        origin, here = urlsplit(place)[:2], urlsplit(url)[:2]
    except ValueError:
        origin, here = ("", ""), ("", "")
    if origin == here and origin[1]:
        return Media(url=place, headers=headers)
    # Never less secure than the way here; an API address without TLS is one on the own network.
    if origin[0] not in ("https", here[0]) or not origin[1]:
        raise Rejected("the medium is not at an address that can be trusted", code="media_host", scope="media")
    return Media(url=place)
