"""The service under test: started, given an organization, a key and an active config, through its own API."""

import base64
import json
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from .pool import APP_SECRET, PHONE_NUMBER_ID, account_of
from .processes import ServerProcess, free_port, start

_NO_MORE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class ServiceProcess:
    server: ServerProcess
    key: str
    webhook_path: str


class ServedOrganization(NamedTuple):
    """An organization with Meta as its provider."""

    id: str
    key: str
    config_id: str
    webhook_path: str


def environment(port: int, database_url: str, redis_url: str) -> dict[str, str]:
    """What the service is started with; its keys are new."""
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "INGRESS_HOST": "127.0.0.1",
        "INGRESS_PORT": str(port),
        "INGRESS_METRICS_PORT": "0",
        "INGRESS_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "INGRESS_PLATFORM_KEY": secrets.token_urlsafe(32),
        "INGRESS_ENCRYPTION_KEYS": f"bench:{base64.b64encode(secrets.token_bytes(32)).decode()}",
        "INGRESS_EGRESS_ALLOW": "127.0.0.0/8",
        "INGRESS_CONNECTIONS_PER_ADDRESS": "0",
        "INGRESS_TRUSTED_HOSTS": "127.0.0.1",
        "INGRESS_REQUESTS_PER_KEY": "0",
    }


@contextmanager
def service(
    folder: Path, database_url: str, redis_url: str, provider_url: str, without: str | None = None
) -> Iterator[ServiceProcess]:
    """Run the service, or what it is *without* a fast path, until the block ends."""
    module = ["bench.without", without] if without else ["ingress"]
    command = [sys.executable, "-m", *module, "serve"]
    port = free_port()
    env = environment(port, database_url, redis_url)
    with start(f"service_{without}" if without else "service", command, port, folder, env) as server:
        made = set_up(server.url, env["INGRESS_PLATFORM_KEY"], provider_url)
        yield ServiceProcess(server, made.key, made.webhook_path)


def set_up(
    url: str, platform_key: str, provider_url: str, name: str = "bench", number: str = PHONE_NUMBER_ID
) -> ServedOrganization:
    """Make an organization with *number* at Meta."""
    organization = ask(f"{url}/organizations", platform_key, {"name": name})["id"]
    scopes = {"scopes": ["send", "read", "configure", "admin"]}
    key = ask(f"{url}/keys", platform_key, scopes, {"X-Org-Id": organization})["key"]
    config = {
        "provider_type": "meta_business",
        "name": "Bench",
        "config_data": {
            "access_token": "bench-access-token",
            "phone_number_id": number,
            "waba_id": account_of(number),
            "app_secret": APP_SECRET,
            "verify_token": "bench-verify-token",
            "base_url": provider_url,
            "messages_per_second": 100_000,  # the limiter is in the way, and its limit is not
        },
        "is_active": True,
    }
    made = ask(f"{url}/integrations/whatsapp/provider/configure", key, config)
    return ServedOrganization(organization, key, made["config_id"], urlsplit(made["webhook_url"]).path)


def ask(
    url: str, key: str, body: object, headers: Mapping[str, str] = _NO_MORE, method: str = "POST"
) -> dict[str, Any]:
    """The JSON that the service answers with. Raises `RuntimeError` where it refuses."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers}
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return dict(json.loads(response.read() or "{}"))
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{url} answered {error.code}: {error.read().decode()}") from None
