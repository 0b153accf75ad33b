"""Webhooks of the WhatsApp Cloud API about the account: its state, its numbers, its templates.

Source: https://developers.facebook.com/docs/graph-api/webhooks/reference/whatsapp-business-account.
"""

from collections.abc import Callable, Iterator

from .._values import Object, mapping, objects, phone, present, text, word, written
from ..messages import Event, Health
from .change import FieldChange, Reader

# ---------------------------------------------------------------- the account and its numbers

_HEALTH_OF_EVENT: dict[str, Health] = {
    "ACCOUNT_RESTRICTION": "degraded",
    "ACCOUNT_VIOLATION": "degraded",
    "ACCOUNT_DELETED": "down",
    "ACCOUNT_OFFBOARDED": "down",
    "PARTNER_REMOVED": "down",
    "PARTNER_APP_UNINSTALLED": "down",
    "PARTNER_ADDED": "retest",
    "PARTNER_APP_INSTALLED": "retest",
    "ACCOUNT_RECONNECTED": "retest",
}
_HEALTH_OF_BAN: dict[str | None, Health] = {
    "DISABLE": "down",
    "SCHEDULE_FOR_DISABLE": "degraded",
    "REINSTATE": "retest",
}


def _account_update(change: FieldChange) -> Iterator[Event]:
    value = change.value
    event = word(value, "event") or ""
    ban = word(mapping(value, "ban_info"), "waba_ban_state")
    details = present(
        event=event,
        ban=ban,
        violation=word(mapping(value, "violation_info"), "violation_type"),
        restrictions=_restrictions(value),
        reason=word(mapping(value, "disconnection_info"), "reason"),
    )
    health = _HEALTH_OF_EVENT.get(event) or _HEALTH_OF_BAN.get(ban)
    yield change.update("account_update", value, details=details, health=health)


def _restrictions(value: Object) -> list[Object]:
    return [
        present(type=word(item, "restriction_type"), until=written(item.get("expiration")))
        for item in objects(value, "restriction_info")
    ]


def _account_review(change: FieldChange) -> Iterator[Event]:
    decision = word(change.value, "decision")
    health: Health | None = "down" if decision == "REJECTED" else None
    yield change.update("account_review", change.value, details=present(decision=decision), health=health)


def _alert(value: Object) -> Object:
    alert = mapping(value, "alert_info")
    return present(
        severity=word(alert, "alert_severity"),
        status=word(alert, "alert_status"),
        alert_type=word(alert, "alert_type"),
        description=text(alert, "alert_description"),
        entity_type=word(value, "entity_type"),
        entity_id=word(value, "entity_id"),
    )


def _capability(value: Object) -> Object:
    return present(
        limit=word(value, "max_daily_conversations_per_business"),
        max_phone_numbers=word(value, "max_phone_numbers_per_business") or word(value, "max_phone_numbers_per_waba"),
    )


def _number_quality(value: Object) -> Object:
    return present(
        event=word(value, "event"),
        phone=phone(value.get("display_phone_number")),
        limit=word(value, "max_daily_conversations_per_business") or word(value, "current_limit"),
    )


def _number_name(value: Object) -> Object:
    return present(
        decision=word(value, "decision"),
        phone=phone(value.get("display_phone_number")),
        name=text(value, "requested_verified_name"),
        reason=word(value, "rejection_reason"),
    )


def _security(value: Object) -> Object:
    return present(
        event=word(value, "event"), phone=phone(value.get("display_phone_number")), requester=word(value, "requester")
    )


def _username(value: Object) -> Object:
    return present(
        phone=phone(value.get("display_phone_number")), username=text(value, "username"), status=word(value, "status")
    )


# ---------------------------------------------------------------- templates


def _template(value: Object, **state: str | None) -> Object:
    return {
        "template": present(
            id=word(value, "message_template_id"),
            name=text(value, "message_template_name"),
            language=text(value, "message_template_language"),
            **state,
        )
    }


def _template_quality(value: Object) -> Object:
    return _template(
        value, quality=word(value, "new_quality_score"), previous_quality=word(value, "previous_quality_score")
    )


def _template_category(value: Object) -> Object:
    return _template(
        value,
        category=word(value, "new_category"),
        previous_category=word(value, "previous_category"),
        correct_category=word(value, "correct_category"),
    )


def _template_status(change: FieldChange) -> Iterator[Event]:
    value = change.value
    if "new_quality_score" in value:
        # Meta's own sample of a quality update comes under this field name.
        yield change.update("template_quality", value, details=_template_quality(value))
        return
    reason = word(value, "reason")
    details = _template(
        value,
        category=word(value, "message_template_category"),
        status=word(value, "event"),
        reason=None if reason == "NONE" else reason,
    )
    yield change.update("template_status", value, details=details)


# ---------------------------------------------------------------- the table


def _whole(kind: str, describe: Callable[[Object], Object]) -> Reader:
    """A field whose value is one fact."""

    def read(change: FieldChange) -> Iterator[Event]:
        yield change.update(kind, change.value, details=describe(change.value))

    return read


READERS: dict[str, Reader] = {
    "account_update": _account_update,
    "account_review_update": _account_review,
    "account_alerts": _whole("account_alert", _alert),
    "business_capability_update": _whole("capability", _capability),
    "business_username_update": _whole("business_username", _username),
    "phone_number_quality_update": _whole("number_quality", _number_quality),
    "phone_number_name_update": _whole("number_name", _number_name),
    "security": _whole("security", _security),
    "message_template_status_update": _template_status,
    "message_template_quality_update": _whole("template_quality", _template_quality),
    "template_category_update": _whole("template_category", _template_category),
    "message_template_components_update": _whole("template_components", _template),
}
