"""A database with organizations that were made through the API, and the service on it."""

import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ingress.storage.vault import Vault

from ..pool import PHONE_NUMBER_ID, STATUS, WEBHOOK, account_of, signature
from ..processes import ServerProcess, free_port, start
from ..service import ServedOrganization, ask, environment, set_up


@dataclass
class Site:
    """The first of the *organizations* is the big one, the second one like all others."""

    name: str
    database_url: str
    env: dict[str, str]
    folder: Path
    provider_url: str
    organizations: list[ServedOrganization] = field(default_factory=list)

    @contextmanager
    def served(self, *arguments: str, **settings: str) -> Iterator[ServerProcess]:
        """Run the service on it until the block ends."""
        port = free_port()
        env = {**self.env, **settings, "INGRESS_PORT": str(port), "INGRESS_PUBLIC_URL": f"http://127.0.0.1:{port}"}
        command = [sys.executable, "-m", "ingress", "serve", *arguments]
        with start(self.name, command, port, self.folder, env) as server:
            while not _is_ready(server.url):  # the parent of several processes listens before they serve
                time.sleep(0.05)
            yield server

    @property
    def vault(self) -> Vault:
        return Vault(self.env["INGRESS_ENCRYPTION_KEYS"])

    @property
    def big(self) -> ServedOrganization:
        return self.organizations[0]

    @property
    def small(self) -> ServedOrganization:
        return self.organizations[1]


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=30):
            return True
    except OSError:
        return False


def number_of(organization: int) -> str:
    """The number of the organization with this place."""
    return PHONE_NUMBER_ID if organization == 0 else f"1{organization:014d}"


def make(name: str, database_url: str, redis_url: str, folder: Path, provider_url: str, organizations: int) -> Site:
    """A site with so many organizations, each with a provider and a key."""
    site = Site(name, database_url, environment(0, database_url, redis_url), folder, provider_url)
    with site.served() as server, ThreadPoolExecutor(4) as pool:
        platform_key = site.env["INGRESS_PLATFORM_KEY"]

        def one(place: int) -> ServedOrganization:
            return set_up(server.url, platform_key, provider_url, f"Organization {place}", number_of(place))

        site.organizations = list(pool.map(one, range(organizations)))
    return site


EXAMPLE_PHONE = "+5511900000000"
EXAMPLE_LEAD = "lead-of-the-example"


def make_examples(site: Site) -> None:
    """A send, its delivery, and a message of a person, as the service stores them, in the big organization.

    They are what the database is filled with, many times over (seeding.py).
    """
    with site.served() as server:
        url, key = server.url, site.big.key
        ask(f"{url}/callback", key, {"url": f"{site.provider_url}/crm"}, method="PUT")
        body = {"to": EXAMPLE_PHONE, "content": {"type": "text", "body": "Hello"}, "lead_id": EXAMPLE_LEAD}
        sent = ask(f"{url}/send", key, body, {"Idempotency-Key": "example"})
        now, fields = (
            int(time.time()),
            {b"waba": account_of(PHONE_NUMBER_ID).encode(), b"number": PHONE_NUMBER_ID.encode()},
        )
        text = WEBHOOK % {**fields, b"contact": 0, b"n": 0, b"now": now}
        about = {b"id": sent["provider_message_id"].encode(), b"contact": EXAMPLE_PHONE[1:].encode(), b"now": now}
        status = STATUS % {**fields, **about, b"correlation": f"gw1:{sent['id'].replace('-', '')}:1".encode()}
        for webhook in (text.replace(b"5511900000000", EXAMPLE_PHONE[1:].encode()), status):
            post(url + site.big.webhook_path, webhook)
        while len(ask(f"{url}/events?limit=100", key, None, method="GET")["events"]) < 4:
            time.sleep(0.1)


def post(url: str, body: bytes) -> None:
    """A signed webhook."""
    headers = {"Content-Type": "application/json", "X-Hub-Signature-256": signature(body).decode()}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30):
        pass
