"""Media that people sent: behind the API's credentials a redirect, behind that a store that wants none.

Source: https://www.twilio.com/docs/messaging/api/media-resource. How the store refuses is judgement.
"""

import secrets
import time
from collections.abc import Callable

import msgspec
from aiohttp import web

from .bodies import API_VERSION, Body, TwilioSender, rfc2822
from .records import Leak

CREDENTIALS = ("Authorization", "Cookie", "Proxy-Authorization")


class TwilioMedium(msgspec.Struct, kw_only=True):
    account_sid: str
    message_sid: str
    data: bytes
    mime_type: str
    key: str  # in the store's URL; a new one makes the old URL expire
    created: float


class TwilioMedia:
    """*store_url* gives the store's base URL; *leaked* is called for credentials that reached it."""

    def __init__(self, *, store_url: Callable[[], str], leaked: Callable[[Leak], None]) -> None:
        self._store_url = store_url
        self._leaked = leaked
        self._media: dict[str, TwilioMedium] = {}  # by media SID

    def add(self, sender: TwilioSender, base_url: str, sids: tuple[str, str], data: bytes, mime_type: str) -> str:
        """Keep *data* under *sids*, of the message and of the medium; returns its URL at the API."""
        message_sid, media_sid = sids
        self._media[media_sid] = TwilioMedium(
            account_sid=sender.account_sid,
            message_sid=message_sid,
            data=data,
            mime_type=mime_type,
            key=secrets.token_urlsafe(12),
            created=time.time(),
        )
        return f"{base_url}/{API_VERSION}/Accounts/{sender.account_sid}/Messages/{message_sid}/Media/{media_sid}"

    def find(self, account_sid: str, message_sid: str, media_sid: str) -> TwilioMedium | None:
        medium = self._media.get(media_sid)
        if medium is None or (medium.account_sid, medium.message_sid) != (account_sid, message_sid):
            return None
        return medium

    def remove(self, media_sid: str) -> None:
        del self._media[media_sid]

    def expire_url(self, media_sid: str) -> None:
        """From now on the store's URL given out before answers 403; the API still gives a new one."""
        self._media[media_sid].key = secrets.token_urlsafe(12)

    def clear(self) -> None:
        self._media.clear()

    def place(self, media_sid: str) -> str:
        """Where the store has it, for a short time."""
        medium = self._media[media_sid]
        return f"{self._store_url()}/{medium.account_sid}/{media_sid}?Expires=1790680000&Signature={medium.key}"

    def describe(self, media_sid: str) -> Body:
        # Source: https://github.com/twilio/twilio-oai, spec/json/twilio_api_v2010.json (`…account.message.media`)
        medium = self._media[media_sid]
        path = f"/{API_VERSION}/Accounts/{medium.account_sid}/Messages/{medium.message_sid}/Media/{media_sid}.json"
        moment = rfc2822(medium.created)
        return {
            "sid": media_sid,
            "account_sid": medium.account_sid,
            "parent_sid": medium.message_sid,
            "content_type": medium.mime_type,
            "date_created": moment,
            "date_updated": moment,
            "uri": path,
        }

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """The store. Like any object storage it refuses two kinds of authorization at once."""
        brought = [name for name in CREDENTIALS if name in request.headers]
        for name in brought:
            self._leaked(Leak(method=request.method, path=request.path, header=name))
        if brought:
            return web.Response(status=400, text="<Error><Code>InvalidArgument</Code></Error>", content_type="text/xml")
        medium = self._media.get(request.path.rpartition("/")[2])
        if medium is None or request.query.get("Signature") != medium.key:
            return web.Response(status=403, text="<Error><Code>AccessDenied</Code></Error>", content_type="text/xml")
        return web.Response(body=medium.data, headers={"Content-Type": medium.mime_type})
