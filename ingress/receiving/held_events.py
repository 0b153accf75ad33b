"""Events about an id that may turn out to be one of our messages': kept until the sends that it may be have ended.

A message may come back, and be read, before our own call that sent it is answered; and where that answer is lost, what
came back is the only evidence that it went out at all.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence

import asyncpg
import msgspec

from providers import MessageData, Recipient
from providers.content import OutboundContent
from providers.messages import STATUS_RANK, Message

from ..accounts.config import Config
from ..envelope import EventData, Ours, completed
from ..identifiers import correlation
from ..storage.database import Database, StoreUnavailable
from ..storage.statements import held_events, own_messages
from ..storage.statements.held_events import ROUND_ROWS, HeldEvent, OpenAttempt, Release
from ..storage.statements.own_messages import NamedMessage, OwnMessage
from ..storage.statements.statuses import StatusRow
from ..switching.manager import WhatsAppProviderManager
from ..validation import Unlogged
from ..wakeups import Wakeups
from .excess import short_error
from .own_messages import about, is_itself

logger = logging.getLogger("ingress.receiving.held_events")
_encode = msgspec.json.Encoder().encode
_data = msgspec.json.Decoder(EventData).decode

# Looked at so often, besides when something came that waits, and when a send ended that something waits for.
POLL_S = 1.0


class _Asked(Unlogged, frozen=True):
    """What was asked for, out of the request of a send."""

    to: Recipient
    content: OutboundContent


_asked = msgspec.json.Decoder(_Asked).decode


class HeldEvents:
    """Releases events that need not wait any longer: looks when *arrived* is set. Enter it once a process."""

    def __init__(self, database: Database, manager: WhatsAppProviderManager, wakeups: Wakeups) -> None:
        self.arrived = asyncio.Event()
        self._database = database
        self._manager = manager
        self._wakeups = wakeups
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "HeldEvents":
        self._task = asyncio.create_task(self._look_forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _look_forever(self) -> None:
        while True:
            self.arrived.clear()
            try:
                while await self._round():
                    continue
            except StoreUnavailable:
                logger.warning("the database is away; held events wait")
            except Exception:  # the loop must live on, for everybody's
                logger.exception("held events cannot be released")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self.arrived.wait()

    async def _round(self) -> bool:
        """Release what can be; whether there may be more."""
        async with self._database.worker() as connection, connection.transaction():
            held = await held_events.take(connection)
            if not held:
                return False
            resolution = _Resolution(connection, self._manager)
            await resolution.resolve(held)
            if resolution.released:
                await held_events.release(connection, resolution.released, resolution.statuses)
        for organization_id in {each.organization_id for each in resolution.released}:
            self._wakeups.notify(organization_id)
        return len(held) == ROUND_ROWS and bool(resolution.released)


class _Resolution:
    """What held events are about, now: what goes out, and what it says of our messages."""

    def __init__(self, connection: asyncpg.Connection, manager: WhatsAppProviderManager) -> None:
        self._connection = connection
        self._manager = manager
        self._known: dict[NamedMessage, OwnMessage] = {}
        self._claimed: set[tuple[OwnMessage, int]] = set()  # attempts that an echo was found to be of
        self.released: list[Release] = []
        self.statuses: list[StatusRow] = []

    async def resolve(self, held: Sequence[HeldEvent]) -> None:
        events = [(each, _data(each.data)) for each in held]
        names = {name for each, data in events for name in _names(each, data)}
        found = await own_messages.find(self._connection, names)
        self._known = {name: known.own for name, known in found.items() if known.own is not None}
        for each, data in events:
            await self._resolve(each, data)

    async def _resolve(self, each: HeldEvent, data: EventData) -> None:
        first, *others = _names(each, data)
        came_back = is_itself(each.type, data.message, each.provider_message_id)
        attempt = None
        if first not in self._known and came_back and (attempt := await self._attempt(each, data.message)):
            self._known[first] = attempt.message
        own = self._known.get(first)
        if own is None and not each.is_over:
            return
        subject = own or next((self._known[other] for other in others if other in self._known), None)
        kind, data = completed(each.type, data, Ours(subject, came_back=came_back and own is not None))
        self.released.append(Release(each.organization_id, each.sequence, kind, _encode(data)))
        if own is not None and (status := _status(each, data, own, attempt)) is not None:
            self.statuses.append(status)

    async def _attempt(self, each: HeldEvent, echo: Message | None) -> OpenAttempt | None:
        """The lost attempt that *echo* is evidence of: of several alike the first, each for one echo.

        None as long as one alike is under way, whose answer may say so.
        """
        if echo is None or echo.source != "api":  # else a person may have typed the same words
            return None
        config = await self._manager.config(each.organization_id, each.config_id)
        if config is None or config.is_unusable:
            return None
        alike = [
            attempt
            for attempt in await held_events.attempts(self._connection, each)
            if (attempt.message, attempt.number) not in self._claimed and _is_echo(config, echo, attempt)
        ]
        if not alike or any(attempt.is_under_way for attempt in alike):
            return None
        self._claimed.add((alike[0].message, alike[0].number))
        return alike[0]


def _names(each: HeldEvent, data: EventData) -> list[NamedMessage]:
    """What the event names, what it waits for first."""
    identities = dict.fromkeys([each.provider_message_id, *about(each.type, data.message, data.status)])
    return [
        NamedMessage(each.organization_id, each.account_id, each.config_id, identity, None) for identity in identities
    ]


def _is_echo(config: Config, echo: Message, attempt: OpenAttempt) -> bool:
    asked = _asked(attempt.request)
    sent = MessageData(
        to=asked.to,
        content=asked.content,
        organization_id=str(config.organization_id),
        correlation_id=correlation(attempt.message.id, attempt.number),
    )
    try:
        return config.provider.is_echo(echo, sent)
    except Exception:  # a plug-in that breaks here leaves the message as uncertain as it was
        logger.exception("the provider plug-in failed")
        return False


def _status(each: HeldEvent, data: EventData, own: OwnMessage, attempt: OpenAttempt | None) -> StatusRow | None:
    """What the event says of *own*: in a group each member has a status of their own, none of them the message's."""
    status = data.status
    if status is None or status.value is None or status.participant is not None:
        return None
    return StatusRow(
        each.organization_id,
        each.config_id,
        each.account_id,
        each.provider_message_id,
        status.value,
        STATUS_RANK[status.value],
        data.occurred_at,
        _encode(short_error(status.error)) if status.error else None,
        own.id,
        attempt.number if attempt else None,
    )
