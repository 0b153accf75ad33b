"""A message template as fields to fill in, and what is filled in as a template to send.

In WhatsApp's own form of templates, which all providers that list theirs give. The name of a field says where its value
belongs, so that a form needs no second look at the template: `header.text.1`, `body.text.name`, `button.0.url`.

Source: https://developers.facebook.com/docs/whatsapp/cloud-api/guides/send-message-templates
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from providers.messages import TemplateDefinition

_PLACEHOLDER = re.compile(r"{{\s*(\w+)\s*}}")
_MEDIA = {"IMAGE", "VIDEO", "DOCUMENT"}
# Of buttons, those that want something: what the parameter is, by what the definition calls the button.
_BUTTONS = {"URL": "url", "COPY_CODE": "copy_code"}
# Buttons that are sent as they are.
_FIXED = {"QUICK_REPLY", "PHONE_NUMBER", "VOICE_CALL"}


class Variable(NamedTuple):
    """A field. ``key`` is the placeholder's number or name, or a button's label; ``example`` as the template has it."""

    field: str
    part: str  # header, body or button
    kind: str  # text, image, video, document, url, copy_code
    key: str
    example: str = ""


class TemplateFields(NamedTuple):
    """``words`` are the texts by part, placeholders in them; ``is_whole``: there is a field for all that it wants."""

    variables: list[Variable]
    words: dict[str, str]
    is_whole: bool


def fields_of(template: TemplateDefinition) -> TemplateFields:
    """What is to be filled in of *template*."""
    variables, words, is_whole = list[Variable](), dict[str, str](), True
    for component in template.components:
        kind = str(component.get("type", "")).upper()
        if kind in ("HEADER", "BODY", "FOOTER") and isinstance(component.get("text"), str):
            words[kind.lower()] = component["text"]
            variables += _texts(kind.lower(), component)
        elif kind == "HEADER" and (media := str(component.get("format", "")).upper()) in _MEDIA:
            variables.append(Variable(f"header.{media.lower()}", "header", media.lower(), media.lower()))
        elif kind == "BUTTONS":
            buttons = component.get("buttons")
            found = [
                _button(place, button) for place, button in enumerate(buttons if isinstance(buttons, list) else [None])
            ]
            variables += [one for one in found if isinstance(one, Variable)]
            is_whole = is_whole and False not in found
        else:
            is_whole = False
    return TemplateFields(variables, words, is_whole)


def _texts(part: str, component: Mapping[str, Any]) -> Iterator[Variable]:
    examples = _examples(component.get("example"), part)
    # By number where they have one: so they are sent.
    keys = sorted({*_PLACEHOLDER.findall(component["text"])}, key=lambda key: (len(key) * key.isdecimal(), key))
    for key in keys:
        yield Variable(f"{part}.text.{key}", part, "text", key, examples.get(key, ""))


def _examples(example: object, part: str) -> dict[str, str]:
    """By the placeholder's number or name.

    Such are {"body_text": [["a"]]}, {"header_text": ["a"]}, {"body_text_named_params": [{"param_name", "example"}]}.
    """
    if not isinstance(example, dict):
        return {}
    named = example.get(f"{part}_text_named_params")
    if isinstance(named, list):
        return _named(named)
    numbered = enumerate(_numbered(example.get(f"{part}_text")), 1)
    return {str(number): str(value) for number, value in numbered}


def _named(params: list[object]) -> dict[str, str]:
    return {str(one.get("param_name")): str(one.get("example", "")) for one in params if isinstance(one, dict)}


def _numbered(values: object) -> list[object]:
    if isinstance(values, list) and values and isinstance(values[0], list):
        return values[0]
    return values if isinstance(values, list) else []


def _button(place: int, button: object) -> Variable | bool:
    """Its field; True where it wants nothing, False where there is no field for what it wants."""
    if not isinstance(button, dict):
        return False
    kind, label = str(button.get("type", "")).upper(), str(button.get("text", ""))
    if kind == "URL" and not _PLACEHOLDER.search(str(button.get("url", ""))):
        return True
    if kind in _BUTTONS:
        return Variable(f"button.{place}.{_BUTTONS[kind]}", "button", _BUTTONS[kind], label, _example_of(button))
    return kind in _FIXED


def _example_of(button: dict[str, Any]) -> str:
    """What comes in the place of its placeholder."""
    example = button.get("example", "")
    example = str(example[0] if isinstance(example, list) and example else example or "")
    return example.removeprefix(str(button.get("url", "")).partition("{{")[0])


def components_of(values: Mapping[str, str]) -> list[dict[str, Any]]:
    """The components of a template to send, from what was filled in, by the names of fields. Others are left out."""
    parts: dict[str, list[dict[str, Any]]] = {}
    buttons: list[dict[str, Any]] = []
    for field, value in values.items():
        part, _, rest = field.partition(".")
        kind, _, key = rest.partition(".")
        if part == "button" and kind.isdecimal():
            buttons.append(_filled_button(kind, key, value))
        elif part in ("header", "body") and kind == "text" and key:
            named = {} if key.isdecimal() else {"parameter_name": key}
            parts.setdefault(part, []).append({"type": "text", **named, "text": value})
        elif part == "header" and kind.upper() in _MEDIA:
            parts.setdefault(part, []).append({"type": kind, kind: {"link": value}})
    return [{"type": part, "parameters": parameters} for part, parameters in parts.items()] + buttons


def _filled_button(place: str, kind: str, value: str) -> dict[str, Any]:
    name = {"copy_code": "coupon_code"}.get(kind, "text")
    return {"type": "button", "sub_type": kind, "index": place, "parameters": [{"type": name, name: value}]}


def rendered(words: Mapping[str, str], values: Mapping[str, str]) -> str:
    """What the template says: sent as text where a provider has no templates."""
    return "\n\n".join(_filled(part, text, values) for part, text in words.items())


def _filled(part: str, text: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: values.get(f"{part}.text.{found[1]}", found[0]), text)
