"""What people may write where it is kept and shown: names, reasons, addresses, credentials."""

import re
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

# Control characters (C0, DEL, C1), what ends a line or a paragraph, what turns the direction of text, and halves of
# surrogate pairs: none is part of a name or of a credential, and each steers or breaks whatever shows it.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
DETAIL = "must not hold control characters, line breaks, or marks that turn the direction of text"

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
ProviderType = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
# Which fields there are, and how long, is the provider's to say; no provider has so many, or such long names.
ConfigData = Annotated[dict[Annotated[str, msgspec.Meta(max_length=64)], Any], msgspec.Meta(max_length=64)]


def unprintable(value: Any, path: str = "") -> Iterator[str]:
    """The paths of the texts within *value* that hold what nobody can see."""
    if isinstance(value, str):
        if _CONTROL.search(value):
            yield path
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from unprintable(part, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from unprintable(part, f"{path}[{place}]")
