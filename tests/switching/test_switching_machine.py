"""Any order of switches, sends and accidents, in three processes: hypothesis looks for one that breaks a promise.

PROVE_EXAMPLES (15) sequences of up to PROVE_STEPS (25) steps; with PROVE_SHRINK=0 one that fails is not shortened. The
processes are whole services over HTTP, in this interpreter, so that what they hear of each other, and their clock, are
in the test's hands.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack
from itertools import count
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID

import aiohttp
import asyncpg
import msgspec
import pytest
import redis.asyncio
from hypothesis import HealthCheck, Phase
from hypothesis import settings as search
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ingress import cache
from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.dev.sandbox import MetaSimulator
from ingress.settings import Settings
from ingress.storage import changes, redis_state
from ingress.switching import manager, routes
from ingress.switching.routes import Routes

from ..conftest import serving
from ..gateway import Answer, Gateway, Organization

EXAMPLES = int(os.environ.get("PROVE_EXAMPLES", "15"))
PHASES = (Phase.generate, Phase.shrink) if os.environ.get("PROVE_SHRINK", "1") == "1" else (Phase.generate,)
STEPS = int(os.environ.get("PROVE_STEPS", "25"))
PROCESSES = 3
CONFIGS = 3
BASE = "/integrations/whatsapp/provider"
T = TypeVar("T")

processes = st.integers(0, PROCESSES - 1)
places = st.integers(0, CONFIGS - 1)
_sends = count()


class Unnotified(Routes):
    """Is notified of nothing by itself: its notifications wait to be delivered, lost, or delivered in another order."""

    made: "list[Unnotified]" = []  # noqa: RUF012  (by the application, one for each process)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.waiting: list[tuple[UUID, int, str]] = []
        Unnotified.made.append(self)

    def notified(self, organization_id: UUID, version: int, source: str) -> None:
        self.waiting.append((organization_id, version, source))

    def deliver(self, place: int) -> None:
        if self.waiting:
            super().notified(*self.waiting.pop(place % len(self.waiting)))


class World:
    """Three processes on one database, with a Redis that may die, and an organization with three configs."""

    def __init__(self, origin: Gateway, base: Settings, valkey: EmbeddedServers) -> None:
        assert valkey.redis_url
        self.valkey = valkey
        self.settings = msgspec.structs.replace(base, redis_url=valkey.redis_url, public_url=origin.url)
        self.meta = origin.meta
        self.now = monotonic()  # stands still but for jumps: what is cached then depends on the steps alone
        self._platform = origin
        self._lives: list[AsyncExitStack] = []
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> "World":
        self.organization = await self._platform.organization()
        for place in range(CONFIGS):
            await self.organization.configure(active=place == 0)
        self.database = await asyncpg.connect(self.settings.database_url)
        self.redis = redis.asyncio.Redis.from_url(self.settings.redis_url)
        self.doors: list[Organization] = []
        self.known: list[Unnotified] = []
        for _ in range(PROCESSES):
            await self._begin(len(self.doors))
        return self

    async def __aexit__(self, *_: object) -> None:
        for life in self._lives:
            await life.aclose()
        await self.redis.aclose()
        await self.database.close()

    async def _begin(self, place: int) -> None:
        life = AsyncExitStack()
        url = await life.enter_async_context(serving(self.settings))
        session = await life.enter_async_context(aiohttp.ClientSession())
        gateway = Gateway(url, self.settings.platform_key, session, self.meta)
        door = Organization(gateway, self.organization.id, self.organization.key)
        self.doors[place : place + 1] = [door]
        self.known[place : place + 1] = [Unnotified.made.pop()]
        self._lives[place : place + 1] = [life]

    async def restart(self, place: int) -> None:
        await self._lives[place].aclose()
        await self._begin(place)

    async def stand(self) -> tuple[int, str]:
        """Version and active config, as the database has them."""
        row = await self.database.fetchrow(
            "select version, active_config_id::text from organizations where id = $1", UUID(self.organization.id)
        )
        return row["version"], row["active_config_id"]

    async def attempts(self, message_id: str) -> list[tuple[int, str]]:
        rows = await self.database.fetch(
            "select version, config_id::text from attempts where organization_id = $1 and message_id = $2",
            UUID(self.organization.id),
            UUID(message_id),
        )
        return [tuple(row) for row in rows]

    async def trail(self, after: int) -> list[tuple[int, str]]:
        rows = await self.database.fetch(
            "select version, config_id::text from provider_audit_log"
            " where organization_id = $1 and action = 'activated' and version > $2 order by id",
            UUID(self.organization.id),
            after,
        )
        return [tuple(row) for row in rows]

    @property
    def key(self) -> str:
        return f"org_{{{self.organization.id}}}:provider:active"

    @property
    def configs(self) -> list[str]:
        return [config["config_id"] for config in self.organization.configs]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """From hypothesis's thread: *work* in the loop of the services."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


class Machine(RuleBasedStateMachine):
    world: World  # set by the test

    @initialize()
    def begin(self) -> None:
        """Every sequence begins alike: the first config active, the second before it, nothing broken, nothing known."""
        self.redis_is_there, self.redis_is_paused = True, False
        self.values: list[bytes] = []  # what Redis has had
        self.seen = [0] * PROCESSES
        self.world.run(self._begin())

    async def _begin(self) -> None:
        self.world.valkey.valkey.start()  # unless it runs
        self._signal(signal.SIGCONT)
        for place in (1, 0):
            answer = await self.world.organization.call(
                "POST", f"{BASE}/switch", {"config_id": self.world.configs[place]}
            )
            assert answer.status == 200, answer.raw
        await self.world.redis.flushall()
        self.first = self.version = answer.json["version"]
        self.active, self.former = self.world.configs[:2]
        self.config_of = {self.version: self.active}
        for held in self.world.known:
            held.waiting.clear()
            held._changes.notified(True)
            held.forget_all()

    def _made(self, answer: Answer, config: str) -> None:
        """A switch to *config* was acknowledged."""
        shown = answer.json
        assert answer.status == 200, answer.raw
        assert shown["config_id"] == config
        assert shown["changed"] == (config != self.active)
        if config != self.active:
            self.version, self.former, self.active = self.version + 1, self.active, config
            self.config_of[self.version] = config
        assert shown["version"] == self.version

    async def _switch(self, process: int, place: int, **more: Any) -> Answer:
        body = {"config_id": self.world.configs[place], **more}
        return await self.world.doors[process].call("POST", f"{BASE}/switch", body)

    async def _send(self, process: int) -> str:
        """The id of a message that was sent."""
        answer = await self.world.doors[process].send({"to": f"+551197{next(_sends):07d}", "body": "x"})
        assert answer.status == 200, answer.raw
        return str(answer.json["id"])

    async def _went(self, message_id: str) -> tuple[int, str]:
        """Its one attempt, which is what the provider knows, too."""
        [attempt] = await self.world.attempts(message_id)
        [accepted] = self.world.meta.by_message_id(UUID(message_id).hex)
        numbers = [number.phone_number_id for number in self.world.organization.numbers]
        assert self.world.configs[numbers.index(accepted.phone_number_id)] == attempt[1]
        return attempt

    # ---------------------------------------------------------------- what people do

    @rule(process=processes, place=places)
    def switch(self, process: int, place: int) -> None:
        self._made(self.world.run(self._switch(process, place)), self.world.configs[place])

    @rule(process=processes, place=places, behind=st.integers(-1, 3).filter(bool))
    def stale_switch(self, process: int, place: int, behind: int) -> None:
        expected = max(0, self.version - behind)
        answer = self.world.run(self._switch(process, place, expected_version=expected))
        assert (answer.status, answer.json["version"]) == (409, self.version), answer.raw

    @rule(one=processes, other=processes, place=places)
    def race(self, one: int, other: int, place: int) -> None:
        """Two expect the same version, and want different configs that are not active: one gets it."""
        others = [config for config in self.world.configs if config != self.active]
        wanted = [self.world.configs.index(config) for config in others]

        async def both() -> list[Answer]:
            switches = (
                self._switch(*who, expected_version=self.version) for who in zip((one, other), wanted, strict=True)
            )
            return await asyncio.gather(*switches)

        answers = self.world.run(both())
        assert sorted(answer.status for answer in answers) == [200, 409]
        winner = 0 if answers[0].status == 200 else 1
        self._made(answers[winner], others[winner])
        assert answers[1 - winner].json["version"] == self.version

    @rule(process=processes)
    def rollback(self, process: int) -> None:
        answer = self.world.run(self.world.doors[process].call("POST", f"{BASE}/rollback", {}))
        self._made(answer, self.former)

    @rule(process=processes)
    def send(self, process: int) -> None:
        """The fence: whatever the process believes, the attempt is at the version in force."""

        async def sent() -> tuple[int, str]:
            return await self._went(await self._send(process))

        assert self.world.run(sent()) == (self.version, self.active)

    @rule(process=processes, other=processes, place=places)
    def send_while_switching(self, process: int, other: int, place: int) -> None:
        async def both() -> tuple[str, Answer]:
            return await asyncio.gather(self._send(process), self._switch(other, place))

        before = self.version
        message_id, answer = self.world.run(both())
        self._made(answer, self.world.configs[place])
        version, config = self.world.run(self._went(message_id))
        assert version in (before, self.version)
        assert self.config_of[version] == config

    @rule(process=processes)
    def look(self, process: int) -> None:
        """What a process says may be old, never older than its last answer, and never a mixture."""
        answer = self.world.run(self.world.doors[process].call("GET", f"{BASE}/current")).json
        self._saw(process, answer["version"])
        assert answer["config_id"] == self.config_of[answer["version"]]

    def _saw(self, process: int, version: int) -> None:
        assert self.seen[process] <= version <= self.version
        self.seen[process] = version

    # ---------------------------------------------------------------- what happens to them

    @rule(process=processes, place=st.integers(0, 9))
    def notice(self, process: int, place: int) -> None:
        """A notification or message arrives, late and in any order."""

        async def deliver() -> None:
            self.world.known[process].deliver(place)

        self.world.run(deliver())

    @rule(process=processes)
    def lost_notice(self, process: int) -> None:
        self.world.known[process].waiting.clear()

    @rule(seconds=st.sampled_from([0.5, 1.5, 61.0]))
    def clock_jump(self, seconds: float) -> None:
        """What is cached is old now."""
        self.world.now += seconds

    @rule(process=processes)
    def restart(self, process: int) -> None:
        self.world.run(self.world.restart(process))
        self.seen[process] = 0

    @rule()
    @precondition(lambda self: self.redis_is_there)
    def redis_killed(self) -> None:
        self.redis_is_there = False
        self.world.valkey.valkey.kill()

    @rule()
    @precondition(lambda self: not (self.redis_is_there or self.redis_is_paused))
    def redis_returns(self) -> None:
        """With what it had when it was killed."""

        async def start() -> None:
            self.world.valkey.valkey.start()  # in the main thread, as it wants

        self.world.run(start())
        self.redis_is_there = True

    @rule()
    @precondition(lambda self: self.redis_is_there)
    def redis_paused(self) -> None:
        """It takes what it is sent, and does it when it goes on, long after everybody gave up on it."""
        self._signal(signal.SIGSTOP)
        self.redis_is_there, self.redis_is_paused = False, True

    @rule()
    @precondition(lambda self: self.redis_is_paused)
    def redis_goes_on(self) -> None:
        self._signal(signal.SIGCONT)
        self.redis_is_there, self.redis_is_paused = True, False

    def _signal(self, number: signal.Signals) -> None:
        os.kill(self.world.valkey.pids["valkey"], number)

    @rule()
    @precondition(lambda self: self.redis_is_there)
    def redis_flushed(self) -> None:
        self.world.run(self.world.redis.flushall())

    @rule(place=st.integers(0, 9))
    @precondition(lambda self: self.redis_is_there)
    def stale_value(self, place: int) -> None:
        """Somebody puts back what Redis once had."""
        if self.values:
            self.world.run(self.world.redis.set(self.world.key, self.values[place % len(self.values)]))

    @rule(process=processes, place=st.integers(0, 9))
    @precondition(lambda self: self.redis_is_there)
    def late_write(self, process: int, place: int) -> None:
        """A process that was held up writes what it knew long ago: Redis keeps what is newer."""

        async def written() -> tuple[int, int]:
            before = await self._held()
            value = self.values[place % len(self.values)]
            version = msgspec.json.decode(value)["version"]
            state = self.world.known[process]._redis
            await state.set_active(UUID(self.world.organization.id), version, value, b"null")
            return before, await self._held()

        if self.values:
            before, after = self.world.run(written())
            assert after >= before

    async def _held(self) -> int:
        value = await self.world.redis.get(self.world.key)
        return 0 if value is None else int(msgspec.json.decode(value)["version"])

    # ---------------------------------------------------------------- what always holds

    @invariant()
    def versions_are_dense(self) -> None:
        if hasattr(self, "config_of"):
            stand, trail = self.world.run(self._stand())
            assert stand == (self.version, self.active)
            assert trail == [(version, self.config_of[version]) for version in range(self.first + 1, self.version + 1)]

    async def _stand(self) -> tuple[tuple[int, str], list[tuple[int, str]]]:
        if self.redis_is_there and (value := await self.world.redis.get(self.world.key)) not in (None, *self.values):
            self.values.append(value)
        return await self.world.stand(), await self.world.trail(self.first)

    @invariant()
    def no_process_goes_back(self) -> None:
        if hasattr(self, "seen"):
            for process, held in enumerate(self.world.known):
                if route := held.known_route(UUID(self.world.organization.id)):
                    self._saw(process, route.version)
                    assert str(route.order[0].id) == self.config_of[route.version]


@pytest.fixture
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    with EmbeddedServers(tmp_path_factory.mktemp("machine"), postgres=False) as running:
        yield running


@pytest.fixture
async def world(
    gateway: Gateway,
    meta: MetaSimulator,
    settings: Settings,
    valkey: EmbeddedServers,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[World]:
    monkeypatch.setattr(manager, "Routes", Unnotified)
    made = World(gateway, settings, valkey)
    ticks = count()
    for module in (routes, redis_state, cache, changes):
        # What is read after a change is later than that.
        monkeypatch.setattr(module, "monotonic", lambda: made.now + next(ticks) * 1e-9)
    async with made:
        yield made


async def test_any_order_of_switches_sends_and_accidents(world: World) -> None:
    """No attempt through what is not active, no version lost or doubled, nobody goes back."""
    Machine.world = world
    await asyncio.to_thread(
        run_state_machine_as_test,
        Machine,
        settings=search(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
