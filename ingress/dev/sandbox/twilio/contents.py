"""Content resources: what a message with a ContentSid says, checked as Twilio checks it when it is made.

Source: https://www.twilio.com/docs/content/content-api-resources, https://www.twilio.com/docs/content/content-types-overview
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from .bodies import Body
from .errors import TwilioError

_PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_KEYS = {"friendly_name", "language", "variables", "types"}


class TwilioContent(msgspec.Struct, frozen=True, kw_only=True):
    """One content resource of an account."""

    sid: str
    friendly_name: str
    language: str
    variables: dict[str, str]
    types: dict[str, Body]

    @property
    def placeholders(self) -> set[str]:
        return set(_PLACEHOLDER.findall(msgspec.json.encode(self.types).decode()))

    def words(self, variables: dict[str, str]) -> str:
        """Its body with *variables* in the places of the placeholders; those left out have their default."""
        known = {**self.variables, **variables}
        body = next((parts["body"] for parts in self.types.values() if "body" in parts), "")
        return _PLACEHOLDER.sub(lambda match: known.get(match[1], match[0]), body)

    def resource(self, account_sid: str, base_url: str) -> Body:
        url = f"{base_url}/v1/Content/{self.sid}"
        return {
            "sid": self.sid,
            "account_sid": account_sid,
            "friendly_name": self.friendly_name,
            "language": self.language,
            "variables": self.variables,
            "types": self.types,
            "date_created": "2026-09-29T10:14:00Z",
            "date_updated": "2026-09-29T10:14:00Z",
            "url": url,
            "links": {
                "approval_create": f"{url}/ApprovalRequests/whatsapp",
                "approval_fetch": f"{url}/ApprovalRequests",
            },
        }


def checked_content(body: Any, sid: str) -> TwilioContent:
    """The resource that *body* asks for."""
    if not isinstance(body, dict):
        raise _invalid("the body is no JSON object")
    if unknown := set(body) - _KEYS:
        raise TwilioError(20001, f"Unknown parameter: {min(unknown)}")
    language, types = body.get("language"), body.get("types")
    variables, name = body.get("variables", {}), body.get("friendly_name", "")
    if not isinstance(language, str) or not re.fullmatch(r"[a-z]{2,3}(_[A-Z]{2})?", language):
        raise _invalid("language is mandatory")
    if not isinstance(types, dict) or len(types) != 1:
        raise _invalid("types must have one type")
    if not isinstance(name, str) or len(name) > 256:
        raise _invalid("friendly_name is a text")
    if not isinstance(variables, dict) or not all(isinstance(value, str) for value in variables.values()):
        raise _invalid("variables are texts by name")
    [(kind, parts)] = types.items()
    if kind not in _CHECKS or not isinstance(parts, dict):
        raise _invalid(f"type {kind}")
    _CHECKS[kind](parts)
    return TwilioContent(sid=sid, friendly_name=name, language=language, variables=variables, types=types)


def _check_text(parts: Body) -> None:
    _only(parts, "body")
    _text(parts, "body", 1600)


def _check_buttons(parts: Body) -> None:
    _only(parts, "body", "actions")
    _text(parts, "body", 1024)
    # Ten where WhatsApp has approved them, three within a session, which is all that we make without approval.
    for action in _items(parts, "actions", 3):
        _only(action, "type", "title", "id")
        _one_of(action, "type", {"QUICK_REPLY"})
        _text(action, "title", 20)
        _text(action, "id", 200)


def _check_list(parts: Body) -> None:
    _only(parts, "body", "button", "items")
    _text(parts, "body", 1024)
    _text(parts, "button", 20)
    items = _items(parts, "items", 10)
    for item in items:
        _only(item, "item", "id", "description")
        _text(item, "item", 24)
        _text(item, "id", 200)
        if "description" in item:
            _text(item, "description", 72)
    if len({item["id"] for item in items}) != len(items):
        raise _invalid("ids of items must be unique")


def _check_calls(parts: Body) -> None:
    _only(parts, "body", "actions")
    _text(parts, "body", 1024)
    for action in _items(parts, "actions", 2):
        _only(action, "type", "title", "url", "phone", "id")
        _one_of(action, "type", {"URL", "PHONE_NUMBER"})
        _text(action, "title", 25)
        _text(action, "url" if action["type"] == "URL" else "phone", 2000)


_CHECKS: dict[str, Callable[[Body], None]] = {
    "twilio/text": _check_text,
    "twilio/quick-reply": _check_buttons,
    "twilio/list-picker": _check_list,
    "twilio/call-to-action": _check_calls,
}


def _only(parts: Body, *names: str) -> None:
    if unknown := set(parts) - set(names):
        raise _invalid(f"unknown key {min(unknown)}")


def _text(parts: Body, name: str, most: int) -> None:
    value = parts.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= most:
        raise _invalid(f"{name} must have 1 to {most} characters")


def _one_of(parts: Body, name: str, values: set[str]) -> None:
    if parts.get(name) not in values:
        raise _invalid(f"{name} must be one of {sorted(values)}")


def _items(parts: Body, name: str, most: int) -> list[Body]:
    items = parts.get(name)
    if not isinstance(items, list) or not 1 <= len(items) <= most or not all(isinstance(one, dict) for one in items):
        raise _invalid(f"{name} must have 1 to {most} elements")
    return items


def _invalid(detail: str) -> TwilioError:
    return TwilioError(20422, f"Invalid Parameter: {detail}")
