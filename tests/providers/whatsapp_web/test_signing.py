"""Who may post webhooks of WAHA."""

import hashlib
import hmac
from typing import Any

import msgspec
import pytest

from providers import Unverified, Webhook

from .samples import ACCOUNT, CALLBACK, HMAC_KEY, hook, names, sample, signed

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


def test_all_refusals_are_here() -> None:
    """The samples came along."""
    assert (len(names("reject_*")), len(VECTORS)) == (7, 2)


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


def test_both_keys_of_a_renewal_pass() -> None:
    """What WAHA repeats is signed with the key of then."""
    account = msgspec.structs.replace(ACCOUNT, hmac_key="renewed", hmac_key_previous=HMAC_KEY)
    for key in ("renewed", HMAC_KEY):
        account.verify(signed(b"{}", key))
    for refused, key in ((account, "another"), (account, ""), (ACCOUNT, "renewed"), (ACCOUNT, "")):
        with pytest.raises(Unverified):
            refused.verify(signed(b"{}", key))


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_there_is_no_handshake(method: str) -> None:
    """WAHA makes none."""
    assert ACCOUNT.challenge(msgspec.structs.replace(GOOD, method=method)) is None
