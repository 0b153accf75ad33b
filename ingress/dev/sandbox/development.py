"""What `ingress run` adds: simulators, and an organization that uses them, set up through the service's own API."""

import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from ...settings import Settings
from ..embedded.folder import write_private
from .crm.simulator import CrmSimulator
from .listener import HOST
from .meta.bodies import MetaNumber, encode, envelope, example_number, signature
from .meta.simulator import MetaSimulator
from .twilio.bodies import example_sender
from .twilio.simulator import TwilioSimulator
from .waha.bodies import example_session
from .waha.simulator import WahaSimulator


class SimulatedAccount(msgspec.Struct, frozen=True):
    """One simulated account: what configures it, and how its simulator learns where its webhooks go."""

    provider: str
    name: str
    config_data: dict[str, Any]
    point_to: Callable[[str], Awaitable[None]]

    def __repr__(self) -> str:
        return f"SimulatedAccount({self.provider!r})"


class Development:
    """A development organization with an account at each provider, two at Meta's: the active one and the first to fall
    back to. Its facts are kept in `dev.json` between runs.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = Path(settings.data_dir) / "dev.json"
        self._url = settings.origin

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Simulators up and dev.json written, until the service stops."""
        former = self._former()
        ports = former.get("sandbox", {})
        async with (
            MetaSimulator(port=_free(ports.get("meta_port", 0))) as meta,
            TwilioSimulator(port=_free(ports.get("twilio_port", 0))) as twilio,
            WahaSimulator(port=_free(ports.get("waha_port", 0))) as waha,
            CrmSimulator(port=_free(ports.get("crm_port", 0))) as crm,
            aiohttp.ClientSession(headers={"authorization": f"Bearer {self._settings.platform_key}"}) as session,
        ):
            facts = await self._organization(session, former)
            numbers = [await _meta(meta, index, port) for index, port in enumerate(_meta_ports(former), 1)]
            accounts = [*numbers, await _twilio(twilio), await _waha(waha)]
            facts["configs"] = await self._configs(session, facts, former, accounts)
            facts["sandbox"] = {"crm_url": crm.url}
            for name, simulator in (("meta", meta), ("twilio", twilio), ("waha", waha), ("crm", crm)):
                facts["sandbox"] |= {
                    f"{name}_port": urlsplit(simulator.url).port,
                    f"{name}_control_url": simulator.control_url,
                }
            write_private(self._path, json.dumps(facts, indent=2) + "\n")
            sys.stdout.write(_welcome(facts, self._settings, self._path, await self._last_sequence(session, facts)))
            sys.stdout.flush()
            yield

    def _former(self) -> dict[str, Any]:
        """dev.json of a former run on the same database, else nothing."""
        try:
            former: dict[str, Any] = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return former

    async def _organization(self, session: aiohttp.ClientSession, former: dict[str, Any]) -> dict[str, Any]:
        if former:
            headers = {"authorization": f"Bearer {former['api_key']}"}
            async with session.get(f"{self._url}/messages?limit=1", headers=headers) as answer:
                if answer.status == 200:
                    kept = {name: former[name] for name in ("organization_id", "api_key")}
                    return {"url": self._url, "platform_key": self._settings.platform_key, **kept}
        organization = await self._post(session, "/organizations", {"name": "Development"})
        scopes = ["send", "read", "configure", "admin"]
        headers = {"x-org-id": organization["id"]}
        key = await self._post(session, "/keys", {"name": "development", "scopes": scopes}, headers)
        return {
            "url": self._url,
            "platform_key": self._settings.platform_key,
            "organization_id": organization["id"],
            "api_key": key["key"],
        }

    async def _configs(
        self,
        session: aiohttp.ClientSession,
        facts: dict[str, Any],
        former: dict[str, Any],
        accounts: list[SimulatedAccount],
    ) -> list[dict[str, Any]]:
        """The configs of a former run if their providers are where they look for them, else new ones."""
        kept: list[dict[str, Any]] = former.get("configs", [])
        same = [(config["provider"], config["base_url"]) for config in kept] == [
            (account.provider, account.config_data["base_url"]) for account in accounts
        ] and all(config["webhook_url"].startswith(f"{self._url}/") for config in kept)
        if same and former.get("organization_id") == facts["organization_id"]:
            for account, config in zip(accounts, kept, strict=True):
                await account.point_to(config["webhook_url"])
            return kept
        headers = {"x-org-id": facts["organization_id"]}
        return [await self._configure(session, headers, account, account is accounts[0]) for account in accounts]

    async def _configure(
        self, session: aiohttp.ClientSession, headers: dict[str, str], account: SimulatedAccount, active: bool
    ) -> dict[str, Any]:
        body = {
            "provider_type": account.provider,
            "name": account.name,
            "config_data": account.config_data,
            "is_active": active,
        }
        made = await self._post(session, "/integrations/whatsapp/provider/configure", body, headers)
        await account.point_to(made["webhook_url"])
        facts = {"config_id": made["config_id"], "webhook_url": made["webhook_url"], "active": active}
        return {"provider": account.provider, **facts, **account.config_data}

    async def _last_sequence(self, session: aiohttp.ClientSession, facts: dict[str, Any]) -> int:
        """Where a stream of events begins now: it says so before the first one."""
        headers = {"authorization": f"Bearer {facts['api_key']}"}
        async with session.get(f"{self._url}/events/stream", headers=headers) as answer:
            async for line in answer.content:
                if line.startswith(b"id: "):
                    return int(line.removeprefix(b"id: "))
        raise RuntimeError("the stream of events did not begin")

    async def _post(
        self, session: aiohttp.ClientSession, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        async with session.post(self._url + path, json=body, headers=headers) as answer:
            made: dict[str, Any] = await answer.json(content_type=None)
            if answer.status >= 400:
                raise RuntimeError(f"POST {path}: {answer.status} {made}")
            return made


async def _meta(meta: MetaSimulator, index: int, port: int) -> SimulatedAccount:
    """With a port of its own: whatever is done to one number's connections, the other is there to fall back to."""
    number = example_number(index)
    base_url = await meta.add_number(number, own_port=True, port=_free(port))

    async def point_to(url: str) -> None:
        # The app's own callback; the number's override was set by the service, in its first run.
        await meta.add_number(msgspec.structs.replace(number, webhook_url=url))

    return SimulatedAccount("meta_business", f"Sandbox number {index}", number.config_data(base_url), point_to)


async def _twilio(twilio: TwilioSimulator) -> SimulatedAccount:
    sender = example_sender()
    base_url = await twilio.add_number(sender)

    async def point_to(url: str) -> None:
        await twilio.add_number(msgspec.structs.replace(sender, webhook_url=url))

    return SimulatedAccount("twilio_whatsapp", "Sandbox Twilio sender", sender.config_data(base_url), point_to)


async def _waha(waha: WahaSimulator) -> SimulatedAccount:
    phone = example_session()
    base_url = await waha.add_session(phone)

    async def point_to(url: str) -> None:
        state = waha.state_of(phone.name)
        if not any(hook["url"] == url for hook in state.webhooks):
            state.config = {"webhooks": [{"url": url, "events": ["*"], "hmac": {"key": phone.hmac_key}}]}

    return SimulatedAccount("whatsapp_web", "Sandbox phone", phone.config_data(base_url), point_to)


def _meta_ports(former: dict[str, Any]) -> list[int]:
    """Those that the two numbers had in a former run, else 0."""
    configs = former.get("configs", [])[:2]
    return [urlsplit(config["base_url"]).port or 0 for config in configs] or [0, 0]


def _free(port: int) -> int:
    """*port* if nobody has it, else 0: then the system chooses another."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return 0
    return port


def _sample(config: dict[str, Any]) -> tuple[str, str]:
    """A signed webhook that a shell can post: (body, signature)."""
    names = MetaNumber.__struct_fields__
    number = MetaNumber(
        app_id="0", **{name: config[name] for name in names if name in config and name != "webhook_url"}
    )
    value = {
        "contacts": [{"profile": {"name": "Ana"}, "wa_id": "5511987654321"}],
        "messages": [
            {
                "from": "5511987654321",
                "id": f"wamid.{os.urandom(12).hex()}",
                "timestamp": str(int(time.time())),
                "type": "text",
                "text": {"body": "Hello from the sandbox"},
            }
        ],
    }
    body = encode(envelope((number, value)))
    return body.decode(), signature(number.app_secret, body)


def _welcome(facts: dict[str, Any], settings: Settings, path: Path, last_sequence: int) -> str:
    body, signed = _sample(facts["configs"][0])
    url, key = facts["url"], facts["api_key"]
    return f"""
WhatsApp Ingress is ready.

  Console    {url}/console
  API key    {key}    (sign in with it)
  Base URL   {url}
  Metrics    {settings.metrics_url}
  All facts  {path}

Three things to try:

  # a webhook, signed as the provider signs it
  curl -i -X POST '{facts["configs"][0]["webhook_url"]}' -H 'Content-Type: application/json' \\
    -H 'X-Hub-Signature-256: {signed}' \\
    -d '{body}'

  # a message
  curl -i -X POST '{url}/send' -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\
    -d '{{"to": "+5511987654321", "body": "Hello"}}'

  # the events of both
  curl -s '{url}/events?after={last_sequence}' -H 'Authorization: Bearer {key}'

Ctrl-C stops it; the data stays.
"""
