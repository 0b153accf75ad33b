"""The Graph API's front door and its management calls: numbers, accounts, subscriptions, media, tokens.

Source: https://developers.facebook.com/documentation/business-messaging/whatsapp/reference
"""

import hmac
import re
import secrets
from typing import Any

import msgspec
from aiohttp import web

from .bodies import Body, MetaNumber
from .errors import GraphError, not_found
from .media import DOWNLOAD_PATH, read_form
from .paging import page_of
from .send import graph_response, perform, send
from .templates import list_templates
from .validation import check_product
from .world import MetaWorld, NumberState

# Source: https://developers.facebook.com/docs/graph-api/reference (which has pages of v27.0)
VERSIONS = {"v21.0", "v22.0", "v23.0", "v24.0", "v25.0", "v26.0", "v27.0"}
# Source: https://github.com/facebook/openapi (`getPhoneNumberById`)
DEFAULT_FIELDS = "id,display_phone_number,verified_name,quality_rating"
SCOPES = ["whatsapp_business_management", "whatsapp_business_messaging"]
MAX_CALLBACK_URL = 200  # characters
MAX_REGISTRATIONS = 10  # in 72 hours, which are longer than any simulator lives


class GraphApi:
    """The handler of every API port. A request is counted before anything is judged about it."""

    def __init__(self, world: MetaWorld) -> None:
        self._world = world

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            response = await self._route(request)
        except GraphError as error:
            response = graph_response(error.json(), error.http_status)
        finally:
            self._world.changed()
        if (version := request.path.split("/")[1]) in VERSIONS:
            response.headers["facebook-api-version"] = version
        return response

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == DOWNLOAD_PATH:
            self._count(request, "media_bytes")
            return self._world.media.download(request, _token(request))
        version, _, rest = request.path.strip("/").partition("/")
        node, *edges = rest.split("/")
        if version not in VERSIONS or not node or len(edges) > 1:
            self._count(request, "unknown")
            raise _unknown_path(request)
        edge = edges[0] if edges else ""
        self._count(request, edge or ("debug_token" if node == "debug_token" else "node"), node)
        if node == "debug_token":
            return graph_response(self._debug_token(request))
        self._check_token(request)
        state = self._world.numbers.get(node)
        if state is not None and state.number.access_token == _token(request):
            return await self._number(request, state, edge)
        member = self._member_of_account(node, _token(request))
        if member is not None:
            return await perform(
                self._world,
                member.script.standing,
                request,
                lambda: self._account(request, member.number, edge),
            )
        kept = self._world.media.medium(node)
        seen = kept is not None and request.query.get("phone_number_id", kept.owner) == kept.owner and not edge
        medium = self._world.media.describe(node, _token(request)) if seen else None
        if medium is None or request.method not in ("GET", "DELETE"):
            raise not_found(node, request.method)
        if request.method == "DELETE":
            self._world.media.remove(node)
            return graph_response({"success": True})
        return graph_response(medium)

    def _count(self, request: web.BaseRequest, operation: str, node: str = "") -> None:
        number = node if node in self._world.numbers else ""
        self._world.calls[number, f"{request.method} {operation}"] += 1

    # ---------------------------------------------------------------- who asks

    def _check_token(self, request: web.BaseRequest) -> None:
        token = _token(request)
        owners = [state.number for state in self._world.numbers.values() if state.number.access_token == token]
        if not owners:
            raise GraphError(190)
        proof = request.query.get("appsecret_proof")
        if proof is not None and proof not in {_proof(number) for number in owners}:
            raise GraphError(100, message="(#100) Invalid appsecret_proof provided in the API argument")

    def _member_of_account(self, waba_id: str, token: str) -> NumberState | None:
        """A number of that account that *token* belongs to."""
        for state in self._world.numbers.values():
            if state.number.waba_id == waba_id and state.number.access_token == token:
                return state
        return None

    def _debug_token(self, request: web.BaseRequest) -> Body:
        # Source: https://developers.facebook.com/docs/graph-api/reference/debug_token
        apps = {f"{state.number.app_id}|{state.number.app_secret}" for state in self._world.numbers.values()}
        if _token(request) not in apps:
            raise GraphError(190)
        token = request.query.get("input_token")
        numbers = [state.number for state in self._world.numbers.values() if state.number.access_token == token]
        if not numbers:
            error = {"code": 190, "message": "Malformed access token"}
            return {"data": {"error": error, "is_valid": False, "scopes": []}}
        accounts = sorted({number.waba_id for number in numbers})
        return {
            "data": {
                "app_id": _token(request).partition("|")[0],
                "type": "SYSTEM_USER",
                "application": "Gateway",
                "data_access_expires_at": 0,  # never
                "expires_at": 0,
                "is_valid": True,
                "scopes": SCOPES,
                "granular_scopes": [{"scope": scope, "target_ids": accounts} for scope in SCOPES],
                "user_id": "122100000000001",
            }
        }

    # ---------------------------------------------------------------- a number

    async def _number(self, request: web.BaseRequest, state: NumberState, edge: str) -> web.StreamResponse:
        if request.method == "POST" and edge in ("messages", "marketing_messages"):
            return await send(self._world, state, request, marketing=edge == "marketing_messages")
        fault = state.script.standing
        if request.method == "POST" and edge == "media":
            return await perform(self._world, fault, request, lambda: self._upload(request, state))
        if request.method == "POST" and edge == "register":
            return await perform(self._world, fault, request, lambda: self._register(request, state))
        if request.method == "GET" and not edge:
            return await perform(self._world, fault, request, lambda: self._number_fields(request, state))
        if request.method == "POST" and not edge:
            return await perform(self._world, fault, request, lambda: self._configure_webhook(request, state))
        raise _unknown_path(request)

    async def _number_fields(self, request: web.BaseRequest, state: NumberState) -> Body:
        known = self._all_fields(state)
        return {name: known[name] for name in [*_fields(request, known), "id"]}

    def _all_fields(self, state: NumberState) -> Body:
        # Source: https://github.com/facebook/openapi (`PhoneNumberInfo`, `WhatsAppBusinessAccountPhoneNumber`), and
        # https://developers.facebook.com/documentation/business-messaging/whatsapp/support/health-status
        number = state.number
        configuration = {
            "phone_number": state.override_url,
            "whatsapp_business_account": self._world.subscriptions[number.waba_id].get(number.app_id),
            "application": number.webhook_url,
        }
        able = {"can_send_message": "AVAILABLE" if state.registered else "BLOCKED"}
        return {
            "id": number.phone_number_id,
            "display_phone_number": _shown(number.display_phone_number),
            "verified_name": "Sandbox",
            "quality_rating": "GREEN",
            "name_status": "APPROVED",
            "code_verification_status": "VERIFIED",
            "throughput": {"level": "STANDARD"},
            "platform_type": "CLOUD_API" if state.registered else "NOT_APPLICABLE",
            "status": "CONNECTED" if state.registered else "PENDING",
            "account_mode": "LIVE",
            "is_official_business_account": False,
            "webhook_configuration": {name: url for name, url in configuration.items() if url},
            "whatsapp_business_manager_messaging_limit": "TIER_2K",
            "health_status": {
                **able,
                "entities": [
                    {"entity_type": "PHONE_NUMBER", "id": number.phone_number_id, **able},
                    {"entity_type": "WABA", "id": number.waba_id, **able},
                    {"entity_type": "BUSINESS", "id": "330987654321098", **able},
                    {"entity_type": "APP", "id": number.app_id, **able},
                ],
            },
            **state.fields,
        }

    async def _upload(self, request: web.BaseRequest, state: NumberState) -> Body:
        # Source: https://github.com/facebook/openapi (`uploadImage`)
        mime_type, data = await read_form(request)
        media_id, _ = self._world.media.add(state.number, data, mime_type)
        return {"id": media_id}

    async def _register(self, request: web.BaseRequest, state: NumberState) -> Body:
        # Source: https://github.com/facebook/openapi (`WhatsAppBusinessPhoneNumberRegistrationResponse`)
        body = await _json(request)
        check_product(body)
        if unknown := sorted(set(body) - {"messaging_product", "pin", "data_localization_region"}):
            raise GraphError(100, message=f'(#100) Unexpected key "{unknown[0]}"')
        pin = body.get("pin")
        if not isinstance(pin, str) or not re.fullmatch(r"[0-9]{6}", pin):
            raise GraphError(100, message="(#100) The parameter pin is required, and has six digits")
        if state.registrations >= MAX_REGISTRATIONS:
            raise GraphError(133016, message="(#133016) Account register deregister rate limit exceeded")
        state.registrations += 1
        if state.pin not in (None, pin):
            raise GraphError(133005, message="(#133005) Two-step verification PIN mismatch")
        state.registered, state.pin = True, pin
        return {"success": True}

    async def _configure_webhook(self, request: web.BaseRequest, state: NumberState) -> Body:
        # Source: https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/override
        body = await _json(request)
        configuration = body.get("webhook_configuration")
        if not isinstance(configuration, dict) or set(body) != {"webhook_configuration"}:
            raise GraphError(100, "The parameter webhook_configuration is required.")
        state.override_url = await self._checked_callback(configuration)
        return {"success": True}

    # ---------------------------------------------------------------- an account

    async def _account(self, request: web.BaseRequest, number: MetaNumber, edge: str) -> Body:
        apps = self._world.subscriptions[number.waba_id]
        match request.method, edge:
            case "GET", "phone_numbers":
                return self._phone_numbers(request, number.waba_id)
            case "GET", "message_templates":
                return list_templates(
                    self._world.templates[number.waba_id], request.query, str(request.url.with_query(None))
                )
            case "GET", "subscribed_apps":
                return {"data": [_subscribed_app(app_id, override) for app_id, override in apps.items()]}
            case "POST", "subscribed_apps":
                # Without a body this also removes an override, as Meta does.
                body = await _json(request) if request.body_exists else {}
                apps[number.app_id] = await self._checked_callback(body)
                return {"success": True}
            case "DELETE", "subscribed_apps":
                apps.pop(number.app_id, None)
                return {"success": True}
        raise _unknown_path(request)

    def _phone_numbers(self, request: web.BaseRequest, waba_id: str) -> Body:
        numbers = [self._all_fields(state) for state in self._world.numbers.values() if state.number.waba_id == waba_id]
        return page_of(numbers, _fields(request, numbers[0]), request.query, str(request.url.with_query(None)))

    async def _checked_callback(self, configuration: dict[str, Any]) -> str | None:
        """The override URL once its handshake succeeded, None where there is none to set."""
        url = configuration.get("override_callback_uri") or None
        if url is None:
            return None
        if not isinstance(url, str) or not re.match(r"https?://", url) or len(url) > MAX_CALLBACK_URL:
            raise GraphError(100, "override_callback_uri is not a valid URL of at most 200 characters.")
        challenge = str(secrets.randbelow(10**10))
        query = {
            "hub.mode": "subscribe",
            "hub.challenge": challenge,
            "hub.verify_token": str(configuration.get("verify_token", "")),
        }
        if await self._world.webhooks.get(url, query) != (200, challenge.encode()):
            raise GraphError(100, "The URL could not be validated. Response does not match challenge.")
        return url


def _fields(request: web.BaseRequest, known: Body) -> list[str]:
    """The fields of a number that are asked for, all of which must be *known*."""
    names = request.query.get("fields", DEFAULT_FIELDS).split(",")
    if unknown := [name for name in names if name not in known]:
        node = "(WhatsAppBusinessPhoneNumber)"
        raise GraphError(100, message=f"(#100) Tried accessing nonexisting field ({unknown[0]}) on node type {node}")
    return names


def _shown(phone: str) -> str:
    """As Meta shows a phone: with blanks and hyphens, where they are the same for all of a country's."""
    parts = re.fullmatch(r"\+1([0-9]{3})([0-9]{3})([0-9]{4})", phone)
    return f"+1 {parts[1]}-{parts[2]}-{parts[3]}" if parts else f"{phone[:3]} {phone[3:]}"


def _token(request: web.BaseRequest) -> str:
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if kind == "Bearer" else ""


def _proof(number: MetaNumber) -> str:
    return hmac.digest(number.app_secret.encode(), number.access_token.encode(), "sha256").hex()


async def _json(request: web.BaseRequest) -> dict[str, Any]:
    try:
        return msgspec.json.decode(await request.read(), type=dict[str, Any])
    except msgspec.MsgspecError:
        raise GraphError(100, "The request body is not a JSON object.") from None


def _subscribed_app(app_id: str, override: str | None) -> Body:
    # Source: https://github.com/facebook/openapi (`SubscribedApp`)
    link = f"https://www.facebook.com/games/?app_id={app_id}"
    app: Body = {"whatsapp_business_api_data": {"id": app_id, "link": link, "name": "Gateway"}}
    return {**app, "override_callback_uri": override} if override else app


def _unknown_path(request: web.BaseRequest) -> GraphError:
    # Source: https://github.com/arsduo/koala/issues/611 (400, and no code before the words)
    return GraphError(2500, message=f"Unknown path components: {request.path}")
