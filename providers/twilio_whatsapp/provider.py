"""Twilio Programmable Messaging, WhatsApp senders.

Source: https://www.twilio.com/docs/whatsapp/api, https://www.twilio.com/docs/messaging/api/message-resource,
    https://www.twilio.com/docs/usage/webhooks/webhooks-security,
    https://www.twilio.com/docs/usage/webhooks/webhooks-connection-overrides.
"""

from collections.abc import Sequence
from functools import cache
from typing import Annotated, ClassVar
from urllib.parse import quote

import msgspec
from msgspec import Meta

from .._fields import NOT_EMPTY, Rate, Secret, Url, about, secret
from .._values import Object, phone, word
from ..base import Check, ChecksFlow, Flow, Request, Response, Webhook, WhatsAppProvider, refused_status, reported
from ..content import Interactive, Template
from ..description import Pacing, ProviderInfo
from ..errors import CONFIGURATION_ERRORS, Rejected, Unsupported
from ..messages import Event, Media, MessageData, MessageResult, ProviderStatus, Recipient
from ..phones import phone_key
from . import account as twilio_account
from . import inbound, interactive, outbound, signature
from .api import Api
from .content import media_path
from .errors import call_error, is_missing
from .limits import LIMITS
from .media import is_redirect, media_of
from .outbound import CHANNEL, Form


def _sid(prefix: str) -> Meta:
    return Meta(max_length=34, pattern=rf"^{prefix}[0-9a-fA-F]{{32}}(?!\s)$")


# Where people find the values.
_CONSOLE = "https://console.twilio.com"
_SENDERS = "https://console.twilio.com/us1/develop/sms/senders/whatsapp-senders"
_SERVICES = "https://console.twilio.com/us1/develop/sms/services"
_KEYS = "https://www.twilio.com/docs/iam/api-keys/keys-in-console"

_AccountSid = Annotated[str, _sid("AC")]
_KeySid = Annotated[str, _sid("SK")]
_ServiceSid = Annotated[str, _sid("MG")]
_NUMBER = r"^[\s().-]*(?:\+[\s().-]*)?[1-9](?:[\s().-]*[0-9]){6,14}[\s().-]*$"
_Number = Annotated[str, Meta(max_length=40, pattern=_NUMBER)]

# Twilio forgets a webhook after one failed connection unless its address says otherwise: five more tries, on any
# failure, all within its 15 seconds.
_RETRIES = "rc=5&rp=all"
# An account has some dozens of senders, fifty to a page.
_MAX_PAGES = 20


class TwilioWhatsApp(WhatsAppProvider, frozen=True, kw_only=True):
    """One WhatsApp sender of one Twilio account."""

    info: ClassVar[ProviderInfo] = ProviderInfo(
        name="twilio_whatsapp",
        display_name="WhatsApp by Twilio",
        description="Twilio's official WhatsApp senders. Needs a Twilio account with a registered sender.",
        pricing="paid",
        stability="stable",
        official=True,
        max_webhook_bytes=256 * 1024,
        hosts=(".twilio.com",),
        capabilities=frozenset(
            {"text", "image", "video", "audio", "document", "sticker", "location", "contacts", "interactive", "buttons"}
            | {"list", "cta_url", "template", "templates", "media", "typing", "find_message"}
        ),
        limits=LIMITS,
    )
    # Anything but an empty TwiML document has a price: text is sent to the person, other types raise alarms.
    acknowledgement: ClassVar[Response] = Response(
        status=200,
        headers={"content-type": "text/xml"},
        body=b'<?xml version="1.0" encoding="UTF-8"?><Response/>',
    )

    account_sid: Annotated[
        _AccountSid,
        about(
            "Account SID",
            "On the console's first page. Of the account, or subaccount, that has the sender.",
            "AC…",
            link=_CONSOLE,
        ),
    ]
    auth_token: Annotated[
        Secret,
        NOT_EMPTY,
        secret(
            "Auth Token", "Signs the webhooks and, without an API key, authorizes sending.", link=_CONSOLE, signs=True
        ),
    ]
    phone_number: Annotated[
        _Number | None,
        about(
            "WhatsApp phone number",
            "The sender, with its country code. Only a Messaging Service can do without: it picks one.",
            "+55 11 99999-9999",
            link=_SENDERS,
            usual=True,
        ),
    ] = None
    auth_token_secondary: Annotated[
        Secret | None,
        secret(
            "Secondary Auth Token", "Accepted as well on webhooks while the Auth Token is being replaced.", signs=True
        ),
    ] = None
    api_key_sid: Annotated[
        _KeySid | None,
        about(
            "API key SID", "Authorizes sending in place of the Auth Token; it can be revoked alone.", "SK…", link=_KEYS
        ),
    ] = None
    api_key_secret: Annotated[Secret | None, secret("API key secret", "Shown once, when the key is made.")] = None
    messaging_service_sid: Annotated[
        _ServiceSid | None,
        about(
            "Messaging Service SID",
            "Sends through this service, which must have the sender, or picks one of its own.",
            "MG…",
            link=_SERVICES,
        ),
    ] = None
    shared_key_id: Annotated[
        Secret | None,
        about("Shared key ID", "For accounts whose webhooks are signed with a shared key instead of the Auth Token."),
    ] = None
    shared_key_secret: Annotated[Secret | None, secret("Shared key secret", signs=True)] = None
    base_url: Annotated[
        Url,
        about(
            "API address",
            "Of another region, as https://api.dublin.ie1.twilio.com; Twilio's other hosts follow it.",
            "https://api.twilio.com",
        ),
    ] = "https://api.twilio.com"
    messages_per_second: Annotated[
        Rate,
        about("Messages per second", "What Twilio allows the sender: 80 unless it was raised. 0: no limit of ours."),
    ] = 80

    def __post_init__(self) -> None:
        number = phone(self.phone_number) if self.phone_number else None
        if number is None and (self.phone_number is not None or self.messaging_service_sid is None):
            raise ValueError("phone_number is not a phone number; only with a messaging_service_sid may it be left out")
        for pair in (("api_key_sid", "api_key_secret"), ("shared_key_id", "shared_key_secret")):
            if [getattr(self, name) for name in pair].count(None) == 1:
                raise ValueError(f"{' and '.join(pair)} belong together")
        # Written for people in forms, compared as E.164 everywhere.
        msgspec.structs.force_setattr(self, "phone_number", number)

    @property
    def sender(self) -> str | None:
        return self.phone_number

    @property
    def accounts(self) -> tuple[str, ...]:
        """Webhooks need not name a service that picks its sender, but it is one account all the same."""
        return (f"{self.account_sid}/{self.phone_number or self.messaging_service_sid}",)

    @property
    def people_scope(self) -> str:
        return self.account_sid

    def proven(self, checks: Sequence[Check]) -> tuple[str, ...]:
        """The Auth Token is the whole account's."""
        return self.accounts

    @property
    def pacing(self) -> Pacing | None:
        return _pacing(self.messages_per_second)

    # ------------------------------------------------------------ inbound

    def challenge(self, hook: Webhook) -> Response | None:
        """Twilio makes no handshake."""
        return None

    def verify(self, hook: Webhook) -> None:
        tokens = [token for token in (self.auth_token, self.auth_token_secondary) if token]
        shared = {self.shared_key_id: self.shared_key_secret} if self.shared_key_id and self.shared_key_secret else {}
        signature.verify(hook, auth_tokens=tokens, shared_keys=shared)

    def parse(self, hook: Webhook) -> list[Event]:
        return inbound.events(hook)

    def callback_url(self, webhook_url: str) -> str:
        """With Twilio's instructions for retries in the fragment, which is neither sent nor signed."""
        return webhook_url if "#" in webhook_url else f"{webhook_url}#{_RETRIES}"

    def owns(self, event: Event) -> bool:
        """One token signs for all senders of its account. The smallest statuses name neither of them."""
        is_sender = self.phone_number is None or event.sender is None or self._is_own(event.sender)
        return is_sender and event.account_id in (None, self.account_sid)

    def account_of(self, event: Event) -> str | None:
        if not event.account_id or not event.sender:
            return None
        return f"{event.account_id}/{self.phone_number if self._is_own(event.sender) else event.sender}"

    def _is_own(self, number: str) -> bool:
        return self.phone_number is not None and phone_key(number) == phone_key(self.phone_number)

    def probe(self, callback_url: str) -> Request:
        return signature.probe(callback_url, self.auth_token)

    # ------------------------------------------------------------ sending

    def send_message(self, message: MessageData) -> Flow[MessageResult]:
        """One call; two or three for messages with something to tap, whose content is made first."""
        self.check_limits(message.content)
        fields = self._addressed(message)
        if isinstance(message.content, Interactive):
            fields += yield from interactive.fields(self._api, message.content)
        else:
            fields += outbound.content_fields(message.content)
        response = yield self._api.post_form(self._api.messages, fields + outbound.beside(message))
        return outbound.message_result(response, secrets=self._api.secrets)

    def find_message(self, message: MessageData) -> Flow[MessageResult | None]:
        """Looked for by its words. Those of a template are Twilio's, so it cannot be found that way."""
        if isinstance(message.content, Template | Interactive):
            return None
        fields = self._addressed(message) + outbound.content_fields(message.content)
        response = yield self._api.get(self._api.messages, outbound.search(fields))
        self._api.answered(response)
        return outbound.found(response, fields, message)

    def mark_read(self, message_id: str, chat: Recipient, *, typing: bool = False) -> Flow[None]:
        """Show that an answer is being written, for up to 25 seconds, which also marks the message as read."""
        if not typing:
            raise Unsupported("Twilio marks as read only what is being answered", code="receipts")
        fields = [("channel", "whatsapp"), ("messageId", message_id)]
        url = f"{self._api.host('messaging')}/v2/Indicators/Typing.json"
        yield from self._api.call(self._api.post_form(url, fields))

    def media(self, media_id: str) -> Flow[Media]:
        """The id, or Twilio's own url, of an inbound medium. It stays until it is deleted."""
        url = f"{self._api.root}{media_path(media_id)}"
        response = yield Request(method="GET", url=url, headers=self._api.authorization)
        if is_missing(response):
            raise Rejected("the medium was deleted, or belongs to another account", code="20404", scope="media")
        if not (200 <= response.status < 300 or is_redirect(response)):
            raise call_error(response, secrets=self._api.secrets)
        return media_of(response, url=url, headers=self._api.authorization)

    # ------------------------------------------------------------ account

    def setup(self) -> Flow[None]:
        """Nothing to prepare: a sender is registered by people, in the console."""
        yield from ()

    def validate_config(self, callback_url: str | None = None) -> ChecksFlow[list[Check]]:
        """The account, which also proves the Auth Token, the sender with its webhook, and the service if there is one.

        Changes nothing and messages nobody.
        """
        try:
            account = yield from self._api.account()
        except CONFIGURATION_ERRORS as error:
            return [twilio_account.refused_account(error, self.base_url)]
        checks = [(yield from reported(twilio_account.account_check(account)))]
        if self.phone_number is not None:
            checks += yield from self._sender_checks(self.phone_number, callback_url)
        if self.messaging_service_sid is not None:
            checks.append((yield from self._service_check(self.messaging_service_sid, callback_url)))
        return checks

    def get_status(self) -> Flow[ProviderStatus]:
        try:
            account = yield from self._api.account()
            sender = None if self._is_sandbox or not self.phone_number else (yield from self._find_sender())
        except CONFIGURATION_ERRORS as error:
            return refused_status(error)
        return twilio_account.status_of(account, sender, self.phone_number)

    def receive_messages(self, callback_url: str) -> Flow[None]:
        """Set the addresses for messages and statuses, of the sender, or of the service that picks it.

        A change takes Twilio some seconds.
        """
        address = self.callback_url(callback_url)
        if self.phone_number is None:
            yield from self._set_service(address)
            return
        if self._is_sandbox:
            detail = "the sandbox can only be set up in the console: Messaging, Try it out, Sandbox settings"
            raise Unsupported(detail, code="sandbox")
        sender = yield from self._find_sender()
        if sender is None:
            raise Rejected(f"the account has no WhatsApp sender {self.phone_number}", code="sender_missing")
        yield from self._set_webhook(sender, address)

    def disconnect(self) -> Flow[None]:
        if self.phone_number is None:
            yield from self._set_service("")
            return
        sender = None if self._is_sandbox else (yield from self._find_sender())
        if sender is not None:
            yield from self._set_webhook(sender, "")

    # ------------------------------------------------------------ steps of the flows

    def _addressed(self, message: MessageData) -> Form:
        """Recipient and sender: with a service as well, or another of its numbers might answer the person."""
        number, service = self.phone_number, self.messaging_service_sid
        return [
            ("To", outbound.address(message.to)),
            *([("From", f"{CHANNEL}{number}")] if number else []),
            *([("MessagingServiceSid", service)] if service else []),
        ]

    def _find_sender(self) -> Flow[Object | None]:
        senders = f"{self._api.host('messaging')}/v2/Channels/Senders"
        query: str | None = "Channel=whatsapp&PageSize=50"
        for _ in range(_MAX_PAGES):
            page = yield from self._api.call(self._api.get(senders, query or ""))
            sender = twilio_account.sender_in(page, f"{CHANNEL}{self.phone_number}")
            query = twilio_account.next_query(page)
            if sender is not None or query is None:
                return sender
        return None

    def _sender_checks(self, number: str, callback_url: str | None) -> Flow[list[Check]]:
        if self._is_sandbox:
            return twilio_account.sandbox_checks()
        try:
            sender = yield from self._find_sender()
        except CONFIGURATION_ERRORS as error:
            return [twilio_account.refused_sender(error, with_api_key=self.api_key_sid is not None)]
        if sender is None:
            return [twilio_account.missing_sender(number)]
        return [twilio_account.sender_check(sender), twilio_account.webhook_check(sender, callback_url)]

    def _service_check(self, service_sid: str, callback_url: str | None) -> Flow[Check]:
        response = yield self._api.get(f"{self._api.host('messaging')}/v1/Services/{service_sid}")
        if is_missing(response):
            return twilio_account.missing_service()
        try:
            service = self._api.answered(response)
            if self.phone_number is None:
                return twilio_account.receiving_service_check(service, callback_url)
            return twilio_account.service_check(service)
        except CONFIGURATION_ERRORS as error:
            return twilio_account.refused_service(error)

    def _set_service(self, address: str) -> Flow[None]:
        """Have the service take what comes in for any of its senders; none is called at an empty address."""
        fields = [("InboundRequestUrl", address), ("StatusCallback", address), ("UseInboundWebhookOnNumber", "false")]
        url = f"{self._api.host('messaging')}/v1/Services/{self.messaging_service_sid}"
        yield from self._api.call(self._api.post_form(url, fields))

    def _set_webhook(self, sender: Object, address: str) -> Flow[None]:
        webhook = {
            "callback_url": address,
            "callback_method": "POST",
            "status_callback_url": address,
            "status_callback_method": "POST",
        }
        # Only this part: whatever else is sent would be changed, too.
        url = f"{self._api.host('messaging')}/v2/Channels/Senders/{quote(word(sender, 'sid') or '', safe='')}"
        yield from self._api.call(self._api.post_json(url, {"webhook": webhook}))

    # ------------------------------------------------------------ requests and answers

    @property
    def _is_sandbox(self) -> bool:
        return self.phone_number == twilio_account.SANDBOX

    @property
    def _api(self) -> Api:
        key = (self.api_key_sid, self.api_key_secret) if self.api_key_sid and self.api_key_secret else None
        return Api(
            base_url=self.base_url,
            account_sid=self.account_sid,
            auth_token=self.auth_token,
            key=key,
            other_secrets=(self.auth_token_secondary, self.shared_key_secret),
        )


@cache
def _pacing(messages_per_second: int) -> Pacing | None:
    """A second's worth at once: what is above is queued, until that becomes too much (21611, 30001)."""
    if not messages_per_second:
        return None
    return Pacing(messages_per_minute=60 * messages_per_second, burst=messages_per_second)
