"""What the control APIs of all simulated providers have in common."""

import abc
from typing import Any, Generic

from aiohttp import web

from .ledger import C, M
from .routes import NotFound, Route
from .scripted import A, scripted, take_script
from .world import N, World


class Control(abc.ABC, Generic[N, A, M, C]):
    """Faults, counts and waiting. ``{owner}`` in a path is what a number is known by."""

    def __init__(self, world: World[N, A, M, C]) -> None:
        self._any_world = world

    def shared_routes(self, number: str) -> dict[str, Route]:
        """Those whose functions are here; *number* is the path of one number."""
        return {
            "GET /_control": self.summary,
            f"POST {number}/faults": self.script,
            f"GET {number}/faults": self.scripted,
            f"DELETE {number}/faults": self.clear_faults,
            "GET /_control/calls": self.calls,
            "GET /_control/wait": self.wait,
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

    def state(self, owner: str) -> A:
        if owner not in self._any_world.numbers:
            raise NotFound(f"no number {owner}")
        return self._any_world.state_of(owner)
