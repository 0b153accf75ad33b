"""The fields of a configuration: what is wrong in them, which are secrets, and where they have calls go."""

from typing import Any

from yarl import URL

from providers import WhatsAppProvider
from providers.description import config_fields

from ..validation import DETAIL, Wrong, unprintable, wrong_fields


def wrong_data(data: dict[str, Any], kind: type[WhatsAppProvider]) -> Wrong:
    """Each of what *kind* does not take: its path in a body, and why."""
    yield from ((f"config_data.{path}", DETAIL) for path in unprintable(data))
    yield from wrong_fields(data, kind, "config_data")
    for name in sorted(set(data) - set(kind.__struct_fields__)):
        yield f"config_data.{name}", "is not a field of this provider"


def secrets_of(provider: WhatsAppProvider) -> list[str]:
    """The names of its secrets that are set."""
    named = [field.name for field in config_fields(type(provider)) if field.secret]
    return [name for name in named if getattr(provider, name)]


def addresses(provider: WhatsAppProvider) -> list[tuple[str, URL]]:
    """Each field that says where calls go, and what is in it, as the client that calls reads it."""
    values = [(field.name, getattr(provider, field.name)) for field in config_fields(type(provider))]
    return [(name, URL(value)) for name, value in values if is_url(value)]


def is_url(value: object) -> bool:
    return isinstance(value, str) and value.lower().startswith(("https://", "http://"))
