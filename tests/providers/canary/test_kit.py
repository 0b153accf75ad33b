"""The provider kit over the canary, and who sees it."""

import msgspec

from providers import Registry, Webhook
from providers.canary import Canary
from providers.canary.provider import SIGNATURE, TIME
from providers.signing import hmac_hex
from providers.testing import ProviderContract, Samples, WebhookCase

SECRET, POSTED_AT = "canary-secret", 1793801400
CONTACT = {"user_id": "canary", "name": "Canary"}
MESSAGE = {"provider_message_id": "0a", "content": {"type": "text", "body": "Canary"}}


def hook(body: bytes) -> Webhook:
    return Webhook(method="POST", url="https://gw.example.org/hook", headers={TIME: str(POSTED_AT)}, body=body)


def signed(hook: Webhook, secret: str = SECRET) -> Webhook:
    signature = hmac_hex(secret, hook.headers[TIME].encode() + b"." + hook.body, "sha256")
    return msgspec.structs.replace(hook, headers={**hook.headers, SIGNATURE: signature})


def malformed(name: str, body: bytes) -> WebhookCase:
    return WebhookCase(name=name, hook=hook(body), error="Malformed")


class TestCanary(ProviderContract):
    provider = Canary(signing_secret=SECRET)
    samples = Samples(
        webhooks=[
            WebhookCase(
                name="message",
                hook=hook(b'{"id":"0a"}'),
                events=[
                    {
                        "type": "message.received",
                        "key": "0a",
                        "contact": CONTACT,
                        "occurred_at": "2026-11-04T14:10:00Z",
                        "message": MESSAGE,
                        "raw": {"id": "0a"},
                    }
                ],
            ),
            WebhookCase(name="forged", hook=signed(hook(b'{"id":"0a"}'), "another"), error="Unverified"),
            malformed("no id of ours", b'{"id":"\\u0000"}'),
            malformed("no object", b"[]"),
            malformed("no JSON", b"{"),
        ]
    )

    def sign(self, hook: Webhook) -> Webhook:
        return signed(hook)

    def check_registered(self) -> None:
        """Where it is asked for."""
        assert Registry(canary=True).get("canary") is Canary


def test_no_list_shows_it_unless_it_is_asked_for() -> None:
    assert "canary" not in Registry().names()
    assert set(Registry(canary=True).names()) - set(Registry().names()) == {"canary"}


def test_a_message_is_signed_as_it_is_verified() -> None:
    request = Canary(signing_secret=SECRET).message("https://gw.example.org/hook", "0a", POSTED_AT)
    assert Webhook(method="POST", url=request.url, headers=request.headers, body=request.body) == signed(
        hook(request.body)
    )
    assert request.body == b'{"id":"0a"}'
