"""The samples of WAHA, read from `tests/samples/whatsapp_web`."""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from providers import Response, Webhook
from providers.whatsapp_web import WhatsAppWeb

SAMPLES = Path(__file__).parents[2] / "samples" / "whatsapp_web"
ROOT = "https://waha.internal.example:3443"
API_KEY = "waha-fixture-api-key-01"
HMAC_KEY = "waha-fixture-hmac-key-7c1e9f"
CALLBACK = "https://gw.example.com/hooks/whatsapp_web/acme"
ACCOUNT = WhatsAppWeb(base_url=ROOT, api_key=API_KEY, hmac_key=HMAC_KEY, session="acme")


def names(pattern: str) -> list[str]:
    """The samples that match *pattern*, without their expectations."""
    stems = (path.stem for path in SAMPLES.glob(f"{pattern}.json"))
    return sorted(stem for stem in stems if not stem.endswith(".expected"))


def sample(name: str) -> Any:
    return json.loads((SAMPLES / f"{name}.json").read_bytes())


def answers_of(name: str) -> list[Response]:
    """What real servers answered, as it was recorded: one file may have the answers to several calls."""
    case = json.loads((SAMPLES / "recorded" / f"{name}.json").read_bytes())
    bodies = case["body"] if isinstance(case["body"], list) else [case["body"]]
    return [Response(status=case["status"], body=json.dumps(body).encode()) for body in bodies]


def body(name: str) -> bytes:
    """The body of a webhook, byte for byte."""
    content: str = sample(name)["body"]
    return content.encode()


def hook(name: str) -> Webhook:
    """A webhook with the headers and the bytes of its sample."""
    headers = {header.lower(): value for header, value in sample(name)["headers"].items()}
    return Webhook(method=sample(name)["method"], url=CALLBACK, headers=headers, body=body(name))


def signed(content: bytes, key: str = HMAC_KEY) -> Webhook:
    digest = hmac.new(key.encode(), content, hashlib.sha512).hexdigest()
    return Webhook(method="POST", url=CALLBACK, headers={"x-webhook-hmac": digest}, body=content)
