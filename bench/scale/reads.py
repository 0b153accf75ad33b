"""Every read of the API, on the large database and on the new one in turn, for the big organization and a small one."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any
from urllib.parse import quote
from uuid import UUID

import aiohttp
import asyncpg

from ingress.identifiers import event_id, id_at

from ..service import ServedOrganization, ask
from .bench import Bench
from .site import Site
from .table import Row

TIMES = 15
INTEGRATION = "/integrations/whatsapp"
# Each route and filter that reads the database. In braces: something of the organization's, from the middle of time.
PATHS = (
    "/messages?limit=50",
    "/messages?limit=50&before={message}",
    "/messages?limit=50&contact_id={contact}",
    "/messages?limit=50&contact_id={contact}&before={message}",
    "/messages?limit=50&conversation_id={conversation}",
    "/messages?limit=50&conversation_id={conversation}&before={message}",
    "/messages?limit=50&conversation_id={conversation}&contact_id={contact}",
    "/messages?limit=50&conversation_id={other_conversation}",
    "/messages?limit=50&provider_message_id={wamid}",
    "/messages?limit=50&lead_id={lead}",
    "/messages?limit=50&request_id={request}",
    "/messages?limit=50&error=131026",
    "/messages?limit=50&error=Throttled",
    "/messages?limit=50&error=none-has-it",
    "/messages?limit=50&status=failed",
    "/messages?limit=50&status=read",
    "/messages?limit=50&status=played",
    "/messages?limit=50&config_id={config}",
    "/messages?limit=50&config_id={config}&status=failed&until={moment}",
    "/messages?limit=50&since={moment}",
    "/messages?limit=50&until={moment}",
    "/messages?limit=50&contact_id={contact}&since={moment}&until={later}",
    "/messages/{message}",
    "/messages/{message}/timeline",
    "/contacts?limit=50",
    "/contacts?limit=50&after={contact}",
    "/contacts?limit=50&phone={phone}",
    "/contacts?limit=50&lid=1",
    "/contacts?limit=50&user_id={user}",
    "/contacts?limit=50&username=nobody",
    "/contacts?limit=50&name=Ana",
    "/contacts?limit=50&name=Ana&after={contact}",
    "/contacts/{contact}",
    "/contacts/{contact}/messages?limit=50",
    "/contacts/{contact}/messages?limit=50&before={said}",
    "/events?limit=100",
    "/events?limit=100&after={sequence}",
    "/events?limit=100&after={sequence}&raw=true",
    "/events?limit=100&after={last_sequence}&wait=0",
    "/events?limit=100&type=message.received",
    "/events?limit=100&type=message.received,provider.switched&after={sequence}",
    "/events?limit=100&type=message.echo&after={sequence}",
    "/events?limit=100&contact_id={contact}&after={sequence}",
    "/events?limit=100&conversation_id={conversation}&after={sequence}",
    "/events?limit=100&conversation_id={conversation}&type=message.status&after={sequence}",
    "/events/stream?after={sequence}",
    "/events/stream?after={sequence}&type=message.status",
    "/events/stream?after={sequence}&contact_id={contact}",
    "/events/stream?after={sequence}&conversation_id={conversation}",
    "/events/{event}/timeline",
    INTEGRATION + "/provider/current",
    INTEGRATION + "/provider/fallback",
    INTEGRATION + "/provider/figures?window=1h",
    INTEGRATION + "/provider/figures?window=24h",
    INTEGRATION + "/provider/figures?window=7d",
    INTEGRATION + "/provider/usage",
    INTEGRATION + "/provider/usage?month={month}",
    INTEGRATION + "/provider/configs",
    INTEGRATION + "/status",
    INTEGRATION + "/audit?limit=50",
    INTEGRATION + "/audit?limit=50&before={entry}",
    INTEGRATION + "/audit?limit=50&action=configured",
    INTEGRATION + "/audit?limit=50&actor=system",
    INTEGRATION + "/audit?limit=50&config_id={config}",
    INTEGRATION + "/audit?limit=50&outcome=refused",
    INTEGRATION + "/audit?limit=50&since={moment}&until={later}",
    "/callback",
    "/callback/deliveries?limit=50",
    "/callback/deliveries?limit=50&before={sequence}",
    "/callback/parked?limit=50",
    "/callback/parked?limit=50&after={sequence}",
    "/callback/parked/count",
    "/callback/parked/count?after={sequence}",
    "/quarantine?limit=50",
    "/quarantine?limit=50&after={quarantined}",
    "/quarantine?limit=50&state=replayed",
    "/quarantine?limit=50&foreign=true",
    "/quarantine/{quarantined}",
    "/quarantine/{quarantined}?foreign=true",
    "/organization",
    "/organizations?limit=50",
    "/organizations?limit=50&search=Organization",
    "/organizations?limit=50&after={organization}",
    "/keys?limit=50",
    "/keys?limit=50&live=true",
    "/keys?limit=50&after=00000000",
    "/apps",
    "/retention",
    "/readyz",
)
# Of what is measured in no other way; `verify` reads all of a trail, and says so.
LEFT_OUT = {
    "/contacts/{contact_id}/export": "reads all of a person",
    "/erasures/{erasure_id}": "one row, of an erasure that was asked for",
    "/healthz": "reads nothing",
    "/openapi.json": "reads nothing",
    f"{INTEGRATION}/providers": "reads nothing",
    f"{INTEGRATION}/provider/pairing": "asks the provider",
    f"{INTEGRATION}/templates": "asks the provider",
    f"{INTEGRATION}/audit/verify": "reads a whole trail",
    "/contacts/lookup": "asks the provider",
    "/media/{event_id}": "asks the provider",
    "/messages/{event_id}/phone": "asks the provider",
}
FOR_THE_PLATFORM = ("/organizations", "/apps", "foreign=true")
STREAMS = ("/events/stream", f"{INTEGRATION}/status")

# What is in the middle of an organization's time, and its person with the most messages.
FACTS = {
    "message": "select id from messages where {of} and id >= '{id}' order by id limit 1",
    "wamid": "select provider_message_id from messages where {of} and id >= '{id}' order by id limit 1",
    "lead": "select lead_id from messages where {of} and id >= '{id}' order by id limit 1",
    "request": "select request_id from messages where {of} and id >= '{id}' order by id limit 1",
    "other_conversation": "select min(conversation_id::text) from messages where {of} and id >= '{id}'",
    "conversation": "select conversation_id from messages where {of} group by 1 order by count(*) desc limit 1",
    "contact": "select contact_id from conversations where {of} and id = '{conversation}'",
    "phone": "select value from contact_addresses where {of} and contact_id = '{contact}' and kind = 'phone'",
    "user": "select max(value) from contact_addresses where {of} and contact_id = '{contact}' and kind = 'user'",
    "sequence": "select min(sequence) from events where {of} and created_at >= '{moment}'",
    "said": "select min(sequence) from events where {of} and created_at >= '{moment}' and type = 'message.received'",
    "last_sequence": "select max(sequence) from events where {of}",
    "config": "select id from whatsapp_provider_configs where {of} limit 1",
    "entry": "select max(id) / 2 from provider_audit_log where {of}",
    "quarantined": "select id from quarantine where {of} order by id offset 1 limit 1",
}


async def facts(url: str, organization: str, days: int) -> dict[str, str]:
    """A value for each name in braces."""
    moment = datetime.now(UTC) - timedelta(days=days / 2)
    found: dict[str, Any] = {"of": f"organization_id = '{organization}'", "id": id_at(moment), "moment": moment}
    connection = await asyncpg.connect(url, command_timeout=600)
    try:
        for name, statement in FACTS.items():
            found[name] = await connection.fetchval(statement.format(**found))
    finally:
        await connection.close()
    found |= {
        "organization": organization,
        "event": event_id(UUID(organization), found["said"]),
        "moment": moment.isoformat(),
        "later": (moment + timedelta(days=1)).isoformat(),
        "month": f"{moment:%Y-%m}",
    }
    return {name: quote(str(value)) for name, value in found.items()}


class _Reader:
    """Asks one organization's reads of one site."""

    def __init__(self, session: aiohttp.ClientSession, site: Site, organization: ServedOrganization) -> None:
        self._session = session
        self._keys = organization.key, site.env["INGRESS_PLATFORM_KEY"]
        self._organization = organization.id
        self.facts: dict[str, str] = {}
        self.gave_up = Counter[str]()

    async def ms(self, path: str) -> float:
        """How long it takes until the answer is there; of a stream, until it begins to speak."""
        for_platform = any(part in path for part in FOR_THE_PLATFORM)
        headers = {"authorization": f"Bearer {self._keys[for_platform]}"}
        if for_platform and "foreign" in path:
            headers["x-org-id"] = self._organization
        began = time.perf_counter()
        async with self._session.get(path.format(**self.facts), headers=headers) as answer:
            is_stream = path.startswith(STREAMS)
            content = await (answer.content.readany() if is_stream else answer.read())
            if answer.status == 503:  # it took longer than a statement may
                self.gave_up[path] += 1
            elif answer.status != 200 and not (answer.status == 404 and "foreign" in path):
                raise RuntimeError(f"GET {path} answered {answer.status}: {content!r}")
        return (time.perf_counter() - began) * 1e3


async def _measure(bench: Bench, urls: dict[str, str]) -> dict[str, dict[str, float]]:
    """By path and organization: the median on each site, asked in turn."""
    found = {}
    async with AsyncExitStack() as stack:
        for size in ("big", "small"):
            readers = []
            for site in (bench.empty, bench.full):
                session = await stack.enter_async_context(aiohttp.ClientSession(urls[site.name]))
                reader = _Reader(session, site, getattr(site, size))
                days = (bench.sizes if site is bench.full else bench.empty_sizes).days
                reader.facts = await facts(site.database_url, getattr(site, size).id, days)
                readers.append(reader)
            for path in PATHS:
                if size == "big" or not any(part in path for part in FOR_THE_PLATFORM):
                    times: list[list[float]] = [[], []]
                    for turn in range(TIMES + 2):
                        for place, reader in enumerate(readers):
                            spent = await reader.ms(path)
                            if turn >= 2:  # the first ones open connections and make plans
                                times[place].append(spent)
                    empty, full = median(times[0]), median(times[1])
                    gave_up = readers[1].gave_up[path]
                    figures = {"ms": full, "empty_ms": empty, "ratio": full / empty, "gave_up": gave_up}
                    found[f"{path} ({size})"] = figures
    return found


def measure(bench: Bench) -> Iterator[Row]:
    with ExitStack() as stack:
        servers = {site.name: stack.enter_context(site.served()) for site in (bench.empty, bench.full)}
        for site in (bench.empty, bench.full):
            for organization in (site.big, site.small):
                url = f"{servers[site.name].url}/callback"
                ask(url, organization.key, {"url": f"{bench.provider_url}/crm"}, method="PUT")
        found = asyncio.run(_measure(bench, {name: server.url for name, server in servers.items()}))
        for site in (bench.empty, bench.full):
            for organization in (site.big, site.small):
                ask(f"{servers[site.name].url}/callback", organization.key, None, method="DELETE")
    worst = max(found, key=lambda name: found[name]["ratio"])
    slowest = max(found, key=lambda name: found[name]["ms"])
    middle = median(each["ratio"] for each in found.values())
    above = sum(each["ratio"] > 3 or each["ms"] > 30 for each in found.values())
    said = f"median {middle:.1f} ×, {above} of {len(found)} above the mark: "
    said += f"{found[worst]['ratio']:.1f} × ({found[worst]['ms']:.1f} ms, `{worst}`)"
    said += f"; the slowest {found[slowest]['ms']:.1f} ms (`{slowest}`)"
    if gave_up := [name for name in found if found[name]["gave_up"]]:
        said += f"; 503 from {', '.join(gave_up)}"
    what = f"{len(PATHS)} reads of the API, p50, of a big and a small organization"
    yield Row("reads", what, said, "3 ×, 30 ms", "1.5 ×", found)
