"""The correlation id a send carries to the provider and back: `gw1:<message id>:<attempt>`. No personal data."""

import re
from uuid import UUID

from .identifiers import parse_id

_PREFIX = "gw1"
_NUMBER = re.compile("[0-9]{1,6}")  # not str.isdigit: that takes superscripts, which int refuses


def correlation(message_id: UUID, attempt: int) -> str:
    return f"{_PREFIX}:{message_id.hex}:{attempt}"


def parse_correlation(text: str | None) -> tuple[UUID | None, int | None]:
    """(message id, attempt) of a correlation id that is ours, else (None, None): the number may be shared."""
    parts = (text or "").split(":")
    if len(parts) != 3 or parts[0] != _PREFIX or not _NUMBER.fullmatch(parts[2]):
        return None, None
    message_id = parse_id(parts[1])
    return (message_id, int(parts[2])) if message_id else (None, None)
