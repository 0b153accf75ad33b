"""What an organization learns of the network that the service is in by naming addresses: nothing."""

import socket
from time import monotonic
from typing import Any

import pytest

from ingress.calls import driver
from ingress.dev.sandbox import example_number

from ..gateway import Gateway, Organization

NAMES = ("unknown.test", "internal.test", "closed.test")
CONFIG = "/integrations/whatsapp/provider"


def configurations(url: str) -> list[dict[str, Any]]:
    twilio = {"account_sid": f"AC{'0' * 32}", "auth_token": "t", "phone_number": "+15550001111", "base_url": url}
    waha = {"base_url": url, "api_key": "k", "hmac_key": "h"}
    return [
        {"provider_type": "meta_business", "config_data": example_number(902).config_data(url)},
        {"provider_type": "twilio_whatsapp", "config_data": twilio},
        {"provider_type": "whatsapp_web", "config_data": waha},
    ]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch, free_port: int) -> int:
    """One name is not there, one is of a machine that may not be called, at one nothing listens."""
    resolve = socket.getaddrinfo

    def resolved(host: Any, *rest: Any, **more: Any) -> Any:
        if host == "unknown.test":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if host in NAMES:
            address = "10.0.0.5" if host == "internal.test" else "127.0.0.1"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, free_port))]
        return resolve(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setattr(driver, "UNREACHED_AFTER_S", 0.2)
    monkeypatch.setattr("ingress.api.callback.UNREACHED_AFTER_S", 0.2)
    return free_port


async def asked(organization: Organization, method: str, path: str, body: Any) -> tuple[Any, float]:
    """The answer without what is new in each, and how long it took."""
    began = monotonic()
    answer = await organization.call(method, path, body)
    took_s = monotonic() - began
    answers = {name: value for name, value in answer.json.items() if name not in ("request_id", "id")}
    return (answer.status, answers), took_s


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["meta_business", "twilio_whatsapp", "whatsapp_web"])
async def test_no_address_says_what_is_behind_it(gateway: Gateway, names: int, kind: int) -> None:
    """Not found, not allowed, not listening: the same answer of each call, and none of them sooner than another."""
    organization = await gateway.organization()
    for path in ("test", "configure", "switch"):
        answers = []
        for name in NAMES:
            body = configurations(f"http://{name}:{names}")[kind]
            answer, took_s = await asked(organization, "POST", f"{CONFIG}/{path}", body)
            assert took_s >= 0.2
            answers.append(answer)
        assert answers[0] == answers[1] == answers[2], path
        assert not any(name in repr(answers) for name in NAMES)


async def test_a_callback_says_it_neither(gateway: Gateway, names: int) -> None:
    organization = await gateway.organization()
    answers = []
    for name in NAMES:
        assert (await organization.call("PUT", "/callback", {"url": f"http://{name}:{names}/x"})).status == 200
        answer, took_s = await asked(organization, "POST", "/callback/test", None)
        assert took_s >= 0.2
        answers.append(answer)
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][1]["outcome"] == "connection"
