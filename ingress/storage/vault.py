"""Secrets at rest: sealed with AES-256-GCM and bound to the place they belong to; API keys, hashed."""

import base64
import hashlib
import hmac
import os
import re
import secrets
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Key = TypeVar("Key")

RECORD_VERSION = 1
NONCE_BYTES = 12
KEY_ID_LENGTH = 8
_KEY_ID = re.compile("[0-9a-f]{8}")
_ENCRYPTION_KEY_ID = re.compile("[A-Za-z0-9]{1,64}")


class VaultError(Exception):
    """A sealed value cannot be opened: unknown key, or it was moved from the place it was sealed for."""


class _Derived(NamedTuple):
    """What is made of an encryption key, and cannot be turned back into it: what hashes keys, and what signs."""

    pepper: bytes
    signer: bytes


def generate_key() -> str:
    """A new entry for INGRESS_ENCRYPTION_KEYS."""
    return f"{secrets.token_hex(4)}:{base64.b64encode(os.urandom(32)).decode()}"


class Vault:
    """Seals and opens values. A record is version, length of the key id, key id, nonce, ciphertext.

    The associated data is the record version, the organization, the object and the field, so that a ciphertext
    copied to another organization, object or field does not open.
    """

    def __init__(self, keys: str) -> None:
        """*keys* as in INGRESS_ENCRYPTION_KEYS; raises `VaultError` where it holds none or a malformed one."""
        given = _encryption_keys(keys)
        self._newest = next(iter(given))
        self._keys = {key_id: AESGCM(key) for key_id, key in given.items()}
        # Newest first, as the keys they are derived from; then those of keys that were let go.
        self._derived = {key_id: _derived(key) for key_id, key in given.items()}
        self._pepper, self._signer = self._derived[self._newest]

    @property
    def key_ids(self) -> list[str]:
        """Of the keys that open, the newest first."""
        return list(self._keys)

    def derived(self, key_id: str) -> bytes:
        """What is left of a key that is let go, for `remember`. It opens nothing."""
        return b"".join(self._derived[key_id])

    def remember(self, key_id: str, derived: bytes) -> None:
        """Know again what was hashed and signed with a key that was let go."""
        self._derived.setdefault(key_id, _Derived(derived[:32], derived[32:]))

    def seal(self, plain: bytes, *place: str) -> bytes:
        """*plain*, to be opened only with the same *place* (organization, object, field)."""
        nonce = os.urandom(NONCE_BYTES)
        key_id = self._newest.encode()
        sealed = self._keys[self._newest].encrypt(nonce, plain, _associated(place))
        return bytes([RECORD_VERSION, len(key_id)]) + key_id + nonce + sealed

    def open(self, record: bytes, *place: str) -> bytes:
        """What was sealed for *place*; raises `VaultError`."""
        if len(record) < 2 or record[0] != RECORD_VERSION:
            raise VaultError("unknown record version")
        start = 2 + record[1]
        key = _known(self._keys, record[2:start], "sealed")
        try:
            return key.decrypt(record[start : start + NONCE_BYTES], record[start + NONCE_BYTES :], _associated(place))
        except (InvalidTag, ValueError):  # ValueError: cut off before the end of its nonce
            raise VaultError("does not belong here, or was changed") from None

    def sign(self, content: bytes) -> bytes:
        """A hash of *content* that only who has the newest key can make: length of the key id, key id, HMAC-SHA-256."""
        key_id = self._newest.encode()
        return bytes([len(key_id)]) + key_id + hmac.digest(self._signer, content, "sha256")

    def signed(self, record: bytes, content: bytes, *, lately: bool = False) -> bool:
        """Whether *record* is what `sign` made of *content*, with any key. Raises `VaultError` where it is gone.

        *lately*: with none that was let go. Who has stolen such a one can sign, too.
        """
        start = 1 + record[0] if record else 0
        key_id = record[1:start]
        if lately:
            _known(self._keys, key_id, "signed")
        signer = _known(self._derived, key_id, "signed").signer
        return hmac.compare_digest(record[start:], hmac.digest(signer, content, "sha256"))

    def key_hash(self, secret: str) -> bytes:
        """What is stored of an API key, made with the newest pepper. Random keys need no slow hash."""
        return hmac.digest(self._pepper, secret.encode(), "sha256")

    def is_key_hash(self, stored: bytes, secret: str) -> bool:
        """Whether *stored* was made of *secret*, with any pepper: one that is not `key_hash` should be renewed."""
        hashes = [hmac.digest(pepper, secret.encode(), "sha256") for pepper, _ in self._derived.values()]
        return any([hmac.compare_digest(stored, made) for made in hashes])

    def lookup_hashes(self, secret: str) -> list[bytes]:
        """What *secret* is found by where it is not to be opened: made with each key, the newest first."""
        return [
            hmac.digest(pepper, b"lookup\0" + secret.encode(), "sha256")[:16] for pepper, _ in self._derived.values()
        ]

    def fingerprint(self, secret: str) -> str:
        """What may be shown and audited of a secret: enough to tell two apart, nothing to guess it from."""
        digest = hmac.digest(self._pepper, secret.encode(), "sha256").hex()[:8]
        return f"…{secret[-4:]} ({digest})" if len(secret) >= 16 else f"… ({digest})"

    def masked_url(self, url: str) -> str:
        """What may be shown and audited of an address: its path and query may hold credentials."""
        parts = urlsplit(url)
        digest = hmac.digest(self._pepper, url.encode(), "sha256").hex()[:8]
        return f"{parts.scheme}://{parts.netloc}/… ({digest})"


def _encryption_keys(text: str) -> dict[str, bytes]:
    """INGRESS_ENCRYPTION_KEYS by their ids, the newest first. Raises `VaultError`."""
    entries = [_encryption_key(entry.strip()) for entry in text.split(",") if entry.strip()]
    if not entries:
        raise VaultError("no encryption key")
    if len(dict(entries)) < len(entries):
        raise VaultError("two encryption keys have the same id")
    return dict(entries)


def _encryption_key(entry: str) -> tuple[str, bytes]:
    key_id, _, encoded = entry.partition(":")
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError:
        key = b""
    if not _ENCRYPTION_KEY_ID.fullmatch(key_id) or len(key) != 32:
        raise VaultError("each encryption key is `id:base64 of 32 bytes`")
    return key_id, key


def _derived(key: bytes) -> _Derived:
    return _Derived(
        hmac.digest(key, b"whatsapp-ingress pepper", "sha256"), hmac.digest(key, b"whatsapp-ingress audit", "sha256")
    )


def sealed_with(record: bytes) -> str:
    """The id of the key that `Vault.seal` made *record* with."""
    return record[2 : 2 + record[1]].decode("ascii", "replace") if len(record) > 1 else ""


def signed_with(record: bytes) -> str:
    """The id of the key that `Vault.sign` made *record* with."""
    return record[1 : 1 + record[0]].decode("ascii", "replace") if record else ""


def _known(keys: Mapping[str, Key], key_id: bytes, done: str) -> Key:
    key = keys.get(key_id.decode("ascii", "replace"))
    if key is None:
        raise VaultError(f"{done} with a key that is not in INGRESS_ENCRYPTION_KEYS")
    return key


def _associated(place: Sequence[str]) -> bytes:
    return "\x1f".join([str(RECORD_VERSION), *place]).encode()


def new_api_key(environment: str) -> tuple[str, str, str]:
    """(id, secret, whole key). The checksum at the end refuses a mistyped key before the database is asked."""
    key_id = secrets.token_hex(KEY_ID_LENGTH // 2)
    secret = secrets.token_urlsafe(32)
    head = f"ingress_{environment}_{key_id}_{secret}"
    return key_id, secret, head + _checksum(head)


def is_key_id(text: str) -> bool:
    return _KEY_ID.fullmatch(text) is not None


def split_api_key(key: str) -> tuple[str, str] | None:
    """(id, secret) of a key that is well-formed, else None."""
    head, checksum = key[:-6], key[-6:]
    if not hmac.compare_digest(checksum.encode("utf-8", "replace"), _checksum(head).encode()):
        return None
    match head.split("_", 3):
        case ["ingress", _, key_id, secret] if is_key_id(key_id):
            return key_id, secret
    return None


def _checksum(head: str) -> str:
    return f"{zlib.crc32(head.encode('utf-8', 'replace')):08x}"[-6:]


def new_webhook_token() -> str:
    """256 random bits, for the path of a config's webhook."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
