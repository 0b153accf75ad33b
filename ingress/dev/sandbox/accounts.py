"""Accounts of a provider behind ports, each with a script of faults of its own."""

import abc
import asyncio
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import msgspec
from aiohttp import web

from .activity import Activity
from .faults import AnyFault, ErrorCode, FaultScript, Refuse
from .ledger import ArrivedSend
from .listener import Listener
from .routes import decoded


class ScriptedAccount:
    """What every account of a simulated provider has."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.script = FaultScript()
        self.lifting: Refuse | None = None  # the refusal whose end is scheduled


A = TypeVar("A", bound=ScriptedAccount)


class ScriptedWorld(Activity, abc.ABC, Generic[A]):
    """The faults of all accounts. An account is named by whatever `state_of` takes."""

    @abc.abstractmethod
    def states(self) -> Iterable[A]:
        """Of all accounts."""

    @abc.abstractmethod
    def state_of(self, account: Any) -> A: ...

    async def script(self, account: Any, *faults: AnyFault) -> None:
        """Append *faults* to the account's queue: one is used up by each valid send."""
        state = self.state_of(account)
        state.script.extend(faults)
        await self.apply_refusals(state)

    async def set_default(self, account: Any, fault: AnyFault | None, *, everything: bool = False) -> None:
        """The fault of every send that finds the queue empty; *everything*: of all other calls as well."""
        state = self.state_of(account)
        state.script.default, state.script.everything = fault, everything
        await self.apply_refusals(state)

    async def clear_faults(self, account: Any) -> None:
        """Back to normal. What hangs already goes on hanging until its caller gives up."""
        state = self.state_of(account)
        state.script.clear()
        await self.apply_refusals(state)

    async def apply_refusals(self, state: A) -> None:
        """Open or close the account's port, as the heads of the scripts behind that port have it."""
        heads = [other.script.head for other in self.states() if other.listener is state.listener]
        if not any(isinstance(head, Refuse) for head in heads):
            await state.listener.open()
            return
        await state.listener.refuse()
        head = state.script.head
        if isinstance(head, Refuse) and head.seconds is not None and state.lifting is not head:
            state.lifting = head
            self.spawn(self._lift_later(state, head, head.seconds))

    async def meet(self, state: A, send: ArrivedSend) -> AnyFault | None:
        """The fault that *send* meets, which uses it up."""
        fault = state.script.take()
        if fault is not None:
            send.fault = str(fault.__struct_config__.tag)
            await self.apply_refusals(state)  # the next fault may be one that closes the port
        if isinstance(fault, ErrorCode):
            send.error_code = fault.code
        self.changed()
        return fault

    async def _lift_later(self, state: A, refusal: Refuse, seconds: float) -> None:
        await asyncio.sleep(seconds)
        state.lifting = None
        state.script.lift(refusal)
        await self.apply_refusals(state)


# ---------------------------------------------------------------- over HTTP


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    queue: list[AnyFault] = []
    default: AnyFault | msgspec.UnsetType | None = msgspec.UNSET  # UNSET: leave it as it is
    everything: bool = False


async def take_script(world: ScriptedWorld[Any], account: Any, request: web.BaseRequest) -> dict[str, Any]:
    """What the control APIs do with a `Script` in the body of *request*."""
    state, given = world.state_of(account), await decoded(request, Script)
    if not isinstance(given.default, msgspec.UnsetType):
        state.script.default, state.script.everything = given.default, given.everything
    await world.script(account, *given.queue)
    return scripted(world, account)


def scripted(world: ScriptedWorld[Any], account: Any) -> dict[str, Any]:
    script = world.state_of(account).script
    return {"queue": list(script.queue), "default": script.default, "everything": script.everything}
