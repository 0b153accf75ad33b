"""Contact cards: vCards, which WhatsApp Web carries, and the objects of `Contacts`.

Source: RFC 6350, RFC 2426 (the phones write version 3), and the cards in tests/samples/whatsapp_web.
"""

import re
from typing import Any

from .._values import Object, mapping, objects, present, text

_FOLD = re.compile(r"\r?\n[ \t]")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_BREAKS = re.compile(r"[\r\n]+")
_SPECIAL = re.compile(r"([\\,;])")
# What a card may have several of: the name in a vCard, the list, and the name in it.
_LISTS = {"TEL": ("phones", "phone"), "EMAIL": ("emails", "email"), "URL": ("urls", "url")}


def card_of(vcard: str) -> Object:
    """*vcard* as WhatsApp's own objects have it, with the text itself as ``vcard``: nothing of it is lost."""
    card: Object = {"name": {"formatted_name": ""}, "vcard": vcard}
    for line in _FOLD.sub("", vcard).splitlines():
        head, colon, value = line.partition(":")
        name, *parameters = head.split(";")
        # `item1.TEL`: the group ties a line to its label.
        name = name.rpartition(".")[2].upper()
        if colon:
            _add(card, name, _plain(value.strip()), parameters)
    return card


def _plain(value: str) -> str:
    return _ESCAPED.sub(lambda match: "\n" if match[1] in "nN" else match[1], value)


def _add(card: Object, name: str, value: str, parameters: list[str]) -> None:
    if name == "FN":
        card["name"]["formatted_name"] = value
    elif name == "ORG":
        card["org"] = {"company": value.rstrip(";")}
    elif name in _LISTS:
        plural, singular = _LISTS[name]
        details = {"type": _parameter(parameters, "type"), "wa_id": _parameter(parameters, "waid")}
        card.setdefault(plural, []).append(present(**{singular: value}, **details))


def _parameter(parameters: list[str], name: str) -> str | None:
    pairs = (parameter.partition("=") for parameter in parameters)
    return next((value for key, _, value in pairs if key.lower() == name and value), None)


# ---------------------------------------------------------------- out


def contact_of(card: Object) -> Object | None:
    """*card* as WAHA takes it: by name and number where that is all of it, else as a vCard. None without a name."""
    if isinstance(vcard := card.get("vcard"), str):
        return {"vcard": vcard}
    name = text(mapping(card, "name"), "formatted_name")
    if not name:
        return None
    phones = [entry for entry in objects(card, "phones") if text(entry, "phone")]
    if len(phones) == 1 and set(card) <= {"name", "phones", "org"}:
        return _simple(card, name, phones[0])
    return {"vcard": "\n".join(_lines(card, name, phones))}


def _simple(card: Object, name: str, phone: Object) -> Object:
    number, wa_id = phone["phone"], text(phone, "wa_id")
    return present(fullName=name, organization=_company(card), phoneNumber=number, whatsappId=wa_id)


def _company(card: Object) -> str | None:
    return text(mapping(card, "org"), "company")


def _lines(card: Object, name: str, phones: list[Any]) -> list[str]:
    lines = ["BEGIN:VCARD", "VERSION:3.0", f"FN:{_escaped(name)}"]
    if company := _company(card):
        lines.append(f"ORG:{_escaped(company)}")
    for entry in phones:
        waid = re.sub(r"\D", "", text(entry, "wa_id") or "")
        lines.append(f"TEL{f';waid={waid}' if waid else ''}:{_escaped(entry['phone'])}")
    for name in ("EMAIL", "URL"):
        plural, singular = _LISTS[name]
        values = [text(entry, singular) for entry in objects(card, plural)]
        lines += [f"{name}:{_escaped(value)}" for value in values if value]
    return [*lines, "END:VCARD"]


def _escaped(value: str) -> str:
    # A line break would begin a line of its own.
    return _SPECIAL.sub(r"\\\1", _BREAKS.sub(" ", value))
