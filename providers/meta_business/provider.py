"""WhatsApp Business Cloud API, Meta's own.

Source: https://developers.facebook.com/docs/whatsapp/cloud-api (late 2026, Graph API v23.0 to v26.0)
        https://developers.facebook.com/documentation/business-messaging/whatsapp
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar
from urllib.parse import quote

from msgspec import Meta

from .. import cloud_api
from .._fields import DIGITS, E164, NO_SPACES, NOT_EMPTY, Rate, Url, about, secret
from .._values import Object, text, word
from .._verdicts import unexpected_answer
from ..base import (
    Check,
    ChecksFlow,
    Flow,
    Request,
    Response,
    Upload,
    UploadRequest,
    Webhook,
    WhatsAppProvider,
    refused_status,
    reported,
)
from ..description import Pacing, ProviderInfo
from ..errors import CONFIGURATION_ERRORS, Rejected, Unverified
from ..messages import Event, Media, MessageData, MessageResult, ProviderStatus, Recipient, TemplatePage
from ..signing import hmac_hex, same_secret, verify_hmac_hex
from . import checks, templates
from .graph import Graph

# Meta's tokens grow, and have no documented length: those of today have some 250 characters.
_Token = Annotated[str, Meta(min_length=1, max_length=2048, pattern=NO_SPACES)]
_AppSecret = Annotated[str, Meta(max_length=256, pattern=NO_SPACES)]
_VerifyToken = Annotated[str, Meta(min_length=1, max_length=256)]
_Id = Annotated[str, Meta(max_length=32, pattern=DIGITS)]
_Pin = Annotated[str, Meta(max_length=6, pattern=r"^[0-9]{6}(?!\s)$")]
_Version = Annotated[str, Meta(max_length=5, pattern=r"^v[0-9]{2}\.[0-9](?!\s)$")]

# Where people find the values.
_TOKENS = "https://developers.facebook.com/documentation/business-messaging/whatsapp/access-tokens"
_NUMBERS = "https://business.facebook.com/latest/whatsapp_manager/phone_numbers"
_APPS = "https://developers.facebook.com/apps"

# Asking for one field that an account does not have fails the whole call; the short list always works.
_NUMBER_FIELDS = (
    "id,display_phone_number,verified_name,quality_rating,name_status,code_verification_status,throughput,"
    "platform_type,status,account_mode,is_official_business_account,webhook_configuration,health_status,"
    "whatsapp_business_manager_messaging_limit"
)
_BASIC_NUMBER_FIELDS = "id,display_phone_number,verified_name,quality_rating"
# Longer ones are not sent by Meta; the answer reflects what it was given.
_MAX_CHALLENGE = 256
_MAX_CALLBACK_URL = 200
_NUMBER_FIX = "See the number in WhatsApp Manager. Where it is not registered, put its PIN into pin, and save again."


class MetaBusiness(WhatsAppProvider, frozen=True, kw_only=True):
    """One number of one WhatsApp Business Account (WABA). A gateway that speaks the same uses `providers.cloud_api`."""

    info: ClassVar[ProviderInfo] = ProviderInfo(
        name="meta_business",
        display_name="WhatsApp Business (Meta Cloud API)",
        description="Meta's official API. Needs a Meta app, a business account and a registered number.",
        pricing="paid",
        stability="stable",
        official=True,
        capabilities=cloud_api.KINDS
        | {"templates", "list_templates", "media", "uploads", "receipts", "typing", "groups"},
        limits=cloud_api.LIMITS,
        hosts=("graph.facebook.com",),
    )
    no_account: ClassVar[dict[str, Any]] = {"access_token": "none", "phone_number_id": "0", "waba_id": "0"}

    access_token: Annotated[
        _Token,
        secret(
            "Access token",
            "Of a system user with whatsapp_business_messaging and whatsapp_business_management.",
            "EAAG…",
            link=_TOKENS,
        ),
    ]
    phone_number_id: Annotated[
        _Id,
        NOT_EMPTY,
        about(
            "Phone number ID",
            "The id of the number, which is not the number itself: WhatsApp Manager, API setup.",
            "109876543210987",
            link=_NUMBERS,
        ),
    ]
    waba_id: Annotated[_Id, NOT_EMPTY, about("WhatsApp Business Account ID", None, "210987654321098", link=_NUMBERS)]
    app_secret: Annotated[
        _AppSecret,
        NOT_EMPTY,
        secret("App secret", "Signs the webhooks: Meta app, Settings, Basic.", link=_APPS, app=True, signs=True),
    ]
    verify_token: Annotated[
        _VerifyToken,
        secret(
            "Verify token", "A text of your own; Meta repeats it when the webhook address is set.", own=True, app=True
        ),
    ]
    app_secret_previous: Annotated[
        _AppSecret | None,
        secret("Previous app secret", "Accepted as well while the app secret is being replaced.", app=True, signs=True),
    ] = None
    app_id: Annotated[
        _Id | None,
        about(
            "App ID",
            "Tells this app from others that are subscribed to the same account.",
            "550987654321098",
            link=_APPS,
        ),
    ] = None
    display_phone_number: Annotated[
        E164 | None, about("Phone number", "The business number in E.164.", "+15550001111")
    ] = None
    pin: Annotated[
        _Pin | None,
        secret(
            "Two-step verification PIN",
            "Registers the number where it is not yet: the six digits it has, or is to have.",
        ),
    ] = None
    account_webhook: Annotated[
        bool,
        about(
            "One webhook address for the whole account",
            "For all of its numbers that have none of their own, and not for this number only.",
        ),
    ] = False
    api_version: Annotated[
        _Version, about("Graph API version", "Not the version of the webhooks, which is chosen in the app's dashboard.")
    ] = "v25.0"
    base_url: Annotated[Url, about("API address", None, "https://graph.facebook.com")] = "https://graph.facebook.com"
    messages_per_second: Annotated[
        Rate,
        about(
            "Messages per second", "What Meta allows the number: 80, or 1000 once it was raised. 0: no limits of ours."
        ),
    ] = 80
    require_appsecret_proof: Annotated[
        bool, about("Send proof of the app secret", 'For apps with "Require App Secret" switched on.')
    ] = False

    @property
    def sender(self) -> str | None:
        return self.display_phone_number

    @property
    def accounts(self) -> tuple[str, ...]:
        return (self.phone_number_id, self.waba_id)

    @property
    def people_scope(self) -> str:
        """Section 6.1: ids are a portfolio's, which no webhook names. Its accounts are the nearest to that."""
        return self.waba_id

    def proven(self, checks: Sequence[Check]) -> tuple[str, ...]:
        """The number, which was asked for; its account where that was seen to hold the number."""
        in_account = any(check.name == "account" and check.passed for check in checks)
        return self.accounts if in_account else self.accounts[:1]

    @property
    def pacing(self) -> Pacing | None:
        return cloud_api.pacing(self.messages_per_second)

    # ------------------------------------------------------------ inbound

    def challenge(self, hook: Webhook) -> Response | None:
        """Section 4.1. Any GET is taken for a handshake: Meta makes no other."""
        if hook.method != "GET":
            return None
        query = hook.query
        challenge = query.get("hub.challenge", "")
        if query.get("hub.mode") != "subscribe" or not 0 < len(challenge) <= _MAX_CHALLENGE:
            return Response(status=400)
        if not same_secret(query.get("hub.verify_token", ""), self.verify_token):
            return Response(status=403)
        headers = {"content-type": "text/plain; charset=utf-8", "x-content-type-options": "nosniff"}
        return Response(status=200, headers=headers, body=challenge.encode("utf-8", "replace"))

    def verify(self, hook: Webhook) -> None:
        """Section 4.2: HMAC-SHA256 over the bytes as received. The older SHA-1 header is not looked at."""
        scheme, _, digest = hook.headers.get("x-hub-signature-256", "").partition("=")
        if scheme != "sha256":
            raise Unverified
        secrets = (self.app_secret, self.app_secret_previous or "")
        verify_hmac_hex(secrets, hook.body, digest.lower(), "sha256")

    def parse(self, hook: Webhook) -> list[Event]:
        return cloud_api.events(hook.body)

    def owns(self, event: Event) -> bool:
        """The app's secret signs for all its numbers, so each event must name this one, or its account."""
        if event.sender_id is not None:
            return event.sender_id == self.phone_number_id
        return event.account_id == self.waba_id

    def account_of(self, event: Event) -> str | None:
        """What could not be read may be of any number of the account that it came under."""
        if event.sender_id is not None:
            return event.sender_id
        return event.account_id if event.type == "account.updated" else None

    def message_key(self, message_id: str) -> str:
        return cloud_api.message_key(message_id)

    def event_key(self, event: Event, message_id: str) -> str | None:
        return cloud_api.event_key(event, message_id)

    def probe(self, callback_url: str) -> Request:
        """A batch without an entry."""
        body = b'{"object":"whatsapp_business_account","entry":[]}'
        headers = {
            "content-type": "application/json",
            "x-hub-signature-256": f"sha256={hmac_hex(self.app_secret, body, 'sha256')}",
        }
        return Request(method="POST", url=callback_url, headers=headers, body=body)

    # ------------------------------------------------------------ sending

    def send_message(self, message: MessageData) -> Flow[MessageResult]:
        self.check_limits(message.content)
        edge, body = cloud_api.message_request(message)
        response = yield self._graph.post(f"{self.phone_number_id}/{edge}", body)
        return cloud_api.message_result(response, secrets=self._secrets)

    def mark_read(self, message_id: str, chat: Recipient, *, typing: bool = False) -> Flow[None]:
        """Show the message and those before it as read, and, if *typing*, that an answer is being written.

        May be repeated freely; a failure must not fail a send.
        """
        graph, body = self._graph, cloud_api.read_receipt(message_id, typing=typing)
        yield from graph.call(graph.post(f"{self.phone_number_id}/messages", body))

    def media(self, media_id: str) -> Flow[Media]:
        """Section 13.2. The URL lives for five minutes, the medium for seven days."""
        graph, query = self._graph, {"phone_number_id": self.phone_number_id}
        response = yield graph.get(quote(media_id, safe=""), query)
        return cloud_api.media_of(self._about_medium(response), base_url=self.base_url, headers=graph.headers)

    def upload(self, upload: Upload) -> Flow[str]:
        """Section 13.1. The id is this number's, for 30 days."""
        self.check_limits(cloud_api.content_of(upload))
        graph = self._graph
        head, tail = cloud_api.upload_form(upload)
        request = UploadRequest(
            method="POST",
            url=graph.url(f"{self.phone_number_id}/media", {}),
            headers={**graph.headers, "content-type": f"multipart/form-data; boundary={upload.boundary}"},
            body=head,
            tail=tail,
        )
        media_id = word((yield from graph.call(request)), "id")
        if media_id is None:
            raise unexpected_answer()
        return media_id

    def delete_media(self, media_id: str) -> Flow[None]:
        self._about_medium((yield self._graph.request("DELETE", quote(media_id, safe=""))))

    def list_templates(self, after: str | None = None) -> Flow[TemplatePage]:
        """Section 11. A hundred to a page."""
        graph, query = self._graph, templates.QUERY
        asked = graph.get(f"{self.waba_id}/message_templates", {**query, "after": after} if after else query)
        return templates.template_page((yield from graph.call(asked)))

    # ------------------------------------------------------------ account

    def setup(self) -> Flow[None]:
        """Subscribe the app to the account, and register the number, where there is a PIN for it.

        Each only where it is not: subscribing removes an override address, and Meta takes ten registrations in 72
        hours.
        """
        graph = self._graph
        apps = yield from graph.call(graph.get(self._subscriptions))
        if not checks.is_subscribed(apps, self.app_id):
            yield from graph.call(graph.post(self._subscriptions))
        if self.pin is not None and not checks.is_registered((yield from self._number())):
            body = {"messaging_product": "whatsapp", "pin": self.pin}
            yield from graph.call(graph.post(f"{self.phone_number_id}/register", body))

    def validate_config(self, callback_url: str | None = None) -> ChecksFlow[list[Check]]:
        """Section 14.1. Messages nobody, so receiving is only checked as far as settings go."""
        try:
            number = yield from self._number()
        except CONFIGURATION_ERRORS as error:
            return [checks.credentials_check(error)]
        return [
            (yield from reported(Check(name="credentials", passed=True, detail=text(number, "verified_name")))),
            (yield from reported(cloud_api.number_check(number, fix=_NUMBER_FIX))),
            *(yield from self._account_checks()),
            *([] if callback_url is None else [checks.webhook_check(number, callback_url)]),
        ]

    def get_status(self) -> Flow[ProviderStatus]:
        try:
            number = yield from self._number()
        except CONFIGURATION_ERRORS as error:
            return refused_status(error)
        return cloud_api.number_status(number)

    def receive_messages(self, callback_url: str) -> Flow[None]:
        """Set the override address of the number, or of the account; Meta makes a handshake with it first.

        It is for messages and statuses only: all else goes to the app's own address.
        """
        if len(callback_url) > _MAX_CALLBACK_URL:
            detail = f"Meta takes webhook addresses of up to {_MAX_CALLBACK_URL} characters"
            raise Rejected(detail, code="callback_url_too_long")
        yield from self._override({"override_callback_uri": callback_url, "verify_token": self.verify_token})

    def disconnect(self) -> Flow[None]:
        yield from self._override({"override_callback_uri": ""})

    # ------------------------------------------------------------ steps of the flows

    def _override(self, address: Object) -> Flow[None]:
        graph = self._graph
        if not self.account_webhook:
            asked = graph.post(self.phone_number_id, {"webhook_configuration": address})
        else:
            # Of the account it is removed by subscribing without one.
            asked = graph.post(self._subscriptions, address if address["override_callback_uri"] else None)
        yield from graph.call(asked)

    def _account_checks(self) -> ChecksFlow[list[Check]]:
        graph = self._graph
        account = yield from checks.account_check(graph, self.waba_id, self.phone_number_id)
        yield account
        subscription = yield from checks.subscription_check(graph, self._subscriptions, self.app_id)
        yield subscription
        found = [account, subscription]
        if self.app_id:
            found.append((yield from checks.permissions_check(graph, self.app_id, self.app_secret)))
        return found

    def _number(self) -> Flow[Object]:
        graph = self._graph
        response = yield graph.get(self.phone_number_id, {"fields": _NUMBER_FIELDS})
        if cloud_api.is_unknown_field(response):
            response = yield graph.get(self.phone_number_id, {"fields": _BASIC_NUMBER_FIELDS})
        number: Object = graph.answered(response)
        return number

    def _about_medium(self, response: Response) -> Object:
        """The answer about a medium. Code 100 is about it, too, and not about the account."""
        if cloud_api.is_missing_object(response):
            raise Rejected("the medium has expired or belongs to another number", code="100", scope="media")
        medium: Object = self._graph.answered(response)
        return medium

    @property
    def _subscriptions(self) -> str:
        return f"{self.waba_id}/subscribed_apps"

    @property
    def _graph(self) -> Graph:
        return Graph(
            root=f"{self.base_url.rstrip('/')}/{self.api_version}",
            headers={"authorization": f"Bearer {self.access_token}"},
            read=cloud_api.answered,
            access_token=self.access_token,
            app_secret=self.app_secret if self.require_appsecret_proof else None,
            secrets=self._secrets,
        )

    @property
    def _secrets(self) -> tuple[str | None, ...]:
        return (self.access_token, self.app_secret, self.app_secret_previous, self.verify_token, self.pin)
