"""The page that everybody sees first: which providers there are, which one is used, and how each account is doing."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from starlette.responses import Response

from providers import ProviderInfo, ProviderStatus, UnknownProvider, WhatsAppProvider

from ...accounts.config import Config
from ...api.refusals import refused_as_problems
from ...api.status import stored_health
from ...health.figures import ConfigFigures, figures_of
from ...health.status import HealthShown, health_shown
from ...identifiers import parse_id
from ...storage.statements.health import ConfigHealth, OrganizationHealth
from ...switching.config_store import ConfigEdit
from ...validation import Unlogged
from ...web.bodies import RequestQuery
from ...web.problems import Problem, not_found
from ..config_form import ConfigForm, empty
from ..rendering import by_field, form_page, redirect
from ..requests import AnyConsoleRequest, ConsoleRequest, Redirected
from ..words.accounts import CAPABILITIES

HOME = "/console/whatsapp"
# As the config in an address: a further one.
NEW = "new"
# The first steps are shown for so long after the last of them.
GREETED = timedelta(days=1)


class WhatsAppQuery(RequestQuery, frozen=True):
    """``provider``: the one whose card is chosen; ``config``: its config in the form, or `new`."""

    provider: str = ""
    config: str = ""


class Account(Unlogged, frozen=True, kw_only=True):
    """A config with how it is doing. ``place``: in the fallback order, from 1; None: it has none there."""

    config: Config
    known: ConfigHealth | None
    health: HealthShown | None
    status: ProviderStatus | None
    figures: ConfigFigures | None
    is_active: bool
    place: int | None

    @property
    def address(self) -> str:
        return address_of(self.config)

    @property
    def number(self) -> str | None:
        """As it is configured, or as its provider says."""
        return self.config.sender or self._session.get("sender")

    @property
    def verified_name(self) -> str | None:
        return self._session.get("verified_name") or self._session.get("name")

    @property
    def _session(self) -> dict[str, Any]:
        return self.status.session_info if self.status else {}

    @property
    def needs_pairing(self) -> bool:
        return can_pair(self.config.provider.info) and not (self.status and self.status.is_connected)


class Card(Unlogged, frozen=True, kw_only=True):
    """A provider, with the organization's accounts there; ``info`` None: its plug-in is not installed."""

    name: str
    info: ProviderInfo | None
    accounts: list[Account]

    @property
    def title(self) -> str:
        return self.info.display_name if self.info else self.name


class Overview(Unlogged, frozen=True, kw_only=True):
    """All that the page shows beside the form."""

    standing: OrganizationHealth
    cards: list[Card]

    @property
    def accounts(self) -> dict[UUID, Account]:
        return {account.config.id: account for card in self.cards for account in card.accounts}

    @property
    def active(self) -> Account | None:
        return next((account for account in self.accounts.values() if account.is_active), None)

    @property
    def order(self) -> list[Account]:
        return sorted((each for each in self.accounts.values() if each.place), key=lambda each: each.place or 0)

    @property
    def has_received(self) -> bool:
        return any(account.known and account.known.received_at for account in self.accounts.values())

    @property
    def is_first_run(self) -> bool:
        """Whether the first steps are shown: until the first message, and for a day after the first config was made."""
        oldest = min((config_id.int >> 80 for config_id in self.accounts), default=0)
        began = datetime.fromtimestamp(oldest / 1000, UTC)
        return not self.active or not self.has_received or began > datetime.now(UTC) - GREETED

    def card(self, name: str) -> Card | None:
        return next((card for card in self.cards if card.name == name), None)


def can_pair(info: ProviderInfo) -> bool:
    return "pairing" in info.capabilities


def address_of(config: Config) -> str:
    """Where the page shows it."""
    return f"{HOME}?provider={config.provider_type}&config={config.id}"


def kind_of(request: AnyConsoleRequest, provider: str) -> type[WhatsAppProvider]:
    """Raises `Problem` 404."""
    try:
        return request.state["manager"].registry.get(provider)
    except UnknownProvider:
        raise not_found() from None


async def overview(request: AnyConsoleRequest) -> Overview:
    """What there is, and how it is doing."""
    manager, organization_id = request.state["manager"], request.organization_id
    configs, standing = await manager.configs(organization_id), await stored_health(request)
    async with request.connection() as connection:
        figures = await figures_of(connection, organization_id, "24h")
    known = {each.config_id: each for each in standing.configs}
    accounts = [_account(config, known.get(config.id), figures.of(config.id), standing) for config in configs]
    infos = {entry.name: entry.info for entry in manager.list_providers() if entry.state == "registered"}
    names = [*infos, *sorted({config.provider_type for config in configs} - set(infos))]
    cards = [
        Card(
            name=name,
            info=infos.get(name),
            accounts=[each for each in accounts if each.config.provider_type == name],
        )
        for name in names
    ]
    # What works for everybody first; what may break on its own last.
    cards.sort(key=lambda card: (not card.info or not card.info.official, card.title))
    return Overview(standing=standing, cards=cards)


def _account(
    config: Config, known: ConfigHealth | None, figures: ConfigFigures | None, standing: OrganizationHealth
) -> Account:
    order = standing.fallback_config_ids
    return Account(
        config=config,
        known=known,
        health=health_shown(known, with_time=True) if known else None,
        status=msgspec.json.decode(known.session, type=ProviderStatus | None) if known and known.session else None,
        figures=figures,
        is_active=config.id == standing.active_config_id,
        place=order.index(config.id) + 1 if config.id in order else None,
    )


async def show(request: ConsoleRequest[WhatsAppQuery]) -> Response:
    """Cards, and the form of the one that is chosen: of the active one, where none is.

    Here one comes to after signing in: whose key may not read goes on to what it may do.
    """
    if not request.can("read"):
        raise Redirected("/console/send-test" if request.can("send") else "/console/team")
    found, query = await overview(request), request.query
    card, account = _chosen(found, query)
    return shown(request, found, card, account, _empty_form(request, card, account))


def _empty_form(request: AnyConsoleRequest, card: Card | None, account: Account | None) -> ConfigForm | None:
    if card is None or card.info is None or (account is not None and account.config.is_unusable):
        return None
    return empty(kind_of(request, card.name), account.config if account else None)


def _chosen(found: Overview, query: WhatsAppQuery) -> tuple[Card | None, Account | None]:
    """The card and the config that the form is of. Raises `Problem` 404."""
    if not query.provider:
        return (found.card(found.active.config.provider_type), found.active) if found.active else (None, None)
    card = found.card(query.provider)
    if card is None:
        raise not_found()
    return card, _account_in(card, query.config)


def _account_in(card: Card, named: str) -> Account | None:
    """The one *named*, else the active or the first one; None: a new one. Raises `Problem` 404."""
    if named == NEW or not (card.accounts or named):
        return None
    if not named:
        return next((each for each in card.accounts if each.is_active), card.accounts[0])
    config_id = parse_id(named)
    account = next((each for each in card.accounts if each.config.id == config_id), None)
    if account is None:
        raise not_found()
    return account


def shown(
    request: AnyConsoleRequest,
    found: Overview,
    card: Card | None,
    account: Account | None,
    form: ConfigForm | None,
    *,
    problem: Problem | None = None,
    **more: Any,
) -> Response:
    """The page; with a *problem*, what is wrong with the form."""
    errors = by_field(request, problem)
    context = {"checks": [], "review": None, "is_second": False, "config_name": ""} | more
    answer = form_page(
        request,
        "whatsapp.html",
        problem,
        overview=found,
        card=card,
        account=account,
        form=form,
        fields=form.fields(request, errors) if form else [],
        errors=errors,
        stepped=_steps(found, card),
        lacks=_lacks(found),
        **context,
    )
    answer.headers.update(problem.headers if problem else {})
    return answer


def _steps(found: Overview, card: Card | None) -> list[str]:
    """The states of the first three steps."""
    done = [card is not None or bool(found.accounts), found.active is not None, found.has_received]
    current = done.index(False) if False in done else len(done)
    return ["done" if is_done else "current" if at == current else "to_come" for at, is_done in enumerate(done)]


def _lacks(found: Overview) -> dict[UUID, list[str]]:
    """What each fallback cannot do for a message that the active one can, what people know best first."""
    if found.active is None:
        return {}
    able = found.active.config.provider.info.capabilities & set(CAPABILITIES)
    return {
        each.config.id: sorted(able - each.config.provider.info.capabilities, key=list(CAPABILITIES).index)
        for each in found.order
    }


# ---------------------------------------------------------------- the order, the name, the end


async def reorder(request: ConsoleRequest) -> Response:
    """Set the fallback order: as the rows are, with one moved up or down, put in or taken out."""
    form = await request.posted()
    order = [_id(text) for text in form.all("order")]
    action, _, text = form.get("move").partition(":")
    if action:
        order = _moved(order, action, _id(text))
    with refused_as_problems():
        await request.state["manager"].set_fallbacks(
            request.organization_id, list(dict.fromkeys(order)), None, request.actor
        )
    return redirect(HOME, done="fallback_order")


def _id(text: str) -> UUID:
    """Raises `Problem` 404 for a text that is no id."""
    if (config_id := parse_id(text)) is None:
        raise not_found()
    return config_id


def _moved(order: Sequence[UUID], action: str, config_id: UUID) -> list[UUID]:
    """Raises `Problem` 404 for what is not there."""
    moved = [each for each in order if each != config_id]
    if action == "add":
        return [*moved, config_id]
    if config_id not in order:
        raise not_found()
    if action != "remove":
        moved.insert(max(0, order.index(config_id) + (-1 if action == "up" else 1)), config_id)
    return moved


async def rename(request: ConsoleRequest) -> Response:
    """Give a config another name."""
    config = await _config(request)
    name = (await request.posted())["name"]
    if len(name) > 200:
        raise Problem(422, "invalid_request", "The name may have 200 characters.")
    with refused_as_problems():
        await request.state["manager"].edit(request.organization_id, config.id, request.actor, ConfigEdit(name, {}))
    return redirect(address_of(config), done="config_renamed")


async def delete(request: ConsoleRequest) -> Response:
    """Delete a config, with its credentials and its webhook address."""
    config = await _config(request)
    with refused_as_problems():
        await request.state["manager"].remove(request.organization_id, config.id, request.actor)
    return redirect(HOME, done="config_deleted")


async def back(request: ConsoleRequest) -> Response:
    """Where a form of it has led, asked for again."""
    if "config_id" not in request.path_params:
        return redirect(HOME)
    return redirect(address_of(await _config(request)))


async def _config(request: AnyConsoleRequest) -> Config:
    """That in the path, whatever is wrong with it. Raises `Problem` 404."""
    config: Config | None = await request.state["manager"].config(
        request.organization_id, request.id_in_path("config_id")
    )
    if config is None:
        raise not_found()
    return config
