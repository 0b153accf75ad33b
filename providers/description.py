"""What a provider says of itself: what people choose it by, how fast it may send, how it is configured."""

from typing import Any, Literal

import msgspec

from .content import MediaContent, OutboundContent
from .limits import Limits


class Pacing(msgspec.Struct, frozen=True, kw_only=True):
    """How fast an account may send: by its provider's limits, or without looking like a machine.

    At most ``messages_per_minute``, ``burst`` of them at once; and before each message a random pause of up to
    ``jitter_s`` seconds, where a steady rhythm is what gets accounts banned (then with a burst of 1). To one contact a
    message every ``contact_every_s`` seconds (None: no such limit), ``contact_burst`` of them at once.
    """

    messages_per_minute: float
    jitter_s: float = 0.0
    burst: int = 1
    contact_every_s: float | None = None
    contact_burst: int = 1


# What WhatsApp takes of each kind, in MiB: the size of a file that nobody says. Any other kind is a document.
_LARGEST_MIB, _LARGEST_DOCUMENT_MIB = {"image": 16, "audio": 16, "video": 64, "sticker": 1}, 100
_MIB = 1024 * 1024


class TimeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Within how many seconds a provider answers a call, by its kind. An answer that comes later is lost.

    Each is at most as long as what rests on it allows: a change of an organization, a look at an account. ``mib_per_s``
    is of a provider that answers a send with a file only once it has fetched and passed on all of it.
    """

    call_s: float = 10.0  # a send, or anything else about a chat
    test_s: float = 5.0  # a test of the connection, the account's status, pairing: somebody waits for it
    set_up_s: float = 5.0  # all of `setup` and `receive_messages`; `disconnect`, `unpair`
    mib_per_s: float | None = None

    def __post_init__(self) -> None:
        if not (0 < self.call_s <= 30 and 0 < self.test_s <= 10 and 0 < self.set_up_s <= 15):
            raise ValueError("a provider has at most 30 s for a call, 10 s for a test, 15 s to be set up")
        if self.mib_per_s is not None and self.mib_per_s < 0.5:
            raise ValueError("a provider takes at least half a MiB of a file in a second")

    def send_s(self, content: OutboundContent) -> float:
        """Of a send with *content*."""
        if self.mib_per_s is None or not isinstance(content, MediaContent):
            return self.call_s
        largest = _LARGEST_MIB.get(str(content.__struct_config__.tag), _LARGEST_DOCUMENT_MIB)
        size = largest if content.size_bytes is None else content.size_bytes / _MIB
        return self.call_s + min(max(size, 0), _LARGEST_DOCUMENT_MIB) / self.mib_per_s


class ProviderInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a person needs to choose a provider, and what the service may ask of it."""

    name: str  # the key everywhere: `meta_business`
    display_name: str
    description: str
    pricing: Literal["free", "paid"]
    stability: Literal["stable", "unstable"]
    official: bool
    # Content types and actions by their tags, plus: templates, list_templates, groups, media, uploads, receipts,
    # typing, stop_typing, pairing, find_message, find_phone, find_contact.
    capabilities: frozenset[str]
    # What the provider takes at most, by the kinds among the capabilities, `voice` (of `audio`) and `static_sticker`.
    limits: dict[str, Limits] = {}
    pacing: Pacing | None = None  # None: as fast as the provider takes it
    time_limits: TimeLimits = TimeLimits()
    max_webhook_bytes: int = 4 * 1024 * 1024  # a longer body is none of the provider's
    # The provider's own hosts, all below one where it begins with a dot: what is tested there is shown to be so.
    hosts: tuple[str, ...] = ()


class ConfigField(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One field of a provider's configuration, as a form or a schema needs it."""

    name: str
    title: str
    help: str | None = None
    placeholder: str | None = None
    link: str | None = None  # the provider's page on which the value is found
    type: Literal["string", "integer", "boolean"] = "string"
    choices: tuple[str, ...] = ()  # the only values that it takes; empty: any
    default: bool | int | str | None = None  # what it is where none is given
    secret: bool = False
    own: bool = False  # people make it up: any long random text will do, and a form may do it for them
    signs: bool = False  # a secret that webhooks are signed with
    app: bool = False  # of the provider's app, which several accounts may share
    required: bool = True
    usual: bool = False  # most people give it, though they need not: no form hides it
    pattern: str | None = None
    max_length: int | None = None


def config_fields(provider: type[msgspec.Struct]) -> list[ConfigField]:
    """The configuration's own description of its fields, in order: the form, the masking, the schema."""
    described = msgspec.inspect.type_info(provider)
    assert isinstance(described, msgspec.inspect.StructType)
    return [_config_field(field) for field in described.fields]


_TYPES: dict[type, Literal["integer", "boolean"]] = {
    msgspec.inspect.IntType: "integer",
    msgspec.inspect.BoolType: "boolean",
}


def _config_field(field: msgspec.inspect.Field) -> ConfigField:
    noted = _noted(field.type)
    extra = noted.extra or {}
    schema = noted.extra_json_schema or {}
    kinds = getattr(noted.type, "types", (noted.type,))
    return ConfigField(
        name=field.encode_name,
        title=schema.get("title", field.name),
        help=schema.get("description"),
        placeholder=extra.get("placeholder"),
        link=extra.get("link"),
        type=next((word for kind in kinds if (word := _TYPES.get(type(kind)))), "string"),
        choices=tuple(
            str(value) for kind in kinds if isinstance(kind, msgspec.inspect.LiteralType) for value in kind.values
        ),
        default=field.default if isinstance(field.default, str | int) else None,
        required=field.required,
        pattern=_bound(noted.type, "pattern"),
        max_length=_bound(noted.type, "max_length"),
        **{name: bool(extra.get(name)) for name in ("secret", "own", "signs", "app", "usual")},
    )


def _noted(kind: msgspec.inspect.Type) -> msgspec.inspect.Metadata:
    """The type with its annotations, of which msgspec makes one `Metadata`, and none where there are none."""
    return kind if isinstance(kind, msgspec.inspect.Metadata) else msgspec.inspect.Metadata(kind)


def _bound(kind: msgspec.inspect.Type, name: str) -> Any:
    """msgspec takes a pattern on a str only, so an optional field has it inside its union with None."""
    return next(filter(None, (getattr(part, name, None) for part in getattr(kind, "types", (kind,)))), None)
