"""Asking a provider for a message whose answer was lost."""

import asyncio
import logging

import msgspec

from providers import Lookalikes, MessageResult, SendError, Unsupported

from ..accounts.config import Config
from ..calls.driver import Caller
from ..storage.database import Database, StoreUnavailable
from ..storage.group_commit import Overloaded
from ..storage.statements.sending import messages
from .bulkhead import Bulkhead
from .message import Dispatch, SendIntent, message_of
from .outcomes import LeaseLost, Outcomes

_intent = msgspec.json.Decoder(SendIntent).decode

logger = logging.getLogger("ingress.sending.lost_answers")

# Seconds after the time before.
ASK_AFTER_S = (1.0, 5.0, 20.0)
# Questions under way at once, of an organization a quarter of them: after a crash there are thousands.
AT_ONCE, PATIENCE_S = 64, 3600.0


class LostAnswers:
    """Asks in the background. Enter it once a process."""

    def __init__(self, database: Database, caller: Caller, outcomes: Outcomes) -> None:
        self._database = database
        self._caller = caller
        self._outcomes = outcomes
        self._slots = Bulkhead(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "LostAnswers":
        return self

    async def __aexit__(self, *_: object) -> None:
        # Whoever takes a held message over asks for it again.
        for task in self._tasks:
            task.cancel()

    async def find(self, config: Config, dispatch: Dispatch) -> MessageResult | None:
        """The message of the last attempt as its provider has it; None where that is not known."""
        if not await self._slots.enter(dispatch.organization_id, PATIENCE_S):
            return None
        try:
            return await self._found(config, dispatch)
        finally:
            self._slots.leave(dispatch.organization_id)

    async def _found(self, config: Config, dispatch: Dispatch) -> MessageResult | None:
        provider = config.provider
        try:
            message = msgspec.structs.replace(message_of(config, dispatch), lookalikes=await self._lookalikes(dispatch))
            return await self._caller.run(provider.find_message(message), provider.time_limits.call_s)
        except StoreUnavailable:
            logger.warning("the database is away; message %s is looked for later", dispatch.id)
        except Unsupported:
            return None
        except SendError as error:
            logger.warning("config %s cannot be asked for a message: %s", config.id, error.code)
        except Exception:  # a plug-in that breaks here leaves the message as uncertain as it was
            logger.exception("the provider plug-in failed")
        return None

    async def _lookalikes(self, dispatch: Dispatch) -> Lookalikes | None:
        async with self._database.worker() as connection:
            others = await messages.in_chat(connection, dispatch.organization_id, dispatch.id)
        alike = [other for other in others if _intent(other.request).content == dispatch.intent.content]
        if any(other.is_under_way for other in alike):
            return None
        return Lookalikes(
            known_ids=frozenset(other.provider_message_id for other in others if other.provider_message_id),
            before=sum(other.is_lost and other.id < dispatch.id for other in alike),
            after=sum(other.is_lost and other.id > dispatch.id for other in alike),
        )

    def ask_later(self, config: Config, dispatch: Dispatch) -> None:
        """Ask a few times, until it is found. A status may settle it before."""
        task = asyncio.create_task(self._ask(config, dispatch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, config: Config, dispatch: Dispatch) -> None:
        for pause_s in ASK_AFTER_S:
            await asyncio.sleep(pause_s)
            if (result := await self.find(config, dispatch)) is None:
                continue
            try:
                await self._outcomes.accepted(dispatch, config, result)
            except (LeaseLost, StoreUnavailable, Overloaded) as error:
                logger.warning("message %s was found and is left to who has it: %s", dispatch.id, type(error).__name__)
            return
