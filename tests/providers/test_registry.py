"""Finding providers, and what happens to those that are none."""

import logging
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from providers import ProviderInfo, Registry, RegistryEntry, UnknownProvider, WhatsAppProvider
from providers.meta_business import MetaBusiness
from providers.registry import ENTRY_POINT_GROUP, Installed

from .cloud_api.samples import ACCOUNT

PLUGIN = """
from typing import ClassVar
import msgspec
from providers import ProviderInfo
from providers.meta_business import MetaBusiness

class Plugin(MetaBusiness, frozen=True, kw_only=True):
    info: ClassVar[ProviderInfo] = msgspec.structs.replace(MetaBusiness.info, name="plugin")

class Misnamed(MetaBusiness, frozen=True, kw_only=True):
    info: ClassVar[ProviderInfo] = msgspec.structs.replace(MetaBusiness.info, name="other")

PROVIDER = Plugin
"""


class Named(MetaBusiness, frozen=True, kw_only=True):
    info: ClassVar[ProviderInfo] = msgspec.structs.replace(MetaBusiness.info, name="named")


class Half(WhatsAppProvider, frozen=True, kw_only=True):
    info: ClassVar[ProviderInfo] = Named.info


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of importable modules, forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group=ENTRY_POINT_GROUP)


def by_name(registry: Registry) -> dict[str, RegistryEntry]:
    return {entry.name: entry for entry in registry.entries()}


def test_built_in_providers_are_found() -> None:
    """A module of the package is a provider of its name; private and contract modules are none."""
    registry = Registry([])
    assert registry.get("meta_business") is MetaBusiness
    entries = by_name(registry)
    assert entries["meta_business"].state == "registered"
    assert entries["meta_business"].info == MetaBusiness.info
    assert entries["twilio_whatsapp"].state == "registered"
    assert not {"base", "errors", "messages", "registry", "signing"} & set(entries)
    assert not [name for name in entries if name.startswith("_")]


def test_looking_imports_nothing(modules: Path) -> None:
    """A module is imported when it is asked for, and once."""
    (modules / "lazy_plugin.py").write_text(PLUGIN)
    registry = Registry([point("plugin", "lazy_plugin")])
    assert "lazy_plugin" not in sys.modules
    first = registry.get("plugin")
    assert "lazy_plugin" in sys.modules
    assert registry.get("plugin") is first


def test_an_entry_point_may_name_the_class(modules: Path) -> None:
    """Or a module that has it as PROVIDER."""
    (modules / "some_plugin.py").write_text(PLUGIN)
    registry = Registry([point("plugin", "some_plugin:Plugin")])
    assert registry.get("plugin").info.name == "plugin"
    assert by_name(registry)["plugin"].origin == "some_plugin:Plugin"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import no_such_module", "ModuleNotFoundError"),
        ("PROVIDER = 5", "no WhatsAppProvider"),
        ("", "no WhatsAppProvider"),
        (PLUGIN.replace("PROVIDER = Plugin", "PROVIDER = Misnamed"), "calls itself 'other'"),
        (
            "from providers import WhatsAppProvider\n"
            "class PROVIDER(WhatsAppProvider, frozen=True, kw_only=True):\n    pass",
            "does not implement challenge, disconnect,",
        ),
    ],
)
def test_a_broken_plugin_fails_alone(modules: Path, source: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """Listed as failed with its reason, logged, and the others work."""
    (modules / "broken.py").write_text(source)
    (modules / "whole.py").write_text(PLUGIN)
    registry = Registry([point("broken", "broken"), point("plugin", "whole")])
    with caplog.at_level(logging.ERROR, logger="providers"):
        entries = by_name(registry)
    assert entries["broken"].state == "failed"
    assert reason in (entries["broken"].reason or "")
    assert reason in caplog.text
    assert entries["plugin"].state == entries["meta_business"].state == "registered"
    with pytest.raises(UnknownProvider, match="broken"):
        registry.get("broken")


def test_a_missing_info_is_a_flaw(modules: Path) -> None:
    """A provider that says nothing about itself cannot be offered."""
    (modules / "silent.py").write_text(
        f"{PLUGIN}\nclass PROVIDER(Plugin, frozen=True, kw_only=True):\n    info = None\n"
    )
    assert "no info" in (by_name(Registry([point("silent", "silent")]))["silent"].reason or "")


def test_a_repeated_name_is_refused(modules: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first keeps the name; the second is listed with the reason."""
    (modules / "thief.py").write_text(PLUGIN)
    with caplog.at_level(logging.ERROR, logger="providers"):
        registry = Registry([point("meta_business", "thief")])
    assert registry.get("meta_business") is MetaBusiness
    states = [entry.state for entry in registry.entries() if entry.name == "meta_business"]
    assert sorted(states) == ["failed", "registered"]
    assert "already has the name" in caplog.text


def test_an_unknown_name_is_a_lookup_error() -> None:
    """With a sentence for people."""
    with pytest.raises(LookupError, match="there is no provider 'carrier_pigeon'"):
        Registry([]).get("carrier_pigeon")


def test_registering_while_running() -> None:
    """A provider comes and goes without a restart; values made from it live on."""
    registry = Registry([])
    registry.register(Named)
    assert registry.get("named") is Named
    assert by_name(registry)["named"].origin == "runtime"
    registry.unregister("named")
    with pytest.raises(UnknownProvider):
        registry.get("named")
    with pytest.raises(UnknownProvider):
        registry.unregister("named")
    registry.register(Named)
    assert registry.get("named") is Named


def test_registering_refuses_what_is_no_provider() -> None:
    """Nor a name that is taken, be it imported yet or not."""
    registry = Registry([])
    with pytest.raises(ValueError, match="does not implement"):
        registry.register(Half)  # type: ignore[type-abstract]
    with pytest.raises(ValueError, match="already"):
        registry.register(MetaBusiness)
    with pytest.raises(ValueError, match="no WhatsAppProvider"):
        registry.register(ACCOUNT)  # type: ignore[arg-type]


def test_a_failed_name_can_be_registered_anew(modules: Path) -> None:
    """A repaired plug-in takes its place without a restart."""
    (modules / "broken.py").write_text("1 / 0")
    registry = Registry([point("named", "broken")])
    with pytest.raises(UnknownProvider):
        registry.get("named")
    registry.register(Named)
    assert registry.get("named") is Named


def test_entry_points_of_installed_distributions(monkeypatch: pytest.MonkeyPatch, modules: Path) -> None:
    """Found by their group."""
    (modules / "installed.py").write_text(PLUGIN)
    points = {ENTRY_POINT_GROUP: [point("plugin", "installed")]}
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points[group])
    assert Registry().get("plugin").info.name == "plugin"


def states(registry: Registry, *names: str) -> list[str | None]:
    """How each of *names* is, None where there is none."""
    entries = by_name(registry)
    return [entries[name].state if name in entries else None for name in names]


def test_what_is_installed_later_is_found_by_reloading(modules: Path) -> None:
    """And is imported when it is first asked for; what was uninstalled is gone, until it is back."""
    registry = Registry([])
    assert registry.reload([]) == ([], [])
    (modules / "late_plugin.py").write_text(PLUGIN)
    late = Installed(point("plugin", "late_plugin"), "late", "1.0")
    assert registry.reload([late]) == (["plugin"], [])
    assert "late_plugin" not in sys.modules
    made = registry.get("plugin")
    assert registry.reload([late]) == ([], [])
    assert registry.get("plugin") is made
    assert registry.reload([]) == ([], ["plugin"])
    assert states(registry, "plugin", "meta_business") == [None, "registered"]
    assert registry.reload([late]) == (["plugin"], [])
    assert registry.get("plugin") is made


def test_another_version_of_what_is_imported_needs_a_restart(modules: Path) -> None:
    """Python would give the old modules, or a mixture: the one in use goes on, or none is, and the reason says so."""
    (modules / "versioned.py").write_text(PLUGIN)
    old, new = (Installed(point("plugin", "versioned"), "acme", version) for version in ("1.0", "2.0"))
    registry = Registry([])
    registry.reload([old])
    registry.reload([new])
    (modules / "versioned.py").write_text(PLUGIN.replace("class Plugin", "class Newer").replace("= Plugin", "= Newer"))
    assert registry.get("plugin").__name__ == "Newer"  # nothing was imported until now
    for reason in ("acme 1.0 is installed, but this process has imported 2.0: restart it", None):
        registry.reload([old if reason else new])
        assert registry.get("plugin").__name__ == "Newer"
        assert by_name(registry)["plugin"].reason == reason
    registry.reload([])
    registry.reload([old])
    with pytest.raises(UnknownProvider, match=r"acme 1\.0 is installed, .* imported 2\.0: restart it"):
        registry.get("plugin")


def test_a_broken_plugin_is_tried_again(modules: Path) -> None:
    """Also as another version, where nothing of the former one was imported."""
    broken = modules / "mended.py"
    broken.write_text("1 / 0")
    registry = Registry([])
    for version in ("1.0", "1.0", "2.0"):
        assert registry.reload([Installed(point("plugin", "mended"), "acme", version)]) == (["plugin"], [])
        assert states(registry, "plugin") == ["failed"]
    broken.write_text(PLUGIN)
    assert registry.reload(registry.scan()) == ([], ["plugin"])
    registry.reload([Installed(point("plugin", "mended"), "acme", "2.1")])
    assert states(registry, "plugin") == ["registered"]


def test_reloading_leaves_alone_what_is_not_installed(modules: Path) -> None:
    """What is built in, what was registered or unregistered by hand; a name that becomes free goes to the next."""
    for module in ("first_plugin", "next_plugin"):
        (modules / f"{module}.py").write_text(PLUGIN)
    first, following = (Installed(point("plugin", f"{name}_plugin"), name, "1") for name in ("first", "next"))
    thief = Installed(point("named", "first_plugin"), "first", "1")
    registry = Registry([])
    registry.register(Named)
    registry.reload([first, following, thief])
    assert registry.get("plugin").__module__ == "first_plugin"
    assert registry.get("named") is Named
    assert [entry.origin for entry in registry.entries() if entry.state == "failed"] == ["first_plugin", "next_plugin"]
    registry.unregister("plugin")
    assert registry.reload([first, thief]) == ([], [])
    assert registry.reload([following]) == (["plugin"], [])
    assert registry.get("plugin").__module__ == "next_plugin"
    assert [entry for entry in registry.entries() if entry.state == "failed"] == []
    assert registry.get("named") is Named
