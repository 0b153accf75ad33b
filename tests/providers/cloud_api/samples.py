"""The samples of the WhatsApp Cloud API, read from `tests/samples/meta_business`."""

import hashlib
import hmac
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from providers import Event, Webhook
from providers.meta_business import MetaBusiness

SAMPLES = Path(__file__).parents[2] / "samples" / "meta_business"
APP_SECRET = "0123456789abcdef0123456789abcdef"
ACCOUNT = MetaBusiness(
    access_token="TEST_ACCESS_TOKEN",
    phone_number_id="109876543210987",
    waba_id="210987654321098",
    app_secret=APP_SECRET,
    verify_token="my-verify-token",
)


def names(pattern: str) -> list[str]:
    """The samples that match *pattern*, without their expectations."""
    stems = (path.stem for path in SAMPLES.glob(f"{pattern}.json"))
    return sorted(stem for stem in stems if not stem.endswith(".expected"))


def sample(name: str) -> Any:
    return json.loads((SAMPLES / f"{name}.json").read_bytes())


def body(name: str) -> bytes:
    return (SAMPLES / f"{name}.json").read_bytes()


def compact(name: str) -> bytes:
    """The body as Meta writes it: no spaces, ASCII only, slashes escaped."""
    return json.dumps(sample(name), separators=(",", ":")).replace("/", "\\/").encode()


def facts(events: Iterable[Event]) -> list[tuple[Event, Any]]:
    """*events* and what their ``raw`` says, however it is written."""
    return [(msgspec.structs.replace(event, raw=None), json.loads(bytes(event.raw))) for event in events]


def signed(content: bytes, secret: str = APP_SECRET) -> Webhook:
    digest = hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()
    return Webhook(
        method="POST",
        url="https://gw.example.org/webhooks/meta_business/token",
        headers={"x-hub-signature-256": f"sha256={digest}"},
        body=content,
    )
