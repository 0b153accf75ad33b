"""What `ingress run` adds: simulators, and an organization that uses them, set up through the service's own API."""

import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from ..settings import Settings
from .crm import CrmSimulator
from .listener import HOST
from .meta import MetaSimulator
from .meta_bodies import MetaNumber, encode, envelope, example_number, signature

PROVIDER = "meta_business"
NUMBERS = 2  # the active one, and one to fall back to


class Development:
    """A development organization with two sandbox numbers. Its facts are kept in `dev.json` between runs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = Path(settings.data_dir) / "dev.json"
        self._url = settings.origin

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Simulators up and dev.json written, until the service stops."""
        former = self._former()
        sandbox = former.get("sandbox", {})
        async with (
            MetaSimulator(port=_free(sandbox.get("meta_port", 0))) as meta,
            CrmSimulator(port=_free(sandbox.get("crm_port", 0))) as crm,
            aiohttp.ClientSession(headers={"authorization": f"Bearer {self._settings.platform_key}"}) as session,
        ):
            facts = await self._organization(session, former)
            facts["configs"] = await self._configs(session, facts, former, meta)
            facts["sandbox"] = {
                "meta_port": urlsplit(meta.url).port,
                "meta_control_url": meta.control_url,
                "crm_port": urlsplit(crm.url).port,
                "crm_control_url": crm.control_url,
                "crm_url": crm.url,
            }
            _write_private(self._path, json.dumps(facts, indent=2) + "\n")
            sys.stdout.write(_welcome(facts, self._path))
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
        self, session: aiohttp.ClientSession, facts: dict[str, Any], former: dict[str, Any], meta: MetaSimulator
    ) -> list[dict[str, Any]]:
        """The configs of a former run if their provider is where they look for it, else new ones."""
        kept = former.get("configs", [])
        same = all(
            config["base_url"] == meta.url and config["webhook_url"].startswith(f"{self._url}/") for config in kept
        )
        if kept and same and former.get("organization_id") == facts["organization_id"]:
            for index, config in enumerate(kept, 1):
                number = example_number(index)
                await meta.add_number(msgspec.structs.replace(number, webhook_url=config["webhook_url"]))
            return list(kept)
        made = [await self._configure(session, facts, meta, index) for index in range(1, NUMBERS + 1)]
        headers = {"x-org-id": facts["organization_id"]}
        order = {"config_ids": [config["config_id"] for config in made[1:]]}
        path = f"{self._url}/integrations/whatsapp/provider/fallback"
        async with session.put(path, json=order, headers=headers) as answer:
            answer.raise_for_status()
        return made

    async def _configure(
        self, session: aiohttp.ClientSession, facts: dict[str, Any], meta: MetaSimulator, index: int
    ) -> dict[str, Any]:
        number = example_number(index)
        base_url = await meta.add_number(number)
        body = {
            "provider_type": PROVIDER,
            "name": f"Sandbox number {index}",
            "config_data": number.config_data(base_url),
            "is_active": index == 1,
        }
        headers = {"x-org-id": facts["organization_id"]}
        made = await self._post(session, "/integrations/whatsapp/provider/configure", body, headers)
        # What the app's callback is at the provider; the number's own override was set by the service.
        await meta.add_number(msgspec.structs.replace(number, webhook_url=made["webhook_url"]))
        return {
            "provider": PROVIDER,
            "config_id": made["config_id"],
            "webhook_url": made["webhook_url"],
            "active": index == 1,
            **number.config_data(base_url),
        }

    async def _post(
        self, session: aiohttp.ClientSession, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        async with session.post(self._url + path, json=body, headers=headers) as answer:
            told: dict[str, Any] = await answer.json(content_type=None)
            if answer.status >= 400:
                raise RuntimeError(f"POST {path}: {answer.status} {told}")
            return told


def _free(port: int) -> int:
    """*port* if nobody has it, else 0: then the system chooses another."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return 0
    return port


def _write_private(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    part.replace(path)


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
                "timestamp": "1793800805",
                "type": "text",
                "text": {"body": "Hello from the sandbox"},
            }
        ],
    }
    body = encode(envelope((number, value)))
    return body.decode(), signature(number.app_secret, body)


def _welcome(facts: dict[str, Any], path: Path) -> str:
    body, signed = _sample(facts["configs"][0])
    url, key = facts["url"], facts["api_key"]
    return f"""
WhatsApp Ingress is ready.

  Base URL   {url}
  API key    {key}
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
  curl -s '{url}/events?after=0&limit=100' -H 'Authorization: Bearer {key}'

Ctrl-C stops it; the data stays.
"""
