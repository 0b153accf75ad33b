"""What the control APIs of all simulated providers have in common."""

import abc
from typing import Any, ClassVar, Generic

import msgspec
from aiohttp import web

from .accounts import A, scripted, take_script
from .ledger import C, M
from .routes import Route, UnknownName, decoded
from .world import N, World


class InboundRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What people are to write: *count* messages of a kind, or one webhook as it is given."""

    kind: str = "text"
    arguments: dict[str, Any] = {}
    count: int = 1
    seed: int | None = None  # None: new ids in each run

    @property
    def webhook(self) -> Any:
        """None: a kind is asked for."""
        return None


class Control(abc.ABC, Generic[N, A, M, C]):
    """Faults, counts, waiting, and people who write. ``{owner}`` in a path is what a number is known by."""

    owner_field: ClassVar[str]  # of messages and sends: whose they are; also a parameter of queries
    inbound_request: ClassVar[type[InboundRequest]]

    def __init__(self, world: World[N, A, M, C]) -> None:
        self._any_world = world
        self._people: dict[str, Any] = {}  # by owner: who writes to it

    def shared_routes(self, number: str) -> dict[str, Route]:
        """Those whose functions are here; *number* is the path of one number."""
        return {
            "GET /_control": self.summary,
            f"POST {number}/faults": self.script,
            f"GET {number}/faults": self.scripted,
            f"DELETE {number}/faults": self.clear_faults,
            f"POST {number}/inbound": self.inbound,
            "GET /_control/accepted": self.accepted,
            "GET /_control/sends": self.sends,
            "GET /_control/calls": self.calls,
            "GET /_control/wait": self.wait,
            "POST /_control/reset": self.reset,
        }

    async def summary(self, request: web.BaseRequest) -> dict[str, Any]:
        world = self._any_world
        return {
            "url": world.url,
            "numbers": {number: state.listener.url for number, state in world.numbers.items()},
            "accepted": len(world.accepted),
            "sends": len(world.sends),
            "duplicates": len(world.duplicates()),
            "webhooks_delivered": world.webhooks.delivered,
            "webhooks_failed": world.webhooks.failed,
            "webhook_tries": world.webhooks.tries,
            "undeliverable": world.undeliverable,
            **self.counts(),
        }

    @abc.abstractmethod
    def counts(self) -> dict[str, int]:
        """What only this provider counts."""

    async def script(self, request: web.BaseRequest, owner: str) -> dict[str, Any]:
        self.state(owner)
        return await take_script(self._any_world, owner, request)

    async def scripted(self, request: web.BaseRequest, owner: str) -> dict[str, Any]:
        self.state(owner)
        return scripted(self._any_world, owner)

    async def clear_faults(self, request: web.BaseRequest, owner: str) -> dict[str, Any]:
        self.state(owner)
        await self._any_world.clear_faults(owner)
        return {}

    async def accepted(self, request: web.BaseRequest) -> dict[str, Any]:
        query, world = request.query, self._any_world
        found = world.accepted[int(query.get("after", 0)) :]
        if "tracker" in query:
            found = world.by_tracker(query["tracker"])
        elif "message_id" in query:
            found = world.by_message_id(query["message_id"])
        elif self.owner_field in query:
            found = [one for one in found if getattr(one, self.owner_field) == query[self.owner_field]]
        return {"accepted": found, "duplicates": world.duplicates()}

    async def sends(self, request: web.BaseRequest) -> list[C]:
        owner = request.query.get(self.owner_field)
        calls = self._any_world.sends[int(request.query.get("after", 0)) :]
        return [call for call in calls if owner in (None, getattr(call, self.owner_field))]

    async def calls(self, request: web.BaseRequest) -> dict[str, int]:
        return {f"{owner} {operation}": count for (owner, operation), count in self._any_world.calls.items()}

    async def wait(self, request: web.BaseRequest) -> dict[str, Any]:
        world, query = self._any_world, request.query
        timeout = float(query.get("timeout_s", 5))
        wanted = {name: int(query.get(name, 0)) for name in ("accepted", "sends", "delivered")}
        await world.wait_for(
            lambda: (
                len(world.accepted) >= wanted["accepted"]
                and len(world.sends) >= wanted["sends"]
                and world.webhooks.delivered >= wanted["delivered"]
            ),
            timeout,
        )
        if "settled" in query:
            await world.settled(timeout)
        return await self.summary(request)

    async def inbound(self, request: web.BaseRequest, owner: str) -> list[dict[str, Any]]:
        self.state(owner)
        wanted = await decoded(request, self.inbound_request)
        if wanted.webhook is not None:
            return [await self.post(owner, wanted.webhook)]
        if owner not in self._people:
            self._people[owner] = self._any_world.inbound(owner, seed=wanted.seed)
        make = getattr(self._people[owner], wanted.kind)
        try:
            webhooks = [make(**wanted.arguments) for _ in range(wanted.count)]
        except TypeError as error:  # an argument that this kind does not have
            raise ValueError(str(error)) from None
        return [await self.post(owner, webhook) for webhook in webhooks]

    @abc.abstractmethod
    async def post(self, owner: str, webhook: Any) -> dict[str, Any]:
        """Post *webhook* as the provider does; its ids, and how that ended. Raises `ValueError` where it cannot be."""

    async def reset(self, request: web.BaseRequest) -> dict[str, Any]:
        self._people.clear()
        await self._any_world.reset()
        return {}

    def state(self, owner: str) -> A:
        if owner not in self._any_world.numbers:
            raise UnknownName(f"no number {owner}")
        return self._any_world.state_of(owner)
