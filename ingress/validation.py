"""What is wrong with what people wrote: every field at once, in plain words that repeat nothing of it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from msgspec import inspect

# Control characters (C0, DEL, C1), what ends a line or a paragraph, what turns the direction of text, and halves of
# surrogate pairs: none is part of a name or of a credential, and each steers or breaks whatever shows it.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
DETAIL = "must not hold control characters, line breaks, or marks that turn the direction of text"

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
ProviderType = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
# Which fields there are, and how long, is the provider's to say; no provider has so many, or such long names.
ConfigData = Annotated[dict[Annotated[str, msgspec.Meta(max_length=64)], Any], msgspec.Meta(max_length=64)]


class Unlogged(msgspec.Struct, frozen=True):
    """What it holds is people's, and nothing for a log."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


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


# Of one answer; whoever has more wrong starts anew anyway.
MAX_WRONG = 20
_MAX_NAME = 64
# Of a list: no type of ours allows more, and each is some microseconds.
MAX_ITEMS = 1_000

Wrong = Iterable[tuple[str, str]]


def wrong_fields(value: object, kind: Any, path: str = "", *, strict: bool = True) -> list[tuple[str, str]]:
    """(path, what is wanted) of every field of *value*, as JSON has it, that is not of the type *kind*.

    Where a decoder stopped at the first: it looks at each field again, so it is for what is known to be wrong.
    """
    return list(islice(_wrong(value, kind, path, strict), MAX_WRONG))


def once(wrong: Wrong) -> list[tuple[str, str]]:
    """Each path with the first of its details, as many as are answered."""
    found: dict[str, str] = {}
    for path, detail in wrong:
        found.setdefault(path, detail)
    return list(found.items())[:MAX_WRONG]


def sentence(text: str) -> str:
    """*text* as a sentence, for people."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def listed(wrong: Wrong) -> str:
    """All of it in one sentence, for whoever is shown nothing else."""
    return "; ".join(f"{path} {detail}".lstrip() for path, detail in wrong)


def _wrong(value: object, kind: Any, path: str, strict: bool) -> Wrong:
    try:
        msgspec.convert(value, kind, strict=strict)
        return
    except (msgspec.ValidationError, RecursionError) as error:  # not kept: it would keep this frame, and the value
        rule = str(error.__cause__) if isinstance(error.__cause__, ValueError) else None  # of a `__post_init__`
    within = list(islice(_wrong_within(value, kind, path, strict), MAX_WRONG))
    if within:
        yield from within
    else:
        yield path, rule or f"must be {described(inspect.type_info(kind))}"


def _wrong_within(value: object, kind: Any, path: str, strict: bool) -> Wrong:
    """What is wrong in the parts of *value*."""
    kinds = list(_alternatives(kind))
    if isinstance(value, Mapping):
        yield from _wrong_in_mapping(value, kinds, path, strict)
    elif isinstance(value, list):
        for [parts] in _arguments(kinds, list):
            for place, part in enumerate(value[:MAX_ITEMS]):
                yield from _wrong(part, parts, f"{path}[{place}]", strict)


def _wrong_in_mapping(value: Mapping[str, object], kinds: list[Any], path: str, strict: bool) -> Wrong:
    if structs := list(filter(_is_struct, kinds)):
        yield from _wrong_in_struct(value, structs, path, strict)
    for names, parts in _arguments(kinds, dict):
        yield from _wrong_in_dict(value, names, parts, path, strict)


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _arguments(kinds: list[Any], origin: type) -> Iterator[Any]:
    return (get_args(each) for each in kinds if get_origin(each) is origin)


def _wrong_in_dict(value: Mapping[str, object], names: Any, parts: Any, path: str, strict: bool) -> Wrong:
    for name, part in value.items():
        if list(_wrong(name, names, "", strict)):
            yield path, f"each name in it must be {described(inspect.type_info(names))}"
        yield from _wrong(part, parts, _joined(path, name), strict)


def _wrong_in_struct(value: Mapping[str, object], kinds: list[Any], path: str, strict: bool) -> Wrong:
    """As one of *kinds*, which a tag tells apart."""
    tag_field = kinds[0].__struct_config__.tag_field
    kind = kinds[0] if tag_field is None else _tagged(value.get(tag_field), kinds)
    if kind is not None:
        yield from _wrong_in_fields(value, kind, path, strict)
    else:
        yield _joined(path, tag_field), _wanted_tag(kinds, is_given=tag_field in value)


def _wrong_in_fields(value: Mapping[str, object], kind: Any, path: str, strict: bool) -> Wrong:
    for field in msgspec.structs.fields(kind):
        name = field.encode_name
        if name in value:
            yield from _wrong(value[name], field.type, _joined(path, name), strict)
        elif field.required:
            yield _joined(path, name), "is missing"
    if kind.__struct_config__.forbid_unknown_fields:
        yield from _unknown(value, kind, path)


def _unknown(names: Iterable[str], kind: Any, path: str) -> Wrong:
    known = {field.encode_name for field in msgspec.structs.fields(kind)} | {kind.__struct_config__.tag_field}
    return ((_joined(path, name), "is not a known field") for name in names if name not in known)


def _wanted_tag(kinds: list[Any], *, is_given: bool) -> str:
    known = [str(each.__struct_config__.tag) for each in kinds]
    wanted = f"one of {', '.join(sorted(known))}" if len(known) > 1 else known[0]
    return f"must be {wanted}" if is_given else f"is missing: {wanted}"


def _tagged(tag: object, kinds: list[Any]) -> Any:
    return next((each for each in kinds if each.__struct_config__.tag == tag), None)


def _alternatives(kind: Any) -> Iterator[Any]:
    """The types that *kind* may be, without what is annotated."""
    if get_origin(kind) is Annotated:
        yield from _alternatives(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for each in get_args(kind):
            yield from _alternatives(each)
    elif kind is not NoneType:
        yield kind


def _joined(path: str, name: object) -> str:
    return f"{path}.{str(name)[:_MAX_NAME]}".lstrip(".")


def described(kind: inspect.Type) -> str:
    """What is wanted, after `must be`."""
    match kind:
        case inspect.Metadata(type=inspect.StrType(pattern=str()) as text, extra={"placeholder": example}):
            return f"{_text(text)}, like {example}"
        case inspect.Metadata(type=inner):
            return described(inner)
        case inspect.UnionType(types=types):
            words = [*dict.fromkeys(map(described, types))]
            # After an example the next one would be taken for a part of it.
            return (", or " if any(", like " in each for each in words) else " or ").join(words)
        case inspect.LiteralType(values=values):
            return f"one of {', '.join(map(str, values))}" if len(values) > 1 else str(values[0])
        case inspect.IntType(ge=least, le=most) | inspect.FloatType(ge=least, le=most):
            what = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
            return _bounded(what, least, most)
        case inspect.StrType(pattern=str() as pattern):
            return f"{_text(kind)}, matching {pattern}"
        case inspect.StrType():
            return _text(kind)
        case inspect.ListType(min_length=least, max_length=most):
            return f"a list{_counted(least, most, 'items')}"
        case inspect.DictType(min_length=least, max_length=most):
            return f"an object{_counted(least, most, 'fields')}"
    return _PLAIN.get(type(kind), "valid")


_PLAIN: dict[type[inspect.Type], str] = {
    inspect.NoneType: "null",
    inspect.BoolType: "true or false",
    inspect.UUIDType: "an id, like 0190b8a4-7e5c-7cc0-9f3a-5d1c2b3a4e5f",
    inspect.DateTimeType: "a time with its zone, like 2030-01-31T12:00:00Z",
    inspect.StructType: "an object",
}


def _text(kind: inspect.StrType) -> str:
    return f"text{_counted(kind.min_length, kind.max_length, 'characters')}"


def _counted(least: int | None, most: int | None, what: str) -> str:
    if most is None:
        return f" of {least} {what} or more" if least else ""
    return f" of {least} to {most} {what}" if least else f" of at most {most} {what}"


def _bounded(what: str, least: float | None, most: float | None) -> str:
    if most is None:
        return what if least is None else f"{what}, {least} or more"
    return f"{what} up to {most}" if least is None else f"{what} from {least} to {most}"
