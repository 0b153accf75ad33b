"""Two organizations behind one app: hypothesis looks for a way in which one sees what is the other's.

TENANTS_EXAMPLES (10) times up to 12 steps: configs of either number, saved after a test, by force, at a host of one's
own; deleted; webhooks of every kind at every address. What one organization sees never holds a word of the other's
people, and who has shown that a number is theirs gets what is written to it.
"""

import asyncio
import base64
import os
import time
from collections.abc import Coroutine
from itertools import count
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as search
from hypothesis import strategies as st

from ingress.accounts import ownership
from ingress.dev.sandbox import MetaNumber, example_number, signed_headers
from ingress.dev.sandbox.meta.bodies import encode, metadata
from ingress.switching import routes

from ..gateway import Gateway, Organization, _numbers

EXAMPLES = int(os.environ.get("TENANTS_EXAMPLES", "10"))
PROVIDER = "/integrations/whatsapp/provider"
T = TypeVar("T")
_messages = count()

who = st.integers(0, 1)
steps = st.one_of(
    st.tuples(st.just("save"), who, who, st.sampled_from(["tested", "forced", "elsewhere"]), st.booleans()),
    st.tuples(st.just("delete"), who, st.integers(0, 3)),
    st.tuples(st.just("test"), who, st.integers(0, 3)),
    st.tuples(
        st.just("post"),
        st.sampled_from([0, 1, "app"]),
        st.sampled_from([0, 1, 0, 2]),
        st.lists(st.tuples(st.sampled_from(["text", "history", "notice", "refused", "nameless"]), who), max_size=3),
        st.sampled_from([None, "cut", "deep"]),
    ),
)


class World:
    """An app, two organizations with a number each, and a further config of each behind the app's secret."""

    def __init__(self, gateway: Gateway, has_app: bool) -> None:
        self.gateway = gateway
        self.has_app = has_app
        self.secret = f"app-{next(_numbers)}".ljust(32, "0")
        self.numbers: list[MetaNumber] = []
        self.organizations: list[Organization] = []
        self.saved: list[list[tuple[str, str, int, str]]] = [[], []]  # config_id, address, number, way

    async def begin(self) -> None:
        for _ in range(2):
            organization = await self.gateway.organization()
            await organization.configure(app_secret=self.secret)
            number = msgspec.structs.replace(example_number(next(_numbers)), app_secret=self.secret)
            await self.gateway.meta.add_number(number)
            self.organizations.append(organization)
            self.numbers.append(number)
        if self.has_app:
            data = {"app_secret": self.secret, "verify_token": "verify"}
            body = {"provider_type": "meta_business", "name": "App", "config_data": data}
            made = await self.gateway.call("POST", "/apps", body, key=self.gateway.platform_key)
            self.app_url = made.json["webhook_url"]

    async def save(self, place: int, number: int, way: str, is_active: bool) -> None:
        """Nobody knows the other's token; a host of one's own takes any."""
        url = self.gateway.meta.url
        data = self.numbers[number].config_data(url.replace("127.0.0.1", "localhost") if way == "elsewhere" else url)
        if place != number and way != "elsewhere":
            data["access_token"] = "unknown"
        body = {"provider_type": "meta_business", "config_data": data, "allow_second": True}
        call = self.organizations[place].call
        if way == "forced":
            answer = await call("POST", f"{PROVIDER}/switch", body | {"force": True})
        else:
            answer = await call("POST", f"{PROVIDER}/configure", body | {"is_active": is_active})
        assert (answer.status == 200) == (place == number or way != "tested"), answer.raw
        if answer.status == 200:
            self.saved[place].append((answer.json["config_id"], answer.json["webhook_url"], number, way))

    async def delete(self, place: int, which: int) -> None:
        if which < len(self.saved[place]):
            config_id = self.saved[place][which][0]
            answer = await self.organizations[place].call("DELETE", f"{PROVIDER}/configs/{config_id}")
            assert answer.status in (204, 409), answer.raw
            if answer.status == 204:
                del self.saved[place][which]

    async def test(self, place: int, which: int) -> None:
        if which < len(self.saved[place]):
            body = {"config_id": self.saved[place][which][0]}
            assert (await self.organizations[place].call("POST", f"{PROVIDER}/test", body)).status in (200, 400)

    async def post(self, at: Any, which: int, items: list[tuple[str, int]], spoilt: str | None) -> None:
        raw = encode({"object": "whatsapp_business_account", "entry": [self._entry(*item) for item in items]})
        if spoilt:
            raw = raw[:-1] if spoilt == "cut" else b'{"a":' * 2000 + raw + b"}" * 2000
        if at == "app":
            url = self.app_url if self.has_app else None
        else:
            addresses = [self.organizations[at].configs[0]["webhook_url"], *(saved[1] for saved in self.saved[at])]
            url = addresses[which] if which < len(addresses) else None
        if url is not None:
            assert (await self._posted(url, raw)) == 200

    async def _posted(self, url: str, raw: bytes) -> int:
        headers = {name.lower(): value for name, value in signed_headers(self.secret, raw).items()}
        return (await self.gateway.call("POST", url, raw=raw, **headers)).status

    def _entry(self, kind: str, place: int) -> Any:
        number, words = self.numbers[place], f"only-for-{place}"
        message = {
            "from": "5511987654321",
            "id": f"wamid.{next(_messages)}" + ("x" if kind != "refused" else os.urandom(8000).hex()),
            "timestamp": str(int(time.time())),
            "type": "text",
            "text": {"body": words},
        }
        value: dict[str, Any] = {**metadata(number), "messages": [message]}
        field = "messages"
        if kind == "history":
            thread = {"id": "5511987654321", "messages": [message]}
            field, value = "history", {**metadata(number), "history": [{"metadata": {"phase": 0}, "threads": [thread]}]}
        elif kind == "notice":
            field, value = "message_template_status_update", {"event": "APPROVED", "message_template_name": words}
        elif kind == "nameless":
            del value["metadata"]
        return {"id": number.waba_id, "changes": [{"field": field, "value": value}]}

    async def seen_by(self, place: int) -> bytes:
        """Everything that an organization may ask for."""
        organization = self.organizations[place]
        seen = msgspec.json.encode(await organization.events(raw=True))
        for path in (f"{PROVIDER}/configs", "/messages", "/integrations/whatsapp/audit", "/quarantine"):
            seen += (await organization.call("GET", path)).raw
        for item in (await organization.call("GET", "/quarantine")).json["quarantine"]:
            shown = await organization.call("GET", f"/quarantine/{item['id']}")
            seen += base64.b64decode(shown.json["body"])
        return seen

    async def check(self) -> None:
        for place in (0, 1):
            assert f"only-for-{1 - place}".encode() not in await self.seen_by(place)
            mine = [saved for saved in self.saved[place] if saved[2:] == (place, "tested")]
            for _, url, _, _ in mine[:1]:
                before = await self.organizations[place].events(kind="message.received")
                raw = encode({"object": "whatsapp_business_account", "entry": [self._entry("text", place)]})
                assert await self._posted(url, raw) == 200
                assert len(await self.organizations[place].events(kind="message.received")) == len(before) + 1


async def test_no_organization_sees_what_is_anothers(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((ownership, "REMEMBERED_S"), (routes, "CACHE_S"), (routes, "STALE_S")):
        monkeypatch.setattr(module, name, -1.0)  # what is a second old does not count: every step is asked for anew
    loop = asyncio.get_running_loop()

    def run(coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)

    @search(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.booleans(), st.lists(steps, min_size=3, max_size=12))
    def look(has_app: bool, wanted: list[Any]) -> None:
        world = World(gateway, has_app)
        run(world.begin())
        for kind, *arguments in wanted:
            run(getattr(world, kind)(*arguments))
        run(world.check())

    await asyncio.to_thread(look)
