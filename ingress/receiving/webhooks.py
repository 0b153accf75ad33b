"""Receiving: verify, parse, store, answer. 200 means that every byte and every event is in the database."""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Sequence
from time import monotonic
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from providers import Malformed, Webhook

from .. import identifiers, metrics
from ..accounts.config import Config
from ..people.directory import Directory
from ..storage.database import Database, StoreUnavailable
from ..storage.group_commit import Overloaded
from ..storage.statements.receiving.inbound import QuarantinedBody
from ..switching.manager import WhatsAppProviderManager
from ..wakeups import Wakeups
from ..web.bodies import SMALL_BODY_BYTES, Disconnected, LargeBodies, TooLarge, read_body
from .answers import TOO_LARGE, Header, WebhookAnswer, away
from .ingestion import Ingestion, Target, target_of
from .normalise import FOREIGN, STALE, ReadWebhook, VerifiedWebhook, read_slices
from .webhook_queue import WebhookQueue

logger = logging.getLogger("ingress.receiving.webhooks")

MAX_BODY_BYTES = 4 * 1024 * 1024
# Whether only what was stale when it came is read again, for a person may insist on it: it is in quarantine by itself.
_TAKEN = {STALE: True, FOREIGN: False}


class WebhookReceiver:
    """The ASGI application behind /webhooks/{provider}/{token}.

    It stands before the router and Starlette's request and response: a webhook needs none of them, and they cost
    as much as the work itself.
    """

    def __init__(
        self,
        database: Database,
        manager: WhatsAppProviderManager,
        directory: Directory,
        wakeups: Wakeups,
        held: asyncio.Event,
    ) -> None:
        self._manager = manager
        self.routes = manager.routes
        self.bodies = LargeBodies()
        self._looking_up: set[asyncio.Task[None]] = set()
        self._queue = WebhookQueue(database, manager, directory, wakeups, held)

    async def __aenter__(self) -> "WebhookReceiver":
        await self._queue.__aenter__()
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._queue.__aexit__(*reason)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI form of `begin`, for a server that has no shorter way (ingress/receiving/exchange.py is ours)."""
        target = _target(scope)
        try:
            body = await self._body(target, receive)
        except Disconnected:
            return
        except (TooLarge, Overloaded, StoreUnavailable) as error:
            answer, request_id = self.turn_away(error), identifiers.request_id()
        else:
            answer, request_id = await self._answer(scope["method"], target, scope["headers"], body)
        await _send(send, answer, request_id)

    async def _body(self, target: Target, receive: Receive) -> bytes:
        config = await self.routes.config_of_webhook(target.token)
        if config is None:
            return await read_body(receive, SMALL_BODY_BYTES, self.bodies, None)
        return await read_body(receive, self.limit_bytes(config), self.bodies, config.share)

    async def _answer(
        self, method: str, target: Target, headers: Sequence[Header], body: bytes
    ) -> tuple[WebhookAnswer, str]:
        answered: asyncio.Future[tuple[WebhookAnswer, str]] = asyncio.get_running_loop().create_future()

        def reply(answer: WebhookAnswer, request_id: str) -> None:
            if not answered.done():  # at the end, the server cancels what still waits
                answered.set_result((answer, request_id))

        self.begin(method, target, headers, body, reply)
        return await answered

    def limit_bytes(self, config: Config) -> int:
        """The longest body that a webhook of *config* may have."""
        return min(MAX_BODY_BYTES, config.provider.info.max_webhook_bytes)

    def turn_away(self, error: Exception) -> WebhookAnswer:
        """The answer to a body that is not received to its end."""
        answer, outcome = away(), "error"
        match error:
            case TooLarge():
                answer, outcome = TOO_LARGE, "too_large"
            case Overloaded():
                outcome = "shed"
            case StoreUnavailable():
                pass
            case _:
                logger.error("receiving failed", exc_info=error)
        metrics.observe(metrics.ack_seconds, 0.0, "other", outcome)
        return answer

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what has to be asked for, which raises nothing."""
        task = asyncio.create_task(work)
        self._looking_up.add(task)
        task.add_done_callback(self._looking_up.discard)

    def begin(
        self,
        method: str,
        target: Target,
        headers: Sequence[Header],
        body: bytes,
        reply: Callable[[WebhookAnswer, str], None],
    ) -> None:
        """Take one webhook and call *reply* once, now or when it is in the database, with the request's id.

        Raises nothing.

        No task waits for it: a webhook is a call here and a call there, and tasks would cost as much as its parsing.
        401 always says the same; content never makes an error of ours.
        """
        ingestion = Ingestion(self._manager, self._queue, method, target, headers, body, reply, monotonic())
        config = self.routes.known_config_of_webhook(target.token)
        if config is not None:
            ingestion.proceed(config)
        else:
            self.spawn(ingestion.look_up(self.bodies))

    async def replay(self, config: Config, item: QuarantinedBody, *, foreign: bool) -> tuple[int, bool]:
        """Read a quarantined body again with today's code; how many events were new, and whether that is all of it.

        What is *foreign* goes to whose it is today, and what is nobody's still stays where it is. Raises `Malformed`
        where nothing can be read in it, or it is refused still: it is in quarantine already, and stays.
        """
        url = self._manager.accounts.webhook_url(config.provider_type, "replayed")
        hook = Webhook(method="POST", url=url, headers=json.loads(item.headers), body=item.body)
        replay = _Replay(self._queue, config, hook, foreign)
        async for _, webhook in read_slices(
            self._manager, config, hook, item.received_at, stale=_TAKEN.get(item.reason)
        ):
            await replay.store(webhook)
        return replay.result()


class _Replay(msgspec.Struct):
    """What was stored of a body that is read again, and whether that is all of it."""

    queue: WebhookQueue
    config: Config
    hook: Webhook
    foreign: bool
    events: int = 0
    fresh: int = 0
    is_whole: bool = True

    def __repr__(self) -> str:
        return f"_Replay({self.events})"

    async def store(self, webhook: ReadWebhook) -> None:
        if self.foreign:
            self.is_whole &= all(each.reason != FOREIGN for each in webhook.quarantine)
            webhook = msgspec.structs.replace(webhook, quarantine=())
        if webhook.events or (self.events and webhook.quarantine):
            stored = await self.queue.submit(VerifiedWebhook(self.config, self.hook, read=webhook))
            self.events += stored.events
            self.fresh += len(stored.sequences)

    def result(self) -> tuple[int, bool]:
        if not self.events or not (self.is_whole or self.fresh):
            raise Malformed
        return self.fresh, self.is_whole


def _target(scope: Scope) -> Target:
    path, query = scope["raw_path"], scope["query_string"]
    return target_of(path + b"?" + query if query else path)


async def _send(send: Send, answer: WebhookAnswer, request_id: str) -> None:
    headers = [*answer.headers, (b"x-request-id", request_id.encode())]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
