"""Who may post Twilio's webhooks."""

import base64
import hashlib
import hmac
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest

from providers import Unverified, Webhook
from providers.signing import verify_hmac_base64

from .samples import ACCOUNT, AUTH_TOKEN, FORM, URL, form, hook, pairs, sample, signed

VECTORS: list[dict[str, Any]] = sample("vectors_signature")
SETTINGS = "x-twilio-webhooks-signature-settings"
SHARED = f"key={ACCOUNT.shared_key_id}"


def refused(hook: Webhook, account: Any = ACCOUNT) -> bool:
    try:
        account.verify(hook)
    except Unverified:
        return True
    return False


def with_header(hook: Webhook, name: str, value: str | None) -> Webhook:
    headers = {key: held for key, held in hook.headers.items() if key != name}
    return msgspec.structs.replace(hook, headers=headers if value is None else {**headers, name: value})


def vector_hook(vector: dict[str, Any], signature: str) -> Webhook:
    if "body" in vector:
        body, kind = vector["body"].encode(), "application/json"
    else:
        body, kind = urlencode([tuple(pair) for pair in vector["form"]]).encode(), FORM
    headers = {"x-twilio-signature": signature, "content-type": kind}
    if "algorithm" in vector:
        headers[SETTINGS] = f"key=k1,algorithm={vector['algorithm']}"
    return Webhook(method="POST", url=vector["url"], headers=headers, body=body)


def vector_account(vector: dict[str, Any]) -> Any:
    key = vector["key"]
    if "algorithm" in vector:
        return msgspec.structs.replace(ACCOUNT, shared_key_id="k1", shared_key_secret=key)
    return msgspec.structs.replace(ACCOUNT, auth_token=key)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_worked_vectors(vector: dict[str, Any]) -> None:
    """Computed with the official SDK: both spellings of the port pass, typical mistakes do not."""
    account = vector_account(vector)
    for signature in (vector["signature"], *vector["also_accept"]):
        account.verify(vector_hook(vector, signature))
    for signature in vector["must_not_match"]:
        assert refused(vector_hook(vector, signature), account)


def test_one_byte_appended_to_a_batch_is_refused() -> None:
    """The URL's signature stays good; the digest in it does not."""
    vector = next(vector for vector in VECTORS if "body" in vector)
    genuine = vector_hook(vector, vector["signature"])
    assert refused(msgspec.structs.replace(genuine, body=genuine.body + b" "), vector_account(vector))


def test_a_flipped_character_of_the_signature_is_refused() -> None:
    """Each of them, and one more, one less, none, and what is no ASCII."""
    genuine = hook("msg_text_basic")
    signature = genuine.headers["x-twilio-signature"]
    wrong = [signature[:index] + "é" + signature[index + 1 :] for index in range(len(signature))]
    wrong += [signature.swapcase(), signature + "=", signature[:-1], "", " " * 28, "\ud800" * 28]
    for given_signature in wrong:
        assert refused(with_header(genuine, "x-twilio-signature", given_signature))
    assert refused(with_header(genuine, "x-twilio-signature", None))


@pytest.mark.parametrize(
    "url",
    [f"{URL}/", f"{URL}?", URL.upper(), URL.replace("https", "http"), f"{URL}?a=1", "not a url", "", "https://[/x"],
)
def test_another_address_is_another_signature(url: str) -> None:
    """The address is signed, so a webhook cannot be replayed to another one. Only an empty query is as good as none."""
    assert refused(msgspec.structs.replace(hook("msg_text_basic"), url=url)) is (url != f"{URL}?")


@pytest.mark.parametrize(
    ("url", "signed_as"),
    [
        ("https://gw.example.com/x", "https://gw.example.com:443/x"),
        ("https://gw.example.com:443/x", "https://gw.example.com/x"),
        ("http://gw.example.com/x?a=%2F", "http://gw.example.com:80/x?a=%2F"),
        ("https://gw.example.com:8443/x?b=1+2", "https://gw.example.com/x?b=1+2"),
        ("https://[2001:db8::1]:8443/x", "https://[2001:db8::1]/x"),
        ("https://[2001:db8::1]/x", "https://[2001:db8::1]:443/x"),
        ("https://user:pass@gw.example.com/x", "https://user:pass@gw.example.com:443/x"),
        ("https://gw.example.com", "https://gw.example.com:443"),
        ("https://gw.example.com/x?", "https://gw.example.com/x"),
        ("https://gw.example.com/x#rc=5&rp=all", "https://gw.example.com/x"),
        ("https://gw.example.com/x?t=a:1/b@c", "https://gw.example.com:443/x?t=a:1/b@c"),
    ],
)
def test_spellings_of_one_address(url: str, signed_as: str) -> None:
    """Twilio is inconsistent about ports, drops an empty query, and never signs the fragment."""
    genuine = signed(pairs("msg_text_basic"), signed_as)
    ACCOUNT.verify(msgspec.structs.replace(genuine, url=url))


def test_both_tokens_of_a_rotation_pass() -> None:
    """Whichever Twilio signs with at the moment."""
    account = msgspec.structs.replace(ACCOUNT, auth_token="new" * 8, auth_token_secondary=AUTH_TOKEN)
    account.verify(hook("msg_text_basic"))
    account.verify(signed(pairs("msg_text_basic"), token="new" * 8))
    assert refused(signed(pairs("msg_text_basic"), token="other" * 8), account)


@pytest.mark.parametrize(
    "value",
    [
        "",
        ",",
        "key",
        "algorithm=HMAC_SHA256",
        "key=,algorithm=HMAC_SHA1",
        "key=unknown",
        f"{SHARED},algorithm=none",
        f"{SHARED},algorithm=",
        f"{SHARED},{SHARED}",
        "algorithm=HMAC_SHA1,algorithm=HMAC_SHA1",
        f"{SHARED},algorithm=HMAC_SHA1",
        "\ud800",
    ],
)
def test_the_settings_header_weakens_nothing(value: str) -> None:
    """Malformed, unknown or mixed settings are refused, also beside a good signature with the Auth Token."""
    assert refused(with_header(hook("msg_text_basic"), SETTINGS, value))


@pytest.mark.parametrize("value", ["algorithm=HMAC_SHA1", "algorithm=hmac_sha1", " Algorithm = HMAC_SHA1 "])
def test_settings_that_say_the_usual(value: str) -> None:
    """The Auth Token with SHA-1, named in the header."""
    ACCOUNT.verify(with_header(hook("msg_text_basic"), SETTINGS, value))


def test_a_shared_key_that_is_not_configured_is_unknown() -> None:
    """Not even by an empty id."""
    account = msgspec.structs.replace(ACCOUNT, shared_key_id=None, shared_key_secret=None)
    assert refused(hook("msg_shared_key_sha256"), account)
    assert refused(with_header(hook("msg_shared_key_sha256"), SETTINGS, "key=,algorithm=HMAC_SHA256"), account)


@pytest.mark.parametrize("kind", ["application/json", "text/plain", ""])
def test_a_body_that_is_no_form_needs_its_digest_in_the_address(kind: str) -> None:
    """Else the signature of an address would be good for any body."""
    bare = signed([])
    ACCOUNT.verify(bare)
    assert refused(msgspec.structs.replace(with_header(bare, "content-type", kind), body=b"[]"))


def test_a_batch_signed_with_the_shared_key() -> None:
    """The key and the hash differ, the text does not."""
    body = b"[]"
    url = f"{URL}?bodySHA256={hashlib.sha256(body).hexdigest()}"
    genuine = signed([], url, ACCOUNT.shared_key_secret or "")
    genuine = with_header(msgspec.structs.replace(genuine, body=body), "content-type", "application/json")
    ACCOUNT.verify(with_header(genuine, SETTINGS, SHARED))
    assert refused(genuine)


def test_the_shape_of_a_form_may_vary() -> None:
    """Order of fields, case of hex digits, a missing content type; repeated pairs count once."""
    fields = pairs("msg_unknown_fields")
    genuine = signed(fields)
    shuffled = form(fields[::-1] + fields[-3:]).body
    for body in (shuffled, genuine.body.replace(b"%3A", b"%3a"), b"&" + genuine.body + b"&&"):
        ACCOUNT.verify(msgspec.structs.replace(genuine, body=body))
    ACCOUNT.verify(with_header(genuine, "content-type", None))


def test_a_name_that_has_swallowed_its_value_is_refused() -> None:
    """The signed text has no mark between the two, so only a form that has them apart is taken."""
    genuine = hook("msg_text_basic")
    assert refused(msgspec.structs.replace(genuine, body=genuine.body.replace(b"NumMedia=0", b"NumMedia0")))


def test_bytes_that_are_no_text_can_be_signed() -> None:
    """The signature is over the bytes, however they read."""
    digest = hmac.new(AUTH_TOKEN.encode(), URL.encode() + b"Body\xff\xfe\x00", "sha1").digest()
    headers = {"content-type": FORM, "x-twilio-signature": base64.b64encode(digest).decode()}
    ACCOUNT.verify(Webhook(method="POST", url=URL, headers=headers, body=b"Body=%FF%fe%00"))


def test_thousands_of_fields_are_refused_unread() -> None:
    """Whoever sends them is not Twilio, and to sort them costs time."""
    assert refused(signed([(f"n{index}", "") for index in range(2000)]))


def test_an_empty_secret_signs_nothing() -> None:
    """Not even what is signed with it."""
    genuine = signed(pairs("msg_text_basic"), token="")
    with pytest.raises(Unverified):
        verify_hmac_base64([""], [b"x"], genuine.headers["x-twilio-signature"], "sha1")


def test_twilio_makes_no_handshake() -> None:
    """Whatever the method; and it is answered with an empty TwiML document, or people would get the answer."""
    assert ACCOUNT.challenge(Webhook(method="GET", url=URL, headers={})) is None
    assert ACCOUNT.challenge(hook("msg_text_basic")) is None
    answer = ACCOUNT.acknowledgement
    assert (answer.status, answer.headers["content-type"]) == (200, "text/xml")
    assert answer.body == b'<?xml version="1.0" encoding="UTF-8"?><Response/>'
