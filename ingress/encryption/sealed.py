"""All that encryption keys have made: the one list, and how each thing is made anew with the newest key."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from ..audit.trail import begin_content, checked_content, end_content
from ..identifiers import PLATFORM_ID, new_id
from ..storage.database import Database, StoreUnavailable
from ..storage.statements import sealed
from ..storage.statements.sealed import Key, KeyedColumn, KeyedRecord
from ..storage.vault import Vault, VaultError, sealed_with, signed_with

WAIT_S = 60.0

Place: TypeAlias = Callable[[Key], tuple[str, ...]]


class Sealed(NamedTuple):
    """A column with secrets. ``place``: what those of a row were sealed for."""

    column: KeyedColumn
    place: Place

    def key_of(self, record: bytes) -> str:
        """The id of the key that made it."""
        return sealed_with(record)

    def check(self, vault: Vault, row: KeyedRecord) -> None:
        """Raises `VaultError` where it does not open."""
        vault.open(row.record, *self.place(row.key))

    def renewed(self, vault: Vault, row: KeyedRecord) -> bytes:
        """The same with the newest key. Raises `VaultError`."""
        place = self.place(row.key)
        return vault.seal(vault.open(row.record, *place), *place)


class Signed(NamedTuple):
    """A column with signatures that must be of a key that is still there. ``content``: what was signed."""

    column: KeyedColumn
    content: Callable[..., bytes]

    def key_of(self, record: bytes) -> str:
        """The id of the key that made it."""
        return signed_with(record)

    def check(self, vault: Vault, row: KeyedRecord) -> None:
        """Raises `VaultError` where it is of something else: what was tampered with is not signed anew."""
        if not vault.signed(row.record, self.content(*row.key, *row.beside), lately=True):
            raise VaultError("the signature is wrong")

    def renewed(self, vault: Vault, row: KeyedRecord) -> bytes:
        """The same with the newest key. Raises `VaultError`."""
        self.check(vault, row)
        return vault.sign(self.content(*row.key, *row.beside))


def _of_object(field: str) -> Place:
    """A field of an organization's object."""
    return lambda key: (str(key[0]), str(key[1]), field)


def _of_platform(field: str) -> Place:
    """A field of something that is no organization's."""
    return lambda key: (str(PLATFORM_ID), str(key[0]), field)


def _config(field: str) -> Sealed:
    column = KeyedColumn("whatsapp_provider_configs", field, ("organization_id", "id"))
    return Sealed(column, _of_object(field))


def _app(field: str) -> Sealed:
    return Sealed(KeyedColumn("provider_apps", field, ("id",)), _of_platform(field))


def _seal(of: str, content: Callable[..., bytes], entries: str) -> Signed:
    return Signed(KeyedColumn("organizations", f"{of}_seal", ("id",), (entries, f"{of}_hash")), content)


RETIRED = Sealed(KeyedColumn("retired_keys", "derived", ("id",)), _of_platform("derived"))
# What needs the key that made it. What else was made with keys is known again by what is left of them (`retired_keys`):
# entries of the audit trail, and hashes of API keys, of the platform's, and of the secrets that sign webhooks.
EVERYTHING: tuple[Sealed | Signed, ...] = (
    _config("config_data"),
    _config("webhook_token"),
    _app("config_data"),
    _app("webhook_token"),
    Sealed(KeyedColumn("callbacks", "secrets", ("organization_id",)), lambda key: (str(key[0]), "callback", "secrets")),
    RETIRED,
    _seal("audit", end_content, "audit_entries"),
    _seal("audit_gone", begin_content, "audit_gone"),
    _seal("audit_checked", checked_content, "audit_checked"),
)


patiently = retry(
    retry=retry_if_exception_type(StoreUnavailable), stop=stop_after_delay(WAIT_S), wait=wait_fixed(0.5), reraise=True
)


async def begin(database: Database, vault: Vault) -> None:
    """Before *vault* seals anything: have what is left of its newest key kept, and know those that were let go.

    From then on something is of that key until it is rotated, whatever else is changed: `ingress keys rotate` tells it
    from one that nobody has used. Raises `StoreUnavailable`, after a minute.
    """
    newest = vault.key_ids[0]
    if newest not in await remember_retired(database, vault):
        await retire(database, vault, newest)


@patiently
async def remember_retired(database: Database, vault: Vault) -> set[str]:
    """Have *vault* know again what was made with keys that were let go; the ids of all that are kept.

    A process that served without it would refuse API keys that are good. One that does not open is left out, for
    `ingress keys rotate` to name. Raises `StoreUnavailable`, after a minute.
    """
    async with database.worker() as connection:
        kept = await sealed.retired(connection)
    for key in kept:
        try:
            vault.remember(key.key_id, vault.open(key.derived, *RETIRED.place((key.id,))))
        except VaultError:
            continue
    return {key.key_id for key in kept}


@patiently
async def retire(database: Database, vault: Vault, key_id: str) -> None:
    """Keep what is left of a key, unless it is kept already. Raises `StoreUnavailable`, after a minute."""
    id = new_id()
    derived = vault.seal(vault.derived(key_id), *RETIRED.place((id,)))
    async with database.worker() as connection:
        await sealed.retire(connection, id, key_id, derived)
