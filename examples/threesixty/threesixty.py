"""360dialog: Meta's Cloud API behind a host and a key of its own.

Source: https://docs.360dialog.com/docs/messaging, https://docs.360dialog.com/docs/messaging/health-status,
    https://docs.360dialog.com/partner/onboarding/webhook-events-and-setup/signature-validation.
"""

from typing import Annotated, ClassVar, Literal
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Meta

from providers import (
    AccountBroken,
    Check,
    Event,
    Flow,
    Media,
    MessageData,
    MessageResult,
    ProviderInfo,
    ProviderStatus,
    Recipient,
    Rejected,
    Request,
    Webhook,
    WhatsAppProvider,
    cloud_api,
    refused_status,
)
from providers.signing import verify_hmac_hex


class ThreeSixty(WhatsAppProvider, frozen=True, kw_only=True):
    """One number at 360dialog."""

    info: ClassVar[ProviderInfo] = ProviderInfo(
        name="threesixty",
        display_name="360dialog",
        description="An official partner of Meta's. Needs a 360dialog account with a registered number.",
        pricing="paid",
        stability="stable",
        official=True,
        capabilities=cloud_api.KINDS | {"templates", "media", "receipts", "typing", "groups"},
        limits=cloud_api.LIMITS,
    )

    api_key: Annotated[
        str,
        Meta(
            title="API key",
            description="Of the number: 360dialog Hub, WhatsApp Accounts.",
            max_length=256,
            pattern=r"^\S+(?!\s)$",
            extra={"secret": True, "link": "https://hub.360dialog.com"},
        ),
    ]
    platform_secret: Annotated[
        str,
        Meta(
            title="Platform secret",
            description="Signs the webhooks.",
            min_length=1,
            max_length=256,
            extra={"secret": True, "signs": True},
        ),
    ]
    phone_number: Annotated[
        str,
        Meta(
            title="Phone number",
            description="The business number in E.164.",
            max_length=16,
            pattern=r"^\+[1-9][0-9]{6,14}(?!\s)$",
            extra={"placeholder": "+15550001111"},
        ),
    ]
    base_url: Annotated[
        str,
        Meta(
            title="API address",
            max_length=1024,
            pattern=r"^https?://[^\s?#]+(?!\s)$",
            extra={"placeholder": "https://waba-v2.360dialog.io"},
        ),
    ] = "https://waba-v2.360dialog.io"

    @property
    def sender(self) -> str:
        return self.phone_number

    # ------------------------------------------------------------ receiving

    def challenge(self, hook: Webhook) -> None:
        """There is no handshake."""
        return None

    def verify(self, hook: Webhook) -> None:
        """HMAC-SHA256 over the bytes as received."""
        signature = hook.headers.get("x-360dialog-signature", "")
        verify_hmac_hex((self.platform_secret,), hook.body, signature.lower(), "sha256")

    def parse(self, hook: Webhook) -> list[Event]:
        return cloud_api.events(hook.body)

    def owns(self, event: Event) -> bool:
        """One secret signs for all numbers of a platform. News of the account name none of them."""
        return event.sender in (None, self.phone_number)

    def message_key(self, message_id: str) -> str:
        return cloud_api.message_key(message_id)

    def event_key(self, event: Event, message_id: str) -> str | None:
        return cloud_api.event_key(event, message_id)

    # ------------------------------------------------------------ sending

    def send_message(self, message: MessageData) -> Flow[MessageResult]:
        self.check_limits(message.content)
        edge, body = cloud_api.message_request(message)
        response = yield self._request("POST", edge, body)
        return cloud_api.message_result(response, secrets=self._secrets)

    def mark_read(self, message_id: str, chat: Recipient, *, typing: bool = False) -> Flow[None]:
        """Show the message as read, and, if *typing*, that an answer is being written."""
        receipt = cloud_api.read_receipt(message_id, typing=typing)
        response = yield self._request("POST", "messages", receipt)
        cloud_api.answered(response, secrets=self._secrets)

    def media(self, media_id: str) -> Flow[Media]:
        """The address that Meta gives, but at 360dialog's host: there the key is good, and nowhere else."""
        response = yield self._request("GET", quote(media_id, safe=""))
        if cloud_api.is_missing_object(response):
            raise Rejected("the medium has expired", code="100", scope="media")
        found = cloud_api.answered(response, secrets=self._secrets)
        medium = cloud_api.media_of(found, base_url=self.base_url, headers=self._authorization)
        place = urlsplit(medium.url)
        return msgspec.structs.replace(medium, url=f"{self._root}{place.path}?{place.query}")

    # ------------------------------------------------------------ the account

    def setup(self) -> Flow[None]:
        """Nothing to prepare: a number is registered by people, in the Hub."""
        yield from ()

    def validate_config(self, callback_url: str | None = None) -> Flow[list[Check]]:
        response = yield self._request("GET", "health_status")
        try:
            number = cloud_api.answered(response, secrets=self._secrets)
        except AccountBroken as error:
            fix = "Make a new API key for this number in the Hub, and save it here."
            return [Check(name="credentials", passed=False, detail=error.detail, fix=fix)]
        return [Check(name="credentials", passed=True), cloud_api.number_check(number)]

    def get_status(self) -> Flow[ProviderStatus]:
        response = yield self._request("GET", "health_status")
        try:
            number = cloud_api.answered(response, secrets=self._secrets)
        except AccountBroken as error:
            return refused_status(error)
        return cloud_api.number_status(number)

    def receive_messages(self, callback_url: str) -> Flow[None]:
        response = yield self._request("POST", "v1/configs/webhook", {"url": callback_url})
        cloud_api.answered(response, secrets=self._secrets)

    def disconnect(self) -> Flow[None]:
        """A number at 360dialog always has an address: who wants its messages next sets another one."""
        yield from ()

    # ------------------------------------------------------------ requests

    @property
    def _root(self) -> str:
        return self.base_url.rstrip("/")

    @property
    def _authorization(self) -> dict[str, str]:
        return {"d360-api-key": self.api_key}

    @property
    def _secrets(self) -> tuple[str, ...]:
        """What no error may quote."""
        return (self.api_key, self.platform_secret)

    def _request(self, method: Literal["GET", "POST"], path: str, body: dict[str, object] | None = None) -> Request:
        url = f"{self._root}/{path}"
        if body is None:
            return Request(method=method, url=url, headers=self._authorization)
        headers = {**self._authorization, "content-type": "application/json"}
        return Request(method=method, url=url, headers=headers, body=msgspec.json.encode(body))
