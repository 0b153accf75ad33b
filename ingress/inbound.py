"""Receiving: verify, parse, store, answer. 200 means that every byte and every event is in the database."""

import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from time import monotonic

import msgspec
from starlette.types import Receive, Scope, Send

from providers import Event, Malformed, Unverified, Webhook
from providers.messages import STATUS_RANK

from . import identifiers, log, metrics
from .correlation import parse_correlation
from .database import INGEST, Database, StoreUnavailable
from .edge import Disconnected, TooLarge, read_body, text_of, unavailable
from .envelope import event_row
from .events import Wakes
from .group_commit import GroupCommit, Overloaded, RowRefused
from .manager import Config, WhatsAppProviderManager
from .storage.inbound import KeyedEvent, QuarantineRow, Stored, WebhookRow, store
from .storage.statuses import StatusRow

logger = logging.getLogger("ingress.inbound")

MAX_BODY_BYTES = 4 * 1024 * 1024
_encode = msgspec.json.Encoder().encode
_JSON = (b"content-type", b"application/json")
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_UNVERIFIED = b'{"status":401,"code":"unverified"}'
_NOT_FOUND = b'{"status":404,"code":"not_found"}'


class Inbound:
    """The ASGI application behind /webhooks/{provider}/{token}.

    It stands before the router and Starlette's request and response: a webhook needs none of them, and they cost
    as much as the work itself.
    """

    def __init__(self, database: Database, manager: WhatsAppProviderManager, wakes: Wakes) -> None:
        self._manager = manager
        self._wakes = wakes
        self._commit: GroupCommit[WebhookRow, Stored] = GroupCommit("ingest", database, INGEST, store)

    async def __aenter__(self) -> "Inbound":
        await self._commit.__aenter__()
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._commit.__aexit__(*reason)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one webhook. 401 always says the same; content never makes an error of ours."""
        started = monotonic()
        provider_name, outcome, events, fresh = "other", "error", 0, 0
        config: Config | None = None
        status, body, kind = 503, b"", _JSON
        headers: list[tuple[bytes, bytes]] = []
        try:
            provider_type, _, token = scope["path"].removeprefix("/webhooks/").partition("/")
            config = await self._manager.config_of_webhook(token)
            if config is None or config.provider_type != provider_type:
                status, body, outcome = 404, _NOT_FOUND, "unknown"
                return
            provider_name = provider_type
            hook = await self._hook(scope, receive)
            if hook is None:
                status, outcome = 415, "encoded"
            elif (answer := config.provider.challenge(hook)) is not None:
                status, body, kind, outcome = answer.status, answer.body, _TEXT, "challenge"
            elif scope["method"] != "POST":
                status, outcome = 405, "method"
            else:
                config.provider.verify(hook)
                row = await self._read(config, hook)
                try:
                    fresh = await self._stored(row)
                except RowRefused:
                    # The provider would repeat it for a week, and it would be refused each time.
                    row = row._replace(events=(), quarantine=[_aside("refused_by_store", hook.body)])
                    fresh = await self._stored(row)
                events = len(row.events)
                status = 200
                outcome = "quarantined" if row.quarantine else "acked" if fresh or not events else "duplicate"
                if fresh:
                    self._wakes.wake(config.organization_id)
                self._count(provider_type, row, fresh)
        except Unverified:
            status, body, outcome = 401, _UNVERIFIED, "unauthorized"
            metrics.auth_failures.labels("webhook").inc()
        except TooLarge:
            status, outcome = 413, "too_large"
        except (StoreUnavailable, Overloaded) as error:
            outcome = "shed" if isinstance(error, Overloaded) else "error"
            headers = [(b"retry-after", unavailable("").headers["retry-after"].encode())]
        except Disconnected:
            outcome = "disconnected"
            return
        except Exception:
            # A mistake of ours, outside of what content can cause: the provider comes again.
            logger.exception("receiving failed")
            headers = [(b"retry-after", unavailable("").headers["retry-after"].encode())]
        finally:
            if outcome != "disconnected":
                await _answer(send, status, body, kind, headers)
            elapsed = monotonic() - started
            metrics.child(metrics.ack_seconds, provider_name, outcome).observe(elapsed)
            log.wide(
                "webhook",
                organization=config and config.organization_id,
                config=config and config.id,
                provider=provider_name,
                outcome=outcome,
                events=events,
                fresh=fresh,
                ms=round(elapsed * 1000, 1),
            )

    async def replay(self, config: Config, headers: bytes, body: bytes) -> int:
        """Read a quarantined body again with today's code; how many events were new. Raises `Malformed`."""
        url = self._manager.webhook_url(config.provider_type, "replayed")
        hook = Webhook(method="POST", url=url, headers=json.loads(headers), body=body)
        try:
            config.provider.parse(hook)
        except Malformed:
            raise
        except Exception as error:
            logger.exception("parser failed")
            raise Malformed from error
        row = await self._read(config, hook)
        fresh = await self._stored(row)
        self._wakes.wake(config.organization_id)
        return fresh

    # -- the steps

    async def _stored(self, row: WebhookRow) -> int:
        """Commit *row*; how many of its events were new."""
        weight = max(1, len(row.events))
        stored = await self._commit.submit(
            row, organization=row.organization_id, weight=weight, size_bytes=len(row.body)
        )
        return stored.fresh

    async def _hook(self, scope: Scope, receive: Receive) -> Webhook | None:
        """The request as providers see it, or None where its body is encoded."""
        headers = text_of(scope["headers"])
        if headers.get("content-encoding", "identity") != "identity":
            return None
        query = scope["query_string"].decode("latin-1")
        # The public address, from our settings: what a proxy or client claims is part of no signature.
        url = self._manager.origin + scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        return Webhook(method=scope["method"], url=url, headers=headers, body=await read_body(receive, MAX_BODY_BYTES))

    async def _read(self, config: Config, hook: Webhook) -> WebhookRow:
        """Everything *hook* says, as rows: events of this config, of its siblings, and what belongs to neither."""
        now = datetime.now(UTC)
        quarantine: list[QuarantineRow] = []
        events: list[KeyedEvent] = []
        try:
            parsed = config.provider.parse(hook)
        except Malformed:
            parsed = []
            quarantine.append(_aside("malformed", hook.body))
        except Exception:
            # A mistake of ours must not make the provider repeat the body for a week; it waits for the repair.
            logger.exception("parser failed")
            parsed = []
            quarantine.append(_aside("parser_failed", hook.body))
        owners = await self._owners(config, hook, parsed)
        for event, owner in zip(parsed, owners, strict=True):
            if owner is None:
                quarantine.append(_aside("foreign", bytes(event.raw), foreign_item=True))
            else:
                events.append(_keyed(event, owner, now))
        return WebhookRow(
            config.organization_id,
            config.id,
            _encode(hook.headers),
            hook.body,
            events,
            quarantine,
        )

    async def _owners(self, config: Config, hook: Webhook, events: Sequence[Event]) -> list[Config | None]:
        """For each event the config it is about: this one, or another of the organization behind the same secret.

        A signature may be shared by all tenants of one app, so it does not say whose an item is.
        """
        owners: list[Config | None] = [config if config.provider.owns(event) else None for event in events]
        if None in owners:
            siblings = [other for other in await self._manager.siblings(config) if _verifies(other, hook)]
            for place, event in enumerate(events):
                if owners[place] is None:
                    owners[place] = next((other for other in siblings if other.provider.owns(event)), None)
        return owners

    def _count(self, provider: str, row: WebhookRow, fresh: int) -> None:
        for item in row.quarantine:
            metrics.quarantined.labels(provider, item.reason).inc()
        for keyed in row.events:
            outcome = "stored" if fresh else "duplicate"
            metrics.child(metrics.ingest_events, provider, keyed.event.type, outcome).inc()


def _aside(reason: str, body: bytes, *, foreign_item: bool = False) -> QuarantineRow:
    return QuarantineRow(identifiers.new_id(), reason, body, foreign_item)


def _verifies(config: Config, hook: Webhook) -> bool:
    try:
        config.provider.verify(hook)
    except Unverified:
        return False
    return True


def _keyed(event: Event, owner: Config, now: datetime) -> KeyedEvent:
    message_id, attempt = parse_correlation(event.correlation_id)
    row = event_row(event, owner.organization_id, owner.id, owner.provider_type, message_id)
    if event.occurred_at is not None:
        metrics.child(metrics.provider_lag, owner.provider_type).observe((now - event.occurred_at).total_seconds())
    status = None
    said = event.status
    # In a group each member has a status of their own; none of them is the message's.
    if said is not None and said.value is not None and said.provider_message_id and said.participant is None:
        status = StatusRow(
            owner.organization_id,
            owner.id,
            said.provider_message_id,
            said.value,
            STATUS_RANK[said.value],
            event.occurred_at,
            _encode(said.error) if said.error else None,
            message_id,
            attempt,
        )
    return KeyedEvent(identifiers.key_hash(event.key), row, status)


async def _answer(
    send: Send, status: int, body: bytes, kind: tuple[bytes, bytes], headers: list[tuple[bytes, bytes]]
) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                kind,
                (b"content-length", b"%d" % len(body)),
                (b"x-content-type-options", b"nosniff"),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
