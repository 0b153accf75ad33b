"""Forms as the API's bodies: validated by the same types, with what is wrong named by the same paths."""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from ...web.bodies import decode

Body = TypeVar("Body")


def decoded(values: Mapping[str, Any], kind: type[Body], *, any_text: bool = False) -> Body:
    """*values* as *kind*. Raises `Problem` 422, naming every field that is wrong."""
    return decode(msgspec.json.encode(values), msgspec.json.Decoder(kind), any_text=any_text)
