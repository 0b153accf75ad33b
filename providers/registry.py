"""Which providers there are: in this package, from other distributions, registered by hand.

Looking for them imports nothing. A plug-in is imported when it is first asked for, and one that turns out to
be broken is `failed` with its reason, while the others go on. What is imported stays imported: another version of it
takes a restart.
"""

import importlib
import importlib.metadata
import importlib.util
import logging
import pkgutil
import sys
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any, Literal, NamedTuple

import msgspec

from .base import WhatsAppProvider
from .description import ProviderInfo

ENTRY_POINT_GROUP = "whatsapp_ingress.providers"
RUNTIME = "runtime"  # the origin of what was registered by hand

# The folders of this package that are no provider: a dialect that several speak, and the contract as tests.
_NO_PROVIDERS = {"cloud_api", "testing"}
# Of the operator's own webhooks: no organization's list shows it unless it is asked for.
_CANARY = "canary"

_log = logging.getLogger("providers")

ProviderType = type[WhatsAppProvider]


class UnknownProvider(LookupError):
    """No provider of this name can be used; the text says why."""


class RegistryEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One provider as the registry knows it."""

    name: str
    state: Literal["discovered", "registered", "failed"]  # discovered: found, not imported yet
    origin: str  # the module, the entry point's value, or `runtime`
    info: ProviderInfo | None = None  # of registered ones
    reason: str | None = None  # of failed ones; of registered ones, why they need a restart


class Installed(NamedTuple):
    """An entry point, and the distribution it is from: '' where none is known."""

    point: EntryPoint
    distribution: str
    version: str

    @property
    def name(self) -> str:
        return self.point.name


class Registry:
    """The providers by name. *entry_points* stands in for those of the installed distributions.

    *canary*: the one of `ingress canary`, too.
    """

    _entries: dict[str, RegistryEntry]
    _loaders: dict[str, Callable[[], Any]]
    _types: dict[str, ProviderType]
    _repeated: list[RegistryEntry]  # two plug-ins of one name: the first stays, the others are only remembered
    _installed: dict[str, Installed]  # those of the entries that are from an entry point
    _imported: dict[str, str]  # the version of each distribution of which something was imported

    def __init__(self, entry_points: Iterable[EntryPoint] | None = None, *, canary: bool = False) -> None:
        self._entry_points = None if entry_points is None else list(entry_points)
        self._entries, self._loaders, self._types = {}, {}, {}
        self._repeated, self._installed, self._imported = [], {}, {}
        for name in _builtin_names():
            if name == _CANARY and not canary:
                continue
            module = f"{__package__}.{name}"
            self._discover(name, module, partial(importlib.import_module, module))
        self.reload(self.scan())

    def get(self, name: str) -> ProviderType:
        """The provider *name*, imported on first use, else `UnknownProvider`."""
        if name not in self._types and name in self._loaders:
            self._load(name)
        try:
            return self._types[name]
        except KeyError:
            raise UnknownProvider(self._why_not(name)) from None

    def names(self) -> list[str]:
        """All names, of broken ones too. Imports nothing."""
        return list(self._entries)

    def count(self, state: str) -> int:
        """How many are in that *state*, repeated names too. Imports nothing."""
        return sum(entry.state == state for entry in (*self._entries.values(), *self._repeated))

    def entries(self) -> list[RegistryEntry]:
        """All providers by name, broken ones and repeated names too. Imports what is not imported yet."""
        for name in list(self._loaders):
            self._load(name)
        return sorted([*self._entries.values(), *self._repeated], key=lambda entry: entry.name)

    def scan(self) -> list[Installed]:
        """What is installed now, for `reload`. Reads files and changes nothing here: a thread may do it."""
        importlib.invalidate_caches()
        found = self._entry_points
        if found is None:
            found = list(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP))
        return [
            Installed(point, *((point.dist.name, point.dist.version) if point.dist else ("", ""))) for point in found
        ]

    def reload(self, installed: Iterable[Installed]) -> tuple[list[str], list[str]]:
        """Take up what came and went: the names discovered, failed ones again among them, and those that are gone.

        What was unregistered stays away until it is installed anew.
        """
        found = list(installed)
        former, self._installed, self._repeated = self._installed, {}, []
        gone = self._forget_gone(former.keys() - {each.name for each in found})
        return [each.name for each in found if self._take_up(each, former.get(each.name))], gone

    def register(self, provider: ProviderType) -> None:
        """Add *provider* while running. Raises ValueError where it is none, or its name is taken."""
        flaw = _flaw(provider)
        if flaw is not None:
            raise ValueError(flaw)
        name = provider.info.name
        if name in self._entries and self._entries[name].state != "failed":
            raise ValueError(f"there is a provider {name!r} already")
        self._accept(provider, RUNTIME)

    def unregister(self, name: str) -> None:
        """Forget *name*, or `UnknownProvider`. Values already made from it stay usable."""
        if name not in self._entries:
            raise UnknownProvider(self._why_not(name))
        self._forget(name)

    def _forget_gone(self, names: set[str]) -> list[str]:
        """Forget those of *names* that nobody has registered by hand since, and return them."""
        gone = [name for name in names & self._entries.keys() if self._entries[name].origin != RUNTIME]
        for name in gone:
            self._forget(name)
        return gone

    def _forget(self, name: str) -> None:
        for kept in (self._entries, self._types, self._loaders):
            kept.pop(name, None)

    def _take_up(self, each: Installed, known: Installed | None) -> bool:
        """Take up one; whether it was discovered. *known* is what had its name when `reload` last looked."""
        if self._repeat(each, known):
            return False
        self._installed[each.name] = each
        if self._keep(each, known):
            return False
        self._forget(each.name)
        self._discover(each.name, each.point.value, partial(self._import, each))
        return True

    def _repeat(self, each: Installed, known: Installed | None) -> bool:
        """Remember it as failed where its name is another's; whether it is."""
        name, entry = each.name, self._entries.get(each.name)
        if entry is None or (known is not None and name not in self._installed and entry.origin != RUNTIME):
            return False
        self._repeated.append(_failed(name, each.point.value, f"{entry.origin} already has the name {name!r}"))
        return True

    def _keep(self, each: Installed, known: Installed | None) -> bool:
        """Keep what has not changed, and what needs a restart, as its entry then says; whether that is so."""
        entry = self._entries.get(each.name)
        if known == each:
            return entry is None or entry.state != "failed"
        if entry is None or entry.state != "registered" or not (reason := self._needs_restart(each)):
            return False
        self._entries[each.name] = msgspec.structs.replace(entry, reason=reason)
        return True

    def _needs_restart(self, installed: Installed) -> str | None:
        """Why, where another version of its distribution was imported."""
        _, distribution, version = installed
        imported = self._imported.get(distribution, version)
        if imported == version:
            return None
        return f"{distribution} {version} is installed, but this process has imported {imported}: restart it"

    def _import(self, installed: Installed) -> Any:
        if reason := self._needs_restart(installed):
            raise ImportError(reason)
        try:
            return installed.point.load()
        finally:
            if installed.point.module.partition(".")[0] in sys.modules:  # else nothing of it is left behind
                self._imported[installed.distribution] = installed.version

    def _discover(self, name: str, origin: str, load: Callable[[], Any]) -> None:
        self._entries[name] = RegistryEntry(name=name, state="discovered", origin=origin)
        self._loaders[name] = load

    def _load(self, name: str) -> None:
        load, origin = self._loaders.pop(name), self._entries[name].origin
        try:
            provider = _provider_in(load())
        except Exception as error:  # noqa: BLE001  # an import runs code we do not know: it may raise anything
            flaw: str | None = f"{type(error).__name__}: {error}"
        else:
            flaw = _flaw(provider, name)
        if flaw is None:
            self._accept(provider, origin)
        else:
            self._entries[name] = _failed(name, origin, flaw)

    def _accept(self, provider: ProviderType, origin: str) -> None:
        name = provider.info.name
        self._loaders.pop(name, None)
        self._types[name] = provider
        self._entries[name] = RegistryEntry(name=name, state="registered", origin=origin, info=provider.info)

    def _why_not(self, name: str) -> str:
        entry = self._entries.get(name)
        return f"there is no provider {name!r}" if entry is None else f"{name!r} failed: {entry.reason}"


def _failed(name: str, origin: str, reason: str) -> RegistryEntry:
    _log.error("provider %s from %s failed: %s", name, origin, reason)
    return RegistryEntry(name=name, state="failed", origin=origin, reason=reason)


def _builtin_names() -> list[str]:
    spec = importlib.util.find_spec(__package__)
    places = spec.submodule_search_locations if spec is not None else None
    found = pkgutil.iter_modules(places)
    return [module.name for module in found if module.ispkg and module.name not in _NO_PROVIDERS]


def _provider_in(found: Any) -> Any:
    """The class that was found, or that the module names which was."""
    return getattr(found, "PROVIDER", None) if isinstance(found, ModuleType) else found


def _flaw(provider: Any, name: str | None = None) -> str | None:
    """What keeps *provider* from being one, or the one of this *name*; None if nothing does."""
    if not (isinstance(provider, type) and issubclass(provider, WhatsAppProvider)):
        return f"{provider!r} is no WhatsAppProvider"
    # msgspec makes values of an abstract struct without complaint, so nobody else asks.
    if missing := sorted(provider.__abstractmethods__):
        return f"it does not implement {', '.join(missing)}"
    if not isinstance(getattr(provider, "info", None), ProviderInfo):
        return "it has no info"
    if name not in (None, provider.info.name):
        return f"it is found as {name!r} and calls itself {provider.info.name!r}"
    return None
