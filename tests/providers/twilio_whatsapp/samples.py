"""The samples of Twilio, read from `tests/samples/twilio_whatsapp`."""

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec

from providers import Webhook
from providers.twilio_whatsapp import TwilioWhatsApp

SAMPLES = Path(__file__).parents[2] / "samples" / "twilio_whatsapp"
AUTH_TOKEN = "5d1f8c0e7ab94263b1d07c9ae4f2365b"
ACCOUNT = TwilioWhatsApp(
    account_sid="AC7F3A9C2E5B1D48060F9E8D7C6B5A4938",
    auth_token=AUTH_TOKEN,
    phone_number="+15005550199",
    shared_key_id="webhooks_sharedkey_01k6zq3m9v8tfixture",
    shared_key_secret="shk_invented_Qm2v9Lx7Rt4Wz0Pd8Ns3",
)
SERVICE = "MG2c4e6a8b0d1f3579bdf02468ace13579"
IN_SERVICE = msgspec.structs.replace(ACCOUNT, messaging_service_sid=SERVICE)
ANY_OF_SERVICE = msgspec.structs.replace(IN_SERVICE, phone_number=None)
URL = "https://gw.example.com/hooks/twilio_whatsapp/acme"
FORM = "application/x-www-form-urlencoded; charset=UTF-8"

Pairs = list[tuple[str, str]]


def names(pattern: str) -> list[str]:
    """The samples that match *pattern*, without their expectations."""
    stems = (path.stem for path in SAMPLES.glob(f"{pattern}.json"))
    return sorted(stem for stem in stems if not stem.endswith(".expected"))


def sample(name: str) -> Any:
    return json.loads((SAMPLES / f"{name}.json").read_bytes())


def account_of(name: str) -> TwilioWhatsApp:
    """The account that the request of a send is of, so far as its form says so."""
    form = dict((sample(name)["http_request"] or {}).get("form", []))
    if "MessagingServiceSid" not in form:
        return ACCOUNT
    return IN_SERVICE if "From" in form else ANY_OF_SERVICE


def pairs(name: str) -> Pairs:
    return [(key, value) for key, value in sample(name)["form"]]


def hook_of(case: dict[str, Any]) -> Webhook:
    """The request a sample describes, byte for byte."""
    content = case["body"] if "body" in case else urlencode([tuple(pair) for pair in case["form"]])
    headers = {name.lower(): value for name, value in case["headers"].items()}
    return Webhook(method=case["method"], url=case["url"], headers=headers, body=content.encode())


def hook(name: str) -> Webhook:
    return hook_of(sample(name))


def form(fields: Pairs | dict[str, str], url: str = URL) -> Webhook:
    """An unsigned form."""
    return Webhook(method="POST", url=url, headers={"content-type": FORM}, body=urlencode(fields).encode())


def batch(*items: Any) -> Webhook:
    """An unsigned batch out of Event Streams."""
    body = json.dumps(items).encode()
    return Webhook(method="POST", url=URL, headers={"content-type": "application/json"}, body=body)


def signed(fields: Pairs, url: str = URL, token: str = AUTH_TOKEN) -> Webhook:
    """A form signed as the contract says, written a second time from its words."""
    text = url + "".join(name + value for name, value in sorted(set(fields)))
    signature = base64.b64encode(hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()).decode()
    unsigned = form(fields, url)
    headers = {**unsigned.headers, "x-twilio-signature": signature}
    return Webhook(method="POST", url=url, headers=headers, body=unsigned.body)
