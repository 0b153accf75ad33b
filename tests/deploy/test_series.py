"""What one scrape has does not grow with the organizations."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from bench.organizations import Account, fill
from bench.pool import APP_SECRET, account_of
from ingress.dev.sandbox import example_number, signed_headers
from ingress.dev.sandbox.meta.bodies import encode
from ingress.storage.vault import Vault
from prove.attacks.__main__ import SERIES_LIMIT
from prove.cluster import UNBOUNDED, Cluster, cluster
from tests.gateway import Answer, eventually

FEW, MANY = 10, 1_000
# Sends take longer than webhooks: of those organizations, so many send.
SENDING = 100
# What a busy machine counts besides.
BUSY = re.compile('_errors_|="(5xx|duplicate|shed|error)"')


async def test_series_do_not_grow_with_organizations(tmp_path: Path) -> None:
    """Webhooks and sends of ten, and then of a thousand: the same series."""
    limits = {**UNBOUNDED, "INGRESS_HEALTH_INTERVAL_S": "0"}  # whatever else is counted meanwhile is not by them
    async with cluster(tmp_path, processes=1, limits=limits) as playing:
        accounts = [Account(number) for number in range(MANY)]
        vault = Vault(playing.settings.encryption_keys)
        await fill(playing.settings.database_url, vault, accounts, playing.meta.url)
        await series(playing, accounts[:1], 1)  # a scrape is a request, too
        few = await series(playing, accounts[1:FEW], FEW)
        many = await series(playing, accounts[FEW:], SENDING)
        assert (many - few, few - many) == (set(), set())
        assert 500 < len(many) <= SERIES_LIMIT


async def series(playing: Cluster, accounts: Sequence[Account], sending: int) -> set[str]:
    """Those of the process when each of *accounts* has had a webhook, and the first ones have sent."""
    places = asyncio.Semaphore(16)

    async def act(place: int, account: Account) -> None:
        number = msgspec.structs.replace(
            example_number(1),
            phone_number_id=account.phone_number_id,
            waba_id=account_of(account.phone_number_id),
            access_token="bench-access-token",
            app_secret=APP_SECRET,
        )
        await playing.meta.add_number(number)
        raw = encode(playing.meta.inbound(number).text("x"))
        post = partial(playing.call, "act", playing.members[0], account.key, "POST")
        async with places:
            hook = f"/webhooks/meta_business/{account.token}"
            await taken(partial(post, hook, raw=raw, **signed_headers(APP_SECRET, raw)))
            if place < sending:
                await taken(partial(post, "/send", body={"to": "+5511987654321", "body": "x"}))

    await asyncio.gather(*(act(place, account) for place, account in enumerate(accounts)))
    before = await page(playing)
    written = await eventually(partial(page, playing), lambda text: text != before)  # it may be a second old
    lines = [line.rpartition(" ")[0] for line in written.splitlines() if not line.startswith("#")]
    return {line for line in lines if not BUSY.search(line)}


async def taken(post: Callable[[], Awaitable[Answer | None]]) -> None:
    """Again where the process had no time for it, as providers and CRMs do."""
    await eventually(post, lambda answer: answer is not None and answer.status == 200)


async def page(playing: Cluster) -> str:
    async with playing.session.get(f"{playing.members[0].url.operations}/metrics") as answer:
        return await answer.text()
