"""WhatsApp Business Cloud API, Meta's own.

Source: https://developers.facebook.com/docs/whatsapp/cloud-api (late 2026, Graph API v23.0 to v26.0)
        https://developers.facebook.com/documentation/business-messaging/whatsapp
"""

from typing import Annotated, ClassVar
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Meta

from . import _cloud_health, _cloud_inbound, _cloud_limits, _cloud_outbound
from ._cloud_errors import answered, is_missing_object, is_unknown_field
from ._cloud_media import form_around, media_of
from ._values import Object, listed, mapping, text, word
from .base import Check, Flow, Pacing, ProviderInfo, Request, Response, Upload, UploadRequest, Webhook, WhatsAppProvider
from .errors import AccountBroken, Rejected, Restricted, SendError, Unavailable, Unverified
from .messages import Event, Media, MessageData, MessageResult, ProviderStatus, Recipient
from .signing import hmac_hex, same_secret, verify_hmac_hex

_SECRET = {"secret": True}
# In Python, unlike in a browser, `$` alone would let a line break pass at the end, and into a header.
_NO_SPACES = r"^\S+(?!\s)$"
_DIGITS = r"^[0-9]+(?!\s)$"

# Longer ones are not sent by Meta; the answer reflects what it was given.
_MAX_CHALLENGE = 256
_MAX_CALLBACK_URL = 200
# A WABA has at most some hundred numbers, 25 or more to a page.
_MAX_PAGES = 20
# Errors that say something about the configuration; all others say that the provider could not be asked.
_CONFIGURATION_ERRORS = (AccountBroken, Restricted, Rejected)


class MetaBusiness(WhatsAppProvider, frozen=True, kw_only=True):
    """One number of one WhatsApp Business Account (WABA). A gateway that speaks the same uses `providers.cloud_api`."""

    info: ClassVar[ProviderInfo] = ProviderInfo(
        name="meta_business",
        display_name="WhatsApp Business (Meta Cloud API)",
        description="Meta's official API. Needs a Meta app, a business account and a registered number.",
        pricing="paid",
        stability="stable",
        official=True,
        capabilities=_cloud_outbound.KINDS | {"templates", "media", "uploads", "receipts", "typing", "groups"},
    )

    access_token: Annotated[
        str,
        Meta(
            title="Access token",
            description="Of a system user with whatsapp_business_messaging and whatsapp_business_management.",
            min_length=1,
            pattern=_NO_SPACES,
            extra={**_SECRET, "placeholder": "EAAG…"},
        ),
    ]
    phone_number_id: Annotated[
        str,
        Meta(
            title="Phone number ID",
            description="The id of the number, which is not the number itself: WhatsApp Manager, API setup.",
            min_length=1,
            pattern=_DIGITS,
            extra={"placeholder": "109876543210987"},
        ),
    ]
    waba_id: Annotated[
        str,
        Meta(
            title="WhatsApp Business Account ID",
            min_length=1,
            pattern=_DIGITS,
            extra={"placeholder": "210987654321098"},
        ),
    ]
    app_secret: Annotated[
        str,
        Meta(
            title="App secret",
            description="Signs the webhooks: Meta app, Settings, Basic.",
            min_length=1,
            pattern=_NO_SPACES,
            extra=_SECRET,
        ),
    ]
    verify_token: Annotated[
        str,
        Meta(
            title="Verify token",
            description="A text of your own; Meta repeats it when the webhook address is set.",
            min_length=1,
            extra=_SECRET,
        ),
    ]
    app_secret_previous: Annotated[
        Annotated[str, Meta(pattern=_NO_SPACES)] | None,
        Meta(
            title="Previous app secret",
            description="Accepted as well while the app secret is being replaced.",
            extra=_SECRET,
        ),
    ] = None
    app_id: Annotated[
        Annotated[str, Meta(pattern=_DIGITS)] | None,
        Meta(
            title="App ID",
            description="Tells this app from others that are subscribed to the same account.",
            extra={"placeholder": "550987654321098"},
        ),
    ] = None
    display_phone_number: Annotated[
        Annotated[str, Meta(pattern=r"^\+[1-9][0-9]{6,14}(?!\s)$")] | None,
        Meta(
            title="Phone number",
            description="The business number in E.164.",
            extra={"placeholder": "+15550001111"},
        ),
    ] = None
    api_version: Annotated[
        str,
        Meta(
            title="Graph API version",
            description="Not the version of the webhooks, which is chosen in the app's dashboard.",
            pattern=r"^v[0-9]{2}\.[0-9](?!\s)$",
        ),
    ] = "v25.0"
    base_url: Annotated[
        str,
        Meta(
            title="API address",
            pattern=r"^https?://[^\s?#]+(?!\s)$",
            extra={"placeholder": "https://graph.facebook.com"},
        ),
    ] = "https://graph.facebook.com"
    messages_per_second: Annotated[
        int,
        Meta(
            title="Messages per second",
            description="What Meta allows the number: 80, or 1000 once it was raised. 0: no limits of ours.",
            ge=0,
            le=1_000_000,
        ),
    ] = 80
    require_appsecret_proof: Annotated[
        bool,
        Meta(
            title="Send proof of the app secret",
            description='For apps with "Require App Secret" switched on.',
        ),
    ] = False

    @property
    def sender(self) -> str | None:
        return self.display_phone_number

    @property
    def pacing(self) -> Pacing | None:
        return _cloud_limits.pacing(self.messages_per_second)

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
        return _cloud_inbound.events(hook.body)

    def owns(self, event: Event) -> bool:
        """The app's secret signs for all its numbers, so each event must name this one, or its account."""
        if event.sender_id is not None:
            return event.sender_id == self.phone_number_id
        return event.account_id == self.waba_id

    # ------------------------------------------------------------ sending

    def send_message(self, message: MessageData) -> Flow[MessageResult]:
        edge, body = _cloud_outbound.message_request(message)
        response = yield self._post(f"{self.phone_number_id}/{edge}", body)
        return _cloud_outbound.message_result(response, secrets=self._secrets)

    def mark_read(self, message_id: str, chat: Recipient, *, typing: bool = False) -> Flow[None]:
        """Show the message and those before it as read, and, if *typing*, that an answer is being written.

        May be repeated freely; a failure must not fail a send.
        """
        body = _cloud_outbound.read_receipt(message_id, typing=typing)
        yield from self._call(self._post(f"{self.phone_number_id}/messages", body))

    def media(self, media_id: str) -> Flow[Media]:
        """Section 13.2. The URL lives for five minutes, the medium for seven days."""
        query = {"phone_number_id": self.phone_number_id}
        response = yield self._get(quote(media_id, safe=""), query)
        medium = self._about_medium(response)
        return media_of(medium, base_url=self.base_url, headers=self._authorization)

    def upload(self, upload: Upload) -> Flow[str]:
        """Section 13.1. The id is this number's, for 30 days."""
        _cloud_limits.check_upload(upload)
        head, tail = form_around(upload)
        request = UploadRequest(
            method="POST",
            url=self._url(f"{self.phone_number_id}/media", {}),
            headers={**self._authorization, "content-type": f"multipart/form-data; boundary={upload.boundary}"},
            body=head,
            tail=tail,
        )
        media_id = word((yield from self._call(request)), "id")
        if media_id is None:
            raise Unavailable("the answer is not the one documented", code="unexpected_answer")
        return media_id

    def delete_media(self, media_id: str) -> Flow[None]:
        response = yield Request(
            method="DELETE", url=self._url(quote(media_id, safe=""), {}), headers=self._authorization
        )
        self._about_medium(response)

    # ------------------------------------------------------------ account

    def setup(self) -> Flow[None]:
        """Subscribe the app to the account. Only where it is not: subscribing removes an override address."""
        path = f"{self.waba_id}/subscribed_apps"
        apps = yield from self._call(self._get(path))
        if not self._is_subscribed(apps):
            yield from self._call(self._post(path))

    def validate_config(self, callback_url: str | None = None) -> Flow[list[Check]]:
        """Section 14.1. Messages nobody, so receiving is only checked as far as settings go."""
        try:
            number = yield from self._number()
        except _CONFIGURATION_ERRORS as error:
            return [self._credentials_check(error)]
        checks = [
            Check(name="credentials", passed=True, detail=text(number, "verified_name")),
            _cloud_health.number_check(number),
            (yield from self._account_check()),
            (yield from self._subscription_check()),
        ]
        if self.app_id:
            checks.append((yield from self._token_check(self.app_id)))
        if callback_url is not None:
            checks.append(_cloud_health.webhook_check(number, callback_url))
        return checks

    def get_status(self) -> Flow[ProviderStatus]:
        try:
            number = yield from self._number()
        except _CONFIGURATION_ERRORS as error:
            return ProviderStatus(
                is_connected=False,
                connection_quality="disconnected",
                session_info={"error_code": error.code},
                detail=error.detail,
            )
        return _cloud_health.number_status(number)

    def receive_messages(self, callback_url: str) -> Flow[None]:
        """Set the number's override address; Meta makes a handshake with it before it answers.

        It is for messages and statuses only: all else goes to the app's own address.
        """
        if len(callback_url) > _MAX_CALLBACK_URL:
            detail = f"Meta takes webhook addresses of up to {_MAX_CALLBACK_URL} characters"
            raise Rejected(detail, code="callback_url_too_long")
        yield from self._override({"override_callback_uri": callback_url, "verify_token": self.verify_token})

    def disconnect(self) -> Flow[None]:
        yield from self._override({"override_callback_uri": ""})

    # ------------------------------------------------------------ steps of the flows

    def _override(self, configuration: Object) -> Flow[None]:
        yield from self._call(self._post(self.phone_number_id, {"webhook_configuration": configuration}))

    def _number(self) -> Flow[Object]:
        response = yield self._get(self.phone_number_id, {"fields": _cloud_health.FIELDS})
        if is_unknown_field(response):
            response = yield self._get(self.phone_number_id, {"fields": _cloud_health.BASIC_FIELDS})
        return self._answered(response)

    def _account_check(self) -> Flow[Check]:
        fix = f"Put the id of the account that holds number {self.phone_number_id} into waba_id."
        try:
            belongs = yield from self._is_in_account()
        except _CONFIGURATION_ERRORS as error:
            access = "Give the system user access to it and the token whatsapp_business_management."
            return Check(name="account", passed=False, detail=error.detail, fix=f"{fix} {access}", fatal=False)
        if belongs:
            return Check(name="account", passed=True)
        detail = f"account {self.waba_id} does not have this number"
        return Check(name="account", passed=False, detail=detail, fix=fix, fatal=False)

    def _is_in_account(self) -> Flow[bool]:
        query = {"fields": "id,display_phone_number"}
        for _ in range(_MAX_PAGES):
            page = yield from self._call(self._get(f"{self.waba_id}/phone_numbers", query))
            numbers = [number for number in listed(page, "data") if isinstance(number, dict)]
            if any(word(number, "id") == self.phone_number_id for number in numbers):
                return True
            paging = mapping(page, "paging")
            after = text(mapping(paging, "cursors"), "after")
            if "next" not in paging or after is None:
                return False
            # Built from the cursor: the next address Meta gives may carry the token.
            query = {**query, "after": after}
        return False

    def _subscription_check(self) -> Flow[Check]:
        fix = (
            f"Subscribe the app to the account: POST {self._root}/{self.waba_id}/subscribed_apps with this "
            "token and no body."
        )
        try:
            apps = yield from self._call(self._get(f"{self.waba_id}/subscribed_apps"))
        except _CONFIGURATION_ERRORS as error:
            return Check(name="webhooks", passed=False, detail=error.detail, fix=fix, fatal=False)
        if self._is_subscribed(apps):
            # Without `app_id` it takes a person to see whether their own app is among them.
            names = [name for app in _apps(apps) if (name := text(app, "name"))]
            return Check(name="webhooks", passed=True, detail=", ".join(names) or None)
        detail = "the app is not subscribed to the account: real messages will not arrive"
        return Check(name="webhooks", passed=False, detail=detail, fix=fix, fatal=False)

    def _token_check(self, app_id: str) -> Flow[Check]:
        query = urlencode({"input_token": self.access_token})
        app_token = {"authorization": f"Bearer {app_id}|{self.app_secret}"}
        try:
            told = yield from self._call(
                Request(method="GET", url=f"{self._root}/debug_token?{query}", headers=app_token)
            )
        except _CONFIGURATION_ERRORS as error:
            fix = "Check app_id and app_secret: both are in the Meta app, Settings, Basic."
            return Check(name="token", passed=False, detail=error.detail, fix=fix, fatal=False)
        return _cloud_health.token_check(mapping(told, "data"))

    def _is_subscribed(self, answer: Object) -> bool:
        """Whether our app is listed. Without `app_id` any app counts: to subscribe may cost an override."""
        subscribed = [word(app, "id") for app in _apps(answer)]
        return self.app_id in subscribed if self.app_id else bool(subscribed)

    def _credentials_check(self, error: SendError) -> Check:
        fixes = {
            "number": "Check phone_number_id, and give the system user access to its account.",
            "app": "Switch on require_appsecret_proof.",
        }
        usual = "Create a new token of a system user with whatsapp_business_messaging, and save it here."
        return Check(
            name="credentials",
            passed=False,
            detail=error.detail,
            fix=fixes.get(error.scope or "", usual),
            fatal=True,
        )

    # ------------------------------------------------------------ requests and answers

    @property
    def _root(self) -> str:
        """The address under which nodes and edges are found."""
        return f"{self.base_url.rstrip('/')}/{self.api_version}"

    @property
    def _authorization(self) -> dict[str, str]:
        """Only ever a header: a token in a URL lands in logs."""
        return {"authorization": f"Bearer {self.access_token}"}

    @property
    def _secrets(self) -> tuple[str | None, ...]:
        return (self.access_token, self.app_secret, self.app_secret_previous, self.verify_token)

    def _get(self, path: str, query: dict[str, str] | None = None) -> Request:
        return Request(method="GET", url=self._url(path, query or {}), headers=self._authorization)

    def _post(self, path: str, body: Object | None = None) -> Request:
        if body is None:
            return Request(method="POST", url=self._url(path, {}), headers=self._authorization)
        return Request(
            method="POST",
            url=self._url(path, {}),
            headers={**self._authorization, "content-type": "application/json"},
            body=msgspec.json.encode(body),
        )

    def _url(self, path: str, query: dict[str, str]) -> str:
        if self.require_appsecret_proof:
            proof = hmac_hex(self.app_secret, self.access_token.encode(), "sha256")
            query = {**query, "appsecret_proof": proof}
        asked = urlencode(query, safe=",")
        return f"{self._root}/{path}?{asked}" if asked else f"{self._root}/{path}"

    def _call(self, request: Request) -> Flow[Object]:
        """One call that may be repeated freely, and its answer."""
        return self._answered((yield request))

    def _about_medium(self, response: Response) -> Object:
        """The answer about a medium. Code 100 is about it, too, and not about the account."""
        if is_missing_object(response):
            raise Rejected("the medium has expired or belongs to another number", code="100", scope="media")
        return self._answered(response)

    def _answered(self, response: Response) -> Object:
        return answered(response, secrets=self._secrets)


def _apps(answer: Object) -> list[Object]:
    entries = [app for app in listed(answer, "data") if isinstance(app, dict)]
    return [mapping(app, "whatsapp_business_api_data") for app in entries]


PROVIDER = MetaBusiness
