"""Receiving: verify, parse, store, answer. 200 means that every byte and every event is in the database."""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from time import monotonic
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec
from starlette.types import Receive, Scope, Send

from providers import Malformed, Unverified, Webhook

from .. import identifiers, log, metrics
from ..storage.database import INGEST, Database, StoreUnavailable
from ..storage.group_commit import GroupCommit, Overloaded, RowRefused
from ..storage.statements.health import look_soon
from ..storage.statements.inbound import QuarantinedBody, Stored, WebhookRow, store
from ..switching.manager import Config, WhatsAppProviderManager
from ..tracing import HEADER, trace_of
from ..wakeups import Wakeups
from ..web.bodies import SMALL_BODY_BYTES, Disconnected, LargeBodies, TooLarge, read_body, text_of
from .answers import (
    ENCODED,
    NO_METHOD,
    NOT_FOUND,
    TOO_LARGE,
    UNVERIFIED,
    Header,
    WebhookAnswer,
    acknowledgement,
    away,
    challenge_answer,
)
from .large_webhooks import SMALL_BYTES, LargeWebhooks, is_large
from .normalise import FOREIGN, NOTHING_STORED, STALE, StoredWebhook, VerifiedWebhook, read, read_slices, refused

logger = logging.getLogger("ingress.receiving.webhooks")

# What may say that an account does better, or worse.
ACCOUNT_UPDATED = "account.updated"
# Of so many new events or more, the log has the first and the last.
SEQUENCES_LOGGED = 20
# Longer ones have something in them that strangers wrote.
LONGEST_KEPT_TARGET = 256
MAX_BODY_BYTES = 4 * 1024 * 1024
# A statement stores so many events, or a few more where the last webhook has more of them: their readers wait for it.
MAX_FLUSH_EVENTS = 500
# What a webhook weighs in the queue is its size, from this on.
LIGHT_BYTES, BYTES_A_ROW = 16 * 1024, 2 * 1024


class Target(NamedTuple):
    """A webhook's address as it was asked for: whose it should be, what identifies it, and all behind the origin."""

    provider_type: str
    token: str
    whole: str


def target_of(raw: bytes) -> Target:
    """*raw* as the request's line has it."""
    return _known_target(raw) if len(raw) <= LONGEST_KEPT_TARGET else _target(raw)


def _target(raw: bytes) -> Target:
    path, _, query = raw.decode("latin-1").partition("?")
    provider_type, _, token = path.removeprefix("/webhooks/").partition("/")
    return Target(provider_type, token, f"{path}?{query}" if query else path)


_known_target = lru_cache(1024)(_target)  # a provider posts to the same address all day


class WebhookReceiver:
    """The ASGI application behind /webhooks/{provider}/{token}.

    It stands before the router and Starlette's request and response: a webhook needs none of them, and they cost
    as much as the work itself. Webhooks are read where they are written, a batch at a time: thirty in a row take
    two thirds of the time they take each on its own, between two calls of the system.
    """

    def __init__(self, database: Database, manager: WhatsAppProviderManager, wakeups: Wakeups) -> None:
        self._manager = manager
        self.bodies = LargeBodies()
        self._looking_up: set[asyncio.Task[None]] = set()
        self._wakeups = wakeups
        self._commit: GroupCommit[VerifiedWebhook, StoredWebhook] = GroupCommit(
            "ingest", database, INGEST, self._write, flushers=2
        )
        self._large = LargeWebhooks(database, manager, wakeups, self._write_slice)

    @property
    def origin(self) -> str:
        return self._manager.origin

    def known_config(self, token: str) -> Config | None:
        return self._manager.known_config_of_webhook(token)

    async def config_of_webhook(self, token: str) -> Config | None:
        return await self._manager.config_of_webhook(token)

    async def __aenter__(self) -> "WebhookReceiver":
        await self._commit.__aenter__()
        await self._large.__aenter__()
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._large.__aexit__(*reason)
        await self._commit.__aexit__(*reason)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI form of `begin`, for a server that has no shorter way (ingress/receiving/exchange.py is ours)."""
        try:
            raw_query = scope["query_string"]
            target = target_of(scope["raw_path"] + (b"?" + raw_query if raw_query else b""))
            config = await self.config_of_webhook(target.token)
            limit, owner = (self.limit_bytes(config), config.share) if config else (SMALL_BODY_BYTES, None)
            body = await read_body(receive, limit, self.bodies, owner)
        except Disconnected:
            return
        except (TooLarge, Overloaded, StoreUnavailable) as error:
            answer, request_id = self.turn_away(error), identifiers.request_id()
        else:
            answered = asyncio.get_running_loop().create_future()

            def reply(*answer: object) -> None:
                if not answered.done():  # at the end, the server cancels what still waits
                    answered.set_result(answer)

            self.begin(scope["method"], target, scope["headers"], body, reply)
            answer, request_id = await answered
        headers = [*answer.headers, (b"x-request-id", request_id.encode())]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

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
        ingestion = _Ingestion(self, method, target, headers, body, reply, monotonic())
        config = self._manager.known_config_of_webhook(target.token)
        if config is not None:
            ingestion.proceed(config)
        else:
            self.spawn(ingestion.look_up())

    async def replay(self, config: Config, item: QuarantinedBody, *, foreign: bool) -> tuple[int, bool]:
        """Read a quarantined body again with today's code; how many events were new, and whether that is all of it.

        What is *foreign* goes to whose it is today, and what is nobody's still stays where it is. Raises `Malformed`
        where nothing can be read in it, or it is refused still: it is in quarantine already, and stays.
        """
        url = self._manager.accounts.webhook_url(config.provider_type, "replayed")
        hook = Webhook(method="POST", url=url, headers=json.loads(item.headers), body=item.body)
        events, fresh, is_whole = 0, 0, True
        # What was stale when it came, a person may insist on: it is in quarantine by itself.
        stale = {STALE: True, FOREIGN: False}.get(item.reason)
        async for _, row in read_slices(self._manager, config, hook, item.received_at, stale=stale):
            if foreign:
                is_whole = is_whole and all(each.reason != FOREIGN for each in row.quarantine)
                row = msgspec.structs.replace(row, quarantine=())
            if not (row.events or (events and row.quarantine)):
                continue
            try:
                stored_webhook = await self._commit.submit(
                    VerifiedWebhook(config, hook, row=row), organization=config.share
                )
            except RowRefused as error:
                raise Malformed from error
            events, fresh = events + stored_webhook.events, fresh + len(stored_webhook.sequences)
            self.notify(stored_webhook)
        if not events or not (is_whole or fresh):
            raise Malformed
        return fresh, is_whole

    def enqueue(self, verified: VerifiedWebhook, reply: Callable[[StoredWebhook | Exception], None]) -> None:
        """Queue *verified*, and call *reply* once with what became of it. Raises `Overloaded`."""
        size_bytes = len(verified.hook.body)
        if verified.refused:
            size_bytes = 0  # one at a time, and in no need of reading
        elif size_bytes > SMALL_BYTES and is_large(verified.hook.body):
            self._large.enqueue(verified, reply)
            return
        self._commit.enqueue(
            verified,
            reply,
            organization=verified.config.share,
            weight=1 if size_bytes <= LIGHT_BYTES else 1 + (size_bytes - LIGHT_BYTES) // BYTES_A_ROW,
            size_bytes=size_bytes,
        )

    def notify(self, stored_webhook: StoredWebhook) -> None:
        for organization_id in stored_webhook.organizations:
            self._wakeups.notify(organization_id)

    async def _write(
        self, connection: asyncpg.Connection, batch: Sequence[VerifiedWebhook]
    ) -> Sequence[StoredWebhook | Exception]:
        rows: list[WebhookRow] = []
        providers: list[str] = []
        failed: dict[int, Exception] = {}
        events, now = 0, datetime.now(UTC)
        for place, verified in enumerate(batch):
            try:
                row = verified.row or await read(self._manager, verified.config, verified.hook, now)
                if verified.refused:
                    row = await refused(self._manager, verified.config, row)
            except StoreUnavailable as error:  # whose its items are cannot be asked: its neighbours need not
                failed[place] = error.with_traceback(None)  # which holds this frame, and so the error
                continue
            rows.append(row)
            providers.append(verified.config.provider_type)
            events += len(row.events) + len(row.quarantine)
            if events >= MAX_FLUSH_EVENTS:
                break
        stored_webhooks = await _stored(connection, providers, rows) if rows else []
        if not failed:
            return stored_webhooks
        stored = iter(stored_webhooks)
        return [failed.get(place) or next(stored) for place in range(len(rows) + len(failed))]

    async def _write_slice(
        self, connection: asyncpg.Connection, provider: str, row: WebhookRow, start: int
    ) -> StoredWebhook:
        [stored_webhook] = await _stored(connection, [provider], [row], start)
        return stored_webhook


class _Line(msgspec.Struct, frozen=True):
    """What the log says of a webhook."""

    at: datetime
    event: str
    request: str
    organization: UUID | None
    config: UUID | None
    provider: str
    outcome: str
    events: int
    fresh: int
    sequences: Sequence[int]
    trace_id: str | None
    ms: float

    def __repr__(self) -> str:
        return "_Line(…)"


class _Ingestion(msgspec.Struct, eq=False):
    """One webhook from its body to its answer."""

    _receiver: WebhookReceiver
    _method: str
    _target: Target
    _headers: Sequence[Header]
    _body: bytes
    _reply: Callable[[WebhookAnswer, str], None]
    _started: float
    _provider_name: str = "other"
    _verified: VerifiedWebhook | None = None
    _answered: bool = False

    def __repr__(self) -> str:
        return f"_Ingestion({self._provider_name})"

    async def look_up(self) -> None:
        """Go on with the config, which has to be asked for."""
        bodies, size, token = self._receiver.bodies, len(self._body), self._target.token
        try:
            bodies.grow(size, size, token)
            self.proceed(await self._receiver.config_of_webhook(token))
        except Exception as error:  # noqa: BLE001  (logged by its kind, there)
            self._fail(error)
        finally:
            bodies.release(size, token)

    def proceed(self, config: Config | None) -> None:
        """Answer, or queue what is to be stored first."""
        try:
            self._judge(config)
        except Exception as error:  # noqa: BLE001  (logged by its kind, there)
            self._fail(error)

    def _judge(self, config: Config | None) -> None:
        if config is None or config.provider_type != self._target.provider_type:
            self._end(NOT_FOUND, "unknown")
            return
        self._provider_name = config.provider_type
        hook = Webhook(
            method=self._method,
            # The public address, from our settings: what a proxy or client claims is part of no signature.
            url=self._receiver.origin + self._target.whole,
            headers=text_of(self._headers),
            body=self._body,
        )
        self._verified = VerifiedWebhook(config, hook)
        if hook.headers.get("content-encoding", "identity") != "identity":
            self._end(ENCODED, "encoded")
        elif len(self._body) > config.provider.info.max_webhook_bytes:
            self._end(TOO_LARGE, "too_large")
        elif (challenge := config.provider.challenge(hook)) is not None:
            self._end(challenge_answer(challenge), "challenge")
        elif self._method != "POST":
            self._end(NO_METHOD, "method")
        else:
            config.provider.verify(hook)
            self._receiver.enqueue(self._verified, self._stored)

    def _stored(self, stored_webhook: StoredWebhook | Exception) -> None:
        if isinstance(stored_webhook, Exception):
            self._fail(stored_webhook)
            return
        assert self._verified is not None, "answered before it was queued"
        new = stored_webhook.sequences or not stored_webhook.events
        outcome = "quarantined" if stored_webhook.quarantined else "acked" if new else "duplicate"
        config = self._verified.config
        try:
            self._end(acknowledgement(type(config.provider)), outcome, stored_webhook)
            self._receiver.notify(stored_webhook)
        except Exception as error:  # noqa: BLE001  (logged by its kind, there)
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        match error:
            case RowRefused() if self._verified is not None and not self._verified.refused:
                # The provider would repeat it for a week, and it would be refused each time.
                self._verified = msgspec.structs.replace(self._verified, refused=True)
                try:
                    self._receiver.enqueue(self._verified, self._stored)
                except (StoreUnavailable, Overloaded) as other:
                    self._fail(other)
            case Unverified():
                metrics.auth_failures.labels("webhook").inc()
                self._end(UNVERIFIED, "unauthorized")
            case StoreUnavailable():
                self._end(away(), "error")
            case Overloaded():
                self._end(away(), "shed")
            case _:
                # A mistake of ours, outside of what content can cause: the provider comes again.
                logger.error("receiving failed", exc_info=error)
                self._end(away(), "error")

    def _end(self, answer: WebhookAnswer, outcome: str, stored_webhook: StoredWebhook = NOTHING_STORED) -> None:
        if self._answered:  # a second answer would be taken for that of the connection's next request
            return
        self._answered = True
        request_id = identifiers.request_id()
        self._reply(answer, request_id)
        elapsed = monotonic() - self._started
        metrics.observe(metrics.ack_seconds, elapsed, self._provider_name, outcome)
        if log.is_wide():
            verified, sequences = self._verified, stored_webhook.sequences
            config = verified.config if verified else None
            traceparent = verified.hook.headers.get(HEADER) if verified else None
            line = _Line(
                datetime.now(UTC),
                "webhook",
                request_id,
                config.organization_id if config else None,
                config.id if config else None,
                self._provider_name,
                outcome,
                stored_webhook.events,
                len(sequences),
                sequences if len(sequences) < SEQUENCES_LOGGED else [min(sequences), max(sequences)],
                trace_of(traceparent) if traceparent else None,
                int(elapsed * 10_000) / 10,
            )
            log.put(line)


async def _stored(
    connection: asyncpg.Connection, providers: Sequence[str], rows: Sequence[WebhookRow], start: int = 0
) -> list[StoredWebhook]:
    """What became of *rows*, each of one of *providers*, which are stored now (see `store`)."""
    stored = await store(connection, rows, start)
    updated = {
        (keyed.event.organization_id, keyed.event.config_id)
        for row in rows
        for keyed in row.events
        if keyed.event.type == ACCOUNT_UPDATED
    }
    if updated:
        await look_soon(connection, sorted(updated))
    counts: Counter[tuple[str, str, str]] = Counter()  # for a counter costs more than a dictionary
    stored_webhooks = [_stored_webhook(*each, counts) for each in zip(providers, rows, stored, strict=True)]
    for labels, count in counts.items():
        metrics.child(metrics.ingest_events, *labels).inc(count)
    return stored_webhooks


def _stored_webhook(
    provider: str, row: WebhookRow, stored: Stored, counts: Counter[tuple[str, str, str]]
) -> StoredWebhook:
    outcome = "stored" if stored.sequences else "duplicate"
    for keyed in row.events:
        counts[provider, keyed.event.type, outcome] += 1
    for value, became in stored.statuses:
        metrics.child(metrics.status_updates, provider, value, became).inc()
    for item in row.quarantine:
        metrics.child(metrics.quarantined, provider, item.reason).inc()
    organizations: Collection[UUID] = ()
    if len(row.events) == 1 and stored.sequences:
        organizations = (row.events[0].event.organization_id,)
    elif stored.sequences:
        organizations = {keyed.event.organization_id for keyed in row.events}
    reasons = frozenset([item.reason for item in row.quarantine]) if row.quarantine else NOTHING_STORED.quarantined
    return StoredWebhook(len(row.events), stored.sequences, reasons, organizations)
