"""One webhook from its body to its answer: which config's it is, whether it is genuine, and what the log has of it."""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from time import monotonic
from typing import NamedTuple
from uuid import UUID

import msgspec

from providers import Unverified, Webhook

from .. import identifiers, log, metrics
from ..accounts.config import Config
from ..storage.database import StoreUnavailable
from ..storage.group_commit import Overloaded, RowRefused
from ..switching.manager import WhatsAppProviderManager
from ..tracing import HEADER, trace_of
from ..validation import Unlogged
from ..web.bodies import LargeBodies, text_of
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
from .normalise import NOTHING_STORED, StoredWebhook, VerifiedWebhook
from .webhook_queue import WebhookQueue

logger = logging.getLogger("ingress.receiving.ingestion")

# Of so many new events or more, the log has the first and the last.
SEQUENCES_LOGGED = 20
# Longer ones have something in them that strangers wrote.
LONGEST_KEPT_TARGET = 256


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


class _Line(Unlogged, frozen=True):
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


class Ingestion(msgspec.Struct, eq=False):
    """One webhook from its body to its answer."""

    _manager: WhatsAppProviderManager
    _queue: WebhookQueue
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
        return f"Ingestion({self._provider_name})"

    async def look_up(self, bodies: LargeBodies) -> None:
        """Go on with the config, which has to be asked for; until then *bodies* counts what is held."""
        size, token = len(self._body), self._target.token
        try:
            bodies.grow(size, size, token)
            self.proceed(await self._manager.routes.config_of_webhook(token))
        except Exception as error:  # noqa: BLE001  (`_fail` answers and logs it)
            self._fail(error)
        finally:
            bodies.release(size, token)

    def proceed(self, config: Config | None) -> None:
        """Answer, or queue what is to be stored first."""
        try:
            self._judge(config)
        except Exception as error:  # noqa: BLE001  (`_fail` answers and logs it)
            self._fail(error)

    def _judge(self, config: Config | None) -> None:
        if config is None or config.provider_type != self._target.provider_type:
            self._end(NOT_FOUND, "unknown")
            return
        self._provider_name = config.provider_type
        hook = self._hook()
        self._verified = VerifiedWebhook(config, hook)
        if answer := self._answer_at_once(config, hook):
            self._end(*answer)
            return
        config.provider.verify(hook)
        self._queue.enqueue(self._verified, self._stored)

    def _hook(self) -> Webhook:
        return Webhook(
            method=self._method,
            # The public address, from our settings: what a proxy or client claims is part of no signature.
            url=self._manager.origin + self._target.whole,
            headers=text_of(self._headers),
            body=self._body,
        )

    def _answer_at_once(self, config: Config, hook: Webhook) -> tuple[WebhookAnswer, str] | None:
        """The answer to what is not to be stored, and its outcome in the log."""
        if hook.headers.get("content-encoding", "identity") != "identity":
            return ENCODED, "encoded"
        if len(self._body) > config.provider.info.max_webhook_bytes:
            return TOO_LARGE, "too_large"
        if (challenge := config.provider.challenge(hook)) is not None:
            return challenge_answer(challenge), "challenge"
        return (NO_METHOD, "method") if self._method != "POST" else None

    def _stored(self, stored: StoredWebhook | Exception) -> None:
        if isinstance(stored, Exception):
            self._fail(stored)
            return
        assert self._verified is not None, "answered before it was queued"
        new = stored.sequences or not stored.events
        outcome = "quarantined" if stored.quarantined else "acked" if new else "duplicate"
        try:
            self._end(acknowledgement(type(self._verified.config.provider)), outcome, stored)
            self._queue.notify(stored)
        except Exception as error:  # noqa: BLE001  (`_fail` answers and logs it)
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        match error:
            case RowRefused() if self._verified is not None and not self._verified.refused:
                self._store_refused(self._verified)
            case Unverified() if self._verified is not None:
                self._manager.activity.note_refused(self._verified.config, self._verified.hook)
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

    def _store_refused(self, verified: VerifiedWebhook) -> None:
        """Keep the body in quarantine: the provider would repeat it for a week, and it would be refused each time."""
        self._verified = msgspec.structs.replace(verified, refused=True)
        try:
            self._queue.enqueue(self._verified, self._stored)
        except (StoreUnavailable, Overloaded) as error:
            self._fail(error)

    def _end(self, answer: WebhookAnswer, outcome: str, stored: StoredWebhook = NOTHING_STORED) -> None:
        if self._answered:  # a second answer would be taken for that of the connection's next request
            return
        self._answered = True
        request_id = identifiers.request_id()
        self._reply(answer, request_id)
        elapsed = monotonic() - self._started
        metrics.observe_request(metrics.ack_seconds, elapsed, request_id, self._provider_name, outcome)
        if log.is_wide():
            self._log(request_id, outcome, stored, elapsed)

    def _log(self, request_id: str, outcome: str, stored: StoredWebhook, elapsed: float) -> None:
        verified, sequences = self._verified, stored.sequences
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
            stored.events,
            len(sequences),
            sequences if len(sequences) < SEQUENCES_LOGGED else [min(sequences), max(sequences)],
            trace_of(traceparent) if traceparent else None,
            int(elapsed * 10_000) / 10,
        )
        log.put(line)
