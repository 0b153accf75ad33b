"""The contract of a provider as tests: an author brings samples, and gets the checks that the built-in ones pass.

In a test file of the plug-in, for pytest with hypothesis (``pip install whatsapp-ingress[testing]``)::

    import hashlib
    import hmac
    from pathlib import Path

    import msgspec
    from my_provider import MyProvider
    from providers import Webhook
    from providers.testing import ProviderContract, Samples

    SAMPLES = Samples(Path(__file__).parent / "samples")

    class TestMine(ProviderContract):
        provider = SAMPLES.account(MyProvider)
        samples = SAMPLES

        def sign(self, hook: Webhook) -> Webhook:
            digest = hmac.new(b"the secret of the account", hook.body, hashlib.sha256).hexdigest()
            return msgspec.structs.replace(hook, headers={**hook.headers, "x-signature": digest})

How samples are written: `providers.testing.samples`. What is checked: `providers.testing.contract`. How often the
tests that make up their input do so is the environment's ``CONTRACT_EXAMPLES``. Without pytest, and without what
needs a signature, ``ingress providers check NAME --samples FOLDER`` does the same.
"""

from typing import TYPE_CHECKING, Any

from .comparing import ContractBroken, differences
from .contract import Contract
from .messages import example
from .samples import (
    DocumentedError,
    Exchange,
    ExpectedError,
    ExpectedRequest,
    FlowCase,
    SampleError,
    Samples,
    WebhookCase,
)

if TYPE_CHECKING:
    from .suite import ProviderContract

__all__ = [
    "Contract",
    "ContractBroken",
    "DocumentedError",
    "Exchange",
    "ExpectedError",
    "ExpectedRequest",
    "FlowCase",
    "ProviderContract",
    "SampleError",
    "Samples",
    "WebhookCase",
    "differences",
    "example",
]


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: `ingress providers check` runs where there is no pytest.
    if name == "ProviderContract":
        from .suite import ProviderContract

        return ProviderContract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
