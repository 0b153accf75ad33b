"""Secrets at rest: a record opens where it was sealed, and nowhere else."""

import base64
import itertools
import re
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.storage.vault import (
    Vault,
    VaultError,
    generate_key,
    new_api_key,
    new_webhook_token,
    split_api_key,
    token_hash,
)

OLD, NEW = generate_key(), generate_key()
PLACE = ("organization-a", "config-1", "config_data")
VAULT = Vault(NEW)


@given(st.binary(max_size=4096))
def test_what_is_sealed_opens(plain: bytes) -> None:
    record = VAULT.seal(plain, *PLACE)
    assert VAULT.open(record, *PLACE) == plain
    assert len(plain) < 8 or plain not in record


def test_sealing_twice_gives_other_bytes() -> None:
    """A nonce is never used again."""
    records = {VAULT.seal(b"x", *PLACE) for _ in range(1000)}
    assert len({record[-(12 + 1 + 16) : -(1 + 16)] for record in records}) == 1000


@pytest.mark.parametrize("moved", [0, 1, 2], ids=["organization", "object", "field"])
def test_a_moved_record_does_not_open(moved: int) -> None:
    """Another organization, another config, another field: none of a thousand opens."""
    record = VAULT.seal(b"token", *PLACE)
    for _ in range(1000):
        place = list(PLACE)
        place[moved] = str(uuid4())
        with pytest.raises(VaultError):
            VAULT.open(record, *place)


@pytest.mark.parametrize(
    "place",
    [
        (),
        ("organization-a",),
        ("organization-a", "config-1"),
        ("organization-a", "config-1", "config_data", ""),
        ("organization-a", "config-1config_data", ""),
        ("organization-aconfig-1", "config_data"),
        ("organization-a", "config_data", "config-1"),
    ],
)
def test_places_do_not_run_into_each_other(place: tuple[str, ...]) -> None:
    with pytest.raises(VaultError):
        VAULT.open(VAULT.seal(b"token", *PLACE), *place)


def test_rotation() -> None:
    """The newest key encrypts, every key of the ring decrypts, and one that left the ring does not."""
    before = Vault(OLD).seal(b"token", *PLACE)
    ring = Vault(f"{NEW},{OLD}")
    assert ring.open(before, *PLACE) == b"token"
    after = ring.seal(b"token", *PLACE)
    assert Vault(NEW).open(after, *PLACE) == b"token"
    with pytest.raises(VaultError, match="not in INGRESS_ENCRYPTION_KEYS"):
        Vault(OLD).open(after, *PLACE)
    with pytest.raises(VaultError, match="not in INGRESS_ENCRYPTION_KEYS"):
        Vault(NEW).open(before, *PLACE)


def test_a_key_of_the_same_name_and_other_bytes_does_not_open() -> None:
    name = NEW.partition(":")[0]
    impostor = Vault(f"{name}:{base64.b64encode(b'x' * 32).decode()}")
    with pytest.raises(VaultError):
        impostor.open(VAULT.seal(b"token", *PLACE), *PLACE)


@given(st.binary(max_size=200))
def test_noise_is_refused_with_our_own_error(record: bytes) -> None:
    with pytest.raises(VaultError):
        VAULT.open(record, *PLACE)


RECORD = VAULT.seal(b"a token of some length", *PLACE)


@given(st.integers(0, len(RECORD) - 1))
def test_truncated_records(length: int) -> None:
    with pytest.raises(VaultError):
        VAULT.open(RECORD[:length], *PLACE)


@given(st.integers(0, len(RECORD) - 1), st.integers(1, 255))
def test_flipped_records(place: int, flip: int) -> None:
    """Any bit of version, key id, nonce, ciphertext or tag."""
    changed = bytearray(RECORD)
    changed[place] ^= flip
    with pytest.raises(VaultError):
        VAULT.open(bytes(changed), *PLACE)


@given(st.integers(0, 255), st.binary(max_size=60))
def test_records_that_lie_about_the_length_of_the_key_id(length: int, rest: bytes) -> None:
    with pytest.raises(VaultError):
        VAULT.open(bytes([1, length]) + rest, *PLACE)
    with pytest.raises(VaultError):
        VAULT.open(RECORD[:10] + rest[:13], *PLACE)


def _key(length: int) -> str:
    return base64.b64encode(bytes(length)).decode()


@pytest.mark.parametrize(
    "keys",
    [
        "",
        ",",
        "nothing",
        ":",
        f":{_key(32)}",
        f"a:{_key(31)}",
        f"a:{_key(33)}",
        f"a:{_key(16)}",
        "a:",
        "a:!!!!",
        "a:é",
        f"a b:{_key(32)}",
        f"a_:{_key(32)}",
        f"a:{_key(32)}x",
        f"{'a' * 256}:{_key(32)}",
        f"é:{_key(32)}",
        f"{NEW},b:{_key(8)}",
        f"{NEW},{NEW.partition(':')[0]}:{_key(32)}",
    ],
    ids=range(18),
)
def test_malformed_keys_stop_the_start(keys: str) -> None:
    """With `VaultError`, whose text holds nothing of the key."""
    with pytest.raises(VaultError) as caught:
        Vault(keys)
    assert _key(8)[:8] not in str(caught.value)
    assert NEW.partition(":")[2] not in str(caught.value)


@given(st.text(max_size=80))
def test_any_text_as_keys(keys: str) -> None:
    with pytest.raises(VaultError):
        Vault(keys)


# ---------------------------------------------------------------- API keys and tokens


def test_api_key_hashes_survive_a_rotation() -> None:
    """Known while the key it was made with is there; once renewed, the old key may go."""
    _, secret, _ = new_api_key("live")
    before = Vault(OLD).key_hash(secret)
    both = Vault(f"{NEW},{OLD}")
    assert both.is_key_hash(before, secret)
    renewed = both.key_hash(secret)
    assert renewed != before
    assert Vault(NEW).is_key_hash(renewed, secret)
    assert not Vault(NEW).is_key_hash(before, secret)
    assert not both.is_key_hash(renewed, secret + "x")


def test_the_form_of_an_api_key() -> None:
    """ingress_<environment>_<8 characters>_<43 characters><6 of checksum>, 256 random bits."""
    seen = set()
    for _ in range(200):
        key_id, secret, key = new_api_key("live")
        assert re.fullmatch(r"ingress_live_[0-9a-f]{8}_[A-Za-z0-9_-]{43}[0-9a-f]{6}", key)
        assert len(base64.urlsafe_b64decode(secret + "=")) == 32
        assert split_api_key(key) == (key_id, secret)
        seen |= {key_id, secret}
    assert len(seen) == 400


def test_a_mistyped_key_is_no_key() -> None:
    """Every single wrong character, and every swap of two neighbours."""
    _, _, key = new_api_key("live")
    for place in range(len(key)):
        for wrong in "aZ0_-é":
            if key[place] != wrong:
                assert split_api_key(key[:place] + wrong + key[place + 1 :]) is None
    for place, (one, other) in enumerate(itertools.pairwise(key)):
        if one != other:
            assert split_api_key(key[:place] + other + one + key[place + 2 :]) is None


@given(st.text(max_size=80))
def test_any_text_as_a_key(text: str) -> None:
    assert split_api_key(text) is None
    assert split_api_key(f"ingress_live_{text}") is None


def test_webhook_tokens() -> None:
    tokens = {new_webhook_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(base64.urlsafe_b64decode(token + "=")) == 32 for token in tokens)
    assert len({token_hash(token) for token in tokens}) == 100
    assert token_hash("\ud800") == token_hash("?")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80))
def test_fingerprints(secret: str) -> None:
    """Of a long secret four characters show, of a short one none."""
    shown = Vault(OLD).fingerprint(secret)
    assert shown == Vault(OLD).fingerprint(secret)
    assert shown != Vault(NEW).fingerprint(secret)
    assert len(shown) <= 16
    if len(secret) < 16:
        assert shown.startswith("… (")


def test_what_a_key_that_was_let_go_made_is_known_again() -> None:
    """What it hashed and signed; it opens nothing, and what must be of today's keys is not believed of it."""
    old, new = generate_key(), generate_key()
    former, vault = Vault(old), Vault(new)
    sealed, signed, hashed = former.seal(b"secret", "a"), former.sign(b"content"), former.key_hash("key")
    looked_up = former.lookup_hashes("secret")[0]
    assert not vault.is_key_hash(hashed, "key")
    vault.remember(former.key_ids[0], former.derived(former.key_ids[0]))
    assert vault.is_key_hash(hashed, "key")
    assert looked_up in vault.lookup_hashes("secret")
    assert vault.signed(signed, b"content")
    assert not vault.signed(signed, b"another")
    assert vault.key_ids == [new.partition(":")[0]]
    with pytest.raises(VaultError):
        vault.signed(signed, b"content", lately=True)
    with pytest.raises(VaultError):
        vault.open(sealed, "a")
