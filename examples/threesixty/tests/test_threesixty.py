"""360dialog keeps the contract of a provider."""

import hashlib
import hmac
from pathlib import Path

import msgspec
from threesixty import ThreeSixty

from providers import Webhook
from providers.testing import ProviderContract, Samples

SAMPLES = Samples(Path(__file__).parent / "samples")


class TestThreeSixty(ProviderContract):
    provider = SAMPLES.account(ThreeSixty)
    samples = SAMPLES

    def sign(self, hook: Webhook) -> Webhook:
        digest = hmac.new(b"ts-platform-secret", hook.body, hashlib.sha256).hexdigest()
        return msgspec.structs.replace(hook, headers={**hook.headers, "x-360dialog-signature": digest})
