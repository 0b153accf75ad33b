"""Which provider can say and do what, and how much, as tables: from what each declares, which tests hold to be true."""

from collections.abc import Callable
from typing import Any, get_args

from providers import Limits, ProviderInfo, Registry
from providers.content import Action, OutboundContent

_OPERATIONS = {
    "groups": "messages to groups",
    "media": "media that people send can be fetched",
    "uploads": "files can be uploaded, and sent by their id",
    "receipts": "inbound messages can be shown as read",
    "typing": "people can be shown that an answer is being written",
    "stop_typing": "and that it is not any more",
    "pairing": "a phone is linked by QR code or pairing code",
    "list_templates": "message templates can be listed",
    "find_message": "a message whose answer was lost can be asked for",
    "find_phone": "the phone behind a hidden number (lid) can be asked for",
    "find_contact": "whether a number is on WhatsApp, and in which spelling, can be asked for",
}


_ABOUT: dict[str, Callable[[ProviderInfo], str]] = {
    "price": lambda info: info.pricing,
    "official": lambda info: "yes" if info.official else "no",
    "stability": lambda info: info.stability,
    "messages a minute": lambda info: str(info.pacing.messages_per_minute) if info.pacing else "",
}


def matrix(registry: Registry) -> str:
    """Markdown: one row for each content type, tappable action and operation, one column for each provider."""
    infos = [entry.info for entry in registry.entries() if entry.info is not None]
    kinds = [tag for tag in _tags(OutboundContent) if tag != "interactive"]
    capabilities = {
        **{f"`{kind}`": kind for kind in kinds},
        **{f"`interactive`: `{action}`": action for action in _tags(Action)},
        **{about: name for name, about in _OPERATIONS.items()},
    }
    columns = [["", "---", *capabilities, *_ABOUT]]
    for info in infos:
        can = ["yes" if name in info.capabilities else "" for name in capabilities.values()]
        columns.append([info.display_name, "---", *can, *(about(info) for about in _ABOUT.values())])
    return _table(columns)


def limits_matrix(registry: Registry) -> str:
    """Markdown: what each provider takes at most of each kind of message, with its source."""
    infos = [entry.info for entry in registry.entries() if entry.info is not None]
    kinds = dict.fromkeys(kind for info in infos for kind in info.limits)
    columns = [[info.display_name, "---", *(_cell(info.limits.get(kind)) for kind in kinds)] for info in infos]
    return _table([["", "---", *(f"`{kind}`" for kind in kinds)], *columns])


def _cell(limits: Limits | None) -> str:
    """Numbers first, then what else there is; each source is a link."""
    if limits is None:
        return ""
    parts = _numbers(limits)
    if limits.headers is not None:
        parts.append(f"header: {', '.join(limits.headers) or 'none'}")
    if limits.mime_types is not None:
        parts.append(", ".join(f"`{name}`" for name in limits.mime_types))
    return f"{'; '.join(parts)} ([source]({limits.source}))"


def _numbers(limits: Limits) -> list[str]:
    return [_number(part, most, limits.at_least.get(part)) for part, most in limits.at_most.items()]


def _number(part: str, most: int, least: int | None) -> str:
    name = part.removesuffix("_characters").removesuffix("_bytes").replace("_", " ")
    if most == 0:
        return f"no {name}"
    if part.endswith("_bytes"):
        return f"{name} {_size(most)}"
    return f"{name} {most:,}" if least is None else f"{name} {least} to {most:,}"


def _size(count: int) -> str:
    return f"{count // 1024**2} MiB" if count >= 1024**2 else f"{count // 1024} KiB"


def _table(columns: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in zip(*columns, strict=True))


def _tags(union: Any) -> list[str]:
    return [str(kind.__struct_config__.tag) for kind in get_args(union)]
