"""A run: clients that send and switch, people who write, and trouble for the processes and for Redis meanwhile."""

import asyncio
import os
import random
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from time import monotonic, time
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import redis.asyncio

from ingress.audit.verification import verify
from ingress.dev.sandbox import message_id_of, message_ids, message_sid_of
from ingress.storage.database import Database
from ingress.storage.vault import Vault
from tests.gateway import Answer, Organization, eventually

from .cluster import SWITCH, Cluster, ClusterMember
from .history import OPEN, Attempt, DeliveredSend, History, MessageRow, Read, Sample, Send, Switch
from .propagation import Propagation

CLIENTS = 8
SAMPLE_S = 0.05
# Long enough for some switches to be made while Redis is away.
AWAY_S = 1.5
# Sends that a process has begun with when it is stopped, how long before, and how long it stays so at most: webhooks
# that have waited for 2 s are refused.
HALF_DONE, HALF_DONE_S, STALLED_AT_MOST_S = 20, 0.02, 1.5
SETTLE_S = 60.0
REDIS_TROUBLE = ("killed", "paused", "flushed", "stale")


class Plan(msgspec.Struct, frozen=True):
    """How much, in how long."""

    seconds: float = 84
    sends: int = 5_000
    webhooks: int = 8_400
    switches: int = 340  # asked for: those that expect another version are refused, and some ask for what is active
    kills: int = 20  # of processes; as many troubles of Redis come in between
    is_patient: bool = False  # a client asks for nothing before it was answered: less at once on a busy machine
    seed: int = 1

    @property
    def made(self) -> int:
        """Switches that are made at least, of those that are asked for."""
        return self.switches * 3 // 5


class LoadRun:
    """One organization with three configs at two providers, and everything that happens to it."""

    def __init__(self, cluster: Cluster, plan: Plan) -> None:
        self.cluster = cluster
        self.history: History = cluster.history
        self.propagation = Propagation(cluster)
        self.trouble: list[tuple[float, float]] = []  # from, until: processes stopped, killed; Redis away or wrong
        self._plan = plan
        self._random = random.Random(plan.seed)  # as far as clients go, a run can be repeated
        self._known = (0, "")  # the last version that a client saw, and its config
        self._stop = asyncio.Event()

    async def play(self) -> None:
        """All of it, until nothing is under way; then the history is complete."""
        await self._found()
        plan = self._plan
        beside = [
            asyncio.create_task(self._sample()),
            *(asyncio.create_task(self._read(m)) for m in self.cluster.members),
        ]
        async with asyncio.TaskGroup() as group:
            for client in range(CLIENTS):
                group.create_task(self._paced(plan.sends // CLIENTS, partial(self._send, client)))
                group.create_task(self._paced(plan.switches // CLIENTS, self._switch))
                group.create_task(self._paced(plan.webhooks // CLIENTS, self._write))
            group.create_task(self._trouble())
        await self._go_on()
        self._stop.set()
        await asyncio.gather(*beside)
        await self._settled()
        await self._collect()

    async def _found(self) -> None:
        asked = time()
        self.organization: Organization = await self.cluster.organization()
        first = await self.cluster.add_meta(self.organization, active=True)
        made = Switch(asked, first, answered=time(), status=200, version=1, config=first, changed=True)
        self.history.switches.append(made)
        self._known = (1, first)
        second = await self.cluster.add_meta(self.organization)
        self.configs = [first, second, await self.cluster.add_twilio(self.organization)]
        self._key = f"org_{{{self.organization.id}}}:provider:active"
        # By the name of a number in the simulators' ledgers.
        numbers = [number.phone_number_id for number in self.organization.numbers]
        [sender] = self.cluster.twilio.numbers
        self._config_of = dict(zip([*numbers, sender], self.configs, strict=True))
        [self._sender] = [state.sender for state in self.cluster.twilio.states()]
        meta, twilio = self.cluster.meta, self.cluster.twilio
        self._people = [meta.inbound(number) for number in self.organization.numbers]
        self._twilio_people = twilio.inbound(self._sender)

    async def _paced(self, count: int, act: Callable[[int], Coroutine[Any, Any, None]]) -> None:
        """*act* as often, spread over the run at random; whether or not the last one has ended, unless patient."""
        started = monotonic()
        times = sorted(self._random.uniform(0, self._plan.seconds) for _ in range(count))
        async with asyncio.TaskGroup() as group:
            for number, at in enumerate(times):
                await asyncio.sleep(max(0.0, started + at - monotonic()))
                acting = group.create_task(act(number))
                if self._plan.is_patient:
                    await acting

    # ---------------------------------------------------------------- clients

    async def _send(self, client: int, number: int, at: ClusterMember | None = None) -> None:
        """As a CRM does: again under the same key until somebody knows of it."""
        key = f"{client}-{number}"
        body = {"to": f"+55119{self._random.randrange(10**8):08d}", "body": key}
        send = Send(key, time())
        self.history.sends.append(send)
        while not send.statuses or send.statuses[-1] in OPEN:
            answer = await self._call("send", "/send", at, body=body, idempotency_key=key)
            send.statuses.append(answer.status if answer else None)
            at = None
        if answer and answer.status == 200:
            send.answered, send.config = time(), answer.json["config_id"]

    async def _switch(self, _: int, at: ClusterMember | None = None) -> None:
        """Of some kind; *at* a certain process, to any config that is not active."""
        (version, active), dice = self._known, self._random.random() if at is None else 0.5
        # Now and then to what is active already, as who lost an answer does.
        others = self.configs if dice > 0.9 else [config for config in self.configs if config != active]
        switch = Switch(time(), self._random.choice(others))
        body: dict[str, Any] = {"config_id": switch.target}
        if dice < 0.2:  # back to the one before
            switch.target, body = None, {}
        elif dice < 0.4:  # only if nobody was faster
            switch.expected = version
        elif dice < 0.5 and version > 1:  # by somebody who has slept
            switch.expected = version - 1
        if switch.expected is not None:
            body["expected_version"] = switch.expected
        self.history.switches.append(switch)
        path = f"{SWITCH}/{'switch' if switch.target else 'rollback'}"
        answer = await self._call("switch", path, at, body=body)
        if answer is None:
            return
        switch.status, switch.answered = answer.status, time()
        if answer.status in (200, 409):
            body = answer.json
            if body.get("code") == "no_former_config":  # nothing was changed yet
                self.history.switches.remove(switch)
                return
            switch.version = body["version"]
            switch.config, switch.changed = body.get("config_id"), body.get("changed", False)
            self._known = max(self._known, (body["version"], body.get("config_id") or body["active_config_id"]))

    async def _go_on(self) -> None:
        """Switch with sends beside until enough were made: on a slow machine others were faster than many of them."""
        for number in range(self._plan.switches):
            if sum(one.changed for one in self.history.switches) >= self._plan.made:
                return
            await asyncio.gather(self._switch(0), self._send(CLIENTS + self._plan.kills, number))

    async def _write(self, _: int) -> None:
        """A person writes to one of the three, whichever is active."""
        place = self._random.randrange(3)
        if place == 2:
            form = self._twilio_people.text()
            facts, posting = [message_sid_of(form)], self.cluster.twilio.post(self._sender, form)
        else:
            body = self._people[place].text()
            facts, posting = message_ids(body), self.cluster.meta.post(self.organization.numbers[place], body)
        self.history.posted += facts
        result = await posting
        if result is not None and result.delivered:
            self.history.acknowledged += facts

    async def _read(self, member: ClusterMember) -> None:
        """Ask one process again and again what is active."""
        while not self._stop.is_set():
            if member.alive:
                life, asked = f"{member.name}, life {member.life}", time()
                answer = await self.cluster.call("read", member, self.organization.key, "GET", f"{SWITCH}/current")
                if answer is not None and answer.status == 200:
                    body = answer.json
                    self.history.reads.append(Read(life, asked, time(), body["version"], body["config_id"]))
            await self._pause()

    async def _call(self, kind: str, path: str, at: ClusterMember | None, **more: Any) -> Answer | None:
        """POST to *at*, or to any."""
        return await self.cluster.call(kind, at or self.cluster.pick(), self.organization.key, "POST", path, **more)

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(SAMPLE_S):
                await self._stop.wait()
        except TimeoutError:
            return

    # ---------------------------------------------------------------- trouble

    async def _trouble(self) -> None:
        """Kills of processes in turn, and between two of them something for Redis."""
        share = self._plan.seconds / (self._plan.kills + 1)
        started = monotonic()
        async with redis.asyncio.Redis.from_url(self.cluster.settings.redis_url) as client:
            for kill in range(self._plan.kills):
                async with self.propagation.counted(self.propagation.calm):
                    await asyncio.sleep(max(0.0, started + share * (kill + 0.3) - monotonic()))
                began = time()
                member = self.cluster.members[kill % len(self.cluster.members)]
                await self._stall(kill, self.cluster.members[(kill + 1) % len(self.cluster.members)], member)
                await self.propagation.before_end_of(member)
                await member.restart()
                await self._redis_trouble(client, REDIS_TROUBLE[kill % 4])
                self.trouble.append((began, time()))

    async def _stall(self, kill: int, stalled: ClusterMember, other: ClusterMember) -> None:
        """Stop a process with sends half done, switch at another one, let it go on: what it believes is the past.

        Without the fence it would write those attempts after the switch was acknowledged, at the version before.
        """
        async with asyncio.TaskGroup() as group:
            for number in range(HALF_DONE):
                group.create_task(self._send(CLIENTS + kill, number, stalled))
            await asyncio.sleep(HALF_DONE_S)
            stalled.stop()
            try:
                with suppress(TimeoutError):  # the stopped one may be it that holds the lock
                    async with asyncio.timeout(STALLED_AT_MOST_S):
                        await self._switch(0, other)
            finally:
                stalled.go_on()

    async def _redis_trouble(self, client: redis.asyncio.Redis, trouble: str) -> None:
        valkey = self.cluster.servers.valkey
        if trouble == "flushed":
            await client.flushall()
        elif trouble == "stale":
            # What any process would have believed at the beginning.
            old = {"version": 1, "provider": "meta_business", "order": self.configs[:1]}
            await client.set(self._key, msgspec.json.encode(old))
        else:
            async with self.propagation.counted(self.propagation.redis_down):
                pid = self.cluster.servers.pids["valkey"]
                valkey.kill() if trouble == "killed" else os.kill(pid, signal.SIGSTOP)
                try:
                    await asyncio.sleep(AWAY_S)
                finally:
                    valkey.start() if trouble == "killed" else os.kill(pid, signal.SIGCONT)

    # ---------------------------------------------------------------- what the database has

    async def _sample(self) -> None:
        connection = await asyncpg.connect(self.cluster.settings.database_url)
        try:
            while not self._stop.is_set():
                self.history.samples.append(await self._sampled(connection))
                await self._pause()
        finally:
            await connection.close()

    async def _sampled(self, connection: asyncpg.Connection) -> Sample:
        rows = await connection.fetch(
            "select o.version, o.active_config_id::text, c.id::text, c.state from organizations o"
            " join whatsapp_provider_configs c on c.organization_id = o.id where o.id = $1",
            UUID(self.organization.id),
        )
        return Sample(rows[0][0], rows[0][1], {row["id"]: row["state"] for row in rows})

    async def _settled(self) -> None:
        """Wait until no send is under way. Leases of processes that died grow old faster than they would."""
        connection = await asyncpg.connect(self.cluster.settings.database_url)

        async def left() -> int:
            # Nobody asks for anything any more: who is alive has ended what it had within a second.
            await connection.execute(
                "update messages set leased_until = now() - interval '1 s' where state <> 'done'"
                " and updated_at < now() - interval '1 s'"
            )
            count: int = await connection.fetchval("select count(*) from messages where state <> 'done'")
            count += await connection.fetchval(
                "select count(*) from whatsapp_provider_configs where state = 'switching'"
            )
            return count

        try:
            await eventually(left, lambda count: count == 0, timeout=SETTLE_S, every=0.3)
            await self.cluster.meta.settled(SETTLE_S)
            await self.cluster.twilio.settled(SETTLE_S)
            self.history.samples.append(await self._sampled(connection))
        finally:
            await connection.close()
        await self.propagation.at_the_end()

    async def _collect(self) -> None:
        """The database's part of the history, the providers', and the trail's verdict."""
        history, id = self.history, UUID(self.organization.id)
        connection = await asyncpg.connect(self.cluster.settings.database_url)
        try:
            for row in await connection.fetch(
                "select idempotency_key, id::text, state, status from messages where organization_id = $1", id
            ):
                history.messages.append(MessageRow(*row))
            for row in await connection.fetch(
                "select message_id::text, number, version, config_id::text, extract(epoch from started_at)::float8"
                " from attempts where organization_id = $1",
                id,
            ):
                history.attempts.append(Attempt(*row))
            trail = await connection.fetch(
                "select version, config_id::text from provider_audit_log where organization_id = $1"
                " and action = 'activated' order by id",
                id,
            )
            announced = await connection.fetch(
                "select (data ->> 'version')::bigint, config_id::text from events where organization_id = $1"
                " and type = 'provider.switched'",
                id,
            )
            received = await connection.fetch(
                "select data -> 'message' ->> 'provider_message_id' from events where organization_id = $1"
                " and type = 'message.received'",
                id,
            )
            history.version = await connection.fetchval("select version from organizations where id = $1", id)
        finally:
            await connection.close()
        history.trail = [(row[0], row[1]) for row in trail]
        history.announced = [(row[0], row[1]) for row in announced]
        history.received = [row[0] for row in received]
        for message in self.cluster.meta.accepted:
            history.deliveries.append(_delivery(message.tracker, self._config_of[message.phone_number_id]))
        for sent in self.cluster.twilio.accepted:
            history.deliveries.append(_delivery(sent.tracker, self._config_of[sent.phone_number]))
        async with Database(self.cluster.settings.database_url) as database:
            vault = Vault(self.cluster.settings.encryption_keys)
            verdict = await verify(database, vault, id)
        history.broken = verdict.reason and f"entry {verdict.broken}: {verdict.reason}"


def _delivery(tracker: str | None, config: str) -> DeliveredSend:
    found = message_id_of(tracker or "")
    return DeliveredSend(str(UUID(found)) if len(found) == 32 else found, config)
