"""The steps of a connection test of a WhatsApp Cloud API account that take calls of their own.

Source: https://developers.facebook.com/docs/whatsapp/cloud-api/get-started,
    https://developers.facebook.com/docs/graph-api/reference/debug_token.
"""

from urllib.parse import urlencode

from .._values import Object, flag, listed, mapping, objects, text, word, written
from ..base import Check, Flow, Request
from ..errors import CONFIGURATION_ERRORS, SendError
from .graph import Graph, next_cursor

# A WABA has at most some hundred numbers, 25 or more to a page.
_MAX_PAGES = 20


def credentials_check(error: SendError) -> Check:
    """*error* is why not even the number could be seen."""
    fixes = {
        "number": "Check phone_number_id, and give the system user access to its account.",
        "app": "Switch on require_appsecret_proof.",
    }
    usual = "Create a new token of a system user with whatsapp_business_messaging, and save it here."
    fix = fixes.get(error.scope or "", usual)
    return Check.failed("credentials", error.detail, fix, fatal=True)


def account_check(graph: Graph, waba_id: str, phone_number_id: str) -> Flow[Check]:
    """Whether the number belongs to the account."""
    fix = f"Put the id of the account that holds number {phone_number_id} into waba_id."
    try:
        belongs = yield from _is_in_account(graph, waba_id, phone_number_id)
    except CONFIGURATION_ERRORS as error:
        access = "Give the system user access to it and the token whatsapp_business_management."
        return Check.failed("account", error.detail, f"{fix} {access}")
    if belongs:
        return Check(name="account", passed=True)
    return Check.failed("account", f"account {waba_id} does not have this number", fix)


def _is_in_account(graph: Graph, waba_id: str, phone_number_id: str) -> Flow[bool]:
    query = {"fields": "id,display_phone_number"}
    for _ in range(_MAX_PAGES):
        page = yield from graph.call(graph.get(f"{waba_id}/phone_numbers", query))
        if any(word(number, "id") == phone_number_id for number in objects(page, "data")):
            return True
        if (after := next_cursor(page)) is None:
            return False
        query = {**query, "after": after}
    return False


def _names(apps: Object) -> str | None:
    """Without `app_id` it takes a person to see whether their own app is among them."""
    return ", ".join(filter(None, (text(app, "name") for app in _apps(apps)))) or None


def subscription_check(graph: Graph, path: str, app_id: str | None) -> Flow[Check]:
    """Whether the account's webhooks are posted at all. *path* is that of its subscriptions."""
    fix = f"Subscribe the app to the account: POST {graph.root}/{path} with this token and no body."
    try:
        apps = yield from graph.call(graph.get(path))
    except CONFIGURATION_ERRORS as error:
        return Check.failed("subscription", error.detail, fix)
    if not is_subscribed(apps, app_id):
        return Check.failed("subscription", _UNSUBSCRIBED, fix)
    return Check(name="subscription", passed=True, detail=_names(apps))


_UNSUBSCRIBED = "the app is not subscribed to the account: real messages will not arrive"


def is_subscribed(answer: Object, app_id: str | None) -> bool:
    """Whether our app is listed. Without *app_id* any app counts: to subscribe may cost an override."""
    subscribed = [word(app, "id") for app in _apps(answer)]
    return app_id in subscribed if app_id else bool(subscribed)


def is_registered(number: Object) -> bool:
    """Whether *number* says that it is connected to the Cloud API; PENDING is one that was never registered."""
    return word(number, "platform_type") == "CLOUD_API" and word(number, "status") not in _UNREGISTERED


_UNREGISTERED = {"PENDING", "DISCONNECTED"}


def _apps(answer: Object) -> list[Object]:
    return [mapping(app, "whatsapp_business_api_data") for app in objects(answer, "data")]


def permissions_check(graph: Graph, app_id: str, app_secret: str) -> Flow[Check]:
    """Whether the token may do its work, and until when: asked with the app's own token."""
    query = urlencode({"input_token": graph.access_token})
    app_token = {"authorization": f"Bearer {app_id}|{app_secret}"}
    try:
        answer = yield from graph.call(
            Request(method="GET", url=f"{graph.root}/debug_token?{query}", headers=app_token)
        )
    except CONFIGURATION_ERRORS as error:
        fix = "Check app_id and app_secret: both are in the Meta app, Settings, Basic."
        return Check.failed("token", error.detail, fix)
    return _token_check(mapping(answer, "data"))


_SCOPES = ("whatsapp_business_management", "whatsapp_business_messaging")


def _token_check(token: Object) -> Check:
    """Whether the access token may do its work, and until when: the answer of ``debug_token``."""
    missing = [scope for scope in _SCOPES if scope not in listed(token, "scopes")]
    valid = flag(token, "is_valid")
    if valid and not missing:
        # Whoever reads it has a clock.
        expires_at = written(token.get("expires_at") or None)
        return Check.ok("token", f"the token expires at {expires_at}" if expires_at else "the token does not expire")
    detail = f"the token lacks {' and '.join(missing)}" if valid else "the token is not valid any more"
    fix = f"Create a token of a system user with {' and '.join(_SCOPES)}, and save it here."
    return Check.failed("token", detail, fix)


def webhook_check(number: Object, callback_url: str) -> Check:
    """Whether messages go to *callback_url*: its own address counts, else the account's or app's."""
    addresses = mapping(number, "webhook_configuration")
    used = next((url for name in _ADDRESSES if (url := text(addresses, name))), None)
    if used == callback_url:
        return Check.ok("webhook")
    # Another address may hold another service's secret, so it is not shown.
    detail = "messages are posted to another address" if used else "messages are posted nowhere"
    fix = "Save the configuration again, which sets the address; or set it at the app by hand."
    return Check.failed("webhook", detail, fix)


_ADDRESSES = ("phone_number", "whatsapp_business_account", "application")
