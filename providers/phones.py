"""Phone numbers: how they are written, and when two of them are one person."""

import re
from typing import Annotated

import msgspec

# ASCII digits, and no line break at the end, which `$` alone would let pass.
Phone = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^\+[1-9][0-9]{6,14}(?!\s)$",
        description="E.164, with the plus",
        extra={"placeholder": "+5511987654321"},
    ),
]


def phone_key(phone: str) -> str:
    """The digits that stand for one person, however the number was written.

    Brazil put a 9 before its mobile numbers, Ivory Coast 01, 05 or 07 before all of its numbers; Mexico dropped a 1 and
    Argentina a 9 after the country code. WhatsApp's ids kept the older form for older accounts, and both reach the same
    person. A key, never an address.
    """
    digits = phone[1:] if phone.startswith("+") and phone[1:].isdigit() else re.sub(r"\D", "", phone)
    if len(digits) == 13:
        if digits.startswith("55") and digits[4] == "9":
            return f"55{digits[2:4]}{digits[5:]}"
        if digits.startswith(("521", "549")):
            return f"{digits[:2]}{digits[3:]}"
        if digits.startswith(("22501", "22505", "22507")):
            return f"225{digits[5:]}"
    return digits


def spellings(phone: str) -> set[str]:
    """The digits of a number in each way that it may be written, as far as `phone_key` knows of one."""
    key = phone_key(phone)
    added = ((4, "9"), (2, "1"), (2, "9"), (3, "01"), (3, "05"), (3, "07"))
    others = (f"{key[:at]}{digits}{key[at:]}" for at, digits in added)
    return {key, *(other for other in others if phone_key(other) == key)}


def may_be_spellings(one: str, other: str) -> bool:
    """Whether two numbers can be one in two spellings: equal by `phone_key`, or else alike where they begin and end.

    Rules of countries that are not known here change digits after the country code, and no subscriber's last six.
    """
    if phone_key(one) == phone_key(other):
        return True
    return one[:3] == other[:3] and one[-6:] == other[-6:]
