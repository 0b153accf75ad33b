"""What a month came to: sent and received by provider and category, and the price as far as providers said one."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from starlette.responses import Response

from ...api.figures import ConfigUsage, PricedMessages, Usage, UsageQuery, usage_of
from ...api.status import health_of
from ...storage.statements.figures import HOURS_KEPT
from ...storage.statements.health import ConfigHealth
from ..rendering import page
from ..requests import AnyConsoleRequest, ConsoleRequest
from .status import provider_name

MONTHS_SHOWN = HOURS_KEPT.days // 31


class UsageRow(NamedTuple):
    """What went through a config. ``name`` None: it was deleted. ``free``: messages that its provider called free."""

    name: str | None
    provider: str
    usage: ConfigUsage
    free: int | None


async def show(request: ConsoleRequest[UsageQuery]) -> Response:
    """GET /console/billing?month="""
    usage = await usage_of(request, request.query.month)
    rows = _rows(request, usage, await health_of(request))
    months = [(month, month) for month in _months(datetime.now(UTC))]
    return page(request, "billing.html", usage=usage, rows=rows, months=months)


def _rows(request: AnyConsoleRequest, usage: Usage, configs: Mapping[UUID, ConfigHealth]) -> list[UsageRow]:
    return [
        UsageRow(
            name=configs[each.config_id].name if each.config_id in configs else None,
            provider=provider_name(request, each.provider) if each.provider else "",
            usage=each,
            free=_free(each.priced),
        )
        for each in usage.configs
    ]


def _free(priced: Sequence[PricedMessages]) -> int | None:
    """None: the provider said of no message whether it was."""
    known = [each for each in priced if each.billable is not None]
    return sum(each.messages for each in known if not each.billable) if known else None


def _months(now: datetime) -> list[str]:
    """The last ones as in 2026-11, newest first."""
    count = now.year * 12 + now.month - 1
    return [f"{number // 12}-{number % 12 + 1:02}" for number in range(count, count - MONTHS_SHOWN, -1)]
