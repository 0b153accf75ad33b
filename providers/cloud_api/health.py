"""How a WhatsApp Cloud API number is doing, from what Meta says about it.

Source: https://developers.facebook.com/docs/whatsapp/cloud-api/reference/phone-numbers,
    https://developers.facebook.com/docs/whatsapp/cloud-api/health-status.
"""

from .._values import Object, mapping, objects, phone, present, text, texts, word
from ..base import Check
from ..messages import ProviderStatus, Quality, Trouble, worst

_Judgement = tuple[Quality, str]
# (field, Meta's word): what it means, and our word for the reason.
_JUDGEMENTS: dict[tuple[str, str | None], _Judgement] = {
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
# LINKED is what Meta's OpenAPI file (https://github.com/facebook/openapi) has for CONNECTED in lists of numbers.
_SENDING = {"CONNECTED", "LINKED", "FLAGGED", "RATE_LIMITED"}
_MESSAGES_PER_SECOND = {"STANDARD": 80, "HIGH": 1000}


def number_status(number: Object) -> ProviderStatus:
    """The state of *number*, the answer to a request for its fields. What it leaves out counts as fine."""
    judgements = list(_judge(number))
    quality = worst({quality for quality, _ in judgements}, "excellent")
    reasons = [reason for _, reason in judgements]
    trouble: Trouble = "account_restricted" if _PUNISHED.intersection(reasons) else "session_lost"
    return ProviderStatus(
        is_connected=quality != "disconnected",
        connection_quality=quality,
        session_info=present(reasons=reasons, **_session_info(number)),
        detail=" ".join(_advice(number)) or None,
        trouble=trouble if quality == "disconnected" else None,
    )


def _session_info(number: Object) -> Object:
    return {
        "sender": phone(number.get("display_phone_number")),
        "verified_name": text(number, "verified_name"),
        "quality": word(number, "quality_rating"),
        "throughput_mps": _MESSAGES_PER_SECOND.get(word(mapping(number, "throughput"), "level") or ""),
        "messaging_limit": word(number, "whatsapp_business_manager_messaging_limit"),
    }


def _judge(number: Object) -> list[_Judgement]:
    health = mapping(number, "health_status")
    words = {name: word(health if name == "can_send_message" else number, name) for name, _ in _JUDGEMENTS}
    judged = [_JUDGEMENTS[row] for row in words.items() if row in _JUDGEMENTS]
    status = words["status"] or "CONNECTED"
    if status in _SENDING:
        return judged
    # BANNED, DISCONNECTED, MIGRATED, … and words yet to come.
    return [("disconnected", f"status_{status.lower()}"), *judged]


def _advice(number: Object) -> list[str]:
    """What Meta advises people to do, for each part of the account that is not well."""
    sentences: list[str | None] = []
    for entity in objects(mapping(number, "health_status"), "entities"):
        for error in objects(entity, "errors"):
            sentences += [text(error, "error_description"), text(error, "possible_solution")]
        sentences += texts(entity, "additional_info")
    return [sentence for sentence in sentences if sentence]


def number_check(number: Object, *, fix: str = "See the number in WhatsApp Manager.") -> Check:
    """Whether the number can send; how well, and how much, in any case. *fix* counts where Meta gives no advice."""
    status = number_status(number)
    facts = [f"{name} {value}" for name in _FACTS if (value := status.session_info.get(name)) is not None]
    return Check(
        name="number",
        passed=status.is_connected,
        detail=", ".join([*status.session_info.get("reasons", []), *facts]) or None,
        fix=None if status.is_connected else status.detail or fix,
        fatal=False,
    )


_FACTS = ("quality", "throughput_mps", "messaging_limit")
