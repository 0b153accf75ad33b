"""What a switch would mean, without making it: held against what the organization really sent and who wrote to it."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import msgspec

from providers import Check, Flow, SendError, WhatsAppProvider

from ..accounts.accounts import Accounts, Config, NewConfig, NotFound, TestFailed
from ..accounts.ownership import Ownership
from ..identifiers import id_at
from ..storage.database import Database
from ..storage.statements import configs, switches
from .change import NO_FORMER_CONFIG, NoFormerConfig, VersionConflict, order_after

TRAFFIC_DAYS = 30
# The status of a template that can be sent.
APPROVED = "APPROVED"


class Gap(msgspec.Struct, frozen=True):
    """A kind of content that was sent and that the other provider cannot say."""

    kind: str
    sends: int


class MissingTemplate(msgspec.Struct, frozen=True):
    """A template that was sent, and that the other account cannot send, or nobody knows.

    ``status``: `missing`, the provider's word for one that is not approved, or `unknown` where nobody could be asked.
    """

    name: str
    language: str
    sends: int
    status: str

    def __repr__(self) -> str:
        return f"MissingTemplate({self.language}, {self.sends} sends, {self.status})"


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What would happen. ``ready``: the tests pass.

    The numbers are of the last 30 days, of the last 50,000 sends and messages from people at most: those since then.
    """

    ready: bool
    version: int
    from_config_id: UUID | None
    to_config_id: UUID | None  # None: a configuration that is not saved
    provider: str
    changed: bool  # False: it is the active one already
    checks: list[Check]
    capability_gaps: list[Gap]
    templates_missing: list[MissingTemplate]
    templates_unknown: str | None  # why nobody knows which are there
    sends_since: datetime
    people_since: datetime
    people_without_phone: int
    sends_without_phone: int
    in_flight: int
    fallback_config_ids: list[UUID]  # once it is made


class Forecast:
    """Foretells switches."""

    def __init__(self, database: Database, accounts: Accounts, ownership: Ownership) -> None:
        self._database = database
        self._accounts = accounts
        self._ownership = ownership

    async def of(
        self,
        organization_id: UUID,
        target: UUID | NewConfig | None,
        *,
        expected_version: int | None = None,
        force: bool = False,
    ) -> Outlook:
        """What a switch to *target* would mean. Raises `NotFound`, and `ChangeRefused` in its kinds."""
        since = datetime.now(UTC) - timedelta(days=TRAFFIC_DAYS)
        async with self._database.organization(organization_id) as connection:
            standing = await switches.standing(connection, organization_id)
            if standing is None:
                raise NotFound
            if expected_version not in (None, standing["version"]):
                raise VersionConflict(standing["version"], standing["active_config_id"])
            config_id = None if isinstance(target, NewConfig) else target or standing["former_config_id"]
            if config_id is None and not isinstance(target, NewConfig):
                raise NoFormerConfig(NO_FORMER_CONFIG)
            row = await configs.by_id(connection, organization_id, config_id) if config_id else None
            kinds = await switches.sent_kinds(connection, organization_id, id_at(since))
            people, people_since = await switches.people_without_phone(connection, organization_id, since)
            under_way = await switches.under_way(connection, organization_id)
        config: Config | None = None
        if isinstance(target, NewConfig):
            provider: WhatsAppProvider = self._accounts.validate(target.provider_type, target.config_data)
        else:
            if row is None:
                raise NotFound
            config = self._accounts.known(row).usable()
            provider = config.provider
        checks: list[Check] = []
        ready = True
        if not force:
            try:
                checks, _ = await self._accounts.test(provider, config.callback_url if config else None)
                checks += await self._ownership.check(organization_id, provider, checks)
                ready = all(check.passed for check in checks if check.fatal)
            except TestFailed as error:
                checks, ready = list(error.checks), False
        able = provider.info.capabilities
        same = config is not None and config_id == standing["active_config_id"]
        gaps: Counter[str] = Counter()
        for kind in kinds:
            needed = kind["action"] if kind["kind"] == "interactive" and "interactive" in able else kind["kind"]
            if needed not in able:
                gaps[needed] += kind["sends"]
            if kind["to_groups"] and "groups" not in able:
                gaps["groups"] += kind["to_groups"]
        missing, unknown = ([], None) if same else await self._templates(provider, kinds)
        return Outlook(
            ready=ready,
            version=standing["version"],
            from_config_id=standing["active_config_id"],
            to_config_id=config_id,
            provider=provider.name,
            changed=not same,
            checks=checks,
            capability_gaps=[Gap(kind, sends) for kind, sends in gaps.most_common()],
            templates_missing=missing,
            templates_unknown=unknown,
            sends_since=(kinds[0]["since"] if kinds else None) or since,
            people_since=people_since or since,
            people_without_phone=0 if same else people,
            sends_without_phone=0 if same else sum(kind["without_phone"] for kind in kinds),
            in_flight=under_way,
            fallback_config_ids=order_after(standing, config_id, back=target is None),
        )

    async def _templates(
        self, provider: WhatsAppProvider, kinds: list[asyncpg.Record]
    ) -> tuple[list[MissingTemplate], str | None]:
        """Which of the templates in *kinds* cannot be sent there, and why nobody knows, where that is so."""
        needed = {(kind["template"], kind["language"]): kind["sends"] for kind in kinds if kind["template"]}
        if not needed or "templates" not in provider.info.capabilities:
            return [], None  # without templates the whole kind is a gap
        statuses: dict[tuple[str, str], str] = {}
        absent, why = "missing", None
        try:
            statuses = await self._accounts.run(_statuses(provider))
        except SendError as error:
            absent, why = "unknown", error.detail or error.code
        found = [MissingTemplate(*named, sends, statuses.get(named, absent)) for named, sends in needed.items()]
        return [template for template in found if template.status != APPROVED], why


def _statuses(provider: WhatsAppProvider) -> Flow[dict[tuple[str, str], str]]:
    """The status of each of the account's templates, by name and language."""
    found: dict[tuple[str, str], str] = {}
    after = None
    while True:
        page = yield from provider.list_templates(after)
        found |= {(template.name, template.language): template.status or "unknown" for template in page.templates}
        if (after := page.next) is None:
            return found
