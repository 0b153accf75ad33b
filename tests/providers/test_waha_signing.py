"""Who may post webhooks of WAHA."""

import hashlib
import hmac
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waha_samples import ACCOUNT, CALLBACK, HMAC_KEY, hook, names, sample, signed

from providers import Unverified, Webhook

VECTORS: list[dict[str, Any]] = sample("vectors_hmac")
GOOD = hook("msg_text_odd_whitespace")


def with_headers(**headers: str) -> Webhook:
    named = {f"x-webhook-{name.replace('_', '-')}": value for name, value in headers.items()}
    return msgspec.structs.replace(GOOD, headers=named)


SIGNATURE = GOOD.headers["x-webhook-hmac"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["name"]))
def test_signature_vectors(vector: dict[str, Any]) -> None:
    """The vendor's own, and one with text of other scripts."""
    account = msgspec.structs.replace(ACCOUNT, hmac_key=vector["key"])
    body = vector["body"].encode()
    account.verify(Webhook(method="POST", url=CALLBACK, headers={"x-webhook-hmac": vector["hmac"]}, body=body))


@pytest.mark.parametrize("name", names("reject_*"))
def test_what_is_to_be_refused_is(name: str) -> None:
    """Whatever is wrong with it; nothing of it becomes an event."""
    assert sample(f"{name}.expected") == []
    with pytest.raises(Unverified):
        ACCOUNT.verify(hook(name))


def test_all_refusals_are_here() -> None:
    """The samples came along."""
    assert (len(names("reject_*")), len(VECTORS)) == (7, 2)


def test_a_flipped_byte_of_the_body_is_refused() -> None:
    """Any byte."""
    ACCOUNT.verify(GOOD)
    for index in range(len(GOOD.body)):
        body = bytearray(GOOD.body)
        body[index] ^= 1
        with pytest.raises(Unverified):
            ACCOUNT.verify(msgspec.structs.replace(GOOD, body=bytes(body)))


def test_a_flipped_digit_of_the_signature_is_refused() -> None:
    """Any digit."""
    for index, digit in enumerate(SIGNATURE):
        other = "0" if digit != "0" else "1"
        with pytest.raises(Unverified):
            ACCOUNT.verify(with_headers(hmac=SIGNATURE[:index] + other + SIGNATURE[index + 1 :]))


def test_the_algorithm_may_be_left_out_but_not_changed() -> None:
    """The header never picks the hash, even where the digest is a good one of the hash it names."""
    ACCOUNT.verify(with_headers(hmac=SIGNATURE))
    ACCOUNT.verify(with_headers(hmac=SIGNATURE, hmac_algorithm="sha512"))
    for algorithm in ("sha1", "sha256", "md5", "", "none", "sha512,sha1", "sha512 ", "\ud800"):
        with pytest.raises(Unverified):
            ACCOUNT.verify(with_headers(hmac=SIGNATURE, hmac_algorithm=algorithm))
    short = hmac.new(HMAC_KEY.encode(), GOOD.body, hashlib.sha256).hexdigest()
    with pytest.raises(Unverified):
        ACCOUNT.verify(with_headers(hmac=short))


def test_the_key_in_force_is_the_accounts() -> None:
    """Another account's key signs nothing here."""
    with pytest.raises(Unverified):
        ACCOUNT.verify(signed(b"{}", "another-key"))


@given(signature=st.text(max_size=200), algorithm=st.text(max_size=12))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_no_header_breaks_the_check(signature: str, algorithm: str) -> None:
    """A malformed header is a mismatch."""
    with pytest.raises(Unverified):
        ACCOUNT.verify(with_headers(hmac=signature, hmac_algorithm=algorithm))


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_there_is_no_handshake(method: str) -> None:
    """WAHA makes none."""
    assert ACCOUNT.challenge(msgspec.structs.replace(GOOD, method=method)) is None
