"""Twilio's front door, and all of its calls that are no sends: accounts, messages, media, senders, contents.

Each product has a host of its own at Twilio; here one address serves all, as their paths do not overlap.

Source: https://www.twilio.com/docs/iam/api/account, https://www.twilio.com/docs/whatsapp/api/senders,
    https://www.twilio.com/docs/messaging/api/media-resource, https://www.twilio.com/docs/content/content-api-resources
"""

import base64
import binascii
import hmac
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from ..faults import AnyFault
from .bodies import Body, account_resource, sender_resource, service_resource, updated_sender
from .errors import TwilioError
from .paging import PARAMETERS, Page
from .records import Indicator
from .rules import is_callback
from .send import form_of, perform, send, twilio_response
from .world import SenderState, TwilioWorld

Call = Callable[..., Awaitable[web.Response]]  # (request, account SID, **names in the path)

_ACCOUNT = r"/2010-04-01/Accounts/(?P<of>\w+)"
_MEDIUM = _ACCOUNT + r"/Messages/(?P<message_sid>\w+)/Media/(?P<media_sid>\w+)"
_WEBHOOK_URLS = {"callback_url", "fallback_url", "status_callback_url"}
_WEBHOOK_METHODS = {"callback_method", "fallback_method", "status_callback_method"}
_DEFERS = "UseInboundWebhookOnNumber"
_SERVICE_FIELDS = {
    "InboundRequestUrl": "inbound_request_url",
    "StatusCallback": "status_callback",
    _DEFERS: "use_inbound_webhook_on_number",
}


class TwilioRest:
    """The handler of every API port. A request is counted before anything is judged about it."""

    def __init__(self, world: TwilioWorld) -> None:
        self._world = world
        calls: list[tuple[str, str, str, Call]] = [
            ("GET", "Account", _ACCOUNT + r"\.json", self._account),
            ("GET", "Messages", _ACCOUNT + r"/Messages\.json", self._messages),
            ("GET", "Message", _ACCOUNT + r"/Messages/(?P<sid>\w+)\.json", self._message),
            ("GET", "Medium", _MEDIUM, self._medium),
            ("GET", "MediumData", _MEDIUM + r"\.json", self._medium_data),
            ("DELETE", "Medium", _MEDIUM + r"(\.json)?", self._delete_medium),
            ("GET", "Senders", r"/v2/Channels/Senders", self._senders),
            ("GET", "Sender", r"/v2/Channels/Senders/(?P<sid>\w+)", self._sender),
            ("POST", "Sender", r"/v2/Channels/Senders/(?P<sid>\w+)", self._update_sender),
            ("POST", "Typing", r"/v2/Indicators/Typing\.json", self._typing),
            ("GET", "Service", r"/v1/Services/(?P<sid>\w+)", self._service),
            ("POST", "Service", r"/v1/Services/(?P<sid>\w+)", self._update_service),
            ("POST", "Content", r"/v1/Content", self._make_content),
            ("GET", "Content", r"/v1/Content/(?P<sid>\w+)", self._content),
            ("GET", "Contents", r"/v[12]/Content", self._contents),
        ]
        self._calls = [(method, name, re.compile(pattern), call) for method, name, pattern, call in calls]
        self._send_path = re.compile(_ACCOUNT + r"/Messages\.json")

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            response = await self._route(request)
        except TwilioError as error:
            response = twilio_response(error.json(request.path), error.http_status)
            if error.http_status == 401:
                response.headers["WWW-Authenticate"] = 'Basic realm="Twilio API"'
        finally:
            self._world.changed()
        if request.path.startswith("/v2/Channels/"):
            # Source: https://github.com/twilio/twilio-oai, spec/json/twilio_messaging_v2.json
            response.headers["T-Request-Id"] = response.headers.pop("Twilio-Request-Id", "")
        return response

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        sending = self._send_path.fullmatch(request.path)
        if sending is not None and request.method == "POST":
            self._count(request, "Messages")
            return await send(self._world, self._allowed(request, sending["of"])[0], request)
        found = [(one, match) for one in self._calls if (match := one[2].fullmatch(request.path))]
        call = next(((one, match) for one, match in found if one[0] == request.method), None)
        if call is None:
            self._count(request, "unknown")
            self._allowed(request, None)
            raise TwilioError(20004 if found or sending else 20404)
        (_, name, _, function), match = call
        self._count(request, name)
        names = {key: value for key, value in match.groupdict().items() if key != "of"}
        account_sid, is_token = self._allowed(request, match.groupdict().get("of"))
        if name == "Account" and not is_token:
            raise TwilioError(20003)  # a standard API key may do everything but this
        return await perform(
            self._world, self._standing(account_sid), request, lambda: function(request, account_sid, **names)
        )

    def _count(self, request: web.BaseRequest, operation: str) -> None:
        account = re.match(_ACCOUNT, request.path)
        of = account["of"] if account else (self._owner(request) or ("", False))[0]
        known = of if self._world.senders_of(of) else ""
        self._world.calls[known, f"{request.method} {operation}"] += 1

    def _standing(self, account_sid: str) -> AnyFault | None:
        """What meets the calls of an account that are no sends: the first of its senders' scripts decides."""
        faults = [state.script.standing for state in self._world.senders_of(account_sid)]
        return next((fault for fault in faults if fault is not None), None)

    # ---------------------------------------------------------------- who asks

    def _owner(self, request: web.BaseRequest) -> tuple[str, bool] | None:
        """The account whose credentials came, and whether they are its Auth Token and not a key."""
        user, password = _basic(request)
        for state in self._world.numbers.values():
            sender = state.sender
            for name, secret, is_token in (
                (sender.account_sid, sender.auth_token, True),
                (sender.api_key_sid, sender.api_key_secret, False),
            ):
                if name == user and secret is not None and hmac.compare_digest(secret.encode(), password.encode()):
                    return sender.account_sid, is_token
        return None

    def _allowed(self, request: web.BaseRequest, account_sid: str | None) -> tuple[str, bool]:
        owner = self._owner(request)
        if owner is None:
            raise TwilioError(20003)
        if account_sid not in (None, owner[0]):
            raise TwilioError(20404)
        return owner

    # ---------------------------------------------------------------- accounts and messages

    async def _account(self, request: web.BaseRequest, account_sid: str) -> web.Response:
        token = self._world.senders_of(account_sid)[0].sender.auth_token
        known = account_resource(account_sid, token)
        return twilio_response({**known, **self._world.account_fields.get(account_sid, {})})

    async def _messages(self, request: web.BaseRequest, account_sid: str) -> web.Response:
        query = _query(request, "To", "From")
        wanted = {name.lower(): query[name] for name in ("To", "From") if name in query}
        found = [
            message
            for message in reversed(self._world.messages.values())
            if message["account_sid"] == account_sid and all(message[name] == wanted[name] for name in wanted)
        ]
        return twilio_response(Page(found, query, request.path).classic("messages"))

    async def _message(self, request: web.BaseRequest, account_sid: str, sid: str) -> web.Response:
        return twilio_response(self._known_message(account_sid, sid))

    def _known_message(self, account_sid: str, sid: str) -> Body:
        message = self._world.messages.get(sid)
        if message is None or message["account_sid"] != account_sid:
            raise TwilioError(20404)
        return message

    async def _typing(self, request: web.BaseRequest, account_sid: str) -> web.Response:
        form = dict(await form_of(request))
        if form.get("channel") != "whatsapp" or set(form) != {"channel", "messageId"}:
            raise TwilioError(20422, "Invalid Parameter: channel and messageId are mandatory")
        if self._known_message(account_sid, form["messageId"])["direction"] != "inbound":
            raise TwilioError(20404)
        self._world.indicators.append(Indicator(account_sid, form["messageId"]))
        return twilio_response({"success": True})

    # ---------------------------------------------------------------- media

    async def _medium(
        self, request: web.BaseRequest, account_sid: str, message_sid: str, media_sid: str
    ) -> web.Response:
        self._check_medium(account_sid, message_sid, media_sid)
        return web.Response(status=307, headers={"Location": self._world.media.place(media_sid)})

    async def _medium_data(
        self, request: web.BaseRequest, account_sid: str, message_sid: str, media_sid: str
    ) -> web.Response:
        self._check_medium(account_sid, message_sid, media_sid)
        return twilio_response(self._world.media.describe(media_sid))

    async def _delete_medium(
        self, request: web.BaseRequest, account_sid: str, message_sid: str, media_sid: str
    ) -> web.Response:
        self._check_medium(account_sid, message_sid, media_sid)
        self._world.media.remove(media_sid)
        return web.Response(status=204)

    def _check_medium(self, account_sid: str, message_sid: str, media_sid: str) -> None:
        if self._world.media.find(account_sid, message_sid, media_sid) is None:
            raise TwilioError(20404)

    # ---------------------------------------------------------------- senders and services

    async def _senders(self, request: web.BaseRequest, account_sid: str) -> web.Response:
        query = _query(request, "Channel")
        if query.get("Channel") != "whatsapp":
            raise TwilioError(20001, "Channel is mandatory")
        found = [self._shown(request, state) for state in self._world.senders_of(account_sid)]
        page = Page(found, query, _base(request) + request.path, default_size=20)  # of WhatsApp; 50 elsewhere
        return twilio_response(page.newer("senders"))

    async def _sender(self, request: web.BaseRequest, account_sid: str, sid: str) -> web.Response:
        return twilio_response(self._shown(request, self._known_sender(account_sid, sid)))

    async def _update_sender(self, request: web.BaseRequest, account_sid: str, sid: str) -> web.Response:
        """Only the webhook: a gateway has no reason to change anything else."""
        state = self._known_sender(account_sid, sid)
        body = await _json(request)
        webhook = body.get("webhook")
        if not isinstance(webhook, dict) or set(body) != {"webhook"}:
            raise TwilioError(20422, "Invalid Parameter: webhook is mandatory, and alone")
        for name, value in webhook.items():
            if name in _WEBHOOK_METHODS:
                is_right = value in ("POST", "PUT")
            else:
                is_right = name in _WEBHOOK_URLS and (
                    value in ("", None) or (isinstance(value, str) and is_callback(value))
                )
            if not is_right:
                raise TwilioError(20422, f"Invalid Parameter: webhook.{name}")
        state.webhook = {**state.webhook, **{name: value or None for name, value in webhook.items()}}
        return twilio_response(updated_sender(self._shown(request, state)), 202)

    def _known_sender(self, account_sid: str, sid: str) -> SenderState:
        for state in self._world.senders_of(account_sid):
            if state.sender.sender_sid == sid:
                return state
        raise TwilioError(20404)

    def _shown(self, request: web.BaseRequest, state: SenderState) -> Body:
        return {**sender_resource(state.sender, state.webhook, _base(request)), **state.fields}

    async def _service(self, request: web.BaseRequest, account_sid: str, sid: str) -> web.Response:
        if all(state.sender.messaging_service_sid != sid for state in self._world.senders_of(account_sid)):
            raise TwilioError(20404)
        known = service_resource(sid, account_sid, _base(request))
        return twilio_response({**known, **self._world.services.get(sid, {})})

    async def _update_service(self, request: web.BaseRequest, account_sid: str, sid: str) -> web.Response:
        """Where its messages and statuses go, and whether it or its senders decide."""
        given = dict(await form_of(request))
        for name, value in given.items():
            is_right = value in ("true", "false") if name == _DEFERS else not value or is_callback(value)
            if name not in _SERVICE_FIELDS or not is_right:
                raise TwilioError(20422, f"Invalid Parameter: {name}")
        await self._service(request, account_sid, sid)  # it must be there
        fields = self._world.services.setdefault(sid, {})
        for name, value in given.items():
            fields[_SERVICE_FIELDS[name]] = value == "true" if name == _DEFERS else value or None
        return await self._service(request, account_sid, sid)

    # ---------------------------------------------------------------- contents

    async def _make_content(self, request: web.BaseRequest, account_sid: str) -> web.Response:
        content = self._world.add_content(account_sid, await _json(request))
        return twilio_response(content.resource(account_sid, _base(request)), 201)

    async def _content(self, request: web.BaseRequest, account_sid: str, sid: str) -> web.Response:
        content = self._world.contents_of(account_sid).get(sid)
        if content is None:
            raise TwilioError(20404)
        return twilio_response(content.resource(account_sid, _base(request)))

    async def _contents(self, request: web.BaseRequest, account_sid: str) -> web.Response:
        """The second version can search; a name is looked for as a pattern, so more than one may be found."""
        query = _query(request, *(["ContentName"] if request.path.startswith("/v2/") else []))
        try:
            pattern = re.compile(query.get("ContentName", ""))
        except re.error:
            raise TwilioError(20422, "Invalid Parameter: ContentName") from None
        found = [
            content.resource(account_sid, _base(request))
            for content in self._world.contents_of(account_sid).values()
            if pattern.search(content.friendly_name)
        ]
        return twilio_response(Page(found, query, _base(request) + request.path).newer("contents"))


def _basic(request: web.BaseRequest) -> tuple[str, str]:
    kind, _, coded = request.headers.get("Authorization", "").partition(" ")
    try:
        user, _, password = base64.b64decode(coded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return (user, password) if kind == "Basic" else ("", "")


def _base(request: web.BaseRequest) -> str:
    return f"http://{request.host}"


def _query(request: web.BaseRequest, *names: str) -> dict[str, str]:
    """The query, which may have *names* and those of pages; what else Twilio knows no gateway needs."""
    for name in request.query:
        if name not in {*names, *PARAMETERS}:
            raise TwilioError(20001, f"Unknown parameter: {name}")
    return dict(request.query)


async def _json(request: web.BaseRequest) -> dict[str, Any]:
    try:
        if request.content_type == "application/json":
            return msgspec.json.decode(await request.read(), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise TwilioError(20001, f"The request body is not a JSON object: {error}") from None
    raise TwilioError(20001, "The request body is not JSON")
