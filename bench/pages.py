"""How long the console's pages take in an organization with many messages: `python -m bench.pages --messages 1000000`.

Starts the service with its simulators in a folder of its own, sends and receives one message, copies the rows of both
as often as was asked for, over 90 days, and asks for each page in turn. Times are the client's, one request at a time.
"""

import argparse
import asyncio
import json
import re
import secrets
import statistics
import sys
import time
from http.cookies import SimpleCookie
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

import aiohttp
import asyncpg

from ingress.console.routes import ROUTES
from ingress.console.routing import ConsoleRoute
from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.storage.vault import generate_key

from .processes import ROOT, ServerProcess, free_port, start

NO_PAGES = {"/console/live", "/console/static/{version}/{name}", "/console/{rest:path}", "/console/sign-in"}
DAYS = 90
# A time-ordered id for row n of $2: the first 48 bits are the milliseconds of its time.
AT = f"now() - interval '{DAYS} days' * (1 - n::float / $2::float)"
ID = f"""(lpad(to_hex((extract(epoch from {AT}) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text), 1, 3) ||
    '8' || substr(md5(n::text), 4, 15))::uuid"""
# Before all that are there.
PLACE = "$3::bigint - 10000000 - $2::bigint + n"
# What differs in a copy, by table; all else is as in the row that is copied.
COPIES = {
    "messages": {
        "id": ID,
        "idempotency_key": "null",
        "queue_place": "null",
        "provider_message_id": "'bench.' || n",
        "message_key": "'bench.' || n",
        "conversation_id": "case when n % 2 = 0 then conversation_id else md5((n % 10000)::text)::uuid end",
        "created_at": AT,
        "updated_at": AT,
        "sent_at": AT,
        "expires_at": AT,
    },
    "attempts": {"message_id": ID, "started_at": AT, "provider_message_id": "'bench.' || n"},
    "events": {"sequence": PLACE, "created_at": AT},
    "deliveries": {"sequence": PLACE, "finished_at": AT, "state": "'delivered'"},
}


async def copy(connection: asyncpg.Connection, table: str, where: str, count: int, first: int) -> None:
    """*count* copies of the row of *table* that *where* finds first."""
    rows = await connection.fetch(
        "select attname from pg_attribute where attrelid = $1::regclass and attnum > 0 and not attisdropped"
        " and attgenerated = ''",
        table,
    )
    names = [row["attname"] for row in rows]
    values = ", ".join(COPIES[table].get(name, name) for name in names)
    statement = f"insert into {table} ({', '.join(names)}) select {values} from (select * from {table} where {where}"
    statement += " limit 1) one, generate_series(1, $1::bigint) n where $2::float > 0 and $3::bigint > 0"
    await connection.execute(statement, count, float(count), first, timeout=1800)


async def about_somebody(session: aiohttp.ClientSession) -> dict[str, Any]:
    """The first event that is about a contact."""
    after = 0
    while True:
        async with session.get("/events", params={"after": after, "wait": 10}) as answer:
            page = await answer.json()
        for event in page["events"]:
            if event["data"].get("conversation", {}).get("contact"):
                return event
        after = page["next"]


async def fill(facts: dict[str, Any], database_url: str, count: int) -> dict[str, str]:
    """Copies of a message that was sent and of one that was received; the ids of both for pages of one thing."""
    headers = {"authorization": f"Bearer {facts['api_key']}"}
    organization = f"organization_id = '{facts['organization_id']}'"
    async with aiohttp.ClientSession(facts["url"], headers=headers) as session:
        async with session.post("/send", json={"to": "+5511987654321", "body": "Hello"}) as answer:
            sent = await answer.json()
        received = await about_somebody(session)
    connection = await asyncpg.connect(database_url)
    sequence = received["sequence"]
    await copy(connection, "messages", f"{organization} and id = '{sent['id']}'", count, 1)
    await copy(connection, "attempts", f"{organization} and message_id = '{sent['id']}'", count, 1)
    await copy(connection, "events", f"{organization} and sequence = {sequence}", count, sequence)
    await copy(connection, "deliveries", organization, count, sequence)
    await connection.execute("vacuum analyze")
    await connection.close()
    return {
        "message_id": sent["id"],
        "event_id": received["id"],
        "contact_id": received["data"]["conversation"]["contact"]["id"],
        "config_id": facts["configs"][0]["config_id"],
        "key_id": facts["api_key"].split("_")[2],
        "entry_id": "1",
    }


def paths(ids: dict[str, str]) -> list[str]:
    found = []
    for route in ROUTES:
        if isinstance(route, ConsoleRoute) and "GET" in (route.methods or ()) and not route.is_file:
            known = set(route.param_convertors) <= set(ids) and route.path not in NO_PAGES
            if known and route.needs != "platform":
                found.append(re.sub(r"{(\w+)(?::\w+)?}", lambda match: ids[match[1]], route.path))
    return found


async def measure(url: str, key: str, pages: list[str], times: int) -> dict[str, dict[str, float]]:
    found = {}
    same_origin = {"sec-fetch-site": "same-origin", "accept-language": "en"}
    async with aiohttp.ClientSession(url, headers=same_origin, cookie_jar=aiohttp.DummyCookieJar()) as session:
        form = {"content-type": "application/x-www-form-urlencoded"}
        signing_in = session.post("/console/sign-in", data=urlencode({"key": key}), headers=form, allow_redirects=False)
        async with signing_in as answer:
            cookie = SimpleCookie(answer.headers["set-cookie"])["__Host-console"].OutputString([])
        for page in pages:
            spent_ms, size = [], 0
            for _ in range(times):
                began = time.perf_counter()
                async with session.get(page, headers={"cookie": cookie}, allow_redirects=False) as answer:
                    size = len(await answer.read())
                    status = answer.status
                spent_ms.append((time.perf_counter() - began) * 1000)
            quantiles = statistics.quantiles(spent_ms, n=20)
            found[page] = {
                "status": status,
                "p50_ms": round(statistics.median(spent_ms), 1),
                "p95_ms": round(quantiles[18], 1),
                "bytes": size,
            }
    return found


def run(process: ServerProcess, folder: Path, database_url: str, options: argparse.Namespace) -> dict[str, Any]:
    facts = json.loads((folder / "data" / "dev.json").read_text())
    before = process.rss_mb()
    ids = asyncio.run(fill(facts, database_url, options.messages))
    found = asyncio.run(measure(facts["url"], facts["api_key"], paths(ids), options.times))
    return {"messages": options.messages, "rss_mb_before": before, "rss_mb_after": process.rss_mb(), "pages": found}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pages", description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=60, help="requests of each page (default %(default)s)")
    options = parser.parse_args()
    (ROOT / ".data").mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="pages-", dir=ROOT / ".data") as name, EmbeddedServers(Path(name)) as servers:
        folder, port = Path(name), free_port()
        (folder / "data").mkdir()
        assert servers.database_url
        assert servers.redis_url
        settings = {
            "INGRESS_DATA_DIR": str(folder / "data"),
            "INGRESS_PORT": str(port),
            "INGRESS_METRICS_PORT": str(free_port()),
            "INGRESS_REQUESTS_PER_KEY": "0",
            "DATABASE_URL": servers.database_url,
            "REDIS_URL": servers.redis_url,
            "INGRESS_PLATFORM_KEY": secrets.token_urlsafe(32),
            "INGRESS_ENCRYPTION_KEYS": generate_key(),
        }
        with start("service", [sys.executable, "-m", "ingress", "run"], port, folder, settings) as process:
            while not (folder / "data" / "dev.json").exists():
                time.sleep(0.2)
            print(json.dumps(run(process, folder, servers.database_url, options), indent=2))


if __name__ == "__main__":
    main()
