"""Two ids of one message: what they have in common."""

import pytest

from ingress.dev.sandbox.meta.bodies import wamid_of
from providers.cloud_api import message_key

TOKEN = "A504706C9B6CD5738EBF79A9ED717D20"
BY_PHONE = "wamid.HBgMMjAxMDAxMTEyMjIzFRQAEhggQTUwNDcwNkM5QjZDRDU3MzhFQkY3OUE5RUQ3MTdEMjAA"
BY_USER = "wamid.HBgTRUcuMTQ0MjczODIzMDk0MTAwMhUUABIYIEE1MDQ3MDZDOUI2Q0Q1NzM4RUJGNzlBOUVENzE3RDIwAA=="
SENT = "wamid.HBgLMTY1MDU1NTEyMzQVAgARGBI5QTNDQTVCM0Q0Q0Q2RTY3RTcA"


def test_both_ids_hold_the_token() -> None:
    assert {message_key(BY_PHONE), message_key(BY_USER), message_key(BY_USER.rstrip("="))} == {TOKEN}
    assert message_key(SENT) == "9A3CA5B3D4CD6E67E7"
    assert message_key(wamid_of("BR.ENT.11815799212886", "3EB0C767D71D8A2F4B")) == "3EB0C767D71D8A2F4B"


@pytest.mark.parametrize(
    "identity",
    [
        "",
        "wamid.",
        "wamid.X",
        "wamid.HBgNArF1myA9ry5IeUikJjMxqtD6BIophjW5+Hd4AA==",
        TOKEN,
        BY_PHONE[:-8],
        BY_PHONE.replace("EhggQTUw", "EhghQTUw"),
        "WAMID" + BY_PHONE[5:],
        "wamid.é\ud800",
    ],
)
def test_an_id_of_another_make_is_its_own_key(identity: str) -> None:
    assert message_key(identity) == identity
