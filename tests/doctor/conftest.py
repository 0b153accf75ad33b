"""A set-up as in production: a database with two logins, Redis, the service, and an account whose webhooks arrive."""

import secrets
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ingress import app
from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.dev.sandbox import FaultProxy, MetaSimulator
from ingress.doctor.examination import CHECKS, CheckResult, examine
from ingress.doctor.findings import DoctorCheck, Examined
from ingress.settings import Settings, read
from ingress.storage import addresses
from ingress.storage.migration import migrate
from providers import Registry

from ..conftest import serving
from ..gateway import Gateway, Organization
from ..storage.conftest import Logins, made_logins


class SetUp:
    """What a fault is planted into. ``environment``: the service's; ``stack``: what ends with the fault."""

    def __init__(self, logins: Logins, organization: Organization, environment: dict[str, str], folder: Path) -> None:
        self.logins = logins
        self.organization = organization
        self.environment = environment
        self.folder = folder
        self.stack = AsyncExitStack()
        self.registry = Registry()
        self.disk_bytes: int | None = None

    async def sql(self, *statements: str, undo: Sequence[str] = ()) -> None:
        """As a superuser, until the fault ends."""
        connection = await asyncpg.connect(self.logins.superuser)
        for statement in statements:
            await connection.execute(statement)

        async def end() -> None:
            for statement in undo:
                await connection.execute(statement)
            await connection.close()

        self.stack.push_async_callback(end)

    async def proxy(self, url: str) -> tuple[FaultProxy, str]:
        """In between, with the address of it."""
        parts = urlsplit(url)
        if parts.scheme == "unix":
            proxy = await self.stack.enter_async_context(FaultProxy(parts.path))
            return proxy, f"redis://127.0.0.1:{proxy.port}"
        folder = parts.query.partition("host=")[2].partition("&")[0]
        proxy = await self.stack.enter_async_context(FaultProxy(f"{folder}/.s.PGSQL.5432"))
        return proxy, f"postgresql://{parts.username}@127.0.0.1:{proxy.port}{parts.path}"

    async def findings(self, *names: str, **environment: str) -> list[CheckResult]:
        """Of these checks, and of those that they need; of all where none is named."""
        given = self.environment | environment
        settings, wrong = read(given)
        examined = Examined(
            environment=given, settings=settings, wrong=wrong, registry=self.registry, disk_bytes=self.disk_bytes
        )
        checks = with_needs(names) if names else CHECKS
        # A busy machine is slow, and nothing hangs.
        return await examine(examined, [check._replace(limit_s=60.0) for check in checks])


def with_needs(names: Sequence[str]) -> list[DoctorCheck]:
    wanted, by_name = list(names), {check.name: check for check in CHECKS}
    for name in wanted:
        wanted += by_name[name].needs
    return [check for check in CHECKS if check.name in wanted]


@pytest.fixture(scope="module")
async def production(
    servers: EmbeddedServers, settings: Settings, meta: MetaSimulator, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[SetUp]:
    folder = tmp_path_factory.mktemp("data")
    async with made_logins(servers) as logins, aiohttp.ClientSession() as session, AsyncExitStack() as stack:
        await migrate(logins.owner, logins.service_name)
        own = msgspec.structs.replace(settings, database_url=logins.service)
        with pytest.MonkeyPatch.context() as patch:  # what is planted stays as it is
            for name in ("TRAILS_POLL_S", "PARTITIONS_EVERY_S", "RETENTION_LOOK_EVERY_S"):
                patch.setattr(app, name, 3600.0)
            served = await stack.enter_async_context(serving(own))
        organization = await Gateway(served, settings.platform_key, session, meta).organization()
        await organization.configure()
        await organization.call("PUT", "/callback", {"url": "http://127.0.0.1:9/hooks"})
        environment = {
            "DATABASE_URL": logins.service,
            "REDIS_URL": settings.redis_url,
            "INGRESS_ENCRYPTION_KEYS": settings.encryption_keys,
            "INGRESS_PLATFORM_KEY": secrets.token_urlsafe(32),
            "INGRESS_PUBLIC_URL": served,
            "INGRESS_PORT": str(urlsplit(served).port),
            "INGRESS_EGRESS_ALLOW": "127.0.0.0/8",
            "INGRESS_DATA_DIR": str(folder),
        }
        yield SetUp(logins, organization, environment, folder)


@pytest.fixture
async def set_up(production: SetUp, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SetUp]:
    """The same, which a fault may be planted into: it is gone afterwards."""
    monkeypatch.setattr(addresses, "CONNECT_TIMEOUT_S", 30.0)
    own = SetUp(production.logins, production.organization, dict(production.environment), production.folder)
    async with own.stack:
        yield own


@pytest.fixture(scope="module")
async def careless(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A PostgreSQL as nobody should set one."""
    servers = EmbeddedServers(tmp_path_factory.mktemp("careless"), valkey=False)
    careless = (
        "fsync=off",
        "full_page_writes=off",
        "wal_level=minimal",
        "max_wal_senders=0",
        "autovacuum=off",
        "max_prepared_transactions=2",
    )
    servers.postgres._settings = ("listen_addresses=", "max_connections=30", *careless)
    with servers:
        assert servers.database_url
        yield servers.database_url


# ------------------------------------------------------------------ certificates


class Authority:
    """One that this process trusts, while the environment says so."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of tests")])
        self.file = folder / "authority.pem"
        self.file.write_bytes(self._signed(self._name, self._key, timedelta(days=9), is_authority=True))

    def _signed(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, left: timedelta, *, is_authority: bool = False
    ) -> bytes:
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=30))
            .not_valid_after(now + left)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM)

    def context(self, left: timedelta) -> ssl.SSLContext:
        """Of a server whose certificate is valid for that long."""
        key = ec.generate_private_key(ec.SECP256R1())
        file = self._folder / f"{left.total_seconds():.0f}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(private + self._signed(x509.Name([]), key, left))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    made = Authority(tmp_path_factory.mktemp("certificates"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(made.file))
        yield made
