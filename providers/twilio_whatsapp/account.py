"""How a Twilio account and its WhatsApp sender are doing, from what Twilio says about them.

Source: https://www.twilio.com/docs/iam/api/account, https://www.twilio.com/docs/whatsapp/api/senders,
    https://www.twilio.com/docs/messaging/api/service-resource.
"""

from urllib.parse import urlsplit

from .._values import Object, mapping, objects, present, text, word
from ..base import Check
from ..errors import SendError
from ..messages import ProviderStatus, Quality, Trouble

# Twilio's shared number for trying things out: it is no sender of any account, and is set up in the console.
SANDBOX = "+14155238886"

_NO_ADDRESS = "there is no webhook address: messages will not arrive"
_CONSOLE = "https://console.twilio.com"
_CHANGING = "ONLINE:UPDATING"
_WORKING = ("ONLINE", _CHANGING)
_QUALITIES: dict[str, Quality] = {"HIGH": "excellent", "MEDIUM": "good", "LOW": "poor"}
_REPAIRS = {
    "suspended": f"Settle what Twilio asks for in {_CONSOLE}: the account is suspended.",
    "closed": "Use another account: this one is closed.",
}


def sender_in(page: Object, sender_id: str) -> Object | None:
    return next((sender for sender in objects(page, "senders") if word(sender, "sender_id") == sender_id), None)


def next_query(page: Object) -> str | None:
    """The query of the next page, None at the last. Only the query: whose host it names is Twilio's business."""
    address = text(mapping(page, "meta"), "next_page_url")
    try:
        return urlsplit(address).query or None if address else None
    except ValueError:
        return None


def account_check(account: Object) -> Check:
    state = word(account, "status")
    if state != "active":
        fix = _REPAIRS.get(state or "", f"See the account in {_CONSOLE}.")
        return Check.failed("account", f"the account is {state}", fix, fatal=True)
    is_trial = word(account, "type") == "Trial"
    detail = "a trial account: it reaches verified numbers only" if is_trial else text(account, "friendly_name")
    return Check(name="account", passed=True, detail=detail)


def sender_check(sender: Object) -> Check:
    state = word(sender, "status") or "unknown"
    if state in _WORKING:
        return Check.ok("sender", text(mapping(sender, "profile"), "name"))
    fix = " ".join(_advice(sender)) or f"Bring the sender online in {_CONSOLE}, under Messaging, Senders, WhatsApp."
    return Check.failed("sender", f"the sender is {state}", fix)


def missing_sender(number: str) -> Check:
    return Check.failed(
        "sender",
        f"the account has no WhatsApp sender {number}",
        f"Put one of its senders into phone_number, or register {number} in {_CONSOLE}, under Messaging, Senders.",
        fatal=True,
    )


def sandbox_checks() -> list[Check]:
    """Nothing about it can be asked."""
    fix = "Set it in the console: Messaging, Try it out, Send a WhatsApp message, Sandbox settings."
    detail = "the sandbox's webhook address is not known here"
    return [
        Check.ok("sender", "the sandbox: it reaches people who joined it"),
        Check(name="webhook", passed=True, detail=detail, fix=fix, fatal=False, checkable=False),
    ]


def refused_account(error: SendError, base_url: str) -> Check:
    fix = f"Copy Account SID and Auth Token again; they must be of the region of {base_url}."
    return Check.failed("account", error.detail, fix, fatal=True)


def refused_sender(error: SendError, *, with_api_key: bool) -> Check:
    """The Auth Token is good by now: what is refused is the API key, or one kind of question."""
    bad_key = with_api_key and error.scope == "token"
    fix = "Make a new API key in this account and region, and save its SID and secret here."
    allow = "Allow this account, or API key, to read senders; sending may work without."
    return Check.failed("sender", error.detail, fix if bad_key else allow, fatal=bad_key)


def refused_service(error: SendError) -> Check:
    fix = "Allow this account, or API key, to read Messaging Services."
    return Check.failed("messaging_service", error.detail, fix)


def missing_service() -> Check:
    return Check.failed(
        "messaging_service",
        "the account has no such Messaging Service",
        "Correct messaging_service_sid, or leave it empty.",
        fatal=True,
    )


def webhook_check(sender: Object, callback_url: str | None) -> Check:
    """Where messages go now, and whether that is *callback_url*, where it is given."""
    webhook = mapping(sender, "webhook")
    inbound = text(webhook, "callback_url")
    is_other = callback_url is not None and inbound != callback_url
    if is_other and word(sender, "status") == _CHANGING:
        return Check.failed(
            "webhook", "the sender is being changed, which takes some seconds", "Test the connection again."
        )
    if is_other or not inbound:
        return _wrong_webhook(inbound, "Senders, WhatsApp")
    statuses = "" if text(webhook, "status_callback_url") else "; statuses only of messages sent from here"
    return Check.ok("webhook", f"messages go to {_host(inbound)}{statuses}")


def _wrong_webhook(inbound: str | None, menu: str) -> Check:
    """Of an address only its host is shown: the rest often is a secret."""
    detail = f"messages go to another address, at {_host(inbound)}" if inbound else _NO_ADDRESS
    fix = f"Set it in {_CONSOLE}, under Messaging, {menu}, or save this configuration."
    return Check.failed("webhook", detail, fix)


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or "an unknown host"
    except ValueError:
        return "an unknown host"


def service_check(service: Object) -> Check:
    """A service decides where messages of its senders go, unless it leaves that to them."""
    if service.get("use_inbound_webhook_on_number") is True:
        return Check.ok("messaging_service", text(service, "friendly_name"))
    return Check.failed(
        "messaging_service",
        "the service takes inbound messages for its senders: their webhook address may not be used",
        'Choose "Defer to sender\'s webhook" under Integration of the service.',
    )


def receiving_service_check(service: Object, callback_url: str | None) -> Check:
    """Of a service that picks the sender: what comes in for it must go out at the service's own address."""
    inbound = text(service, "inbound_request_url")
    taken = bool(inbound) and service.get("use_inbound_webhook_on_number") is not True
    if taken and callback_url in (None, inbound):
        return Check.ok("webhook", text(service, "friendly_name"))
    return _wrong_webhook(inbound if taken else None, "Services, Integration")


def status_of(account: Object, sender: Object | None, number: str | None) -> ProviderStatus:
    """The state of *sender*: None for the sandbox, where a service picks one, or the account has none with *number*."""
    state = word(account, "status")
    is_here = sender is not None or number in (SANDBOX, None)
    known = sender or {}
    properties = mapping(known, "properties")
    sender_state = word(known, "status")
    reasons = [f"account_{state}"] if state != "active" else []
    if not is_here:
        reasons.append("sender_missing")
    elif sender is not None and sender_state not in _WORKING:
        reasons.append(f"sender_{(sender_state or 'unknown').lower()}")
    trouble: Trouble = "account_restricted" if state in _REPAIRS else "session_lost" if is_here else "credentials"
    rating = word(properties, "quality_rating")
    quality: Quality = "disconnected" if reasons else _QUALITIES.get(rating or "", "excellent")
    return ProviderStatus(
        is_connected=not reasons,
        connection_quality=quality,
        session_info=present(
            reasons=reasons,
            sender=number,
            verified_name=text(mapping(known, "profile"), "name"),
            quality=rating,
            messaging_limit=word(properties, "messaging_limit"),
        ),
        detail=" ".join(_advice(known)) or _REPAIRS.get(state or ""),
        trouble=trouble if reasons else None,
    )


def _advice(sender: Object) -> list[str]:
    """Why the sender is offline, in Twilio's words."""
    reasons = objects(sender, "offline_reasons")
    sentences = [text(reason, name) for reason in reasons for name in ("message", "more_info")]
    return [sentence for sentence in sentences if sentence]
