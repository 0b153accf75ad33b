"""Plug-ins that come and go while a process runs."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from time import monotonic

import msgspec

from providers import Registry, WhatsAppProvider
from providers.registry import Installed

from .. import metrics
from ..identifiers import PLATFORM_ID
from ..metrics.labels import VALUES
from ..storage.database import Database
from ..storage.statements import switches

logger = logging.getLogger("ingress.switching.plugins")

PLUGIN_STATES = ("discovered", "registered", "failed")


class PluginsUnreadable(Exception):
    """Python's environment cannot be read; the text says why. Plug-ins stay as they are."""


class Reloaded(msgspec.Struct, frozen=True):
    """What came and went; with their reasons, those that failed and those that a restart would replace."""

    added: list[str]
    removed: list[str]
    failed: dict[str, str]
    needs_restart: dict[str, str]


class Plugins:
    """The registry of this process, kept as what is installed. *forget_all*: what is known of configs is read anew."""

    def __init__(self, registry: Registry, database: Database, forget_all: Callable[[], None]) -> None:
        self._registry = registry
        self._database = database
        self._forget_all = forget_all
        self._reloading = asyncio.Lock()
        for state in PLUGIN_STATES:
            metrics.plugins.labels(state).set_function(partial(registry.count, state))

    def register(self, provider: type[WhatsAppProvider]) -> None:
        """Add one; raises ValueError where it is none, or its name is taken."""
        self._registry.register(provider)
        VALUES["provider"].add(provider.info.name)
        self._forget_all()

    def unregister(self, name: str) -> None:
        """Forget one. Raises `UnknownProvider`."""
        self._registry.unregister(name)
        self._forget_all()

    async def reload(self) -> Reloaded:
        """Find what came and went, here and in all other processes. Raises `StoreUnavailable`, `PluginsUnreadable`."""
        async with self._reloading:  # our own notification finds nothing new
            async with self._database.worker() as connection:
                await switches.notify(connection, PLATFORM_ID, 0)
            discovered, gone = await self._find()
        added = [
            entry.name for entry in self._registry.entries() if entry.name in discovered and entry.state == "registered"
        ]
        return Reloaded(added, gone, self._reasons("failed"), self._reasons("registered"))

    def _reasons(self, state: str) -> dict[str, str]:
        return {entry.name: entry.reason for entry in self._registry.entries() if entry.reason and entry.state == state}

    async def find(self) -> None:
        """The same in this process; a failure is logged."""
        async with self._reloading:
            with contextlib.suppress(PluginsUnreadable):
                await self._find()

    async def _find(self) -> tuple[list[str], list[str]]:
        started, outcome = monotonic(), "failed"
        try:
            discovered, gone = found = self._registry.reload(await self._installed())
            outcome = "found" if discovered or gone else "unchanged"
        finally:
            metrics.observe(metrics.plugin_discovery_seconds, monotonic() - started, outcome)
        if discovered or gone:
            self._took_up(discovered, gone)
        return found

    def _took_up(self, discovered: list[str], gone: list[str]) -> None:
        logger.info("plug-ins discovered: %s; gone: %s", ", ".join(discovered) or "none", ", ".join(gone) or "none")
        VALUES["provider"].update(discovered)
        self._forget_all()

    async def _installed(self) -> list[Installed]:
        try:
            return await asyncio.to_thread(self._registry.scan)
        except Exception as error:  # of any kind: somebody is changing the environment, or has broken it
            logger.exception("what is installed cannot be read")
            raise PluginsUnreadable(f"What is installed cannot be read: {type(error).__name__}: {error}") from None
