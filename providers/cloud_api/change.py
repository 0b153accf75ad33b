"""One change of a WhatsApp Cloud API webhook, and the events made of its items.

Source: https://developers.facebook.com/docs/whatsapp/cloud-api/webhooks (keys, decoding),
    and samples seen in the field: tests/samples/meta_business.
"""

from collections.abc import Callable, Iterator
from typing import Any

from .._events import Origin
from .._values import UNREADABLE, Object, contact_of, is_user_id, listed, mapping, objects, phone, short, text, word
from ..messages import Contact, Event
from ..phones import phone_key


class FieldChange(Origin, frozen=True, gc=False, kw_only=True):
    """What the items of one change have in common. ``time`` is the entry's: only some fields have one."""

    value: Object
    only_card: Object  # where ``contacts`` has one, else empty
    cards: dict[str, Object]  # where it has more, by each id they have

    def person(self, number: Any, user_id: Any, parent_user_id: Any = None) -> Contact | None:
        """The person these ids name, completed from ``contacts``; None if there is nobody.

        A few bodies carry the business-scoped id where the number belongs.
        """
        if is_user_id(number):
            number, user_id = None, user_id or number
        card = self._card(number, user_id)
        return contact_of(
            phone=phone(number) or phone(card.get("wa_id")),
            user_id=short(user_id) or short(card.get("user_id")),
            parent_user_id=short(parent_user_id) or short(card.get("parent_user_id")),
            **_profile(mapping(card, "profile")),
        )

    def _card(self, number: Any, user_id: Any) -> Object:
        """The contact with one of these ids, never by position; or the only one, if it may be the person."""
        for known in (user_id, number) if self.cards else ():
            if isinstance(known, str) and known in self.cards:
                return self.cards[known]
        return {} if _is_other(self.only_card, number, user_id) else self.only_card


Reader = Callable[[FieldChange], Iterator[Event]]

_IDS = ("wa_id", "user_id")


def change_of(entry: Object, field: str, value: Object) -> FieldChange:
    metadata = mapping(value, "metadata")
    contacts = objects(value, "contacts")
    return FieldChange(
        field=field,
        value=value,
        # Partner events come in the portfolio's entry and name the account inside.
        account_id=word(mapping(value, "waba_info"), "waba_id") or word(entry, "id"),
        time=_time(entry.get("time")),
        sender=phone(metadata.get("display_phone_number") or value.get("display_phone_number")),
        sender_id=word(metadata, "phone_number_id"),
        only_card=contacts[0] if len(contacts) == 1 else {},
        cards=_by_id(contacts),
    )


def _by_id(cards: list[Object]) -> dict[str, Object]:
    if len(cards) < 2:
        return {}
    return {known: card for card in cards for key in _IDS if (known := text(card, key))}


def items(change: FieldChange, key: str, read: Callable[[FieldChange, Object], Event]) -> Iterator[Event]:
    """An event for each item of the list *key*. One that cannot be read costs none of its neighbours."""
    for item in listed(change.value, key):
        try:
            yield read(change, item)
        except UNREADABLE:
            yield change.unread("malformed", item)


def _time(value: Any) -> Any:
    """*value* as it came, where it may be a time: all items of the entry have it."""
    return value if isinstance(value, int | float) else short(value)


def _profile(profile: Object) -> dict[str, str | None]:
    username = short(profile.get("username")) or ""
    return {"username": username.removeprefix("@") or None, "name": short(profile.get("name"))}


def _is_other(card: Object, number: Any, user_id: Any) -> bool:
    """Whether *card* has another id of a kind that is given. Two ways to write one number are the same."""
    known_number, known_user_id = short(card.get("wa_id")), short(card.get("user_id"))
    if (user_id and user_id == known_user_id) or (number and number == known_number):
        return False
    if user_id and known_user_id:
        return True
    if isinstance(number, str) and isinstance(known_number, str):
        return phone_key(number) != phone_key(known_number)
    return False
