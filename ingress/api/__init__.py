"""HTTP handlers: decode, call, answer. Here is what each finds in its request's state."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias
from uuid import UUID

import aiohttp
from starlette.responses import Response

from ..calls.egress import Egress
from ..calls.transfers import Transfers
from ..receiving.webhooks import WebhookReceiver
from ..retention.periods import Periods
from ..sending.lookups import Lookups
from ..sending.outbound import Outbound
from ..storage.vault import Vault
from ..switching.manager import WhatsAppProviderManager
from ..wakeups import Wakeups
from ..web import routing
from ..web.limits import Limiter
from ..web.problems import Json
from ..web.routing import Body, Query, WebState
from ..web.sessions import Sessions


class ApiState(WebState):
    """What lives as long as the process: made in app.py."""

    vault: Vault
    egress: Egress
    session: aiohttp.ClientSession
    manager: WhatsAppProviderManager
    outbound: Outbound
    lookups: Lookups
    receiver: WebhookReceiver
    transfers: Transfers
    sessions: Sessions  # of the console
    console_links: dict[str, str]
    periods: Periods  # for which the service keeps what it stores
    looks: Limiter  # at a quarantined body: an entry of the trail
    wakeups: Wakeups  # of events
    changes: Wakeups  # of providers
    breaker_of: Callable[[UUID], str | None]  # None: nothing was sent through the config yet, by this process
    closing: asyncio.Event
    readiness: Callable[[], Awaitable[Json[Any]]]
    metrics_page: Callable[[str], Awaitable[Response]]


ApiRequest: TypeAlias = routing.ApiRequest[ApiState, Body, Query]
AnyRequest: TypeAlias = routing.ApiRequest[ApiState, Any, Any]
