"""The first release as it was, from the history of this repository, as a process of its own."""

import secrets
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from ingress.settings import Settings

from ...gateway import ROOT, Answer, Gateway, Process

COMMIT = "ac3a9f5"
SCHEMA = Path(__file__).parent / "first_release.sql"


def unpacked(folder: Path) -> Path:
    """Its source. A checkout without history has none."""
    command = ["git", "archive", COMMIT, "ingress", "providers", "schema.sql"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True)
    if done.returncode:
        pytest.skip(f"no history here: {done.stderr.decode()}")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def process(settings: Settings, port: int, folder: Path) -> Process:
    """Of it, on the stores and with the keys of *settings*."""
    environment = {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "INGRESS_PORT": str(port),
        "INGRESS_HOST": "127.0.0.1",
        "INGRESS_PUBLIC_URL": settings.public_url or f"http://127.0.0.1:{port}",
        "INGRESS_PLATFORM_KEY": settings.platform_key,
        "INGRESS_ENCRYPTION_KEYS": settings.encryption_keys,
        "INGRESS_EGRESS_ALLOW": settings.egress_allow,
        "INGRESS_TRUSTED_HOSTS": settings.trusted_hosts,
        "INGRESS_HEALTH_INTERVAL_S": "0",
    }
    return Process(environment, folder / f"{secrets.token_hex(4)}.log", checkout=folder)


class FormerGateway(Gateway):
    """Its API, whose answers are as they were described then."""

    async def call(self, method: str, path: str, *arguments: Any, **more: Any) -> Answer:
        return await super().call(method, path if path.startswith("http") else self.url + path, *arguments, **more)
