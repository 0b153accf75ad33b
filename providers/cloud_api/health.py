"""How a WhatsApp Cloud API number is doing, from what Meta says about it.

Source: https://developers.facebook.com/docs/whatsapp/cloud-api/reference/phone-numbers,
    https://developers.facebook.com/docs/whatsapp/cloud-api/health-status.
"""

from typing import Literal

from .._values import Object, flag, listed, mapping, phone, present, text, word, written
from ..base import Check
from ..messages import ProviderStatus, Trouble

# Asking for one field that an account does not have fails the whole call; the short list always works.
FIELDS = (
    "id,display_phone_number,verified_name,quality_rating,name_status,code_verification_status,throughput,"
    "platform_type,status,account_mode,is_official_business_account,webhook_configuration,health_status,"
    "whatsapp_business_manager_messaging_limit"
)
BASIC_FIELDS = "id,display_phone_number,verified_name,quality_rating"

Quality = Literal["excellent", "good", "poor", "disconnected"]

# (field, Meta's word): what it means, and our word for the reason.
_JUDGEMENTS: dict[tuple[str, str], tuple[Quality, str]] = {
    ("status", "FLAGGED"): ("poor", "status_flagged"),
    ("status", "RATE_LIMITED"): ("poor", "status_rate_limited"),
    ("quality_rating", "RED"): ("poor", "quality_red"),
    ("quality_rating", "YELLOW"): ("good", "quality_yellow"),
    ("can_send_message", "LIMITED"): ("poor", "health_limited"),
    ("can_send_message", "BLOCKED"): ("disconnected", "health_blocked"),
    ("name_status", "PENDING_REVIEW"): ("good", "name_pending"),
    ("name_status", "DECLINED"): ("good", "name_declined"),
    ("name_status", "EXPIRED"): ("good", "name_expired"),
    ("account_mode", "SANDBOX"): ("good", "sandbox"),
    ("platform_type", "ON_PREMISE"): ("disconnected", "platform_on_premise"),
    ("platform_type", "NOT_APPLICABLE"): ("disconnected", "platform_not_applicable"),
}
_PUNISHED = {"status_banned", "status_restricted", "health_blocked"}
_WORST_FIRST: tuple[Quality, ...] = ("disconnected", "poor", "good")
_MESSAGES_PER_SECOND = {"STANDARD": 80, "HIGH": 1000}
_SCOPES = {"whatsapp_business_messaging", "whatsapp_business_management"}


def number_status(number: Object) -> ProviderStatus:
    """The state of *number*, the answer to a request for its fields. What it leaves out counts as fine."""
    judgements = list(_judge(number))
    found = {quality for quality, _ in judgements}
    quality: Quality = next((one for one in _WORST_FIRST if one in found), "excellent")
    reasons = [reason for _, reason in judgements]
    trouble: Trouble = "account_restricted" if _PUNISHED.intersection(reasons) else "session_lost"
    return ProviderStatus(
        is_connected=quality != "disconnected",
        connection_quality=quality,
        session_info=present(
            reasons=reasons,
            sender=phone(number.get("display_phone_number")),
            verified_name=text(number, "verified_name"),
            quality=word(number, "quality_rating"),
            throughput_mps=_MESSAGES_PER_SECOND.get(word(mapping(number, "throughput"), "level") or ""),
            messaging_limit=word(number, "whatsapp_business_manager_messaging_limit"),
        ),
        detail=" ".join(_advice(mapping(number, "health_status"))) or None,
        trouble=trouble if quality == "disconnected" else None,
    )


def _judge(number: Object) -> list[tuple[Quality, str]]:
    said = {
        "status": word(number, "status"),
        "quality_rating": word(number, "quality_rating"),
        "can_send_message": word(mapping(number, "health_status"), "can_send_message"),
        "name_status": word(number, "name_status"),
        "account_mode": word(number, "account_mode"),
        "platform_type": word(number, "platform_type"),
    }
    judged = [_JUDGEMENTS.get((field, value)) for field, value in said.items() if value]
    status = said["status"]
    if status not in (None, "CONNECTED", "FLAGGED", "RATE_LIMITED"):
        # BANNED, DISCONNECTED, MIGRATED, … and words yet to come.
        judged.insert(0, ("disconnected", f"status_{status.lower()}"))
    return [judgement for judgement in judged if judgement]


def _advice(health: Object) -> list[str]:
    """What Meta tells people to do, for each part of the account that is not well."""
    sentences: list[str | None] = []
    for entity in listed(health, "entities"):
        if isinstance(entity, dict):
            for error in listed(entity, "errors"):
                if isinstance(error, dict):
                    sentences += [text(error, "error_description"), text(error, "possible_solution")]
            sentences += [line for line in listed(entity, "additional_info") if isinstance(line, str)]
    return [sentence for sentence in sentences if sentence]


def is_registered(number: Object) -> bool:
    """Whether *number* says that it is connected to the Cloud API; PENDING is one that was never registered."""
    return word(number, "platform_type") == "CLOUD_API" and word(number, "status") not in _UNREGISTERED


_UNREGISTERED = {"PENDING", "DISCONNECTED"}


def number_check(number: Object, *, fix: str = "See the number in WhatsApp Manager.") -> Check:
    """Whether the number can send; how well, and how much, in any case. *fix* is told where Meta gives no advice."""
    status = number_status(number)
    told = {name: status.session_info[name] for name in _TOLD if name in status.session_info}
    reasons = status.session_info.get("reasons", [])
    return Check(
        name="number",
        passed=status.is_connected,
        detail=", ".join([*reasons, *(f"{name} {value}" for name, value in told.items())]) or None,
        fix=None if status.is_connected else status.detail or fix,
        fatal=False,
    )


_TOLD = ("quality", "throughput_mps", "messaging_limit")


def token_check(token: Object) -> Check:
    """Whether the access token may do its work, and until when: the answer of ``debug_token``."""
    missing = sorted(_SCOPES - {scope for scope in listed(token, "scopes") if isinstance(scope, str)})
    expires_at = written(token.get("expires_at")) if token.get("expires_at") else None
    if not flag(token, "is_valid"):
        detail = "the token is not valid any more"
    elif missing:
        detail = f"the token lacks {' and '.join(missing)}"
    else:
        # Whoever reads it has a clock.
        detail = f"the token expires at {expires_at}" if expires_at else "the token does not expire"
        return Check(name="token", passed=True, detail=detail, fatal=False)
    fix = f"Create a token of a system user with {' and '.join(sorted(_SCOPES))}, and save it here."
    return Check(name="token", passed=False, detail=detail, fix=fix, fatal=False)


def webhook_check(number: Object, callback_url: str) -> Check:
    """Whether messages go to *callback_url*: its own address counts, else the account's or app's."""
    addresses = mapping(number, "webhook_configuration")
    used = next((url for name in _ADDRESSES if (url := text(addresses, name))), None)
    if used == callback_url:
        return Check(name="webhook", passed=True, fatal=False)
    # Another address may hold another service's secret, so it is not told.
    detail = "messages are posted to another address" if used else "messages are posted nowhere"
    fix = "Save the configuration again, which sets the address; or set it at the app by hand."
    return Check(name="webhook", passed=False, detail=detail, fix=fix, fatal=False)


_ADDRESSES = ("phone_number", "whatsapp_business_account", "application")
