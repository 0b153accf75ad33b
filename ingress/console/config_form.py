"""The form of a configuration, out of the provider's own description of its fields; and what people put into it.

A secret is never in a page. What was typed comes back sealed, for the session that typed it, so that a form which is
shown again, as without JavaScript after a test, needs no secret twice.
"""

import base64
import binascii
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from providers import ConfigField, WhatsAppProvider
from providers.description import config_fields

from ..accounts.config import Config
from ..storage.vault import VaultError
from ..validation import Unlogged
from .requests import AnyConsoleRequest, Form

# What was typed is good for so long.
KEPT = timedelta(minutes=30)
# Of the names of its fields.
PREFIX = "data"


class FieldShown(Unlogged, frozen=True, kw_only=True):
    """A field with what is in it; of a secret the fingerprint, ``stored`` or typed."""

    field: ConfigField
    value: str = ""
    checked: bool = False
    fingerprint: str = ""
    stored: bool = False
    error: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether it is shown at once: what most people leave alone is folded up."""
        return self.field.required or self.field.usual

    @property
    def options(self) -> list[tuple[str, str]]:
        """Of a choice; one that may be left out begins with nothing."""
        return [*([] if self.field.required else [("", "–")]), *((choice, choice) for choice in self.field.choices)]


class _Draft(Unlogged, frozen=True):
    """The secrets that were typed so far."""

    provider: str
    secrets: dict[str, str]
    until: datetime


class ConfigForm(Unlogged, frozen=True, kw_only=True):
    """What is in the form of a provider: nothing yet, what is ``stored`` of a config, and what was typed over it.

    ``data``: the configuration as it would be; ``changes``: of what is stored, None taking a field out.
    """

    kind: type[WhatsAppProvider]
    stored: Config | None
    data: dict[str, Any]
    changes: dict[str, Any]
    typed: dict[str, str]

    def fields(self, request: AnyConsoleRequest, errors: Mapping[str, str]) -> list[FieldShown]:
        """Each field; *errors* by their paths in a body."""
        fingerprint = request.state["manager"].accounts.vault.fingerprint
        shown = []
        for field in config_fields(self.kind):
            value = self.data.get(field.name)
            error = next((text for path, text in errors.items() if _field_of(path) == field.name), "")
            is_secret = field.secret and isinstance(value, str) and value
            shown.append(
                FieldShown(
                    field=field,
                    value="" if field.secret or value is None else str(value),
                    checked=value is True,
                    fingerprint=fingerprint(str(value)) if is_secret else "",
                    stored=self.stored is not None and bool(is_secret) and field.name not in self.typed,
                    error=error,
                )
            )
        return shown

    def draft(self, request: AnyConsoleRequest) -> str:
        """The typed secrets, sealed for a hidden field."""
        if not self.typed:
            return ""
        draft = _Draft(self.kind.info.name, self.typed, datetime.now(UTC) + KEPT)
        sealed = request.state["vault"].seal(msgspec.json.encode(draft), *_place(request))
        return base64.urlsafe_b64encode(sealed).decode()


def empty(kind: type[WhatsAppProvider], stored: Config | None = None) -> ConfigForm:
    """The form as it is before anything is typed."""
    data: dict[str, Any] = {field.name: field.default for field in config_fields(kind) if field.type == "boolean"}
    if stored is not None:
        data = msgspec.to_builtins(stored.provider)
    return ConfigForm(kind=kind, stored=stored, data=data, changes={}, typed={})


def filled(
    request: AnyConsoleRequest, form: Form, kind: type[WhatsAppProvider], stored: Config | None = None
) -> ConfigForm:
    """The form as it was posted. Raises nothing: what is wrong with it the configuration says."""
    fields = config_fields(kind)
    typed = _typed(request, form, kind)
    typed |= {field.name: text for field in fields if field.secret and (text := form.get(f"{PREFIX}.{field.name}"))}
    former = msgspec.to_builtins(stored.provider) if stored else {}
    if stored is None:
        made_up = (field.name for field in fields if field.own and field.secret and field.name not in typed)
        typed |= {name: secrets.token_urlsafe(32) for name in made_up}
    now = {
        field.name: _secret(field, form, typed, former) if field.secret else _value(field, form, former)
        for field in fields
    }
    changes = {name: value for name, value in now.items() if value != former.get(name)}
    data = {name: value for name, value in {**former, **changes}.items() if value is not None}
    return ConfigForm(kind=kind, stored=stored, data=data, changes=changes, typed=typed)


def _secret(field: ConfigField, form: Form, typed: Mapping[str, str], former: Mapping[str, Any]) -> str | None:
    """An empty one keeps what is stored, unless that is to be taken out."""
    kept = None if form.get(f"clear.{field.name}") else former.get(field.name)
    return typed.get(field.name, kept)


def _value(field: ConfigField, form: Form, former: Mapping[str, Any]) -> Any:
    """What is in a field; None: nothing. A number that is none stays a text, which the configuration refuses."""
    # Of a box there are two: what it is unticked comes always, and first.
    if not (texts := form.all(f"{PREFIX}.{field.name}")):
        return former.get(field.name)
    text = texts[-1].strip()
    if field.type == "boolean":
        return text == "true"
    if field.type == "integer" and len(text) < 20 and text.removeprefix("-").isdecimal():
        return int(text)
    return text or None


def _typed(request: AnyConsoleRequest, form: Form, kind: type[WhatsAppProvider]) -> dict[str, str]:
    """What was typed before, as far as it is still good."""
    draft = _opened(request, form.get("draft"))
    if draft is None or draft.provider != kind.info.name or draft.until <= datetime.now(UTC):
        return {}
    return draft.secrets


def _opened(request: AnyConsoleRequest, text: str) -> _Draft | None:
    try:
        sealed = base64.urlsafe_b64decode(text.encode())
        return msgspec.json.decode(request.state["vault"].open(sealed, *_place(request)), type=_Draft)
    except (binascii.Error, VaultError, msgspec.MsgspecError):
        return None


def _place(request: AnyConsoleRequest) -> tuple[str, str, str]:
    return str(request.organization_id), request.signed_in.csrf, "console_draft"


def _field_of(path: str) -> str:
    return path.removeprefix("config_data.").partition(".")[0].partition("[")[0]
