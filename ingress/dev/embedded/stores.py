"""What a command works on where no address is set: embedded servers, and secrets that are kept beside them."""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ...settings import Settings
from ...storage.vault import generate_key
from .folder import write_private
from .launcher import EmbeddedServers


@contextmanager
def embedded(settings: Settings) -> Iterator[Settings]:
    """*settings* with an embedded server for each address that is not set, and secrets for an embedded database.

    Raises `ServersError`.
    """
    folder = Path(settings.data_dir)
    with EmbeddedServers(folder, postgres=not settings.database_url, valkey=not settings.redis_url) as servers:
        if servers.database_url:
            # Secrets are made only beside a database of our own: another one's would be lost with this folder.
            made = _secrets(folder)
            settings = msgspec.structs.replace(
                settings,
                database_url=servers.database_url,
                platform_key=settings.platform_key or made["platform_key"],
                encryption_keys=settings.encryption_keys or made["encryption_keys"],
            )
        yield msgspec.structs.replace(settings, redis_url=servers.redis_url or settings.redis_url)


def _secrets(folder: Path) -> dict[str, str]:
    """Made once, and kept beside the data."""
    path = folder / "secrets.json"
    if path.exists():
        kept: dict[str, str] = json.loads(path.read_text())
        return kept
    made = {"platform_key": f"platform_{secrets.token_urlsafe(32)}", "encryption_keys": generate_key()}
    write_private(path, json.dumps(made, indent=2) + "\n")
    return made
