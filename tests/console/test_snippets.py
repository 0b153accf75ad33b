"""The programs that the console gives to copy, run as they are."""

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ingress.console import snippets
from ingress.delivery.standard_webhooks import Endpoint, SigningSecret, new_secret, post
from ingress.dev.sandbox import CrmSimulator

from ..gateway import Organization, unused_port

PATH = '/hooks/it\'s?a="1"&b=$c'
EVENT = b'{"id": "evt_1", "type": "callback.test", "data": {"text": "Ol\\u00e1"}}'
# What Node does not know before 22.18.
_TYPES = re.compile(r", type \w+|: (IncomingHttpHeaders|Buffer|boolean)(\[\])?(?=[ ,)])|(?<=\])!")


def program(language: str, folder: Path, port: int) -> list[str]:
    """The command that runs that language's program."""
    text = snippets.verification(f"https://crm.example{PATH}")[language]
    wanted, name, command = {
        "Python": (sys.executable, "hooks.py", []),
        "TypeScript": ("node", "hooks.mjs", []),
        "PHP": ("php", "hooks.php", ["-S", f"127.0.0.1:{port}"]),
    }[language]
    runs = shutil.which(wanted)
    if runs is None:
        pytest.skip(f"{wanted} is not installed")
    file = folder / name
    file.write_text(_TYPES.sub("", text) if language == "TypeScript" else text)
    return [runs, *command, str(file)]


@asynccontextmanager
async def running(command: list[str], port: int, secret: SigningSecret) -> AsyncIterator[str]:
    """The address of a program that takes events."""
    environment = {**os.environ, "PORT": str(port), "INGRESS_WEBHOOK_SECRET": secret.secret}
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=quiet, stderr=quiet)
    try:
        async with asyncio.timeout(30):
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                assert process.returncode is None, "it ended at once"
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}{PATH}"
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.parametrize("language", ["Python", "TypeScript", "PHP"])
async def test_a_program_takes_what_is_signed_and_nothing_else(language: str, tmp_path: Path) -> None:
    """With its secret alone, or beside the next one while that is being replaced; at its own path, and in time."""
    port, secret = unused_port(), new_secret()
    async with running(program(language, tmp_path, port), port, secret) as url, aiohttp.ClientSession() as session:

        async def answer(*secrets: SigningSecret, at: str = url, **changed: str) -> int | None:
            if not changed:
                return (await post(session, Endpoint(at, list(secrets)), "evt_1", EVENT)).status
            async with session.post(at, data=EVENT, headers=changed) as answered:
                return answered.status

        assert await answer(secret) == 204
        assert await answer(new_secret(), secret) == 204
        assert await answer(secret, new_secret()) == 204
        assert await answer(new_secret()) == 401
        assert await answer(secret, at=url.replace("hooks", "other")) == 401
        assert await answer(**{"webhook-id": "evt_1"}) == 401
        old = {"webhook-timestamp": "1700000000", "webhook-id": "evt_1", "webhook-signature": "v1,"}
        assert await answer(**old) == 401
        assert await answer(**{**old, "webhook-timestamp": "x"}) == 401


async def run(*command: str, **environment: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return output.decode()


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("openssl")), reason="needs curl and openssl")
async def test_curl_signs_as_the_gateway_does() -> None:
    async with CrmSimulator() as crm:
        secret = new_secret()
        crm.set_secret(secret.secret, endpoint="it's")
        output = await run(
            "bash", "-c", snippets.verification(crm.url_for("it's"))["curl"], INGRESS_WEBHOOK_SECRET=secret.secret
        )
        assert "200" in output.splitlines()[0]
        [attempt] = crm.attempts
        assert (attempt.verified, attempt.event_id) == (True, "evt_example")


@pytest.mark.parametrize("language", ["curl", "Python"])
async def test_a_program_sends(language: str, organization: Organization) -> None:
    """Whatever stands in the text."""
    body: dict[str, Any] = {"to": "+5511987654321", "body": 'It\'s "a" $test: true\n`ls` Olá 🚀'}
    text = snippets.sending(organization.gateway.url, body)[language]
    command = [sys.executable] if language == "Python" else ["bash"]
    output = await run(*command, "-c", text, INGRESS_API_KEY=organization.key)
    message = json.loads(output[output.index("{") :])
    assert message["status"] == "sent", output
    accepted = organization.gateway.meta.by_wamid(message["provider_message_id"])
    assert accepted is not None
    assert accepted.body["text"]["body"] == body["body"]


@pytest.mark.parametrize("language", ["curl", "Python"])
async def test_a_program_uses_a_key_that_was_made(language: str, organization: Organization) -> None:
    text = snippets.calling(organization.gateway.url, organization.key)[language]
    command = [sys.executable] if language == "Python" else ["bash"]
    output = await run(*command, "-c", text, INGRESS_API_KEY=organization.key)
    assert json.loads(output[output.index("{") :])["id"] == organization.id
