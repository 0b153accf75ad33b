"""The other providers: an organization of its own at each, people who write to it, and messages back."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec

from ..sandbox import TwilioSimulator, WahaSimulator, example_sender, example_session
from .checks import REACHED, OtherRecord
from .screen import Bar, Screen
from .service import Service
from .stage import SceneBroken, ServiceApi, Stage, found_organization

INBOUND, AT_ONCE = 100, 10
SENDS = 10
# One after the other, with pauses of three to six seconds: who sends faster is banned.
PACED_SENDS = 2
STALLED_S = 15.0
LOOK_EVERY_S = 0.1


class Other(msgspec.Struct, frozen=True):
    """One provider as the scene uses it."""

    name: str
    provider_type: str
    config_data: dict[str, str]
    sends: int
    ready: Callable[[], Awaitable[object]]  # once it is configured
    write: Callable[[], Awaitable[str | None]]  # one message of a person: its id, None if it was not taken
    accepted: Callable[[], list[str]]

    def __repr__(self) -> str:
        return f"Other({self.provider_type!r})"


async def play_others(screen: Screen, stage: Stage, service: Service) -> list[OtherRecord]:
    """Scene 4: each of the other providers carries messages both ways."""
    screen.line(
        f"\n4. Two more organizations, one on Twilio and one on WhatsApp Web: {INBOUND} messages in for each, "
        f"{SENDS} and {PACED_SENDS} out. WhatsApp Web sends with pauses: a number that sends faster gets banned."
    )
    async with AsyncExitStack() as stack:
        others = [
            await _twilio(await stack.enter_async_context(TwilioSimulator())),
            await _waha(await stack.enter_async_context(WahaSimulator())),
        ]
        with screen.progress() as progress:
            bars = [progress.bar(other.name, INBOUND + other.sends) for other in others]
            plays = [_play(stage, service, other, bar) for other, bar in zip(others, bars, strict=True)]
            return list(await asyncio.gather(*plays))


async def _twilio(twilio: TwilioSimulator) -> Other:
    sender = example_sender()
    base_url = await twilio.add_number(sender)
    people = twilio.inbound(sender)

    async def ready() -> None:
        """A sender takes messages as soon as it has an address."""

    async def write() -> str | None:
        form = people.text()
        result = await twilio.post(sender, form)
        return dict(form)["MessageSid"] if result is not None and result.delivered else None

    return Other(
        "Twilio",
        "twilio_whatsapp",
        sender.config_data(base_url),
        SENDS,
        ready,
        write,
        lambda: [message.sid for message in twilio.accepted],
    )


async def _waha(waha: WahaSimulator) -> Other:
    phone = example_session()
    base_url = await waha.add_session(phone)
    state = waha.state_of(phone.name)

    async def ready() -> None:
        await waha.wait_for(lambda: state.status == "WORKING")

    async def write() -> str | None:
        news = waha.inbound(phone).text()
        results = await waha.post(phone, news)
        return str(news.payload["id"]) if results and all(result.delivered for result in results) else None

    return Other(
        "WhatsApp Web",
        "whatsapp_web",
        phone.config_data(base_url),
        PACED_SENDS,
        ready,
        write,
        lambda: [message.id for message in waha.accepted],
    )


async def _play(stage: Stage, service: Service, other: Other, bar: Bar) -> OtherRecord:
    api = ServiceApi(service.url, stage.session)
    await found_organization(api, service.platform_key)
    body = {"provider_type": other.provider_type, "config_data": other.config_data, "is_active": True}
    await api.must("POST", "/integrations/whatsapp/provider/configure", body)
    await other.ready()
    free = asyncio.Semaphore(AT_ONCE)

    async def write() -> str | None:
        async with free:
            written = await other.write()
            bar.advance(1)
            return written

    async def send(index: int) -> dict[str, Any]:
        text = {"type": "text", "body": f"Your order {index} is on its way."}
        image = {"type": "image", "url": "https://shop.example/parcel.jpg", "caption": "Your parcel"}
        answer = await api.call("POST", "/send", {"to": f"+55117{index:08d}", "content": image if index % 2 else text})
        if answer.status != 200:
            raise SceneBroken(f"{other.name}: POST /send was answered {answer.status}")
        bar.advance(1)
        sent: dict[str, Any] = answer.json
        return sent

    posted, sent = await asyncio.gather(
        asyncio.gather(*(write() for _ in range(INBOUND))), asyncio.gather(*(send(n) for n in range(other.sends)))
    )
    statuses, accepted = await _settled(api, len(sent)), other.accepted()
    events = await api.events()
    return OtherRecord(
        provider=other.name,
        posted=[message_id for message_id in posted if message_id is not None],
        statuses=statuses,
        stored=[event.provider_message_id or "none" for event in events if event.type == "message.received"],
        sent=[answer["provider_message_id"] for answer in sent],
        accepted=accepted,
        unnamed=sum(event.provider_message_id in accepted and not event.names_ours for event in events),
    )


async def _settled(api: ServiceApi, sends: int) -> list[str]:
    """The statuses of all messages, once people have them, or nothing more comes."""
    until = time.monotonic() + STALLED_S
    while True:
        statuses = [str(message["status"]) for message in await api.messages()]
        if sum(status in REACHED for status in statuses) >= sends or time.monotonic() > until:
            return statuses
        await asyncio.sleep(LOOK_EVERY_S)
