"""Going on with what others left: messages of processes that died, held ones whose time is up, leases of our own."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

import msgspec

from providers import Uncertain
from providers.messages import STATUS_RANK

from .. import identifiers, metrics
from ..accounts.config import Config
from ..accounts.unusable import MissingPlugin
from ..people.directory import Directory
from ..storage.database import Database, StoreUnavailable
from ..storage.group_commit import Overloaded
from ..storage.statements import configs
from ..storage.statements.configs import ConfigKey, StoredConfig
from ..storage.statements.receiving.statuses import sweep
from ..storage.statements.sending import leases, messages
from ..storage.statements.sending.leases import LostSend
from ..storage.statements.sending.messages import Attempt, MessageKey, SendState
from ..switching.manager import WhatsAppProviderManager
from ..switching.routes import Route
from .gate import expired, open_order
from .lost_answers import LostAnswers
from .message import Dispatch, SendIntent
from .outbound import Outbound
from .outcomes import Outcomes

logger = logging.getLogger("ingress.sending.recovery")

HEARTBEAT_S = 5.0
SWEEP_S = 5.0
WITHDRAW_S = 1.0
# Taken over at a time, of each organization as many, so that the others' are not kept waiting.
ROUND_ROWS = 400


class _Histories(NamedTuple):
    """Of messages that are taken over: how their organizations send, each one's attempts, the configs of the last."""

    routes: Mapping[UUID, Route]
    attempts: Mapping[UUID, Sequence[Attempt]]
    configs: Mapping[ConfigKey, StoredConfig]


class Recovery:
    """Background work for sends. Enter it once a process."""

    def __init__(
        self,
        database: Database,
        manager: WhatsAppProviderManager,
        directory: Directory,
        outbound: Outbound,
        outcomes: Outcomes,
        lost_answers: LostAnswers,
        closing: asyncio.Event,
    ) -> None:
        self._database = database
        self._manager = manager
        self._directory = directory
        self._outbound = outbound
        self._outcomes = outcomes
        self._lost_answers = lost_answers
        self._closing = closing
        self._tasks: list[asyncio.Task[None]] = []
        self._is_away = False  # the store, at the last look

    async def __aenter__(self) -> "Recovery":
        self._tasks = [
            asyncio.create_task(forever(work, every_s))
            for work, every_s in (
                (self._renew_leases, HEARTBEAT_S),
                (self._outbound.withdraw, WITHDRAW_S),
                (self._recover, SWEEP_S),
                (self._match_statuses, SWEEP_S),
            )
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()

    async def _renew_leases(self) -> None:
        if old := self._outbound.leases(older_than_s=HEARTBEAT_S):
            async with self._database.worker() as connection:
                await leases.set_leases(connection, old, seconds=leases.LEASE_S)

    async def _match_statuses(self) -> None:
        async with self._database.worker() as connection:
            await sweep(connection)

    async def _recover(self) -> None:
        """Round after round, while one is full: there may be more.

        Not at the first look after the store was away: leases ran out meanwhile, and their owners come first.
        """
        is_back, self._is_away = self._is_away, True
        await self._outbound.withdraw()
        if is_back:
            await self._match_statuses()
        else:
            while not self._closing.is_set() and await self._round() >= ROUND_ROWS:
                continue
        self._is_away = False

    async def _round(self) -> int:
        lease_id = identifiers.new_id()
        async with self._database.worker() as connection:
            lost = await leases.reclaim(connection, lease_id, ROUND_ROWS)
        # The others were ours all along; we were only too slow to renew their leases.
        taken = [send for send in lost if not self._outbound.is_ours(send.id, lease_id)]
        if taken:
            history = await self._histories(taken)
            await asyncio.gather(*(self._resumed(send, lease_id, history) for send in taken))
        return len(lost)

    async def _histories(self, taken: Sequence[LostSend]) -> _Histories:
        """What it takes to go on with them, asked for all at once."""
        organizations = list({send.organization_id for send in taken})
        routes = await asyncio.gather(*(self._manager.routes.route(each, fresh=True) for each in organizations))
        async with self._database.worker() as connection:
            attempts = await messages.attempts_of(
                connection, [MessageKey(send.organization_id, send.id) for send in taken]
            )
            last = {
                ConfigKey(send.organization_id, made[-1].config_id) for send in taken if (made := attempts[send.id])
            }
            rows = await configs.by_ids(connection, last)
        return _Histories(dict(zip(organizations, routes, strict=True)), attempts, rows)

    async def _resumed(self, send: LostSend, lease_id: UUID, histories: _Histories) -> None:
        metrics.lease_reclaims.labels(send.state).inc()
        try:
            await self._resume(send, lease_id, histories)
        except (StoreUnavailable, Overloaded):
            logger.warning("message %s is resumed later", send.id)
        except Exception:  # one message must not keep the others of a dead process waiting
            logger.exception("message %s cannot be resumed", send.id)

    async def _resume(self, send: LostSend, lease_id: UUID, histories: _Histories) -> None:
        """Go on with a message of a process that died, or report a held one whose time is up."""
        route, attempts = histories.routes[send.organization_id], histories.attempts[send.id]
        last = attempts[-1] if attempts else None
        dispatch = _dispatch(send, lease_id, route, attempts)
        if last is None:  # it waited for an earlier one: nobody was called for it
            dispatch.conversations = await self._directory.conversations(route.order, dispatch.intent.to)
            dispatch.reached = self._directory.number(dispatch.organization_id, dispatch.intent.to)
            self._go_on(dispatch, route.order[0])
            return
        row = histories.configs.get(ConfigKey(send.organization_id, last.config_id))
        config = self._manager.accounts.known(row) if row else _deleted(send.organization_id, last)
        dispatch.conversations = await self._directory.conversations([*route.order, config], dispatch.intent.to)
        dispatch.reached = self._directory.number(dispatch.organization_id, dispatch.intent.to)
        lost = Uncertain("no answer came", code=last.code or "process_died")
        if any(attempt.class_ in (None, "Uncertain") for attempt in attempts):
            dispatch.uncertain = lost
        if send.state == "uncertain":
            self._outbound.end(dispatch, self._given_up(dispatch, config, lost))
        elif send.status_rank > STATUS_RANK["unknown"]:
            self._outbound.end(dispatch, self._outcomes.accepted(dispatch, config, None))
        elif last.class_ is None and dispatch.on_uncertain == "hold":
            self._outbound.end(dispatch, self._outbound.failed(dispatch, config, lost))
        else:
            dispatch.exhausted = _exhausted(dispatch, attempts)
            self._go_on(dispatch, config)

    def _go_on(self, dispatch: Dispatch, config: Config) -> None:
        """Send a message that was surely not taken; *config* is the one that did not take it."""
        if not all(other.is_unusable for other in open_order(dispatch)):
            self._outbound.start(dispatch)
        # Nobody can send it here. Another process may, or this one later, as long as there is time.
        elif dispatch.left_s <= 0:
            self._outbound.end(dispatch, self._outbound.failed(dispatch, config, expired()))

    async def _given_up(self, dispatch: Dispatch, config: Config, lost: Uncertain) -> SendState:
        """The end of a held message, after its provider was asked a last time."""
        if not config.is_unusable and (result := await self._lost_answers.find(config, dispatch)) is not None:
            return await self._outcomes.accepted(dispatch, config, result)
        return await self._outcomes.unknown(dispatch, config, lost)


def _dispatch(send: LostSend, lease_id: UUID, route: Route, attempts: Sequence[Attempt]) -> Dispatch:
    return Dispatch(
        organization_id=send.organization_id,
        id=send.id,
        lease_id=lease_id,
        intent=_intent(send.request),
        route=route,
        created_at=send.created_at,
        expires_at=send.expires_at,
        number=attempts[-1].number if attempts else 0,
        begun=True,
        fallback_from=send.fallback_from,
        fallback_reason=send.fallback_reason,
    )


def _exhausted(dispatch: Dispatch, attempts: Sequence[Attempt]) -> dict[UUID, str]:
    """The configs that cannot send the message, by the outcomes of *attempts*."""
    found = {each.config_id: each.class_ for each in attempts if each.class_ in ("Unsupported", "AccountBroken")}
    if attempts[-1].class_ is None and dispatch.on_uncertain == "fallback":
        found[attempts[-1].config_id] = "Uncertain"
    return found


def _deleted(organization_id: UUID, attempt: Attempt) -> Config:
    """What stands for the config of *attempt*, which was deleted since."""
    config_id = attempt.config_id
    return Config(organization_id, config_id, attempt.provider, "", "error", None, MissingPlugin(), "", config_id)


_intent = msgspec.json.Decoder(SendIntent).decode


async def forever(work: Callable[[], Awaitable[None]], every_s: float) -> None:
    """Do *work* again and again, whatever it raises."""
    while True:
        try:
            await work()
        except StoreUnavailable:
            logger.warning("the database is away; background work waits")
        except Exception:  # leases run out if nobody renews them, and gauges stand still: the loop must live on
            logger.exception("background work failed")
        await asyncio.sleep(every_s)
