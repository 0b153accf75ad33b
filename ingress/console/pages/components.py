"""All components on one page, for who makes pages of them."""

from datetime import timedelta

from starlette.responses import Response

from ..rendering import page
from ..requests import ConsoleRequest


async def show(request: ConsoleRequest) -> Response:
    """Each component, with what it takes."""
    return page(request, "_components.html", hour=timedelta(hours=1))
