"""Events about an id that may turn out to be one of our messages': kept until the sends that it may be have ended.

A message may come back, and be read, before our own call that sent it is answered; and where that answer is lost, what
came back is the only evidence that it went out at all.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from uuid import UUID

import asyncpg
import msgspec

from providers import MessageData, Recipient
from providers.content import OutboundContent
from providers.messages import STATUS_RANK, Message

from ..accounts.config import Config
from ..envelope import EventData, Ours, completed
from ..identifiers import correlation
from ..storage.database import Database, StoreUnavailable
from ..storage.statements.receiving import held_events
from ..storage.statements.receiving.held_events import ROUND_ROWS, HeldEvent, OpenAttempt, Release
from ..storage.statements.receiving.statuses import StatusRow
from ..storage.statements.sending import messages
from ..storage.statements.sending.messages import NamedMessage, OwnMessage
from ..switching.manager import WhatsAppProviderManager
from ..validation import Unlogged
from ..wakeups import Wakeups
from .excess import short_error
from .own_messages import about, is_itself, renamed

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
                await self._look()
            except StoreUnavailable:
                logger.warning("the database is away; held events wait")
            except Exception:  # the loop must live on, for everybody's
                logger.exception("held events cannot be released")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self.arrived.wait()

    async def _look(self) -> None:
        """Release what can be, of one organization after the other."""
        turn: UUID | None = UUID(int=0)
        while turn is not None:
            turn = await self._release(turn)

    async def _release(self, after: UUID) -> UUID | None:
        """Release what can be of the next organization; whose turn that was, None: nobody's."""
        async with self._database.worker() as connection, connection.transaction():
            held = await held_events.take(connection, after)
            if not held:
                return None
            resolution = _Resolution(connection, self._manager)
            await resolution.resolve(held)
            if resolution.released:
                await held_events.release(connection, resolution.released, resolution.statuses)
        organization_id = held[0].organization_id
        if resolution.released:
            self._wakeups.notify(organization_id)
        if resolution.released and len(held) == ROUND_ROWS:  # there may be more
            self.arrived.set()
        return organization_id


class _Resolution:
    """What held events are about, now: what goes out, and what it says of our messages."""

    def __init__(self, connection: asyncpg.Connection, manager: WhatsAppProviderManager) -> None:
        self._connection = connection
        self._manager = manager
        self._configs: dict[UUID, Config | None] = {}  # all of one organization
        self._known: dict[NamedMessage, OwnMessage] = {}
        self._ids: dict[NamedMessage, str] = {}  # by which the CRM knows them
        self._attempts: dict[NamedMessage, OpenAttempt] = {}  # that an echo was found to be of
        self.released: list[Release] = []
        self.statuses: list[StatusRow] = []

    async def resolve(self, held: Sequence[HeldEvent]) -> None:
        events = [(each, data, await self._names(each, data)) for each in held if (data := self._read(each))]
        # Before it is asked what is known: a send whose answer is stored in between is seen by one of the two.
        lost = [await self._lost(each, data.message) for each, data, _ in events]
        found = await messages.find(self._connection, {name for *_, names in events for name in names})
        self._known = {name: known.own for name, known in found.items() if known.own is not None}
        self._ids = {name: known.known_as for name, known in found.items() if known.known_as is not None}
        for (each, data, names), attempts in zip(events, lost, strict=True):
            self._resolve(each, data, names, attempts)

    def _read(self, each: HeldEvent) -> EventData | None:
        """What was written; None where it cannot be read again: then it is an event as it is, and holds up nobody."""
        try:
            return _data(each.data)
        except msgspec.MsgspecError:
            logger.warning("a held event of organization %s cannot be read again", each.organization_id)
            self.released.append(Release(each.organization_id, each.sequence, each.type, each.data))
            return None

    async def _names(self, each: HeldEvent, data: EventData) -> list[NamedMessage]:
        """What the event names, what it waits for first."""
        identities = dict.fromkeys([each.provider_message_id, *about(each.type, data.message, data.status)])
        config = await self._config(each)
        return [
            NamedMessage(
                each.organization_id,
                each.account_id,
                each.config_id,
                identity,
                None,
                message_key=config.message_key(identity) if config else identity,
            )
            for identity in identities
        ]

    async def _config(self, each: HeldEvent) -> Config | None:
        if each.config_id not in self._configs:
            self._configs[each.config_id] = await self._manager.config(each.organization_id, each.config_id)
        return self._configs[each.config_id]

    async def _lost(self, each: HeldEvent, echo: Message | None) -> list[OpenAttempt]:
        """The attempts that *echo* may be evidence of, in their order: what a person may have typed is none."""
        if echo is None or echo.source != "api" or not is_itself(each.type, echo, each.provider_message_id):
            return []
        config = await self._config(each)
        if config is None or config.is_unusable:
            return []
        attempts = await held_events.attempts(self._connection, each)
        return [attempt for attempt in attempts if _is_echo(config, echo, attempt)]

    def _resolve(
        self, each: HeldEvent, data: EventData, names: Sequence[NamedMessage], lost: Sequence[OpenAttempt]
    ) -> None:
        first, *others = names
        # What came after an echo is about the same attempt.
        attempt = self._attempts.get(first)
        if first not in self._known and (attempt := self._unclaimed(lost)) is not None:
            self._known[first] = attempt.message
            self._attempts[first] = attempt
        own = self._known.get(first)
        if own is None and not each.is_over:
            return
        subject = own or next((self._known[other] for other in others if other in self._known), None)
        came_back = own is not None and is_itself(each.type, data.message, each.provider_message_id)
        ids = {name.provider_message_id: self._ids[name] for name in names if name in self._ids}
        message, reported = renamed(data.message, data.status, ids)
        data = msgspec.structs.replace(data, message=message, status=reported)
        kind, data = completed(each.type, data, Ours(subject, came_back=came_back))
        self.released.append(Release(each.organization_id, each.sequence, kind, _encode(data)))
        if own is not None and (status := _status(each, data, own, attempt)) is not None:
            self.statuses.append(status)

    def _unclaimed(self, alike: Sequence[OpenAttempt]) -> OpenAttempt | None:
        """The first that no other echo is of; None as long as one is under way, whose answer may say so."""
        claimed = {(attempt.message, attempt.number) for attempt in self._attempts.values()}
        unclaimed = [attempt for attempt in alike if (attempt.message, attempt.number) not in claimed]
        return None if not unclaimed or any(attempt.is_under_way for attempt in unclaimed) else unclaimed[0]


def _is_echo(config: Config, echo: Message, attempt: OpenAttempt) -> bool:
    try:
        asked = _asked(attempt.request)
        sent = MessageData(
            to=asked.to,
            content=asked.content,
            organization_id=str(config.organization_id),
            correlation_id=correlation(attempt.message.id, attempt.number),
        )
        return config.provider.is_echo(echo, sent)
    except Exception:  # a plug-in that breaks here leaves the message as uncertain as it was
        logger.exception("an echo cannot be compared")
        return False


def _status(each: HeldEvent, data: EventData, own: OwnMessage, attempt: OpenAttempt | None) -> StatusRow | None:
    """What the event says of *own*: in a group each member has a status of their own, none of them the message's."""
    status = data.status
    if status is None or status.value is None or status.participant is not None:
        return None
    account = each.organization_id, each.config_id, each.account_id
    return StatusRow(
        *account,
        each.provider_message_id,
        each.message_key,
        status.value,
        STATUS_RANK[status.value],
        data.occurred_at,
        _encode(short_error(status.error)) if status.error else None,
        own.id,
        attempt.number if attempt else None,
    )
