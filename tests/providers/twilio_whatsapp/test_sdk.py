"""Our signature check against the official SDK's: the same requests pass, the same ones are refused."""

import random
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from twilio.request_validator import RequestValidator

from providers import Unverified, Webhook

from .samples import ACCOUNT, AUTH_TOKEN, FORM

REQUESTS = 1000
ORACLE = RequestValidator(AUTH_TOKEN)
ALPHABET = "abzABZ019 _-+&=%?#/:.;\t\n\r\"'<>{}[]|\\éÜßñçãö¿½✓अשاПри漢字🙈👋🏽\u200d\ufeff\U0010ffff"
NAMES = ["Body", "body", "From", "To", "MessageSid", "Address", "ÜName", "MediaUrl", "Zeta", "zeta", "NumMedia"]

Pairs = list[tuple[str, str]]


class Form(dict[str, str]):
    """The form as web frameworks hand it to the SDK, which asks a repeated name for all its values."""

    def __init__(self, pairs: Pairs) -> None:
        super().__init__(pairs)
        self._pairs = pairs

    def getall(self, name: str) -> list[str]:
        return [value for key, value in self._pairs if key == name]


def requests() -> Iterator[tuple[str, Pairs]]:
    """Addresses with and without port and query, forms with blank, repeated and foreign names; the same every time."""
    chance = random.Random(20260929)
    for _ in range(REQUESTS):
        scheme = chance.choice(["https", "https", "http"])
        port = chance.choice(["", "", ":443", ":80", ":8443"])
        path = chance.choice(["", "/", "/hook", "/hook/", "/a%2Fb/c"])
        query = chance.choice(["", "", "?ref=gw1:abc:1", "?a=%2F&b=1+2&empty=", "?x=%C3%BC"])
        names = [*chance.sample(NAMES, chance.randint(0, len(NAMES))), chance.choice(NAMES)]
        # No pair twice: versions of the SDK count it once or twice.
        pairs = list(dict.fromkeys((name, _text(chance)) for name in names))
        yield f"{scheme}://gw.example.com{port}{path}{query}", pairs


def _text(chance: random.Random) -> str:
    return "".join(chance.choices(ALPHABET, k=chance.choice([0, 1, 5, 40])))


def is_ours(url: str, pairs: Pairs, signature: str) -> bool:
    headers = {"content-type": FORM, "x-twilio-signature": signature}
    hook = Webhook(method="POST", url=url, headers=headers, body=urlencode(pairs).encode())
    try:
        ACCOUNT.verify(hook)
    except Unverified:
        return False
    return True


def test_what_the_sdk_signs_is_verified() -> None:
    """With the address as it is, with and without its port; nothing else passes."""
    for url, pairs in requests():
        signature = ORACLE.compute_signature(url, Form(pairs))
        assert is_ours(url, pairs, signature), url
        assert not is_ours(url, [*pairs, ("Injected", "1")], signature)
        assert not is_ours(f"{url}x", pairs, signature)


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_both_judge_alike(scheme: str) -> None:
    """Whatever port the signer put in or left out."""
    ports = ["", ":443", ":80", ":8443"]
    pairs = [("Body", "x"), ("To", "whatsapp:+15005550199")]
    for signed in ports:
        signature = ORACLE.compute_signature(f"{scheme}://gw.example.com{signed}/x", Form(pairs))
        for called in ports:
            url = f"{scheme}://gw.example.com{called}/x"
            assert is_ours(url, pairs, signature) == ORACLE.validate(url, Form(pairs), signature), (signed, called)
