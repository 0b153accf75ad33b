"""The ceiling of a send proxy: one aiohttp call for one request, nothing parsed, nothing kept."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

URL = os.environ["BENCH_PROVIDER_URL"] + "/v25.0/109876543210987/messages"
HEADERS = {"Authorization": "Bearer bench", "Content-Type": "application/json"}


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, aiohttp.ClientSession]]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield {"session": session}


async def send(request: Request) -> Response:
    body = await request.body()
    async with request.state.session.post(URL, data=body, headers=HEADERS) as answer:
        return Response(await answer.read(), answer.status, media_type="application/json")


app = Starlette(routes=[Route("/send", send, methods=["POST"])], lifespan=lifespan)
