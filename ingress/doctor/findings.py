"""What a check finds: how bad it is, what it means, and what to do."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import asyncpg

from providers import Registry, RegistryEntry

from ..calls.egress import Egress
from ..settings import Settings
from ..storage.addresses import connect
from ..storage.database import Database
from ..storage.vault import Vault
from ..validation import Unlogged

Severity = Literal["ok", "warning", "error"]
WORST: tuple[Severity, ...] = ("ok", "warning", "error")


class DoctorFinding(NamedTuple):
    """``found``, with numbers; ``means`` and ``fix``, a command or a setting, are empty where all is well."""

    severity: Severity
    found: str
    means: str = ""
    fix: str = ""


Findings = AsyncGenerator[DoctorFinding, None]


def ok(found: str) -> DoctorFinding:
    return DoctorFinding("ok", found)


def warning(found: str, means: str, fix: str) -> DoctorFinding:
    return DoctorFinding("warning", found, means, fix)


def error(found: str, means: str, fix: str) -> DoctorFinding:
    return DoctorFinding("error", found, means, fix)


def judged(found: str, means: str, fix: str, *, is_wrong: bool, is_bad: bool = False) -> DoctorFinding:
    """As the others; where all is well *found* says it all."""
    return error(found, means, fix) if is_bad else warning(found, means, fix) if is_wrong else ok(found)


class Examined(Unlogged, dict=True, frozen=True, kw_only=True):
    """What is looked at: the environment of the service, the settings made of it, and what is wrong with those."""

    environment: Mapping[str, str]
    settings: Settings
    wrong: list[str]
    registry: Registry
    disk_bytes: int | None = None  # of the disk that the database is on; None: nobody said

    @cached_property
    def database(self) -> Database:
        settings = self.settings
        return Database(settings.database_url, settings.database_connections, settings.database_direct_url)

    @cached_property
    def vault(self) -> Vault:
        """Raises `VaultError`."""
        return Vault(self.settings.encryption_keys)

    @property
    def direct_url(self) -> str:
        return self.settings.database_direct_url or self.settings.database_url

    @cached_property
    def egress(self) -> Egress:
        return Egress(self.settings.allowed_networks)

    @cached_property
    def _importing(self) -> asyncio.Lock:
        return asyncio.Lock()

    async def entries(self) -> list[RegistryEntry]:
        """Every plug-in, imported by then: by one thread, as the registry's is one list."""
        async with self._importing:
            return await asyncio.to_thread(self.registry.entries)

    @asynccontextmanager
    async def login(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection of the service's login, in no role."""
        connection = await connect(self.direct_url)
        try:
            yield connection
        finally:
            connection.terminate()

    @asynccontextmanager
    async def role(self, role: str) -> AsyncIterator[asyncpg.Connection]:
        """A connection as the service has it, in *role*."""
        connection = await self.database.connect(role)
        try:
            yield connection
        finally:
            connection.terminate()


class DoctorCheck(NamedTuple):
    """``limit_s``: what it has not found by then is a finding. ``needs``: where one of those failed it is left out."""

    name: str
    run: Callable[[Examined], Findings]
    limit_s: float = 10.0
    needs: tuple[str, ...] = ()


def place(url: str) -> str:
    """Where *url* leads, without who goes there and by which password."""
    parts = urlsplit(url)
    if "@" in parts.path + parts.query + parts.fragment:
        return "its address"  # a password that is not encoded may be anywhere in it
    return (parts.netloc.rpartition("@")[2] or "a socket of this machine: ") + parts.path


def listed(names: Sequence[str], most: int = 10) -> str:
    """The first of *names*, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def words(failure: BaseException) -> str:
    """In those of the server or the system; never those of a value."""
    if isinstance(failure, asyncpg.PostgresError):
        return str(failure.args[0])
    if isinstance(failure, TimeoutError):
        return "no answer in time"
    return getattr(failure, "strerror", None) or type(failure).__name__
