"""What a switch would mean, without making it: held against what the organization really sent and who wrote to it."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from providers import Check, Flow, ProviderStatus, SendError, WhatsAppProvider, phone_key

from ..accounts.accounts import Accounts
from ..accounts.config import Config, NewConfig, NotFound, TestFailed, sender_of
from ..accounts.ownership import Ownership
from ..accounts.progress import ShowCheck, ShownChecks
from ..identifiers import id_at
from ..storage.database import Database
from ..storage.statements import configs, switches
from ..storage.statements.configs import StoredConfig
from ..storage.statements.switches import SentKind, Standing
from ..validation import Unlogged
from .change import NoFormerConfig, Requested, order_after

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


class DryRun(Unlogged, frozen=True, kw_only=True):
    """What would happen. ``ready``: the tests pass. ``another_number``: people see another than now; None where
    that of the account is not known, as before a phone is linked.

    The counts are of the last 30 days, of the last 50,000 sends and messages from people at most: those since then.
    """

    ready: bool
    version: int
    from_config_id: UUID | None
    to_config_id: UUID | None  # None: a configuration that is not saved
    provider: str
    from_sender: str | None
    to_sender: str | None
    another_number: bool | None
    changed: bool  # False: it is the active one already
    capability_gaps: list[Gap]
    templates_missing: list[MissingTemplate]
    templates_unknown: str | None  # why nobody knows which are there
    sends_since: datetime
    people_since: datetime
    people_without_phone: int
    sends_without_phone: int
    in_flight: int
    fallback_config_ids: list[UUID]  # once it is made


class _Traffic(msgspec.Struct, frozen=True):
    """What the organization sent, and who wrote to it without a phone, since the times that are with it."""

    standing: Standing
    config: StoredConfig | None
    kinds: list[SentKind]
    sends_since: datetime
    people: int
    people_since: datetime
    in_flight: int
    sender: str | None  # of the active config


async def dry_run(
    database: Database,
    accounts: Accounts,
    ownership: Ownership,
    request: Requested,
    show: ShowCheck | None = None,
) -> tuple[DryRun, list[Check]]:
    """What the switch that is asked for would mean, and its test, of which *show* gets each check as it is done.

    Raises `NotFound`, `ChangeRefused` in its kinds.
    """
    traffic = await _traffic(database, request)
    standing, kinds, config = traffic.standing, traffic.kinds, None
    if isinstance(request.target, NewConfig):
        provider = accounts.validate(request.target.provider_type, request.target.config_data)
    elif traffic.config is None:
        raise NotFound
    else:
        config = accounts.usable(traffic.config)
        provider = config.provider
    ready, checks, status = True, list[Check](), None
    if not request.force:
        ready, checks, status = await _tested(accounts, ownership, request.organization_id, provider, config, show)
    is_active = config is not None and config.id == standing.active_config_id
    missing, unknown = ([], None) if is_active else await _missing_templates(accounts, provider, kinds)
    to_sender = sender_of(provider, status) or (config.sender if config else None)
    found = DryRun(
        ready=ready,
        version=standing.version,
        from_config_id=standing.active_config_id,
        to_config_id=config.id if config else None,
        provider=provider.name,
        from_sender=traffic.sender,
        to_sender=to_sender,
        another_number=another_number(traffic.sender, to_sender),
        changed=not is_active,
        capability_gaps=_gaps(kinds, provider.info.capabilities),
        templates_missing=missing,
        templates_unknown=unknown,
        sends_since=traffic.sends_since,
        people_since=traffic.people_since,
        people_without_phone=0 if is_active else traffic.people,
        sends_without_phone=0 if is_active else sum(kind.without_phone for kind in kinds),
        in_flight=traffic.in_flight,
        fallback_config_ids=order_after(request, standing, config),
    )
    return found, checks


async def _traffic(database: Database, request: Requested) -> _Traffic:
    organization_id, since = request.organization_id, datetime.now(UTC) - timedelta(days=TRAFFIC_DAYS)
    async with database.organization(organization_id) as connection:
        standing = await switches.standing(connection, organization_id)
        if standing is None:
            raise NotFound
        request.check_version(standing)
        config = None
        if not isinstance(request.target, NewConfig):
            config_id = request.target or standing.former_config_id
            if config_id is None:
                raise NoFormerConfig
            config = await configs.by_id(connection, organization_id, config_id)
        kinds = await switches.sent_kinds(connection, organization_id, id_at(since))
        people, people_since = await switches.people_without_phone(connection, organization_id, since)
        in_flight = await switches.under_way(connection, organization_id)
        active = standing.active_config_id and await configs.by_id(
            connection, organization_id, standing.active_config_id
        )
    sends_since = (kinds[0].since if kinds else None) or since
    return _Traffic(
        standing,
        config,
        kinds,
        sends_since,
        people,
        people_since or since,
        in_flight,
        active.sender if active else None,
    )


async def _tested(
    accounts: Accounts,
    ownership: Ownership,
    organization_id: UUID,
    provider: WhatsAppProvider,
    config: Config | None,
    show: ShowCheck | None,
) -> tuple[bool, list[Check], ProviderStatus | None]:
    """Whether the test passes that a switch begins with, what it finds, and how the account is doing."""
    shown = ShownChecks(show)
    try:
        checks, status = await accounts.test(provider, config.callback_url if config else None, shown)
    except TestFailed as error:
        shown.all(error.checks)
        return False, list(error.checks), None
    checks += await ownership.check(organization_id, provider, checks)
    shown.all(checks)
    return all(check.passed for check in checks if check.fatal), checks, status


def another_number(former: str | None, sender: str | None) -> bool | None:
    """Whether people will see another number than before, however they are spelled; None: nobody knows yet."""
    if former is None:
        return False
    return phone_key(former) != phone_key(sender) if sender else None


def _gaps(kinds: list[SentKind], able: frozenset[str]) -> list[Gap]:
    """What was sent that a provider of these capabilities cannot say, the most frequent first."""
    gaps: Counter[str] = Counter()
    for kind in kinds:
        if (needed := _needed(kind, able)) is not None and needed not in able:
            gaps[needed] += kind.sends
        if kind.to_groups and "groups" not in able:
            gaps["groups"] += kind.to_groups
    return [Gap(kind, sends) for kind, sends in gaps.most_common()]


def _needed(kind: SentKind, able: frozenset[str]) -> str | None:
    return kind.action if kind.kind == "interactive" and "interactive" in able else kind.kind


async def _missing_templates(
    accounts: Accounts, provider: WhatsAppProvider, kinds: list[SentKind]
) -> tuple[list[MissingTemplate], str | None]:
    """Which of the templates in *kinds* cannot be sent there, and why nobody knows, where that is so."""
    needed = {(kind.template, kind.language or ""): kind.sends for kind in kinds if kind.template}
    if not needed or "templates" not in provider.info.capabilities:
        return [], None  # without templates the whole kind is a gap
    statuses, why = await _known_statuses(accounts, provider)
    otherwise = "unknown" if why else "missing"
    found = [MissingTemplate(*template, sends, statuses.get(template, otherwise)) for template, sends in needed.items()]
    return [template for template in found if template.status != APPROVED], why


async def _known_statuses(
    accounts: Accounts, provider: WhatsAppProvider
) -> tuple[dict[tuple[str, str], str], str | None]:
    try:
        return await accounts.run(_statuses(provider), provider.time_limits.test_s), None
    except SendError as error:
        return {}, error.detail or error.code


def _statuses(provider: WhatsAppProvider) -> Flow[dict[tuple[str, str], str]]:
    """The status of each of the account's templates, by name and language."""
    found: dict[tuple[str, str], str] = {}
    after = None
    while True:
        page = yield from provider.list_templates(after)
        found |= {(template.name, template.language): template.status or "unknown" for template in page.templates}
        if (after := page.next) is None:
            return found
