"""The framework's ceiling: read the body, answer 200."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def webhook(request: Request) -> Response:
    await request.body()
    return Response()


app = Starlette(routes=[Route("/webhook", webhook, methods=["POST"])])
