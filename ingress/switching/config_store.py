"""Configs as they are stored: added, edited, removed, each with its entry in the trail."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from providers import Check, ProviderStatus, WhatsAppProvider

from ..accounts.accounts import Accounts, sender_of
from ..accounts.config import MAX_CONFIGS, Config, InUse, NewConfig, NotFound, TooMany, WebhooksUnread
from ..accounts.ownership import Ownership
from ..audit import Actor
from ..storage.database import Database
from ..storage.statements import configs, owners, switches, unread
from ..storage.statements.configs import ConfigColumns, NewConfigColumns, StoredConfig
from ..storage.vault import token_hash
from .journal import Journal, Transition
from .undo import Undo, count


class Edited(msgspec.Struct, frozen=True):
    """A config as it is now, the organization's version, and what the tests found."""

    config: Config
    version: int
    checks: list[Check]


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
    ) -> tuple[Config, int, Transition]:
        """Store a new config: it, the organization's version, which stays, and what the caller writes down.

        Raises `TooMany` where the organization may have no further one.
        """
        if await configs.count(connection, organization_id) >= MAX_CONFIGS:
            raise TooMany(f"An organization may have {MAX_CONFIGS} configs. Delete one first.")
        config, token = self._accounts.made(organization_id, new, provider, status)
        columns = self._columns(config, new.config_data, msgspec.json.encode(status))
        version = await configs.add(connection, organization_id, self._new_columns(config, token, columns))
        after = self._accounts.masked(provider)
        return config, version, Transition(action="configured", actor=actor, config_id=config.id, after=after)

    def _new_columns(self, config: Config, token: str, columns: ConfigColumns) -> NewConfigColumns:
        return NewConfigColumns(
            **msgspec.structs.asdict(columns),
            id=config.id,
            provider_type=config.provider_type,
            webhook_token_hash=token_hash(token),
            webhook_token=self._accounts.seal(config, "webhook_token", token.encode()),
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

    async def add_tested(self, organization_id: UUID, actor: Actor, new: NewConfig) -> tuple[Config, int]:
        """Test a new configuration and store it: the config, and the version of the organization, which stays.

        Raises `ChangeRefused` in its kinds.
        """
        provider = self._accounts.validate(new.provider_type, new.config_data)
        checks, status = await self._accounts.test(provider)
        async with self._database.exclusive(organization_id) as exclusive, exclusive.transaction() as connection:
            config, version, added = await self.add(connection, organization_id, actor, new, provider, status)
            await self._ownership.claim(connection, organization_id, provider, checks)
            await self._journal.write(connection, organization_id, version, added)
        return config, version

    async def edit(
        self, organization_id: UUID, config_id: UUID, actor: Actor, *, name: str | None, changes: Mapping[str, Any]
    ) -> Edited:
        """Change fields of a config, None taking one out. What comes out is validated and tested as a new one is.

        Raises `InvalidConfiguration`, `NotFound` or `ProviderUnreachable`; then nothing was changed.
        """
        async with self._database.exclusive(organization_id) as exclusive:
            async with exclusive.transaction() as connection:
                row = await configs.by_id(connection, organization_id, config_id)
            if row is None:
                raise NotFound
            former = self._accounts.usable(row)
            data, provider = self._changed(row, former, changes)
            checks, status, session = list[Check](), None, row.session
            if changes:
                checks, status = await self._accounts.test(provider, self._accounts.callback_url(row, provider))
                session = msgspec.json.encode(status)
            sender = sender_of(provider, status) or row.sender
            edited = msgspec.structs.replace(former, name=name or row.name, provider=provider, sender=sender)
            async with exclusive.transaction() as connection:
                columns = self._columns(edited, data, session)
                version = await configs.edit(connection, organization_id, config_id, columns, tested=bool(changes))
                if changes:
                    await self._ownership.claim(connection, organization_id, provider, checks)
                await owners.release(connection, organization_id, row.provider_type, row.accounts)
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

    def _changed(
        self, row: StoredConfig, former: Config, changes: Mapping[str, Any]
    ) -> tuple[dict[str, Any], WhatsAppProvider]:
        """What comes out of *changes*, and the provider that it makes. Raises `InvalidConfiguration`."""
        changed = {**msgspec.json.decode(self._accounts.data(row)), **changes}
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
            await owners.release(connection, organization_id, row.provider_type, row.accounts)
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
