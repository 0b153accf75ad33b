"""Receiving: verify, parse, store, answer. 200 means that every byte and every event is in the database."""

import json
import logging
from collections.abc import Sequence
from time import monotonic
from typing import NamedTuple

import asyncpg
from starlette.types import Receive, Scope, Send

from providers import Malformed, Unverified, Webhook

from . import identifiers, log, metrics
from .database import INGEST, Database, StoreUnavailable
from .edge import Disconnected, TooLarge, read_body, text_of
from .events import Wakes
from .group_commit import GroupCommit, Overloaded, RowRefused
from .manager import Config, WhatsAppProviderManager
from .problems import unavailable
from .reading import MALFORMED, PARSER_FAILED, read, refused
from .storage.inbound import Stored, WebhookRow, store

logger = logging.getLogger("ingress.inbound")

MAX_BODY_BYTES = 4 * 1024 * 1024
Header = tuple[bytes, bytes]
_JSON: Header = (b"content-type", b"application/json")
_TEXT: Header = (b"content-type", b"text/plain; charset=utf-8")
_CAREFUL: tuple[Header, ...] = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))


class Answer(NamedTuple):
    """What a webhook is answered with."""

    status: int
    headers: Sequence[Header]
    body: bytes = b""


def _with_body(status: int, kind: Header, body: bytes) -> Answer:
    length: Header = (b"content-length", b"%d" % len(body))
    return Answer(
        status, (kind, length, (b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")), body
    )


def _refusal(status: int, code: str) -> Answer:
    return _with_body(status, _JSON, b'{"status":%d,"code":"%s"}' % (status, code.encode()))


# Nearly every answer.
_TAKEN = Answer(200, ((b"content-length", b"0"), *_CAREFUL))
_UNVERIFIED = _refusal(401, "unverified")
_NOT_FOUND = _refusal(404, "not_found")
_NO_METHOD = _refusal(405, "method_not_allowed")
TOO_LARGE = _refusal(413, "too_large")
_ENCODED = _refusal(415, "encoded")
_AWAY = _refusal(503, "unavailable")


class Taken(NamedTuple):
    """A verified webhook on its way into the database."""

    config: Config
    hook: Webhook
    refused: bool = False  # the database took it not: now its body is put aside
    row: WebhookRow | None = None  # where it was read already


class Receipt(NamedTuple):
    """What is in the database of a webhook: its events, how many were new, and why it was put aside, if it was."""

    events: int
    fresh: int
    aside: frozenset[str]


class Inbound:
    """The ASGI application behind /webhooks/{provider}/{token}.

    It stands before the router and Starlette's request and response: a webhook needs none of them, and they cost
    as much as the work itself. Webhooks are read where they are written, a batch at a time: thirty in a row take
    two thirds of the time they take each on its own, between two calls of the system.
    """

    def __init__(self, database: Database, manager: WhatsAppProviderManager, wakes: Wakes) -> None:
        self._manager = manager
        self._wakes = wakes
        self._commit: GroupCommit[Taken, Receipt] = GroupCommit("ingest", database, INGEST, self._write, flushers=2)

    async def __aenter__(self) -> "Inbound":
        await self._commit.__aenter__()
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._commit.__aexit__(*reason)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI form of `take`, for a server that has no shorter way (ingress/server.py has one)."""
        try:
            body = await read_body(receive, MAX_BODY_BYTES)
        except Disconnected:
            return
        except TooLarge:
            answer = TOO_LARGE
        else:
            path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
            answer = await self.take(scope["method"], path, query, scope["headers"], body)
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def take(self, method: str, path: str, query: str, headers: Sequence[Header], body: bytes) -> Answer:
        """Take one webhook. 401 always says the same; content never makes an error of ours. Raises nothing."""
        started = monotonic()
        request_id = identifiers.request_id()
        provider_name, outcome, receipt = "other", "error", _NOTHING
        config: Config | None = None
        answer = _AWAY
        try:
            provider_type, _, token = path.removeprefix("/webhooks/").partition("/")
            config = self._manager.known_config_of_webhook(token) or await self._manager.config_of_webhook(token)
            if config is None or config.provider_type != provider_type:
                answer, outcome = _NOT_FOUND, "unknown"
            else:
                provider_name = provider_type
                # The public address, from our settings: what a proxy or client claims is part of no signature.
                url = f"{self._manager.origin}{path}?{query}" if query else self._manager.origin + path
                hook = Webhook(method=method, url=url, headers=text_of(headers), body=body)
                if hook.headers.get("content-encoding", "identity") != "identity":
                    answer, outcome = _ENCODED, "encoded"
                elif (challenge := config.provider.challenge(hook)) is not None:
                    answer, outcome = _with_body(challenge.status, _TEXT, challenge.body), "challenge"
                elif method != "POST":
                    answer, outcome = _NO_METHOD, "method"
                else:
                    config.provider.verify(hook)
                    receipt = await self._store(config, hook)
                    new = receipt.fresh or not receipt.events
                    answer, outcome = _TAKEN, "quarantined" if receipt.aside else "acked" if new else "duplicate"
        except Unverified:
            answer, outcome = _UNVERIFIED, "unauthorized"
            metrics.auth_failures.labels("webhook").inc()
        except (StoreUnavailable, Overloaded) as error:
            outcome = "shed" if isinstance(error, Overloaded) else "error"
        except Exception:
            # A mistake of ours, outside of what content can cause: the provider comes again.
            logger.exception("receiving failed")
        elapsed = monotonic() - started
        metrics.child(metrics.ack_seconds, provider_name, outcome).observe(elapsed)
        log.wide(
            "webhook",
            request=request_id,
            organization=config and config.organization_id,
            config=config and config.id,
            provider=provider_name,
            outcome=outcome,
            events=receipt.events,
            fresh=receipt.fresh,
            ms=round(elapsed * 1000, 1),
        )
        more = [(b"x-request-id", request_id.encode())]
        if answer.status == 503:
            more.append((b"retry-after", unavailable("").headers["retry-after"].encode()))
        return Answer(answer.status, [*answer.headers, *more], answer.body)

    async def replay(self, config: Config, headers: bytes, body: bytes) -> int:
        """Read a quarantined body again with today's code; how many events were new.

        Raises `Malformed` where it cannot be read or is refused still: it was put aside already, and stays there.
        """
        url = self._manager.webhook_url(config.provider_type, "replayed")
        hook = Webhook(method="POST", url=url, headers=json.loads(headers), body=body)
        try:
            row = await read(self._manager, config, hook)
            if any(item.reason in (MALFORMED, PARSER_FAILED) for item in row.quarantine):
                raise Malformed
            return (await self._submit(Taken(config, hook, row=row))).fresh
        except RowRefused as error:
            raise Malformed from error

    # -- the steps

    async def _store(self, config: Config, hook: Webhook) -> Receipt:
        """Commit what *hook* says. Raises `StoreUnavailable`, `Overloaded`."""
        try:
            return await self._submit(Taken(config, hook))
        except RowRefused:
            # The provider would repeat it for a week, and it would be refused each time.
            return await self._submit(Taken(config, hook, refused=True))

    async def _submit(self, taken: Taken) -> Receipt:
        organization_id = taken.config.organization_id
        receipt = await self._commit.submit(taken, organization=organization_id, size_bytes=len(taken.hook.body))
        if receipt.fresh:
            self._wakes.wake(organization_id)
        return receipt

    async def _write(self, connection: asyncpg.Connection, batch: Sequence[Taken]) -> list[Receipt]:
        rows = []
        for taken in batch:
            row = taken.row or await read(self._manager, taken.config, taken.hook)
            rows.append(refused(row) if taken.refused else row)
        stored = await store(connection, rows)
        return [
            _receipt(taken.config.provider_type, row, kept)
            for taken, row, kept in zip(batch, rows, stored, strict=True)
        ]


_NOTHING = Receipt(0, 0, frozenset())


def _receipt(provider: str, row: WebhookRow, stored: Stored) -> Receipt:
    outcome = "stored" if stored.fresh else "duplicate"
    for keyed in row.events:
        metrics.child(metrics.ingest_events, provider, keyed.event.type, outcome).inc()
    for value, moved in stored.statuses:
        metrics.child(metrics.status_updates, provider, value, "applied" if moved else "stale").inc()
    for item in row.quarantine:
        metrics.child(metrics.quarantined, provider, item.reason).inc()
    return Receipt(len(row.events), stored.fresh, frozenset(item.reason for item in row.quarantine))
