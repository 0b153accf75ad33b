"""All that boards have panels for, at once, until it is enough: sends, webhooks, switches, and what goes wrong."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from typing import Any

import asyncpg
import redis.asyncio

from ingress.dev.sandbox import CrmSimulator, ErrorCode, Slow, Throttle429
from prove.cluster import SWITCH, Cluster
from tests.gateway import Organization

DOWN = ErrorCode(code=131016, http_status=503)  # the provider says itself that it took nothing
# At once, of one organization: more than it has slots in a process, and repetitions than it is given.
FLOOD, THROTTLED = 130, 30


class Traffic:
    """Of three organizations: one switches all the time, one has an ill provider, and one sends too much."""

    def __init__(self, playing: Cluster) -> None:
        self._playing = playing
        self._tasks: list[asyncio.Task[None]] = []
        self._crm = CrmSimulator()
        self._people = count(1)

    async def __aenter__(self) -> "Traffic":
        playing = self._playing
        self._database = await asyncpg.connect(playing.settings.database_url)
        self._redis = redis.asyncio.from_url(playing.settings.redis_url)
        await self._crm.start()
        self._well, self._ill = [await playing.organization() for _ in range(2)]
        self._configs = [await playing.add_meta(self._well, active=place == 0) for place in range(2)]
        await playing.add_meta(self._ill, active=True)
        fallback = await playing.add_meta(self._ill)
        await self._ill.fall_back_to(fallback)
        await self._ill.call("PATCH", f"{SWITCH}/configs/{fallback}", {"config_data": {"messages_per_second": 1}})
        await playing.meta.set_default(self._ill.numbers[0], DOWN, everything=True)
        self._busy = await playing.organization()
        await playing.add_meta(self._busy, active=True)
        await playing.meta.set_default(self._busy.numbers[0], Slow(seconds=3))
        callback = await self._well.call("PUT", "/callback", {"url": self._crm.url_for("well")})
        self._crm.set_secret(callback.json["secret"], endpoint="well")
        await self._ill.call("PUT", "/callback", {"url": "http://127.0.0.1:9/nobody"})
        await self._database.execute("update provider_health set due_at = now()")
        for act in (self._send, self._send_ill, self._receive, self._receive_ill, self._switch, self._ask):
            self._tasks.append(asyncio.create_task(self._again(act)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._crm.close()
        await self._redis.aclose()
        await self._database.close()

    @property
    def organization_id(self) -> str:
        """Of the one that switches."""
        return self._well.id

    def check(self) -> None:
        """Nothing here has ended by a mistake of its own."""
        for task in self._tasks:
            assert not task.done(), task.exception()

    async def _again(self, act: Callable[[int], Awaitable[object]]) -> None:
        for number in count():
            await act(number)

    async def _call(self, organization: Organization, method: str, path: str, **more: Any) -> Any:
        return await self._playing.call(path, self._playing.pick(), organization.key, method, path, **more)

    async def _send(self, number: int) -> None:
        body = {"to": f"+55119{next(self._people) % 1000:08d}", "body": "x"}
        await self._call(self._well, "POST", "/send", body=body)

    async def _send_ill(self, number: int) -> None:
        """Most of them through the fallback."""
        body = {"to": f"+55118{next(self._people):08d}", "body": "x", "fallback": number % 4 > 0}
        await self._call(self._ill, "POST", "/send?wait=0", body=body)

    async def _flood(self) -> None:
        """At one process: what is throttled is tried again, and what finds no slot waits for one."""
        playing, bodies = self._playing, [{"to": f"+55117{next(self._people):08d}", "body": "x"} for _ in range(FLOOD)]
        await playing.meta.script(self._busy.numbers[0], *[Throttle429(retry_after=0)] * THROTTLED)
        post = partial(playing.call, "flood", playing.members[0], self._busy.key, "POST", "/send")
        await asyncio.gather(*(post(body=body) for body in bodies))

    async def _receive(self, number: int) -> None:
        inbound = self._playing.meta.inbound(self._well.numbers[0])
        await self._playing.meta.post(self._well.numbers[0], inbound.text())

    async def _receive_ill(self, number: int) -> None:
        """What nobody can read, what nobody has signed, and what is no HTTP; and now and then too much."""
        await self._ill.post_webhook(b'{"object": "whatsapp_business_account", "entry": 1}')
        await self._playing.session.post(self._ill.configs[0]["webhook_url"], data=b"{}")
        host, _, port = self._playing.members[0].url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"no request\r\n\r\n")
        await reader.read()
        writer.close()
        if number % 20 == 1:
            await self._flood()

    async def _switch(self, number: int) -> None:
        if number % 10 == 9:
            await self._disturb()
        if number % 5 == 4:
            await self._call(self._well, "POST", f"{SWITCH}/rollback", body={})
        else:
            await self._call(self._well, "POST", f"{SWITCH}/switch", body={"config_id": self._configs[number % 2]})

    async def _ask(self, number: int) -> None:
        """What people of a CRM do with a message that came in."""
        inbound = self._playing.meta.inbound(self._well.numbers[0])
        await self._playing.meta.post(self._well.numbers[0], inbound.image())
        events = await self._call(self._well, "GET", "/events?types=message.received&limit=50")
        for event in events.json["events"][-3:] if events and events.status == 200 else ():
            await self._call(self._well, "GET", f"/media/{event['id']}")
            await self._call(self._well, "POST", f"/messages/{event['id']}/read")
        await self._playing.call("nobody", self._playing.pick(), "ingress_nobody", "GET", "/events")

    async def _disturb(self) -> None:
        """Connections that end, and a Redis that says nothing for a moment."""
        await self._database.execute(
            """select pg_terminate_backend(pid) from pg_stat_activity
            where application_name like 'whatsapp-ingress%' and state <> 'idle'"""
        )
        await self._redis.execute_command("CLIENT", "PAUSE", "400")
