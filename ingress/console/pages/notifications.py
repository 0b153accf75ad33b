"""Notifications: the newest, and that they are read."""

from datetime import UTC, datetime

from starlette.responses import Response

from ...storage.statements.reports import notifications
from ...web.bodies import invalid
from ..rendering import page, redirect
from ..requests import ConsoleRequest
from .sign_in import own_page


async def show(request: ConsoleRequest) -> Response:
    """All that the bell has."""
    return page(request, "notifications.html")


async def mark_read(request: ConsoleRequest) -> Response:
    """All that was shown is read; what came since is not."""
    form = await request.posted()
    try:
        until = datetime.fromisoformat(form["until"]).astimezone(UTC)
    except (ValueError, OverflowError):
        raise invalid(("until", "must be a time"), what="The form") from None
    async with request.connection() as connection:
        seen_at = min(until, datetime.now(UTC))
        await notifications.mark(connection, request.organization_id, request.principal.name, seen_at)
    return redirect(own_page(form.get("next", "/console/notifications")), done="notifications_read")
