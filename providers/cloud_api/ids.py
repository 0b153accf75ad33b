"""Ids of messages: of one message there are two, with the person's number in it and with their business-scoped user id.

A webhook names a message by either, whichever was used before. Both hold the token by which WhatsApp knows it.

Source: what ids seen in the field decode to: a struct of Thrift's compact protocol, with the address of the person, a
    number, whether the business sent it, and the token.
"""

import binascii
import re

_PREFIX = "wamid."
# The token's length stands before it, and a group's ids have something after it.
_TOKEN = re.compile(
    rb"\x1c\x18[\x01-\x7f][0-9A-Za-z.@_:-]+\x15[\x00-\x7f]\x00[\x11\x12]\x18(.)([0-9A-Za-z._-]{8,})\x00", re.DOTALL
)
# Ids that people's clients make up can be longer, and are nobody's twice.
_LONGEST = 512


def message_key(message_id: str) -> str:
    """The token in *message_id*, which is the same in each id of the message; itself, where it is of another make."""
    if not message_id.startswith(_PREFIX) or len(message_id) > _LONGEST:
        return message_id
    try:
        decoded = binascii.a2b_base64(message_id[len(_PREFIX) :] + "==")  # also where there is no padding
    except ValueError:
        return message_id
    found = _TOKEN.match(decoded)
    if found is None or found[1][0] != len(found[2]):
        return message_id
    return found[2].decode()
