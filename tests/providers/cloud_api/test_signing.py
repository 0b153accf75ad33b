"""Who may post webhooks, and who may set their address."""

import base64
from typing import Any

import msgspec
import pytest

from providers import Unverified, Webhook

from .samples import ACCOUNT, APP_SECRET, compact, names, sample, signed

VECTORS = sample("signature_vectors")
HANDSHAKES = sample("verify_handshake")
URL = "https://gw.example.org/webhooks/meta_business/token"


def name_of(case: dict[str, Any]) -> str:
    return str(case["name"])


@pytest.mark.parametrize("case", VECTORS, ids=name_of)
def test_signature_vectors(case: dict[str, Any]) -> None:
    """Valid ones pass, all others are Unverified, whatever is wrong with them."""
    current, *previous = case["app_secrets"]
    account = msgspec.structs.replace(
        ACCOUNT, app_secret=current, app_secret_previous=previous[0] if previous else None
    )
    headers = {name.lower(): value for name, value in case["headers"].items()}
    hook = Webhook(method="POST", url=URL, headers=headers, body=base64.b64decode(case["body_base64"]))
    if case["valid"]:
        account.verify(hook)
    else:
        with pytest.raises(Unverified):
            account.verify(hook)


@pytest.mark.parametrize("name", names("in_text_*"))
def test_samples_signed_with_another_secret_are_refused(name: str) -> None:
    """Another app's secret, and no secret at all."""
    for secret in ("other", APP_SECRET.upper()):
        with pytest.raises(Unverified):
            ACCOUNT.verify(signed(compact(name), secret))


def test_upper_case_hex_is_the_same_signature() -> None:
    """Hex digits have no case."""
    hook = signed(b"{}")
    digest = hook.headers["x-hub-signature-256"].removeprefix("sha256=").upper()
    ACCOUNT.verify(msgspec.structs.replace(hook, headers={"x-hub-signature-256": f"sha256={digest}"}))


@pytest.mark.parametrize("case", HANDSHAKES, ids=name_of)
def test_handshakes(case: dict[str, Any]) -> None:
    """Status, exact body, and headers that keep a browser from reading the reflected text as a page."""
    account = msgspec.structs.replace(ACCOUNT, verify_token=case["configured_token"])
    hook = Webhook(method="GET", url=f"{URL}?{case['query_string']}", headers={})
    answer = account.challenge(hook)
    assert answer is not None
    assert answer.status == case["status"]
    if case["body"] is not None:
        assert answer.body.decode() == case["body"]
    if case["content_type_prefix"]:
        assert answer.headers["content-type"].startswith(case["content_type_prefix"])
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_post_is_no_handshake() -> None:
    """Whatever its query says."""
    hook = Webhook(method="POST", url=f"{URL}?hub.mode=subscribe", headers={})
    assert ACCOUNT.challenge(hook) is None
