"""The same answers where uvicorn reads the requests (`INGRESS_HTTP_PROTOCOL=uvicorn`); not the same bounds."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from ingress.dev.sandbox import MetaSimulator
from ingress.settings import Settings

from .conftest import serving
from .gateway import Gateway
from .receiving.test_receiving import *  # noqa: F403  (its tests, with the gateway below)
from .test_server import (  # noqa: F401
    connect,
    test_an_answer_without_a_key,
    test_chunked_bodies,
    test_headers_of_every_answer,
    test_nonsense_is_refused,
    test_pipelined_requests,
    test_pipelined_webhooks,
    test_webhook_answers_are_not_sniffed,
)


@pytest.fixture(scope="module")
async def gateway(settings: Settings, gateway: Gateway, meta: MetaSimulator) -> AsyncIterator[Gateway]:
    async with serving(msgspec.structs.replace(settings, http_protocol="uvicorn")) as url:
        yield Gateway(url, settings.platform_key, gateway.session, meta)


async def test_it_is_not_our_protocol(connect: Any) -> None:  # noqa: F811  (the fixture)
    """Or the tests of this file would say nothing: ours answers 400 where no Host is named."""
    client = await connect()
    client.write(b"GET /healthz HTTP/1.1\r\n\r\n")
    assert (await client.answer())[0] == 200
