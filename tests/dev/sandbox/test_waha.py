"""The simulated WAHA server is strict where WAHA is, answers as each engine does, and remembers what went out."""

from typing import Any, get_args

import aiohttp
import pytest

from ingress.dev.sandbox import WahaSimulator, example_session
from ingress.dev.sandbox.waha.bodies import IN_BROWSER, Engine, lid_of, new_event_id
from providers import (
    Audio,
    Button,
    Buttons,
    Contacts,
    Document,
    Image,
    Interactive,
    ListMenu,
    ListRow,
    ListSection,
    Location,
    Reaction,
    Recipient,
    Rejected,
    Sticker,
    Text,
    Unsupported,
    Video,
)
from providers.whatsapp_web.addresses import chosen_id

from .waha_kit import CHAT, PEER, Phone

ENGINES = get_args(Engine)
every_engine = pytest.mark.parametrize("phone", ENGINES, indirect=True)
GROUP = "120363000000000042@g.us"
URL = "https://files.example.org/a"
UNTITLED = {"title": "a", "button": "b", "sections": [{"title": "", "rows": [{"title": "c", "rowId": "d"}]}]}


# ---------------------------------------------------------------- who asks, and what


async def test_keys_sessions_and_paths_are_checked(phone: Phone) -> None:
    """401 without a key that fits, 403 for another session's, 404 for what is not there; some paths are open."""
    waha, mine = phone.waha, f"/api/sessions/{phone.session.name}"
    other = example_session(2)
    await waha.add_session(other)
    assert await phone.call("GET", mine, key="wrong") == (401, {"message": "Unauthorized", "statusCode": 401})
    status, body = await phone.call("GET", f"/api/sessions/{other.name}")
    assert (status, body) == (403, {"message": "Forbidden resource", "error": "Forbidden", "statusCode": 403})
    for path, words in (("/api/sessions/nobody", "Session not found"), ("/api/nobody/auth/qr", "We didn't find a")):
        status, body = await phone.call("GET", path, key=waha.api_key)
        assert (status, body["message"].startswith(words)) == (404, True)
    status, body = await phone.call("GET", "/api/nonsense/at/all", key=waha.api_key)
    assert (status, body["error"]) == (404, "Not Found")
    assert await phone.call("GET", "/ping", key="") == (200, {"message": "pong"})
    assert (await phone.call("GET", "/health", key=""))[0] == 200
    waha.healthy = False
    assert (await phone.call("GET", "/health"))[0] == 503
    status, version = await phone.call("GET", "/api/server/version", key=waha.api_key)
    assert (status, version["engine"]) == (200, "GOWS")
    assert [one["name"] for one in (await phone.call("GET", "/api/sessions", key=waha.api_key))[1]] == [
        phone.session.name,
        other.name,
    ]
    assert waha.call_count("GET sessions/{session}", phone.session.name) == 1


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("sendText", {"text": None}, "text must be a string"),
    ("sendText", {"text": ""}, "text should not be empty"),
    ("sendText", {"text": 5}, "text must be a string"),
    ("sendText", {"chatId": None}, "chatId must be a string"),
    ("sendText", {"chatId": "5511987654321@s.whatsapp.net"}, "chatId must be a chat id"),
    ("sendText", {"chatId": PEER}, "chatId must be a chat id"),
    ("sendText", {"texto": "x"}, "property texto should not exist"),
    ("sendText", {"id": "lower"}, "id must be an id"),
    ("sendText", {"reply_to": "3EB0AAAA"}, "reply_to must be the id of a message"),
    ("sendText", {"mentions": [CHAT]}, "text must contain each of mentions"),
    ("sendText", {"linkPreview": "no"}, "linkPreview must be a boolean value"),
    ("sendImage", {"text": None}, "file must be an object"),
    ("sendImage", {"text": None, "file": {"mimetype": "image/png"}}, "exactly one of url, data"),
    ("sendImage", {"text": None, "file": {"mimetype": "image/png", "url": URL, "data": "AA=="}}, "exactly one of"),
    ("sendImage", {"text": None, "file": {"mimetype": "image/png", "url": "ftp://x"}}, "file.url must be a URL"),
    ("sendImage", {"text": None, "file": {"mimetype": "image/png", "data": "%"}}, "file.data must be base64"),
    ("sendImage", {"text": None, "file": {"mimetype": "image/png", "url": URL}, "id": "A" * 20}, "property id"),
    ("sendLocation", {"text": None, "latitude": 91, "longitude": 0}, "latitude must be a number between -90"),
    ("sendLocation", {"text": None, "latitude": "1", "longitude": 0}, "latitude must be a number"),
    ("sendContactVcard", {"text": None, "contacts": []}, "contacts must be an array"),
    ("sendContactVcard", {"text": None, "contacts": [{"phoneNumber": "1"}]}, "contacts.0 must have exactly one"),
    ("sendList", {"text": None, "message": {"title": "a", "button": "b", "sections": []}}, "message.sections must"),
    ("sendList", {"text": None, "message": UNTITLED}, "message.sections.0.title should not be empty"),
]


@pytest.mark.parametrize(("call", "change", "words"), BAD, ids=str)
async def test_what_waha_refuses_is_refused(phone: Phone, call: str, change: dict[str, Any], words: str) -> None:
    """400 with all that is wrong; nothing goes out, and the call is counted."""
    answer = await phone.post(call, **change)
    body = await answer.json()
    assert (answer.status, body["statusCode"], body["error"]) == (400, 400, "Bad Request")
    assert words in "; ".join(body["message"])
    assert phone.waha.accepted == []
    assert [send.status for send in phone.waha.sends] == [400]
    assert phone.waha.call_count(f"POST {call}", phone.session.name) == 1


async def test_all_that_is_wrong_is_in_one_answer(phone: Phone) -> None:
    answer = await phone.post("sendText", chatId=None, text=None)
    assert (await answer.json())["message"] == ["chatId must be a string", "text must be a string"]
    async with phone.http.post(
        f"{phone.base_url}/api/sendText",
        data=b"{",
        headers={"X-Api-Key": phone.session.api_key, "Content-Type": "application/json"},
    ) as broken:
        assert (broken.status, (await broken.json())["message"]) == (400, "Unexpected token in JSON")


# ---------------------------------------------------------------- what goes out

FIRST = Interactive(
    action=ListMenu(button="Ver", sections=[ListSection(rows=[ListRow(id="1", title="Um")])]), body="Escolha"
)
CONTENTS: list[tuple[Any, str, Any]] = [
    (Text(body="Olá 👍🏾"), "sendText", ("text", "Olá 👍🏾")),
    (Image(url=URL, caption="foto"), "sendImage", ("caption", "foto")),
    (Video(url=URL), "sendVideo", ("asNote", False)),
    (Audio(url=URL, voice=True), "sendVoice", ("convert", True)),
    (Audio(url=URL), "sendFile", ("file", {"mimetype": "audio/mpeg", "url": URL})),
    (Sticker(url=URL), "sendSticker", ("file", {"mimetype": "image/webp", "url": URL})),
    (Document(url=URL, filename="a.pdf", caption="b"), "sendFile", ("caption", "b")),
    (Location(latitude=-23.5, longitude=-46.6, name="MASP"), "sendLocation", ("title", "MASP")),
    (Contacts(contacts=[{"name": {"formatted_name": "Zoë"}}]), "sendContactVcard", None),
    (Contacts(contacts=[{"name": {"formatted_name": "Zoë"}, "emails": [{"email": "z@a"}]}]), "sendContactVcard", None),
    (Interactive(action=Buttons(buttons=[Button(id="1", title="Sim")]), body="?"), "sendText", ("text", "?\n1. Sim")),
    (FIRST, "sendList", None),
    (Reaction(message_id=f"false_{CHAT}_3EB0AA", emoji="👍"), "reaction", ("reaction", "👍")),
]  # fmt: skip


@every_engine
@pytest.mark.parametrize(("content", "call", "part"), CONTENTS, ids=str)
async def test_what_our_adapter_sends_is_taken(phone: Phone, content: Any, call: str, part: Any) -> None:
    """Each kind of content by each engine: the adapter understands the answer, and the record has the id it read."""
    if phone.session.engine in IN_BROWSER and call in ("sendList", "sendVideo"):
        with pytest.raises(Unsupported) as refused:
            await phone.run(phone.adapter.send_message(phone.message(content)))
        assert refused.value.code == "not_implemented"
        assert phone.waha.accepted == []
        return
    result = await phone.run(phone.adapter.send_message(phone.message(content)))
    [message] = phone.waha.accepted
    assert phone.waha.by_id(result.provider_message_id) == message
    assert (message.call, message.session) == (call, phone.session.name)
    if part is not None:
        assert message.body[part[0]] == part[1]
    if message.chosen_id is not None and phone.session.engine not in IN_BROWSER:
        assert message.id == message.chosen_id == chosen_id("gw1:M1:1")
    assert phone.waha.sends[0].id == message.id


@every_engine
async def test_a_second_send_with_the_same_id_is_no_second_message(phone: Phone) -> None:
    """But with WEBJS, which makes ids of its own: there the record shows that somebody got it twice."""
    message = phone.message(Text(body="Once"))
    first, again = [await phone.run(phone.adapter.send_message(message)) for _ in range(2)]
    if phone.session.engine in IN_BROWSER:
        assert first.provider_message_id != again.provider_message_id
        assert list(phone.waha.duplicates().values()) == [2]
        return
    assert first == again
    assert len(phone.waha.accepted) == 1
    assert [send.repeated for send in phone.waha.sends] == [False, True]
    assert phone.waha.duplicates() == {}
    other = phone.message(Text(body="Once"), "gw1:M2:1")
    await phone.run(phone.adapter.send_message(other))
    assert len(phone.waha.by_tracker(chosen_id("gw1:M2:1"))) == 1


@every_engine
async def test_groups_hidden_numbers_and_quotes(phone: Phone) -> None:
    """The id of an own message in a group ends in our own address."""
    to_group = phone.message(Text(body="Oi @5511987654321"), "gw1:G:1", to=Recipient(group_id=GROUP))
    grouped = await phone.run(phone.adapter.send_message(to_group))
    assert phone.waha.accepted[0].body["mentions"] == [CHAT]
    status, listed = await phone.call("GET", f"/api/{phone.session.name}/chats/{GROUP}/messages")
    if phone.session.engine == "NOWEB":
        assert status == 400
    else:
        [held] = listed
        assert held["id"] == f"true_{GROUP}_{grouped.provider_message_id}_{phone.session.phone[1:]}@c.us"
    lid = lid_of(PEER)
    await phone.run(phone.adapter.send_message(phone.message(Text(body="a"), "gw1:L:1", to=Recipient(lid=lid))))
    assert phone.waha.accepted[1].chat == lid
    quoting = phone.message(Text(body="re"), "gw1:R:1", reply_to=f"false_{CHAT}_3EB0AA")
    await phone.run(phone.adapter.send_message(quoting))
    assert phone.waha.accepted[2].body["reply_to"] == f"false_{CHAT}_3EB0AA"
    answer = await phone.post(
        "sendList", chatId=GROUP, text=None,
        message={"title": "a", "button": "b", "sections": [{"title": "e", "rows": [{"title": "c", "rowId": "d"}]}]},
    )  # fmt: skip
    assert answer.status == (501 if phone.session.engine in IN_BROWSER else 422)


async def test_numbers_that_whatsapp_knows_otherwise(phone: Phone) -> None:
    """The adapter asks, and writes to the chat that there is; nobody gets a message at a number that is none."""
    phone.waha.set_person(PEER, "551187654321@c.us")
    await phone.run(phone.adapter.send_message(phone.message(Text(body="Oi"))))
    assert [message.chat for message in phone.waha.accepted] == ["551187654321@c.us"]
    assert [(send.status, send.id is not None) for send in phone.waha.sends] == [(500, False), (None, True)]
    phone.waha.set_person(PEER, None)
    with pytest.raises(Rejected) as refused:
        await phone.run(phone.adapter.send_message(phone.message(Text(body="Oi"), "gw1:M2:1")))
    assert refused.value.code == "not_on_whatsapp"
    assert len(phone.waha.accepted) == 1


async def test_files_are_fetched_where_that_is_switched_on(phone: Phone) -> None:
    """As the real server does, before it sends: what cannot be fetched is not sent."""
    phone.waha.fetches = True
    missing = f"{phone.base_url}/api/nothing/here"
    with pytest.raises(Rejected) as refused:
        await phone.run(phone.adapter.send_message(phone.message(Image(url=missing))))
    assert (refused.value.code, phone.waha.accepted) == ("file_unreachable", [])
    assert phone.waha.sends[0].status == 500
    await phone.run(phone.adapter.send_message(phone.message(Image(url=f"{phone.base_url}/ping"))))
    assert len(phone.waha.accepted) == 1


async def test_buttons_do_not_work_anywhere(phone: Phone) -> None:
    answer = await phone.post("sendButtons", text=None, body="?", buttons=[{"type": "reply", "text": "a"}])
    assert (answer.status, phone.waha.accepted) == (501, [])


async def test_a_crash_repeats_the_request(phone: Phone) -> None:
    """As WAHA's own do, with all that was written: whoever logs it must know."""
    phone.waha.set_person(PEER, None)
    body = await (await phone.post("sendText", text="secret words")).json()
    assert body["request"]["body"]["text"] == "secret words"
    assert body["exception"]["message"] == "2 UNKNOWN: no LID found for 5511987654321@s.whatsapp.net from server"


async def test_what_was_read_and_who_types(phone: Phone) -> None:
    """No sends, and kept apart."""
    read = f"false_{CHAT}_3EB0AA"
    await phone.run(phone.adapter.mark_read(read, Recipient(phone=PEER), typing=True))
    status, answer = await phone.call("POST", "/api/stopTyping", {"session": phone.session.name, "chatId": CHAT})
    assert (status, answer) == (201, {"result": True})
    shown = [(one.call, one.chat, one.message_ids) for one in phone.waha.receipts]
    assert shown == [("sendSeen", CHAT, [read]), ("startTyping", CHAT, []), ("stopTyping", CHAT, [])]
    assert phone.waha.sends == []


# ---------------------------------------------------------------- looking for what went out


@every_engine
@pytest.mark.parametrize("hides", [False, True], ids=["phone", "hidden"])
async def test_a_message_is_found_by_the_id_that_was_chosen(phone: Phone, hides: bool) -> None:
    """By itself, or, where the engine keeps the chat under a hidden number, among the last of the chat."""
    state = phone.waha.state_of(phone.session)
    state.hides = hides
    state.config = {"noweb": {"store": {"enabled": True}}}
    message = phone.message(Text(body="Oi"))
    assert await phone.run(phone.adapter.find_message(message)) is None
    result = await phone.run(phone.adapter.send_message(message))
    found = await phone.run(phone.adapter.find_message(message))
    if phone.session.engine in IN_BROWSER:
        assert found is None
        return
    assert found is not None
    assert found.provider_message_id == result.provider_message_id
    assert await phone.run(phone.adapter.find_message(phone.message(Text(body="Oi"), "gw1:M2:1"))) is None


async def test_the_last_messages_of_a_chat(phone: Phone) -> None:
    """Newest first, of both sides or one, page by page; unknown parameters and limits that are none are refused."""
    path = f"/api/{phone.session.name}/chats/{CHAT}/messages"
    phone.waha.inbound(phone.session, seed=1).text("one", phone=PEER)
    for text in ("two", "three"):
        await phone.post("sendText", text=text)

    async def texts(query: str) -> list[str]:
        status, listed = await phone.call("GET", f"{path}?{query}")
        assert status == 200, listed
        return [one["body"] for one in listed]

    assert await texts("limit=10") == ["three", "two", "one"]
    assert await texts("limit=1&offset=1&downloadMedia=false") == ["two"]
    assert await texts("filter.fromMe=true") == ["three", "two"]
    assert await texts("filter.fromMe=false") == ["one"]
    assert await texts("filter.timestamp.lte=1") == []
    for query in ("limit=all", "colour=red"):
        assert (await phone.call("GET", f"{path}?{query}"))[0] == 400
    assert (await phone.call("GET", f"{path}/true_{CHAT}_3EB0FF"))[0] == 404


@pytest.mark.parametrize("phone", ["NOWEB"], indirect=True)
async def test_noweb_keeps_chats_only_where_it_is_set_to(phone: Phone) -> None:
    status, body = await phone.call("GET", f"/api/{phone.session.name}/chats/{CHAT}/messages")
    assert (status, "Enable NOWEB store" in body["message"]) == (400, True)


async def test_new_ids(phone: Phone, waha: WahaSimulator) -> None:
    """In the style of the engine; the WEBJS library makes its own only."""
    status, answer = await phone.call("GET", f"/api/{phone.session.name}/new-message-id")
    assert (status, answer["id"][:4], len(answer["id"])) == (200, "3EB0", 22)
    assert (await phone.post("sendText", id=answer["id"])).status == 201
    await waha.add_session(example_session(2, "WEBJS"))
    assert (await phone.call("GET", "/api/sandbox-2/new-message-id", key=waha.api_key))[0] == 501
    event_id = new_event_id(waha.rng)
    assert (event_id[:6], len(event_id), event_id == event_id.lower()) == ("evt_01", 30, True)


async def test_a_seed_makes_the_ids_the_same(http: aiohttp.ClientSession) -> None:
    seen = []
    for _ in range(2):
        async with WahaSimulator(seed=3) as waha:
            session = example_session(1)
            await waha.add_session(session)
            await Phone(waha, session, http).post("sendText")
            seen.append(waha.accepted[0].id)
    assert seen[0] == seen[1]
