"""One person under every pair and order of addresses, met by two processes of which one is killed: one contact at last.

ONE_PERSON_SEQUENCES (40) people; for each 200 of them, and once at least, a process is killed while webhooks come in.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import aiohttp
import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from ingress.dev.sandbox import WahaSimulator, example_session, signed_headers
from ingress.dev.sandbox.meta.bodies import encode, envelope
from ingress.settings import Settings

from ..gateway import Gateway, Process, eventually, unused_port
from ..service.test_waha_service import Linked
from .test_people import from_web, text

SEQUENCES = int(os.environ.get("ONE_PERSON_SEQUENCES", "40"))
KILL_EVERY, TOGETHER = 200, 8
# What a provider shows, and under which names.
AT_META = {"phone": "from", "user": "from_user_id", "parent": "from_parent_user_id"}
AT_WAHA = ("phone", "lid")


class Step(NamedTuple):
    """A message that shows the addresses *names*, posted to one of two processes."""

    names: tuple[str, ...]
    process: int


Moments = list[list[Step]]  # those of a moment are posted at once


@st.composite
def moments(draw: st.DrawFn) -> Moments:
    """Any addresses, each as often and as early as may be, and among them what joins all four."""
    at_meta = st.lists(st.sampled_from([*AT_META]), min_size=1, unique=True)
    some = draw(st.lists(at_meta | st.just(["lid"]) | st.just([*AT_WAHA]), max_size=5))
    joining = [[*pair] for pair in pairwise(draw(st.permutations([*AT_META])))] + [[*AT_WAHA]]
    steps = [Step(tuple(names), draw(st.integers(0, 1))) for names in draw(st.permutations(some + joining))]
    cuts = sorted(draw(st.sets(st.integers(1, len(steps) - 1)))) if len(steps) > 1 else []
    return [steps[first:last] for first, last in pairwise([0, *cuts, len(steps)])]


def drawn(how_many: int) -> list[Moments]:
    found: list[Moments] = []

    @examples(max_examples=how_many, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck))
    @given(moments())
    def draw(one: Moments) -> None:
        found.append(one)

    draw()
    return found


class TwoProcesses:
    """The service of all tests, and one to be killed: both serve an organization with an account at two providers."""

    def __init__(self, web: Linked, process: Process, url: str) -> None:
        self._web = web
        self._organization = web.organization
        self._urls = web.organization.gateway.url, url
        self.process = process
        self.organization_id = UUID(web.organization.id)

    async def meet(self, person: int, moments: Moments) -> None:
        for steps in moments:
            await asyncio.gather(*[self._post(step, person) for step in steps])

    async def _post(self, step: Step, person: int) -> None:
        """As the provider does: until it is taken."""
        webhook_url, raw, headers = self._request(step.names, person)
        url = webhook_url.replace(self._urls[0], self._urls[step.process])

        async def is_taken() -> bool:
            try:
                answer = await self._organization.gateway.call("POST", url, raw=raw, **headers)
            except aiohttp.ClientError:
                return False
            return answer.status == 200

        await eventually(is_taken)

    def _request(self, names: tuple[str, ...], person: int) -> tuple[str, bytes, dict[str, str]]:
        known = known_by(person)
        if "lid" in names:
            both = {"remoteJidAlt": f"{known['phone']}@s.whatsapp.net"} if "phone" in names else {}
            return self._web.config["webhook_url"], *from_web(self._web.session, known["lid"], **both)
        who = {AT_META[name]: known[name] for name in names}
        number = self._organization.numbers[0]
        raw = encode(envelope((number, {"messages": [text(**who)]})))
        headers = {name.lower(): value for name, value in signed_headers(number.app_secret, raw).items()}
        return self._organization.configs[0]["webhook_url"], raw, headers


def known_by(person: int) -> dict[str, str]:
    return {
        "phone": f"55119{person:08}",
        "lid": f"8{person:014}@lid",
        "user": f"BR.1{person:019}",
        "parent": f"BR.ENT.2{person:019}",
    }


@pytest.fixture
async def two(gateway: Gateway, settings: Settings, tmp_path: Path) -> AsyncIterator[TwoProcesses]:
    port = unused_port()
    environment = {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "INGRESS_PORT": str(port),
        "INGRESS_PLATFORM_KEY": settings.platform_key,
        "INGRESS_ENCRYPTION_KEYS": settings.encryption_keys,
        "INGRESS_EGRESS_ALLOW": settings.egress_allow,
        "INGRESS_HEALTH_INTERVAL_S": "0",
    }
    process = Process(environment, tmp_path / "log")
    async with WahaSimulator() as waha:
        session = example_session(9_900, "NOWEB")
        await waha.add_session(session, own_port=True)
        web = Linked(waha, session, await gateway.organization())
        await web.organization.configure()
        await web.configure()
        await web.working()
        await process.start()
        yield TwoProcesses(web, process, f"http://127.0.0.1:{port}")
        process.kill()


async def test_one_person_is_one_contact_in_the_end(two: TwoProcesses, settings: Settings) -> None:
    """With one conversation at each of both accounts, in which all of it is, each message once."""
    people = list(enumerate(drawn(SEQUENCES)))
    for first in range(0, len(people), KILL_EVERY):
        part = people[first : first + KILL_EVERY]
        half = len(part) // 2
        await _all_meet(two, part[:half])
        meeting = asyncio.create_task(_all_meet(two, part[half:]))
        await asyncio.sleep(0)  # they are under way
        two.process.kill()
        await two.process.start()
        await meeting
    assert [people[person] for person in await _not_one(settings, two.organization_id, len(people))] == []
    messages = sum(len(steps) for _, moments in people for steps in moments)
    assert await _events(settings, two.organization_id) == messages


async def _all_meet(two: TwoProcesses, people: Sequence[tuple[int, Moments]]) -> None:
    """Some at a time: each message is a request of its own."""
    places = asyncio.Semaphore(TOGETHER)

    async def meet(person: int, moments: Moments) -> None:
        async with places:
            await two.meet(person, moments)

    await asyncio.gather(*[meet(person, moments) for person, moments in people])


async def _not_one(settings: Settings, organization_id: UUID, people: int) -> list[int]:
    """Who is not one contact with all four addresses and one conversation at each of both accounts."""
    connection = await asyncpg.connect(settings.database_url)
    try:
        owners = dict(await connection.fetch(OWNERS, organization_id))
        standing = {row["id"] for row in await connection.fetch(STANDING, organization_id)}
        accounts = {row["contact_id"]: row["accounts"] for row in await connection.fetch(ACCOUNTS, organization_id)}
    finally:
        await connection.close()
    wrong = []
    for person in range(people):
        found = {owners.get(_value(value)) for value in known_by(person).values()}
        if len(found) != 1 or not found <= standing or accounts.get(found.pop()) != 2:
            wrong.append(person)
    assert len(standing) == people
    return wrong


def _value(value: str) -> str:
    return f"+{value}" if value.isdigit() else value


OWNERS = "select value, contact_id from contact_addresses where organization_id = $1"
STANDING = "select id from contacts where organization_id = $1 and merged_into is null"
# Of who has as many conversations as accounts; what was merged is one of these.
ACCOUNTS = """
select contact_id, count(distinct account) as accounts from conversations where organization_id = $1 group by contact_id
having count(*) filter (where canonical_id is null) = count(distinct account)"""


async def _events(settings: Settings, organization_id: UUID) -> int:
    connection = await asyncpg.connect(settings.database_url)
    try:
        query = "select count(*) from events where organization_id = $1 and type = 'message.received'"
        count: int = await connection.fetchval(query, organization_id)
    finally:
        await connection.close()
    return count
