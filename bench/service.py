"""The service under test: started, given an organization, a key and an active config, through its own API."""

import base64
import json
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .pool import APP_SECRET, PHONE_NUMBER_ID, WABA_ID
from .processes import ServerProcess, free_port, start


@dataclass(frozen=True)
class ServiceProcess:
    server: ServerProcess
    key: str
    webhook_path: str


@contextmanager
def service(
    folder: Path, database_url: str, redis_url: str, provider_url: str, without: str | None = None
) -> Iterator[ServiceProcess]:
    """Run the service, or what it is *without* a fast path, until the block ends."""
    module = ["bench.without", without] if without else ["ingress"]
    command = [sys.executable, "-m", *module, "serve"]
    port, platform_key = free_port(), secrets.token_urlsafe(32)
    env = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "INGRESS_HOST": "127.0.0.1",
        "INGRESS_PORT": str(port),
        "INGRESS_METRICS_PORT": "0",
        "INGRESS_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "INGRESS_PLATFORM_KEY": platform_key,
        "INGRESS_ENCRYPTION_KEYS": f"bench:{base64.b64encode(secrets.token_bytes(32)).decode()}",
        "INGRESS_EGRESS_ALLOW": "127.0.0.0/8",
        "INGRESS_CONNECTIONS_PER_ADDRESS": "0",
        "INGRESS_TRUSTED_HOSTS": "127.0.0.1",
        "INGRESS_REQUESTS_PER_KEY": "0",
    }
    with start(f"service_{without}" if without else "service", command, port, folder, env) as server:
        key, webhook_url = _set_up(server.url, platform_key, provider_url)
        yield ServiceProcess(server, key, urlsplit(webhook_url).path)


def _set_up(url: str, platform_key: str, provider_url: str) -> tuple[str, str]:
    """An organization with Meta as its provider: (its key, its webhook's address)."""
    organization = _post(f"{url}/organizations", platform_key, {"name": "bench"})["id"]
    scopes = {"scopes": ["send", "read", "configure", "admin"]}
    key = _post(f"{url}/keys", platform_key, scopes, {"X-Org-Id": organization})["key"]
    config = {
        "provider_type": "meta_business",
        "name": "Bench",
        "config_data": {
            "access_token": "bench-access-token",
            "phone_number_id": PHONE_NUMBER_ID,
            "waba_id": WABA_ID,
            "app_secret": APP_SECRET,
            "verify_token": "bench-verify-token",
            "base_url": provider_url,
            "messages_per_second": 100_000,  # the limiter is in the way, and its limit is not
        },
        "is_active": True,
    }
    return key, _post(f"{url}/integrations/whatsapp/provider/configure", key, config)["webhook_url"]


def _post(url: str, key: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return dict(json.load(response))
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{url} answered {error.code}: {error.read().decode()}") from None
