"""What the bell of every page calls attention to."""

from datetime import datetime
from typing import Any

import msgspec

from ..api import AnyRequest
from ..storage.statements.reports import notifications
from ..storage.statements.reports.notifications import COUNTED, Notification
from ..validation import Unlogged

# Of the newest; a bell that says more is not read either.
MOST = 50
KINDS = {
    "provider.switched": "info",
    "provider.rolled_back": "testing",
    "provider.unhealthy": "danger",
    "provider.recovered": "active",
    "deliveries_parked": "testing",
    "quarantine_open": "testing",
    "audit_broken": "danger",
}
LINKS = {
    "account.updated": "/console/whatsapp",
    "deliveries_parked": "/console/general",
    "quarantine_open": "/console/quarantine",
    "audit_broken": "/console/audit/verify",
}


class _Account(msgspec.Struct, frozen=True):
    kind: str
    health: str | None = None


class _News(Unlogged, frozen=True):
    """What is said of an event's data."""

    provider: str | None = None
    reason: str | None = None
    detail: str | None = None
    account: _Account | None = None


class News(Unlogged, frozen=True, kw_only=True):
    """A notification as it is shown. ``kind``: that of a badge."""

    code: str
    kind: str
    at: datetime
    is_unread: bool
    link: str
    number: int | None
    is_more: bool
    name: str | None
    account: str | None
    reason: str | None
    detail: str | None


async def newest(request: AnyRequest) -> list[News] | None:
    """The newest first; None for who may not read, or has chosen no organization."""
    if request.principal.organization_id is None or "read" not in request.principal.scopes:
        return None
    async with request.connection() as connection:
        found = await notifications.newest(connection, request.organization_id, request.principal.name, MOST)
    return [_shown(each) for each in found]


def _is_down(news: _News) -> bool:
    return news.account is not None and news.account.health == "down"


def _shown(found: Notification) -> News:
    news = msgspec.json.decode(found.data, type=_News) if found.data else _News()
    return News(
        code=found.kind,
        kind="danger" if _is_down(news) else KINDS.get(found.kind, "inactive"),
        at=found.at,
        is_unread=found.is_unread,
        link=LINKS.get(found.kind, "/console/status"),
        number=found.number and min(found.number, COUNTED),
        is_more=(found.number or 0) > COUNTED,
        name=found.config_name or news.provider,
        account=news.account.kind if news.account else None,
        reason=news.reason,
        detail=news.detail,
    )


def sight(news: list[News] | None) -> Any:
    """The same as long as nobody has anything new to look at."""
    return [(each.code, each.at, each.number, each.is_unread) for each in news or () if each.code != "audit_broken"]
