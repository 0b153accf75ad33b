"""A test of an account shows each check as it is done."""

from typing import Any

import pytest

from ingress.accounts.accounts import Accounts
from ingress.accounts.config import TestFailed
from ingress.calls.driver import Caller
from ingress.storage.vault import Vault, generate_key
from providers import Registry, Request, Response, WhatsAppProvider

from ..providers.flows import answered

CLOUD: dict[str, Any] = {"phone_number_id": "1", "waba_id": "2", "access_token": "t", "app_secret": "s" * 32}
TWILIO: dict[str, Any] = {
    "account_sid": f"AC{'0' * 32}",
    "auth_token": "t" * 32,
    "phone_number": "+15550001111",
}
WAHA: dict[str, Any] = {"base_url": "http://waha.test", "api_key": "k", "hmac_key": "h" * 16}
CONFIGURATIONS = [("meta_business", CLOUD), ("twilio_whatsapp", TWILIO), ("whatsapp_web", WAHA)]


class Recorder(Caller):
    """Answers every call with *answer*, and notes calls and checks in their order."""

    def __init__(self, answer: Response) -> None:
        self.answer = answer
        self.seen: list[str] = []

    async def unhurried(self, request: Request, remaining_s: float) -> Response:
        self.seen.append("call")
        return self.answer


def account(kind: str, data: dict[str, Any], caller: Caller) -> tuple[Accounts, WhatsAppProvider]:
    accounts = Accounts(Registry(), Vault(generate_key()), caller, _Anywhere(), "")
    return accounts, accounts.validate(kind, {"verify_token": "v", **data} if kind == "meta_business" else data)


class _Anywhere:
    def check_url(self, url: str) -> None:
        """Every address may be called."""


OK = {"status": "active", "verified_name": "Acme", "data": [], "senders": [], "name": "default", "version": "2026.8.2"}


@pytest.mark.parametrize(("kind", "data"), CONFIGURATIONS)
async def test_a_check_is_shown_before_the_next_call_is_made(kind: str, data: dict[str, Any]) -> None:
    """And each once, in the order of the result."""
    caller = Recorder(answered(OK))
    accounts, provider = account(kind, data, caller)
    caller.seen.clear()
    try:
        checks = await accounts.checks(provider, None, lambda check: caller.seen.append(check.name))
    except TestFailed as error:
        checks = list(error.checks)
    first = next(place for place, seen in enumerate(caller.seen) if seen != "call")
    assert "call" in caller.seen[first:], "all calls were made before anything was shown"
    shown = [seen for seen in caller.seen if seen != "call"]
    assert shown == [check.name for check in checks][: len(shown)]


async def test_what_a_provider_does_not_report_is_shown_at_the_end() -> None:
    """And what fails is shown before it is refused."""
    caller, shown = Recorder(Response(status=401, body=b"{}")), list[str]()
    accounts, provider = account("twilio_whatsapp", TWILIO, caller)
    with pytest.raises(TestFailed) as refused:
        await accounts.test(provider, None, lambda check: shown.append(check.name))
    assert shown == [check.name for check in refused.value.checks]
