"""What is too much for one provider goes out by another: no limit of a provider's own is the message's fault."""

from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import pytest

from ingress.dev.sandbox import (
    TwilioSimulator,
    WahaSimulator,
    example_sender,
    example_session,
)
from prove.protection import DOWN

from ..gateway import Answer, Gateway, Organization

PHONE = "+5511920003333"
URL = "https://files.example.com/file"
_numbers = count(700)
BASE = "/integrations/whatsapp/provider"


class Trio:
    """An organization with an account at each provider."""

    def __init__(self, organization: Organization, twilio: TwilioSimulator, waha: WahaSimulator) -> None:
        self.organization = organization
        self.twilio, self.waha = twilio, waha
        self.ids: dict[str, str] = {}

    async def save(self, provider: str, config_data: Any) -> None:
        body = {"provider_type": provider, "config_data": config_data, "is_active": False}
        answer = await self.organization.call("POST", f"{BASE}/configure", body)
        assert answer.status == 200, answer.raw
        self.ids[provider] = answer.json["config_id"]

    async def use(self, active: str, *fallback: str) -> None:
        """Switch, and set the fallback order."""
        answer = await self.organization.call("POST", f"{BASE}/switch", {"config_id": self.ids[active]})
        assert answer.status == 200, answer.raw
        await self.organization.fall_back_to(*(self.ids[name] for name in fallback))

    def calls(self) -> dict[str, int]:
        """How many sends have come to each provider."""
        ledgers: dict[str, Any] = {
            "meta_business": self.organization.gateway.meta,
            "twilio_whatsapp": self.twilio,
            "whatsapp_web": self.waha,
        }
        return {name: len(ledger.sends) for name, ledger in ledgers.items()}

    async def send(self, content: Any) -> Answer:
        return await self.organization.send({"to": PHONE, "content": content})


@pytest.fixture(scope="module")
async def simulators() -> AsyncIterator[tuple[TwilioSimulator, WahaSimulator]]:
    async with TwilioSimulator() as twilio, WahaSimulator() as waha:
        yield twilio, waha


@pytest.fixture
async def trio(gateway: Gateway, simulators: tuple[TwilioSimulator, WahaSimulator]) -> Trio:
    organization = await gateway.organization()
    trio = Trio(organization, *simulators)
    trio.ids["meta_business"] = (await organization.configure())["config_id"]
    sender, session = example_sender(next(_numbers)), example_session(next(_numbers), "GOWS")
    await trio.save("twilio_whatsapp", sender.config_data(await trio.twilio.add_number(sender)))
    await trio.save("whatsapp_web", session.config_data(await trio.waha.add_session(session)))
    return trio


def text(length: int, letter: str = "ã") -> dict[str, Any]:
    return {"type": "text", "body": letter * length}


def medium(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "url": URL, **fields}


def interactive(action: dict[str, Any], **parts: Any) -> dict[str, Any]:
    return {"type": "interactive", "body": "Which?", "action": action, **parts}


def buttons(number: int, **title: str) -> dict[str, Any]:
    return {"type": "buttons", "buttons": [{"id": f"{n}", "title": f"Title {n}", **title} for n in range(number)]}


def menu(sections: int, rows: int) -> dict[str, Any]:
    numbers = [[f"{section}.{row}" for row in range(rows)] for section in range(sections)]
    parts = [{"title": f"Part {part[0]}", "rows": [{"id": n, "title": n} for n in part]} for part in numbers]
    return {"type": "list", "button": "Choose", "sections": parts}


META, TWILIO, WEB = "meta_business", "twilio_whatsapp", "whatsapp_web"
MIB = 1024**2
# What one provider cannot carry, who can, and what is said of it: the code, the size, the limit.
CASES: list[tuple[str, Any, str, list[str]]] = [
    (TWILIO, text(1_700), META, ["text_too_long", "1,700", "1,600"]),
    (TWILIO, text(1_601, "😀"), META, ["text_too_long", "1,601", "1,600"]),
    (META, text(4_097), WEB, ["text_too_long", "4,097", "4,096"]),
    (TWILIO, medium("image", caption="x" * 1_700), WEB, ["caption_too_long", "1,700", "1,600"]),
    (META, medium("image", caption="x" * 1_025), TWILIO, ["caption_too_long", "1,025", "1,024"]),
    (TWILIO, medium("document", size_bytes=17 * MIB), META, ["media_too_large", f"{17 * MIB:,}", f"{16 * MIB:,}"]),
    (META, medium("image", size_bytes=6 * MIB), WEB, ["media_too_large", f"{6 * MIB:,}", f"{5 * MIB:,}"]),
    (META, medium("video", mime_type="video/quicktime"), WEB, ["mime_type_unsupported", "video/quicktime"]),
    (META, medium("audio", voice=True, mime_type="audio/mpeg"), WEB, ["mime_type_unsupported", "audio/mpeg", "opus"]),
    (META, interactive(buttons(4)), WEB, ["too_many_buttons", "4", "3"]),
    (META, interactive(menu(2, 6)), WEB, ["too_many_rows", "12", "10"]),
    (TWILIO, interactive(menu(2, 1)), META, ["too_many_sections", "2", "1"]),
    (TWILIO, interactive(buttons(1), header="Hello"), META, ["header_unsupported", "text"]),
    (WEB, interactive(buttons(1), header=medium("image")), META, ["header_unsupported", "image"]),
    (
        META,
        interactive({"type": "cta_url", "title": "t" * 25, "url": URL}),
        TWILIO,
        ["button_title_too_long", "25", "20"],
    ),
]


@pytest.mark.parametrize(("active", "content", "fallback", "words"), CASES)
async def test_what_is_too_much_for_one_goes_out_by_another(
    trio: Trio, active: str, content: Any, fallback: str, words: list[str]
) -> None:
    """Nothing is called at the one, and what is said of it names the limit and the size."""
    await trio.use(active, fallback)
    before = trio.calls()
    answer = await trio.send(content)
    assert answer.status == 200, answer.raw
    assert (answer.json["provider"], answer.json["fallback_reason"]) == (fallback, "Unsupported")
    assert answer.json["fallback_from"] == trio.ids[active]
    assert trio.calls() == before | {fallback: before[fallback] + 1}
    tried, _ = (await trio.organization.message(answer.json["id"]))["attempts"]
    assert tried["class"] == "Unsupported"
    assert [word for word in words if word not in f"{tried}"] == []


async def test_the_fallbacks_are_asked_until_one_can(trio: Trio) -> None:
    await trio.use(TWILIO, META, WEB)
    answer = await trio.send(text(5_000))
    assert (answer.status, answer.json["provider"], answer.json["attempts"]) == (200, WEB, 3)
    assert answer.json["fallback_from"] == trio.ids[TWILIO]


@pytest.mark.parametrize(("active", "content", "_", "words"), CASES)
async def test_without_a_fallback_it_is_unsupported(
    trio: Trio, active: str, content: Any, _: str, words: list[str]
) -> None:
    """422, which names the limit and the size; the account is as healthy as before."""
    await trio.use(active)
    before = trio.calls()
    answer = await trio.send(content)
    assert (answer.status, answer.json["code"], answer.json["attempts"]) == (422, "unsupported", 1)
    assert [word for word in words[1:] if word not in answer.json["detail"]] == []
    assert trio.calls() == before


async def test_a_limit_is_no_reason_to_stop_elsewhere(trio: Trio) -> None:
    """What nobody could send is refused at once, and no fallback is asked."""
    await trio.use(TWILIO, META)
    before = trio.calls()
    answer = await trio.send({"type": "text", "body": ""})
    assert (answer.status, answer.json["code"], answer.json["attempts"]) == (422, "rejected", 1)
    assert trio.calls() == before


async def test_a_fallback_that_cannot_carry_it_is_none(trio: Trio, gateway: Gateway) -> None:
    """The provider that can is tried as often as an only one, and what the other cannot is not the message's end."""
    await trio.use(META, TWILIO)
    await gateway.meta.set_default(trio.organization.numbers[0], DOWN)
    answer = await trio.send(text(1_700))
    assert (answer.status, answer.json["code"]) == (502, "no_provider_left"), answer.raw
    assert answer.json["error"]["class"] == "Unavailable"
    attempts = (await trio.organization.message(answer.json["id"]))["attempts"]
    assert [attempt["class"] for attempt in attempts] == [*["Unavailable"] * 3, "Unsupported"]


async def test_what_only_a_resting_provider_can_carry_is_not_refused_for_good(trio: Trio, gateway: Gateway) -> None:
    """Its breaker is open: nobody could take the message now, which is what is said."""
    await trio.use(META, TWILIO)
    await gateway.meta.set_default(trio.organization.numbers[0], DOWN)
    for _ in range(10):
        assert (await trio.send(text(5))).json["provider"] == TWILIO
    answer = await trio.send(text(1_700))
    assert (answer.status, answer.json["code"]) == (502, "no_provider_left"), answer.raw
    attempts = (await trio.organization.message(answer.json["id"]))["attempts"]
    assert [attempt["class"] for attempt in attempts] == ["Unsupported"]


async def test_a_sticker_goes_out_by_a_linked_phone(trio: Trio) -> None:
    """By the call that makes a sticker of it, and no picture."""
    await trio.use(WEB)
    answer = await trio.send(medium("sticker"))
    assert answer.status == 200, answer.raw
    assert trio.waha.sends[-1].call == "sendSticker"


async def test_the_limits_are_shown(gateway: Gateway) -> None:
    """With their source, beside the capabilities."""
    organization = await gateway.organization()
    listed = (await organization.call("GET", "/integrations/whatsapp/providers?details=true")).json["providers"]
    [twilio] = [one for one in listed if one["name"] == TWILIO]
    assert twilio["limits"]["text"]["at_most"] == {"text_characters": 1600}
    assert twilio["limits"]["text"]["source"].startswith("https://www.twilio.com/docs/")
