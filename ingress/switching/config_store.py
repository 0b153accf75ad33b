"""Configs as they are stored: added, edited, removed, each with its entry in the trail."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from providers import Check, ProviderStatus, WhatsAppProvider
from providers.phones import phone_key

from ..accounts.accounts import Accounts
from ..accounts.config import (
    MAX_CONFIGS,
    AccountExists,
    Config,
    InUse,
    NewConfig,
    NotFound,
    TooMany,
    WebhooksUnread,
    sender_of,
)
from ..accounts.ownership import Ownership
from ..audit.trail import Actor
from ..storage.database import Database
from ..storage.statements import configs, switches
from ..storage.statements.configs import ConfigColumns, NewConfigColumns, StoredConfig, StoredOrder
from ..storage.statements.receiving import unread
from ..storage.vault import token_hash
from ..validation import Unlogged
from .change import Requested
from .journal import Journal, Transition
from .undo import Undo, count


class Edited(msgspec.Struct, frozen=True):
    """A config as it is now, the organization's version, and what the tests found."""

    config: Config
    version: int
    checks: list[Check]


class ConfigEdit(Unlogged, frozen=True):
    """What becomes of a config: its fields, None taking one out; and whether it may be a second one of an account."""

    name: str | None
    config_data: Mapping[str, Any]
    allow_second: bool = False


class ConfigStore:
    """Changes what is stored of configs."""

    def __init__(
        self, database: Database, accounts: Accounts, ownership: Ownership, journal: Journal, undo: Undo
    ) -> None:
        self._database = database
        self._accounts = accounts
        self._ownership = ownership
        self._journal = journal
        self._undo = undo

    async def add(
        self,
        connection: asyncpg.Connection,
        organization_id: UUID,
        actor: Actor,
        new: NewConfig,
        provider: WhatsAppProvider,
        status: ProviderStatus | None,
        *,
        activate: bool = True,
    ) -> tuple[Config, StoredOrder, Transition]:
        """Store a new config: it, the fallback order, and what the caller writes down.

        It joins that order at its end, at once, or (*activate*) when it becomes the active one: then the version stays.
        Raises `TooMany` where the organization may have no further one, and `AccountExists`.
        """
        if await configs.count(connection, organization_id) >= MAX_CONFIGS:
            raise TooMany(f"An organization may have {MAX_CONFIGS} configs. Delete one first.")
        # Looked at again: under the lock, and with the number that the provider says the account has.
        sender = sender_of(provider, status)
        same = await self._of_account(connection, organization_id, provider, sender)
        if same and new.if_saved != "add":
            raise AccountExists(same[0].id, same[0].name)
        sender = sender or next((config.sender for config in same if config.sender), None)
        config, token = self._accounts.made(organization_id, new, provider, sender)
        config = msgspec.structs.replace(config, joins_order=new.as_fallback and activate)
        columns = self._columns(config, new.config_data, msgspec.json.encode(status))
        order = await configs.add(connection, organization_id, self._new_columns(config, token, columns))
        after, version = self._accounts.masked(provider), None
        if new.as_fallback and not activate:
            order = await configs.join(connection, organization_id, config.id)
            after, version = {**after, "fallback_config_ids": order.config_ids}, order.version
        configured = Transition(action="configured", actor=actor, config_id=config.id, version=version, after=after)
        return config, order, configured

    async def saved_as(
        self, connection: asyncpg.Connection, organization_id: UUID, new: NewConfig, provider: WhatsAppProvider
    ) -> UUID | None:
        """The config that *new* is saved as already, where that may be meant. Raises `AccountExists`."""
        same = await self._of_account(connection, organization_id, provider, provider.sender)
        if new.if_saved == "use" and (used := next((each for each in same if each.provider == provider), None)):
            return used.id
        if same and new.if_saved != "add":
            raise AccountExists(same[0].id, same[0].name)
        return None

    async def resolved(self, request: Requested) -> Requested:
        """*request*, about the stored config where it brings the configuration of one. Raises `ChangeRefused`."""
        if not isinstance(new := request.target, NewConfig):
            return request
        provider = self._accounts.validate(new.provider_type, new.config_data)
        async with self._database.organization(request.organization_id) as connection:
            saved = await self.saved_as(connection, request.organization_id, new, provider)
        return msgspec.structs.replace(request, target=saved) if saved else request

    async def _of_account(
        self, connection: asyncpg.Connection, organization_id: UUID, provider: WhatsAppProvider, sender: str | None
    ) -> list[Config]:
        """The configs of that account, by its fields or its number. One that cannot be opened is to be replaced."""
        stored = await configs.of_organization(connection, organization_id)
        same = [self._accounts.known(row) for row in stored if _is_of_account(row, provider, sender)]
        return [config for config in same if not config.is_damaged]

    def _new_columns(self, config: Config, token: str, columns: ConfigColumns) -> NewConfigColumns:
        return NewConfigColumns(
            **msgspec.structs.asdict(columns),
            id=config.id,
            provider_type=config.provider_type,
            webhook_token_hash=token_hash(token),
            webhook_token=self._accounts.seal(config, "webhook_token", token.encode()),
            joins_order=config.joins_order,
        )

    def _columns(self, config: Config, data: Mapping[str, Any], session: bytes | None) -> ConfigColumns:
        return ConfigColumns(
            name=config.name,
            config_data=self._accounts.seal(config, "config_data", msgspec.json.encode(data)),
            sender=config.sender,
            session=session,
            accounts=config.provider.accounts,
            signing_keys=self._ownership.signing_keys(config.provider),
        )

    async def add_tested(self, organization_id: UUID, actor: Actor, new: NewConfig) -> tuple[Config, StoredOrder]:
        """Test a new configuration and store it: the config, and the fallback order, which it joins.

        Raises `ChangeRefused` in its kinds.
        """
        provider = self._accounts.validate(new.provider_type, new.config_data)
        async with self._database.organization(organization_id) as connection:
            await self.saved_as(connection, organization_id, new, provider)
        checks, status = await self._accounts.test(provider)
        async with self._database.exclusive(organization_id) as exclusive, exclusive.transaction() as connection:
            config, order, added = await self.add(
                connection, organization_id, actor, new, provider, status, activate=False
            )
            await self._ownership.claim(connection, organization_id, provider, checks)
            await self._journal.write(connection, organization_id, order.version, added)
        return config, order

    async def edit(self, organization_id: UUID, config_id: UUID, actor: Actor, change: ConfigEdit) -> Edited:
        """Change a config. What comes out is validated and tested as a new one is.

        Raises `ChangeRefused` in its kinds, and `NotFound`; then nothing was changed.
        """
        changes = change.config_data
        async with self._database.exclusive(organization_id) as exclusive:
            async with exclusive.transaction() as connection:
                row = await configs.by_id(connection, organization_id, config_id)
            if row is None:
                raise NotFound
            former = self._accounts.usable(row)
            data, provider = self.changed(row, former, changes)
            checks, status, session = list[Check](), None, row.session
            if changes:
                checks, status = await self._accounts.test(provider, self._accounts.callback_url(row, provider))
                session = msgspec.json.encode(status)
            sender = sender_of(provider, status) or row.sender
            edited = msgspec.structs.replace(former, name=change.name or row.name, provider=provider, sender=sender)
            async with exclusive.transaction() as connection:
                same = await self._of_account(connection, organization_id, provider, sender)
                others = [config for config in same if config.id != config_id]
                if others and not change.allow_second and _is_another(row, edited):
                    raise AccountExists(others[0].id, others[0].name)
                columns = self._columns(edited, data, session)
                version = await configs.edit(connection, organization_id, config_id, columns, tested=bool(changes))
                if changes:
                    await self._ownership.claim(connection, organization_id, provider, checks)
                await configs.release_accounts(connection, organization_id, row.provider_type, row.accounts)
                now = await configs.by_id(connection, organization_id, config_id)
                assert now is not None
                transition = Transition(
                    action="edited",
                    actor=actor,
                    config_id=config_id,
                    version=version,
                    before=self._shown(row, former),
                    after=self._shown(now, edited),
                )
                await self._journal.write(connection, organization_id, version, transition)
        return Edited(self._accounts.known(now), version, checks)

    def changed(
        self, row: StoredConfig, former: Config, changes: Mapping[str, Any]
    ) -> tuple[dict[str, Any], WhatsAppProvider]:
        """What comes out of *changes*, and the provider that it makes. Raises `InvalidConfiguration`."""
        changed = msgspec.json.decode(self._accounts.data(row)) | changes
        data = {field: value for field, value in changed.items() if value is not None}
        provider = self._accounts.validate(row.provider_type, data)
        self._accounts.check_secrets(former.provider, provider, changes)
        return data, provider

    async def remove(self, organization_id: UUID, config_id: UUID, actor: Actor) -> tuple[StoredConfig, int]:
        """Delete a config with its credentials: what it was, and the version.

        A fallback leaves the order; the former one is none to return to any more; a switch to it that waits for a phone
        is taken back. Raises `NotFound`, `InUse`, `WebhooksUnread`.
        """
        async with self._database.exclusive(organization_id) as exclusive, exclusive.transaction() as connection:
            standing = await switches.standing(connection, organization_id)
            if standing is None:
                raise NotFound
            own = [switch for switch in standing.open if switch.config_id == config_id]
            taken_back = await self._undo.put_back(connection, organization_id, standing, own)
            row = await configs.by_id(connection, organization_id, config_id)
            if row is None:
                raise NotFound
            if await unread.is_waiting(connection, organization_id, config_id):
                raise WebhooksUnread
            version = await configs.remove(connection, organization_id, config_id)
            if version is None:
                raise InUse("The active config cannot be deleted. Switch to another one first.")
            await configs.release_accounts(connection, organization_id, row.provider_type, row.accounts)
            before = self._shown(row, self._accounts.open(row))
            removed = Transition(
                action="removed",
                actor=actor,
                config_id=config_id,
                provider=row.provider_type,
                version=version,
                before=before,
            )
            await self._journal.write(connection, organization_id, version, *taken_back, removed)
        count(taken_back)
        return row, version

    async def disconnect(self, row: StoredConfig) -> None:
        """Have the provider of a removed config post no more webhooks here.

        Unless another config is of the same account, whose messages these are too.
        """
        config = self._accounts.open(row)
        if config is None:
            return
        self._accounts.forget(config.organization_id)
        async with self._database.worker() as connection:
            shared = await configs.is_shared(connection, row)
        if not shared:
            await self._accounts.disconnect(config)

    def _shown(self, row: StoredConfig, config: Config | None) -> dict[str, Any]:
        masked = self._accounts.masked(config.provider) if config else {}
        return {"name": row.name, "state": row.state, **masked}


def _is_another(row: StoredConfig, edited: Config) -> bool:
    """Whether a config is of another account now."""
    return row.accounts[:1] != list(edited.provider.accounts[:1]) or row.sender not in (None, edited.sender)


def _is_of_account(row: StoredConfig, provider: WhatsAppProvider, sender: str | None) -> bool:
    if row.provider_type != provider.name:
        return False
    if provider.accounts and list(provider.accounts[:1]) == row.accounts[:1]:
        return True
    return bool(sender and row.sender and phone_key(sender) == phone_key(row.sender))
