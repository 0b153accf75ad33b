"""What went through each config, and what a month came to."""

from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

import msgspec

from ..health.figures import Figures, WindowName, figures_of
from ..storage.statements.reports import figures
from ..web.bodies import RequestQuery, Shown
from . import AnyRequest, ApiRequest


class FiguresQuery(RequestQuery, frozen=True):
    window: WindowName = "24h"


class UsageQuery(RequestQuery, frozen=True):
    """``month`` as in 2026-11; this one unless given."""

    month: Annotated[str, msgspec.Meta(pattern="^20[0-9]{2}-(0[1-9]|1[0-2])$")] | None = None


class PricedMessages(Shown, frozen=True):
    """Messages that a provider delivered and priced alike, in its words; None: it did not say."""

    category: str | None
    type: str | None
    billable: bool | None
    messages: int


class ConfigUsage(Shown, frozen=True, kw_only=True):
    """What went through a config in a month. ``cost`` as far as its provider said; None: it did not, or in several
    currencies.
    """

    config_id: UUID
    provider: str | None
    sent: int
    received: int
    cost: Decimal | None
    currency: str | None
    priced: list[PricedMessages]


class Usage(Shown, frozen=True, kw_only=True):
    """``counted_at``: until then all is counted."""

    month: str
    since: datetime
    until: datetime
    counted_at: datetime | None
    configs: list[ConfigUsage]


_BILLABLE = {"true": True, "false": False}


async def show_figures(request: ApiRequest[None, FiguresQuery]) -> Figures:
    """GET …/provider/figures?window=: each config's sends, classes of errors, fallbacks and latency, in steps."""
    async with request.connection() as connection:
        return await figures_of(connection, request.organization_id, request.query.window)


async def show_usage(request: ApiRequest[None, UsageQuery]) -> Usage:
    """GET …/provider/usage?month=: what was sent and received, and what providers said of its price."""
    return await usage_of(request, request.query.month)


async def usage_of(request: AnyRequest, month: str | None) -> Usage:
    """What went through each config in a month (UTC); None: in this one."""
    organization_id = request.organization_id
    since = datetime.strptime(month or f"{datetime.now(UTC):%Y-%m}", "%Y-%m").replace(tzinfo=UTC)
    until = since.replace(year=since.year + since.month // 12, month=since.month % 12 + 1)
    async with request.connection() as connection:
        counted_at = await figures.counted_at(connection, organization_id)
        counts = await figures.month(connection, organization_id, since, until)
        priced = await figures.priced(connection, organization_id, since)
    by_config = defaultdict[UUID, list[PricedMessages]](list)
    for row in priced:
        shown = PricedMessages(row.category or None, row.kind or None, _BILLABLE.get(row.billable), row.messages)
        by_config[row.config_id].append(shown)
    return Usage(
        month=f"{since:%Y-%m}",
        since=since,
        until=until,
        counted_at=counted_at,
        configs=[
            ConfigUsage(
                config_id=each.config_id,
                provider=each.provider,
                sent=each.sent,
                received=each.received,
                cost=each.cost,
                currency=each.currency,
                priced=by_config[each.config_id],
            )
            for each in counts
        ],
    )
