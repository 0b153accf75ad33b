"""WAHA sessions: what their states mean, how they are configured, what may be wrong with them.

Source: https://waha.devlike.pro/docs/how-to/sessions, https://waha.devlike.pro/docs/how-to/events,
    and the answers in tests/samples/whatsapp_web.
"""

from typing import Any, Literal

import msgspec

from ..._calls import JsonApi
from ..._values import Object, listed, mapping, moment, present, text, texts
from ..._verdicts import unexpected_answer
from ...base import Check, Flow, Response
from ...errors import SendError
from ...messages import Health, ProviderStatus, Quality, Trouble, worst
from ...phones import phone_key
from ...signing import same_secret
from ..addresses import phone_of
from ..errors import ONLY_DEFAULT, is_conflict, is_missing_session, known_events
from .server import Server

PairingState = Literal["starting", "scan", "linked", "failed"]

# `message.any` rather than `message`: it has what the owner writes by hand, and both together repeat everything.
EVENTS = (
    "session.status",
    "message.any",
    "message.reaction",
    "message.ack",
    "message.ack.group",
    "message.revoked",
    "message.edited",
    "message.waiting",
    "poll.vote",
    "poll.vote.failed",
    "call.received",
    "call.accepted",
    "call.rejected",
    "event.response",
    "event.response.failed",
    "group.v2.join",
    "group.v2.leave",
    "group.v2.update",
    "group.v2.participants",
)
# WAHA repeats 4xx as well, and forgets what it has not delivered when it restarts. An hour, and never more than minutes
# apart: pauses that double would leave a webhook for another hour after an outage of an hour.
_RETRIES = {"policy": "linear", "delaySeconds": 10, "attempts": 25}


class SessionState(msgspec.Struct, frozen=True, gc=False):
    """``word`` is ours, ``advice`` for people."""

    word: str
    health: Health
    quality: Quality
    pairing: PairingState
    advice: str | None = None
    repairable: bool = True  # by setting the account up, or by scanning: no reason to refuse the configuration

    @property
    def trouble(self) -> Trouble:
        """What is wrong with a session that does not work."""
        return "not_paired" if self.pairing == "scan" else "session_lost"


_PASSKEY_ADVICE = "Confirm the link with the passkey, in the dashboard of the WAHA server."
_STATES = {
    "STOPPED": SessionState(
        "stopped", "down", "disconnected", "failed", "Set the account up again: that starts the session."
    ),
    # A reconnect takes seconds, and NOWEB makes one every half hour.
    "STARTING": SessionState("starting", "degraded", "poor", "starting", "The session is connecting: wait a minute."),
    "SCAN_QR_CODE": SessionState(
        "scan_qr", "down", "disconnected", "scan", "Link a phone: scan the QR code with WhatsApp."
    ),
    "PASSKEY_REQUIRED": SessionState("passkey_required", "down", "disconnected", "scan", _PASSKEY_ADVICE),
    "PASSKEY_CONFIRMATION_REQUIRED": SessionState(
        "passkey_confirmation_required", "down", "disconnected", "scan", _PASSKEY_ADVICE
    ),
    "WORKING": SessionState("working", "retest", "excellent", "linked"),
    "FAILED": SessionState(
        "failed",
        "down",
        "disconnected",
        "failed",
        "Logged out, banned, or the QR code expired: set the account up again, then link the phone anew.",
    ),
}
_UNKNOWN = SessionState(
    "unknown", "down", "disconnected", "failed", "See the session in the WAHA dashboard.", repairable=False
)
MISSING = SessionState(
    "missing", "down", "disconnected", "failed", "Set the account up: that creates the session at the WAHA server."
)

_CAPPING: dict[str, tuple[Quality, str]] = {
    "FIRST_WARNING": ("good", "message_capping_first_warning"),
    "SECOND_WARNING": ("good", "message_capping_second_warning"),
    "CAPPED": ("poor", "message_capping_capped"),
}


def path_of(name: str) -> str:
    return f"api/sessions/{name}"


def find(api: JsonApi, name: str) -> Flow[Object | None]:
    """What the server says about the session; None where there is none."""
    response = yield api.get(path_of(name))
    if is_missing_session(response):
        return None
    session = api.answered(response)
    if not isinstance(session, dict) or text(session, "status") is None:
        raise unexpected_answer()
    return session


def state_of(session: Object) -> SessionState:
    """The state in *session*, or in the payload of a ``session.status``. Words yet to come are not working."""
    return _STATES.get(text(session, "status") or "", _UNKNOWN)


def restrictions(me: Object) -> list[tuple[Quality, str]]:
    """The punishments that newest builds report of an account, each with our word for it."""
    found: list[tuple[Quality, str]] = []
    if mapping(me, "reachoutTimelock").get("isActive") is True:
        # Chats that exist go on, new ones are refused.
        found.append(("poor", "reachout_timelock"))
    capping = _CAPPING.get(text(mapping(me, "messageCapping"), "cappingStatus") or "")
    return [*found, capping] if capping else found


def session_status(session: Object | None, server: Server, keys: tuple[str, ...]) -> ProviderStatus:
    """How the account of *session*, an answer about it, is doing; None where there is no session."""
    state = MISSING if session is None else state_of(session)
    session = session or {}
    me = mapping(session, "me")
    is_working, punished = state.word == "working", restrictions(me)
    found = [*([(state.quality, state.word)] if session and not is_working else []), *punished]
    trouble, advice = (_trouble(session, server, keys, punished) or (None, None)) if is_working else (None, None)
    return ProviderStatus(
        is_connected=is_working,
        connection_quality=worst({quality for quality, _ in found}, state.quality),
        last_activity=moment(mapping(session, "timestamps").get("activity")),
        session_info=present(
            state=state.word,
            reasons=[reason for _, reason in found],
            sender=phone_of(me),
            name=text(me, "pushName"),
            engine=text(mapping(session, "engine"), "engine"),
            version=server.version,
            tier=server.tier,
        ),
        detail=advice or state.advice,
        trouble=trouble if is_working else state.trouble,
    )


def _trouble(
    session: Object, server: Server, keys: tuple[str, ...], punished: list[Any]
) -> tuple[Trouble, str | None] | None:
    """What is wrong with a session that works."""
    if punished:
        return "account_restricted", None
    if not any(is_signed_with(entry, key) for entry in webhooks_of(session) for key in keys):
        # A Core of before 2026.6.1 forgets it when it restarts, and the dashboard writes all anew.
        return "webhook_missing", "The session posts nothing here: set the account up again."
    if not server.signs:
        return "webhook_missing", f"The WAHA server ({server.version}) does not sign webhooks: update it."
    return None


# ---------------------------------------------------------------- configuration


def new_session(name: str, webhooks: list[Any]) -> Object:
    """The body that creates and starts a session. Offline, so that the phone goes on showing new messages.

    NOWEB keeps messages only where it is configured to, and only what is kept can be asked for when an answer was lost.
    """
    noweb = {"markOnline": False, "store": {"enabled": True, "fullSync": False}}
    config = present(noweb=noweb, webjs={"tagsEventsOn": True}, webhooks=webhooks)
    return {"name": name, "start": True, "config": config}


# Engine -> what its configuration needs for what is promised, and what does not work without.
_NEEDED: dict[str, tuple[Object, str]] = {
    "WEBJS": (
        {"webjs": {"tagsEventsOn": True}},
        "receipts of messages to groups do not come: webjs.tagsEventsOn is off",
    ),
    "NOWEB": (
        {"noweb": {"store": {"enabled": True}}},
        "the session keeps no messages to be asked for: noweb.store is off",
    ),
}


def _needed(session: Object) -> tuple[Object, str]:
    return _NEEDED.get(text(mapping(session, "engine"), "engine") or "", ({}, ""))


def repaired(session: Object) -> Object:
    """*session* as its engine needs it, all else as it is; the very same where it lacks nothing."""
    config = mapping(session, "config")
    better = _laid_over(config, _needed(session)[0])
    return session if better == config else {**session, "config": better}


def _laid_over(config: Object, needed: Object) -> Object:
    below = {
        name: _laid_over(mapping(config, name), item) if isinstance(item, dict) else item
        for name, item in needed.items()
    }
    return {**config, **below}


def webhook(url: str, key: str, known: list[str] | None = None) -> Object:
    """The webhook of ours, with those events that are *known* to the server."""
    events = [event for event in EVENTS if known is None or event in known]
    return {"url": url, "events": events, "hmac": {"key": key}, "retries": _RETRIES}


def webhooks_of(session: Object) -> list[Any]:
    return listed(mapping(session, "config"), "webhooks")


def is_signed_with(entry: Any, key: str) -> bool:
    """Whether *entry*, a webhook of a session, is one of ours: nobody else has the key."""
    return isinstance(entry, dict) and same_secret(text(mapping(entry, "hmac"), "key") or "", key)


def with_webhooks(session: Object, webhooks: list[Any]) -> Object:
    """The body that gives *session* these webhooks and leaves all else: what a PUT leaves out is gone."""
    return present(config={**mapping(session, "config"), "webhooks": webhooks}, apps=session.get("apps"))


def foreign(session: Object, keys: tuple[str, ...], callback_url: str | None) -> list[Any]:
    """The webhooks of *session* that are others': neither signed with one of *keys* nor posted to *callback_url*."""
    return [
        entry
        for entry in webhooks_of(session)
        if not any(is_signed_with(entry, key) for key in keys)
        and not (isinstance(entry, dict) and callback_url is not None and entry.get("url") == callback_url)
    ]


def has_same(session: Object, wanted: list[Any]) -> bool:
    """Whether *session* has these webhooks already. WAHA adds fields of its own to them, absent or null."""
    present = webhooks_of(session)
    return len(present) == len(wanted) and all(
        isinstance(held, dict) and isinstance(entry, dict) and {**held, **entry} == held
        for held, entry in zip(present, wanted, strict=True)
    )


def write_webhook(api: JsonApi, name: str, callback_url: str, keys: tuple[str, ...], *, repair: bool) -> Flow[None]:
    """Have the session post to *callback_url*, signed with the first of *keys*, its other webhooks of ours gone."""
    response = yield from _written(api, name, webhook(callback_url, keys[0]), keys, repair=repair)
    if response is not None and (known := known_events(response)) is not None:
        # A server refuses all of it for one event that it does not know.
        response = yield from _written(api, name, webhook(callback_url, keys[0], known), keys, repair=repair)
    if response is not None:
        api.answered(response)


def _written(api: JsonApi, name: str, ours: Object, keys: tuple[str, ...], *, repair: bool) -> Flow[Response | None]:
    """The answer to writing *ours* into the session, which is created where it is missing; None: it is there."""
    session = yield from find(api, name)
    if session is None:
        response = yield api.post("api/sessions", new_session(name, [ours]))
        if not is_conflict(response):
            return response
        session = (yield from find(api, name)) or {}
    wanted = repaired(session) if repair else session
    webhooks = [*foreign(session, keys, ours["url"]), ours]
    if wanted is session and has_same(session, webhooks):
        return None
    return (yield api.request("PUT", path_of(name), with_webhooks(wanted, webhooks)))


# ---------------------------------------------------------------- connection test


def checks(session: Object, *, key: str, own_phone: str | None, callback_url: str | None) -> list[Check]:
    """What is right and wrong with *session*, an answer about it."""
    found = [_state_check(state_of(session)), _webhook_check(session, key, callback_url)]
    if repaired(session) is not session:
        fix = "Repair the account (provider/repair): that switches it on, and the session restarts."
        found.append(Check.failed("settings", _needed(session)[1], fix))
    me = mapping(session, "me")
    if own_phone and (linked := phone_of(me)):
        found.append(_number_check(linked, own_phone))
    if punished := [reason for _, reason in restrictions(me)]:
        found.append(_restriction_check(punished))
    return found


def missing_check() -> Check:
    return _state_check(MISSING)


def refused_checks(error: SendError) -> list[Check]:
    """What a test finds that is refused: the key opened the server where only the name of the session is wrong."""
    if error.code == ONLY_DEFAULT:
        fix = "Put `default` into session, or update the server to 2026.6.1."
        return [Check.ok("credentials"), Check.failed("session", error.detail, fix, fatal=True)]
    fix = "Put a key into api_key that may use the session, and check base_url."
    return [Check.failed("credentials", error.detail, fix, fatal=True)]


def _state_check(state: SessionState) -> Check:
    passed = state.word == "working"
    return Check(name="session", passed=passed, detail=state.word, fix=state.advice, fatal=not state.repairable)


def _number_check(linked: str, own_phone: str) -> Check:
    fix = "Correct the phone number of the configuration, or link the phone that has it."
    detail = f"the session is linked to {linked}"
    return Check(name="number", passed=phone_key(linked) == phone_key(own_phone), detail=detail, fix=fix, fatal=False)


def _restriction_check(reasons: list[str]) -> Check:
    fix = "Start no new conversations until WhatsApp lifts it; answers still go out."
    return Check.failed("restrictions", ", ".join(reasons), fix)


def _webhook_check(session: Object, key: str, callback_url: str | None) -> Check:
    fix = "Set the account up again: that writes the webhook into the session."
    ours = [entry for entry in webhooks_of(session) if is_signed_with(entry, key)]
    if not ours:
        detail = "no webhook of the session is signed with the HMAC key: real messages will not arrive"
        return Check.failed("webhook", detail, fix)
    reached = [entry for entry in ours if callback_url in (None, text(entry, "url"))]
    if not reached:
        return Check.failed("webhook", "the webhooks of the session go to another address", fix)
    missing = _missing_events(reached)
    left_out = f"the webhook leaves out {', '.join(missing)}" if missing else None
    if missing:
        fix += " A server that does not know them refuses them, and has to be updated first."
    return Check(name="webhook", passed=not missing, detail=left_out, fix=fix, fatal=False)


def _missing_events(webhooks: list[Object]) -> list[str]:
    subscribed = {event for entry in webhooks for event in texts(entry, "events")}
    # With `*` everything comes.
    return [event for event in EVENTS if not {"*", event} & subscribed]
