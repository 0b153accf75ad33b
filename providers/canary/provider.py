"""Webhooks in, each with one message; nothing goes out, so nobody is called for anything."""

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from .. import _json
from .._fields import NOT_EMPTY, Secret, secret
from .._values import moment
from ..base import Check, ChecksFlow, Flow, Request, Response, Webhook, WhatsAppProvider
from ..content import Text
from ..description import ProviderInfo
from ..errors import Malformed, Unsupported
from ..messages import Contact, Event, Media, Message, MessageData, MessageResult, ProviderStatus
from ..signing import hmac_hex, verify_hmac_hex

TIME, SIGNATURE = "x-canary-time", "x-canary-signature"
_WRITER = Contact(user_id="canary", name="Canary")


class _Body(msgspec.Struct, frozen=True, omit_defaults=True):
    """Without an id there is no message: a probe."""

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{1,64}$")] | None = None


class Canary(WhatsAppProvider, frozen=True, kw_only=True):
    """Whoever has the secret writes messages to its organization."""

    info: ClassVar[ProviderInfo] = ProviderInfo(
        name="canary",
        display_name="Canary",
        description="Messages that `ingress canary` writes, to see that what is acknowledged comes out. Sends none.",
        pricing="free",
        stability="stable",
        official=False,
        max_webhook_bytes=1024,
        capabilities=frozenset(),
    )

    signing_secret: Annotated[Secret, NOT_EMPTY, secret("Signing secret", "Signs the webhooks.", own=True, signs=True)]

    def message(self, webhook_url: str, message_id: str, posted_at: int) -> Request:
        """The webhook with one message; *message_id* is hexadecimal, *posted_at* in seconds."""
        return self._signed(webhook_url, _Body(message_id), posted_at)

    def probe(self, callback_url: str) -> Request:
        return self._signed(callback_url, _Body(), 0)

    def _signed(self, url: str, body: _Body, posted_at: int) -> Request:
        encoded = msgspec.json.encode(body)
        headers = {
            TIME: str(posted_at),
            SIGNATURE: hmac_hex(self.signing_secret, _content(str(posted_at), encoded), "sha256"),
        }
        return Request(method="POST", url=url, headers=headers, body=encoded)

    # ------------------------------------------------------------ inbound

    def challenge(self, hook: Webhook) -> Response | None:
        return None

    def verify(self, hook: Webhook) -> None:
        content = _content(hook.headers.get(TIME, ""), hook.body)
        verify_hmac_hex([self.signing_secret], content, hook.headers.get(SIGNATURE, ""), "sha256")

    def parse(self, hook: Webhook) -> list[Event]:
        try:
            body = msgspec.convert(_json.read(hook.body), _Body)
        except msgspec.ValidationError:
            raise Malformed("no message of the canary") from None
        if body.id is None:
            return []
        return [
            Event(
                type="message.received",
                key=body.id,
                contact=_WRITER,
                occurred_at=moment(hook.headers.get(TIME)),
                message=Message(provider_message_id=body.id, content=Text(body="Canary")),
                raw=_json.raw(body),
            )
        ]

    # ------------------------------------------------------------ operations: there is nobody to call

    def setup(self) -> Flow[None]:
        yield from ()

    def validate_config(self, callback_url: str | None = None) -> ChecksFlow[list[Check]]:
        yield from ()
        return [Check.ok("credentials")]

    def get_status(self) -> Flow[ProviderStatus]:
        yield from ()
        return ProviderStatus(is_connected=True, connection_quality="excellent")

    def receive_messages(self, callback_url: str) -> Flow[None]:
        yield from ()

    def disconnect(self) -> Flow[None]:
        yield from ()

    def send_message(self, message: MessageData) -> Flow[MessageResult]:
        raise Unsupported("the canary sends nothing", code="sending")

    def media(self, media_id: str) -> Flow[Media]:
        raise Unsupported("the canary has no files", code="media")


def _content(time: str, body: bytes) -> bytes:
    return time.encode("utf-8", "replace") + b"." + body
