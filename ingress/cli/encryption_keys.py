"""`ingress keys`: what each encryption key has made; and `ingress keys rotate`: everything anew with the newest."""

import argparse
import asyncio
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from ..encryption import rotation
from ..encryption.rotation import Made
from ..encryption.sealed import remember_retired
from ..settings import Settings, SettingsError, variable
from ..storage.database import Database
from ..storage.statements.sealed import ProcessKeys
from ..storage.vault import Vault, VaultError, generate_key
from .tables import bar, table

KEYS = variable("encryption_keys")
# Of what does not open.
SHOWN = 20


def add_command(commands: Any) -> None:
    about = "which encryption key has sealed how much, and which processes have it"
    parser = commands.add_parser("keys", help=about, description=about)
    actions = parser.add_subparsers(dest="keys_action", metavar="rotate")
    about = "seal everything with the newest key, while the service goes on; says when the others may go"
    actions.add_parser("rotate", help=about, description=about)


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Of the database of *settings*; the exit status: 1 where something is left to do."""
    lines, status = asyncio.run(_run(settings, rotate=options.keys_action == "rotate"))
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return status


def vault_of(settings: Settings) -> Vault:
    """Raises `SettingsError`."""
    try:
        return Vault(settings.encryption_keys)
    except VaultError as error:
        raise SettingsError(f"{KEYS}: {error}; `ingress generate-key` makes one") from None


async def _run(settings: Settings, *, rotate: bool) -> tuple[list[str], int]:
    vault = vault_of(settings)
    async with Database(settings.database_url, settings.database_connections, settings.database_direct_url) as database:
        await database.check()
        kept = await remember_retired(database, vault)
        return await (_rotated(database, vault, kept) if rotate else _looked(database, vault))


async def _looked(database: Database, vault: Vault) -> tuple[list[str], int]:
    made = await rotation.look(database)
    missing = made.key_ids - set(vault.key_ids)
    return await _overview(database, vault, made), int(bool(missing))


async def _overview(database: Database, vault: Vault, made: Made) -> list[str]:
    rows = []
    for key_id in [*vault.key_ids, *sorted(made.key_ids - set(vault.key_ids))]:
        state = "newest" if key_id == vault.key_ids[0] else "opens" if key_id in vault.key_ids else f"not in {KEYS}"
        found = await rotation.processes(database, key_id)
        counts = {"has": f"{found.have} of {found.processes}", "seals": f"{found.seal} of {found.processes}"}
        rows.append({"key": key_id, "is": state, "records": made.by(key_id), **counts})
    counted = [{"key": key, "of": of, "records": count} for (key, of), count in sorted(made.counts.items())]
    return [*table(rows, "key", "is", "records", "has", "seals"), "", *table(counted, "key", "of", "records")]


async def _rotated(database: Database, vault: Vault, used: set[str]) -> tuple[list[str], int]:
    """What was done, or what is to be done first; the exit status. *used*: keys that have been the newest, ever."""
    newest, *others = vault.key_ids
    made, found = await rotation.look(database), await rotation.processes(database, newest)
    if missing := sorted(made.key_ids - set(vault.key_ids)):
        return list(_missing(made, missing)), 1
    if not others:
        return list(_how_to_begin(newest)), 0
    if new := [key_id for key_id in others if not made.by(key_id) and key_id not in used]:
        return list(_how_to_go_on(new[0], await rotation.processes(database, new[0]))), 1
    if found.seal < found.processes:
        return [_not_everywhere(newest, found)], 1
    total = made.counts.total()
    renewed = await rotation.renew(database, vault, lambda seen: bar("re-encrypting", seen, total))
    made = await rotation.look(database, vault, lambda seen: bar("opening", seen, total))
    return _verdict(vault, made, await rotation.processes(database, newest), renewed)


def _missing(made: Made, missing: Iterable[str]) -> Iterator[str]:
    for key_id in missing:
        name, count = key_id or "an unknown key", made.by(key_id)
        yield f"{name} has made {count} records, and is not in {KEYS}: put it back, at the end."


def _how_to_begin(newest: str) -> Iterator[str]:
    yield f"Everything is sealed with {newest}. To put another key in its place:"
    yield f"1. Add this one to the END of {KEYS}, in every process, and restart them one after the other:"
    yield f"   {generate_key()}"
    yield "2. Move it to the front, and restart again."
    yield f"3. Run `ingress keys rotate` again, with the same {KEYS}."


def _how_to_go_on(new: str, found: ProcessKeys) -> Iterator[str]:
    yield f"{new} is not the first of {KEYS}, and has made nothing."
    yield f"{found.have} of {found.processes} processes have it."
    if found.have < found.processes:
        yield "Give it to the others first, at the end: they could not open what it seals."
    else:
        yield "Move it to the front, restart the processes one after the other, and run `ingress keys rotate` again."


def _not_everywhere(newest: str, found: ProcessKeys) -> str:
    others = f"{found.processes - found.seal} of {found.processes} processes"
    return f"{others} do not seal with {newest}: put it first in their {KEYS}, restart them, and run this again."


def _verdict(vault: Vault, made: Made, found: ProcessKeys, renewed: int) -> tuple[list[str], int]:
    newest, *others = vault.key_ids
    lines = [f"{renewed} records were sealed anew with {newest}; {made.by(newest)} of {made.counts.total()} are."]
    lines += [f"{of} of {' '.join(map(str, key))} does not open: {why}" for of, key, why in made.unopened[:SHOWN]]
    needed = [key_id for key_id in others if made.by(key_id)]
    if made.unopened or needed or found.seal < found.processes:
        if found.seal < found.processes:
            lines.append(_not_everywhere(newest, found))
        elif needed and not made.unopened:
            lines.append("Somebody was changing the rest at that moment: run `ingress keys rotate` again.")
        return [*lines, f"{', '.join(others)} CANNOT go yet."], 1
    return [*lines, f"All of it opens. {', '.join(others)} can go: take it out of {KEYS}, and restart."], 0
