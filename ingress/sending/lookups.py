"""How the people that messages go to are addressed: as they were seen, or as a provider says, which is asked once.

Some providers take a number in a spelling that is nobody's, and nobody gets the message: Brazil's with the ninth digit
where WhatsApp has it without, or the other way round. So where one can say who has a number, it is asked before the
first message to a number that nobody was seen at. Each look-up has the turn of the message that it is for: who asks
for many numbers, and writes to few of them, is banned.
"""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from uuid import UUID

from providers import Contact, MessageResult, Rejected, SendError, Throttled, Unavailable, may_be_spellings

from .. import metrics
from ..accounts.config import Config
from ..cache import Cache
from ..calls.driver import Caller
from ..people.addresses import phone_address
from ..people.directory import Directory
from ..storage.database import Database, StoreUnavailable
from ..storage.statements import contacts
from ..storage.statements.contacts import Reached
from .message import FIND_CONTACT, Dispatch, check_expressible, recipient_of
from .pacing import Pacer

logger = logging.getLogger("ingress.sending.lookups")

# How long an answer is good for: people come to WhatsApp, and their number changes its spelling once in years.
FOUND, MISSING = timedelta(days=28), timedelta(hours=6)
# A message goes out as it was asked for where the answer takes longer; then the account is not asked for a while.
LOOKUP_S, UNANSWERED_S = 5.0, 60.0
# Of numbers that are no contact's: by organization and address.
REMEMBERED, REMEMBERED_S = 10_000, 3600.0


class Lookups:
    """Asks providers who has a number, and remembers. One a process."""

    def __init__(self, database: Database, directory: Directory, caller: Caller, pacer: Pacer) -> None:
        self._database = database
        self._directory = directory
        self._caller = caller
        self._pacer = pacer
        self._strangers: Cache[tuple[UUID, str], Reached] = Cache(REMEMBERED)
        self._unanswered: Cache[UUID, bool] = Cache(REMEMBERED)  # configs that are left alone

    # -- for a send

    async def address(self, config: Config, dispatch: Dispatch, at_most_s: float) -> None:
        """Have *dispatch* know how its recipient is reached through *config*. Raises `Rejected`: they cannot be."""
        phone = dispatch.intent.to.phone
        if phone is None or FIND_CONTACT not in config.provider.info.capabilities:
            return
        # A number that is missing is looked at again: the person may have written to another process meanwhile.
        if not dispatch.reached.reached_by or not is_known(dispatch.reached, datetime.now(UTC)):
            try:
                number = await self._found(config, dispatch, phone, min(LOOKUP_S, at_most_s))
            except (SendError, StoreUnavailable) as error:
                logger.warning("config %s: a number was not looked up: %s", config.id, type(error).__name__)
                return
            if number is None:
                return
            self._remember(dispatch, phone, number)
        if not dispatch.reached.reached_by:
            raise Rejected("the number is not on WhatsApp", code="not_on_whatsapp", scope="recipient")

    async def _found(self, config: Config, dispatch: Dispatch, phone: str, at_most_s: float) -> Reached | None:
        """How *phone* is reached; None: it is not asked for now."""
        if (reached := await self.stored(config.organization_id, phone_address(phone).key)) is not None:
            return reached
        if self._unanswered.get(config.id):
            return None
        check_expressible(config, dispatch)
        return await self.ask(config, phone, at_most_s)

    def _remember(self, dispatch: Dispatch, phone: str, number: Reached) -> None:
        dispatch.reached = number
        self._directory.remember_number(dispatch.organization_id, phone, number)

    async def answered(self, config: Config, dispatch: Dispatch, result: MessageResult) -> None:
        """Learn from a provider's answer to a send, where it spells the number in another way than it was sent to."""
        phone, spelled = dispatch.intent.to.phone, result.contact.phone if result.contact else None
        if phone is None or spelled is None or spelled == recipient_of(config, dispatch).phone:
            return
        if not may_be_spellings(phone, spelled):
            return  # of somebody else: what is written to one person never goes to another for an answer
        if dispatch.reached.reached_by is not None and dispatch.reached.asked_at is None:
            return  # there the person was seen
        reached = Reached(spelled, datetime.now(UTC))
        await self._keep(config.organization_id, phone_address(phone).key, reached)
        self._remember(dispatch, phone, reached)

    # -- for whoever asks

    async def look_up(self, config: Config, phone: str) -> Reached:
        """How *phone* is reached. Raises `SendError`, `StoreUnavailable`.

        Where it is asked for, that takes the account's next turn to send.
        """
        if (reached := await self.stored(config.organization_id, phone_address(phone).key)) is not None:
            return reached
        turn = await self._pacer.turn(config, phone, LOOKUP_S)
        if turn.wait_s > LOOKUP_S:
            raise Throttled("the account's next turn is too late", code="pacing", retry_after_s=turn.wait_s)
        await asyncio.sleep(turn.wait_s)
        return await self.ask(config, phone, LOOKUP_S)

    async def stored(self, organization_id: UUID, address: str) -> Reached | None:
        """What is known of a number; None: it is to be asked for. Raises `StoreUnavailable`."""
        async with self._database.worker() as connection:
            reached = await contacts.reached(connection, organization_id, address)
        if reached is None or reached.reached_by is None:
            was, reached = reached, self._strangers.get((organization_id, address))
            if was is not None and reached is not None:  # a contact's by now
                await self._keep(organization_id, address, reached)
        return reached if reached is not None and is_known(reached, datetime.now(UTC)) else None

    async def ask(self, config: Config, phone: str, at_most_s: float) -> Reached:
        """Ask the provider of *config* who has *phone*, and keep the answer. Raises `SendError`."""
        outcome = "ok"
        try:
            contact = await self._caller.run(config.provider.find_contact(phone), at_most_s)
        except Exception as error:
            if not isinstance(error, SendError):
                logger.exception("the provider plug-in failed")
                error = Unavailable("the provider plug-in failed", code="plugin_failed")
            outcome = type(error).__name__
            self._unanswered.put(config.id, True, max(UNANSWERED_S, error.retry_after_s or 0.0))
            raise error from None
        finally:
            metrics.receipts.labels(config.provider_type, FIND_CONTACT, outcome).inc()
        reached = Reached(_reached_by(contact, phone) if contact else "", datetime.now(UTC))
        key = phone_address(phone).key
        self._strangers.put((config.organization_id, key), reached, REMEMBERED_S)
        await self._keep(config.organization_id, key, reached)
        return reached

    async def _keep(self, organization_id: UUID, address: str, reached: Reached) -> None:
        try:
            async with self._database.worker() as connection:
                await contacts.set_reached(connection, organization_id, address, reached)
        except StoreUnavailable:
            logger.warning("the database is away; a number is looked up again")


def _reached_by(contact: Contact, phone: str) -> str:
    """The address of *contact*, whom a provider found by *phone*."""
    if contact.phone is not None and may_be_spellings(contact.phone, phone):
        return contact.phone
    return contact.lid or phone


def is_known(number: Reached, now: datetime) -> bool:
    """Whether it need not be asked for."""
    if number.reached_by is None:
        return False
    return number.asked_at is None or now - number.asked_at < (FOUND if number.reached_by else MISSING)
