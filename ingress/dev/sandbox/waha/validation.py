"""What WAHA takes as the body of each of its calls.

Source: https://waha.devlike.pro/docs/how-to/send-messages, https://waha.devlike.pro/docs/how-to/sessions
"""

from typing import Any

from .errors import WahaError
from .rules import (
    Rule,
    anything,
    array,
    check,
    choice,
    content,
    filled,
    flag,
    matching,
    number,
    one_of,
    string,
    struct,
    texts,
)
from .server import WahaServer

# In the order in which a server lists them (recorded/events_400.json).
EVENTS = (
    "session.status", "message", "message.reaction", "message.any", "message.ack", "message.ack.group",
    "message.waiting", "message.revoked", "message.edited", "state.change", "group.join", "group.leave",
    "group.v2.join", "group.v2.leave", "group.v2.update", "group.v2.participants", "presence.update", "poll.vote",
    "poll.vote.failed", "chat.archive", "call.received", "call.accepted", "call.rejected", "label.upsert",
    "label.deleted", "label.chat.added", "label.chat.deleted", "event.response", "event.response.failed",
    "engine.event", "*",
)  # fmt: skip

NAME = matching(r"[A-Za-z0-9_-]{1,54}", "a name of letters, digits, - and _")
# The protocol's own form, @s.whatsapp.net, is not for sending.
CHAT = matching(r"[0-9]{5,20}@(c\.us|lid)|[0-9-]{5,40}@(g\.us|newsletter)", "a chat id")
WHOLE_ID = matching(
    r"(true|false)_[0-9-]+@(c\.us|lid|g\.us|newsletter)_[0-9A-Za-z]+(_[0-9]+@(c\.us|lid))?", "the id of a message"
)
CHOSEN_ID = matching(r"[0-9A-F]{16,40}", "an id as /new-message-id gives them")
URL = matching(r"https?://[^\s/]\S*", "a URL address")
MENTION = matching(r"all|[0-9]{5,20}@(c\.us|lid)", "a person's chat id, or all")

FILE = one_of(struct({"mimetype": filled}, {"filename": filled, "url": URL, "data": content}), "url", "data")
CARD = one_of(
    struct(
        {},
        {
            "vcard": matching(r"BEGIN:VCARD\r?\n[\s\S]+END:VCARD\s*", "a vCard"),
            "fullName": filled,
            "organization": filled,
            "phoneNumber": filled,
            "whatsappId": matching(r"[0-9]{5,20}", "digits"),
        },
    ),
    "vcard",
    "fullName",
)
ROW = struct({"title": filled, "rowId": filled}, {"description": string})
SECTION = struct({"title": filled, "rows": array(ROW, 1, 10)})
LIST = struct(
    {"title": filled, "button": filled, "sections": array(SECTION, 1, 10)}, {"description": string, "footer": string}
)
POLL = struct({"name": filled, "options": array(filled, 2, 12), "multipleAnswers": flag})

TO: dict[str, Rule] = {"session": NAME, "chatId": CHAT}
CAPTION: dict[str, Rule] = {"caption": string}

# Call -> (what it must have besides session and chat, what it may have besides `reply_to`).
SENDS: dict[str, tuple[dict[str, Rule], dict[str, Rule]]] = {
    "sendText": (
        {"text": filled},
        {"mentions": array(MENTION), "linkPreview": flag, "linkPreviewHighQuality": flag, "id": CHOSEN_ID},
    ),
    "sendImage": ({"file": FILE}, CAPTION),
    "sendFile": ({"file": FILE}, CAPTION),
    "sendVoice": ({"file": FILE}, {"convert": flag}),
    "sendVideo": ({"file": FILE}, {**CAPTION, "asNote": flag, "convert": flag}),
    "sendSticker": ({"file": FILE}, {}),
    "sendLocation": (
        {"latitude": number(-90, 90), "longitude": number(-180, 180)},
        {"title": string, "id": CHOSEN_ID},
    ),
    "sendContactVcard": ({"contacts": array(CARD, 1)}, {"id": CHOSEN_ID}),
    "sendPoll": ({"poll": POLL}, {"id": CHOSEN_ID}),
    "sendList": ({"message": LIST}, {}),
    "sendButtons": ({"body": string, "buttons": array(anything, 1)}, {"header": string, "footer": string}),
}
REACTION = struct({"session": NAME, "messageId": WHOLE_ID, "reaction": string})
SEEN = struct(TO, {"messageIds": array(WHOLE_ID, 1), "participant": CHAT})
# Before versions knew of several.
SEEN_ONE = struct({**TO, "messageId": WHOLE_ID}, {"participant": CHAT})
TYPING = struct(TO)
PAIRING = struct({"phoneNumber": matching(r"[1-9][0-9]{6,14}", "digits")})

RETRIES = struct(
    {},
    {
        "policy": choice("constant", "linear", "exponential"),
        "delaySeconds": number(0, 86_400),
        "attempts": number(0, 1000),
    },
)
WEBHOOK = struct(
    {"url": URL, "events": array(string, 1)},
    {
        "hmac": struct({}, {"key": filled}),
        "retries": RETRIES,
        "customHeaders": array(struct({"name": filled, "value": string})),
    },
)
CONFIG = struct(
    {},
    {
        "metadata": texts,
        "proxy": struct({"server": filled}, {"username": string, "password": string}),
        "debug": flag,
        "ignore": struct({}, dict.fromkeys(("status", "groups", "channels", "broadcast"), flag)),
        "client": struct({}, {"deviceName": string, "browserName": string}),
        "noweb": struct({}, {"store": struct({"enabled": flag}, {"fullSync": flag}), "markOnline": flag}),
        "gows": anything,
        "webjs": struct({}, {"tagsEventsOn": flag}),
        "webhooks": array(WEBHOOK),
    },
)
NEW_SESSION = struct({"name": NAME}, {"start": flag, "config": CONFIG, "apps": anything})
UPDATE = struct({}, {"config": CONFIG, "apps": anything})


def check_session(rule: Rule, body: Any, server: WahaServer) -> None:
    """Raise `WahaError` with all that is wrong with the *body* of a session: an unknown event refuses all of it."""
    check(rule, body)
    known = [event for event in EVENTS if server.has(event)]
    words = f"each value in events must be one of the following values: {', '.join(known)}"
    hooks = (body.get("config") or {}).get("webhooks") or []
    if wrong := [place for place, hook in enumerate(hooks) if not set(known).issuperset(hook["events"])]:
        raise WahaError(400, [f"config.webhooks.{place}.{words}" for place in wrong])


def check_send(call: str, body: Any) -> None:
    """Raise `WahaError` with all that is wrong with the *body* of a send."""
    required, optional = SENDS[call]
    check(struct({**TO, **required}, {"reply_to": WHOLE_ID, **optional}), body)
    mentioned = [one.split("@")[0] for one in body.get("mentions") or () if one != "all"]
    if silent := [digits for digits in mentioned if f"@{digits}" not in body["text"]]:
        raise WahaError(400, [f"text must contain each of mentions, but not {silent[0]}"])


def check_query(query: dict[str, str], *known: str) -> None:
    """Raise `WahaError` for a parameter that no such call has, or a limit that is no number."""
    wrong = [f"property {name} should not exist" for name in query if name not in known]
    limits = ("limit", "offset", "filter.timestamp.gte", "filter.timestamp.lte")
    wrong += [f"{name} must be a number string" for name in limits if not query.get(name, "0").isdecimal()]
    if wrong:
        raise WahaError(400, wrong)
