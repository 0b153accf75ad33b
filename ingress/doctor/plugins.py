"""Plug-ins of providers: those that failed, and those that are missing though accounts need them."""

from ..storage.connections import WORKER
from ..storage.statements import configs
from .findings import DoctorCheck, Examined, Findings, error, ok

REINSTALL = "pip install the plug-in in a release that fits, or uninstall it; then: ingress providers check {}"


async def loaded(examined: Examined) -> Findings:
    """Each is imported."""
    entries = await examined.entries()
    for entry in entries:
        if entry.state == "failed":
            means = "no account of it can be used: sends go to fallbacks, webhooks are answered 503"
            found = f"the plug-in {entry.name} from {entry.origin} failed: {entry.reason}"
            yield error(found, means, REINSTALL.format(entry.name))
    good = [entry.name for entry in entries if entry.state == "registered"]
    yield ok(f"{len(good)} providers can be used: {', '.join(good)}")


async def needed(examined: Examined) -> Findings:
    """Accounts stay when their plug-in goes."""
    async with examined.role(WORKER) as connection:
        kinds = await configs.kinds(connection)
    known = set(examined.registry.names())
    for name, count in kinds.items():
        if name not in known:
            means = "they neither send nor receive: sends go to fallbacks, webhooks are answered 503"
            yield error(
                f"{count} accounts need the provider {name}, which is not installed", means, REINSTALL.format(name)
            )
    if known.issuperset(kinds):
        yield ok(f"{sum(kinds.values())} accounts are stored, and the plug-in of each is installed")


CHECKS = (
    DoctorCheck("plugins.loaded", loaded),
    DoctorCheck("plugins.needed", needed, needs=("schema.version",)),
)
