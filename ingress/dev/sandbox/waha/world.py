"""A WAHA server and the phones behind it: sessions and their states, webhooks, acks, files."""

import abc
import asyncio
import contextlib
from functools import partial
from typing import Any

import msgspec

from ..webhook_post import PostResult, RetryPolicy
from ..world import World
from .bodies import (
    Body,
    Engine,
    News,
    WahaSession,
    chat_of,
    digits_of,
    is_group,
    new_event_id,
    waha_encode,
    waha_envelope,
    waha_headers,
)
from .errors import missing_session, unexpected_status
from .files import WahaFiles
from .inbound import WahaInbound
from .messages import ACKS, ChatMessage, ack_payload, payload
from .records import WahaKey, WahaMessage, WahaSend, WahaTruth
from .server import WAIT_NOT_RUNNING_S, WAIT_NOT_WORKING_S, WahaServer
from .session import QR_CODES, AckPolicy, SessionState


class WahaDelivery(msgspec.Struct, frozen=True):
    """One webhook on its way to one address."""

    url: str
    raw: bytes
    headers: dict[str, str]
    retry: RetryPolicy


class WahaWorld(World[WahaSession, SessionState, WahaMessage, WahaSend], WahaTruth, abc.ABC):
    """Everything but the API's own answers, which a subclass gives. ``numbers`` are the sessions, by name."""

    def __init__(
        self,
        *,
        port: int,
        seed: int | None,
        retry: RetryPolicy,
        engine: Engine,
        api_key: str,
        public_url: str,
        server: WahaServer,
    ) -> None:
        # WAHA takes any 2xx for an answer, and repeats after everything else.
        super().__init__(port=port, seed=seed, retry=msgspec.structs.replace(retry, any_2xx=True))
        self.engine = engine  # of sessions that the API creates
        self.api_key = api_key  # for all sessions
        self._first = server
        self.server = msgspec.structs.replace(server)
        self.healthy = True
        self.fetches = False  # files that a send names by their URL are really fetched
        self.files = WahaFiles(public_url)

    def key(self, number: WahaSession) -> str:
        return number.name

    def forget(self) -> None:
        super().forget()
        self.keys: dict[str, WahaKey] = {}
        # Digits -> the chat under which WhatsApp knows them, None where it does not; all others as they are.
        self.known_as: dict[str, str | None] = {}
        # A text to another form of a number is answered as if somebody got it (seen on NOWEB and GOWS); else refused.
        self.takes_strangers = False
        self.lookups: list[str] = []  # numbers that were asked for

    async def reset(self) -> None:
        await super().reset()
        self.files.expire()
        self.healthy, self.fetches = True, False
        self.server = msgspec.structs.replace(self._first)

    # ---------------------------------------------------------------- sessions

    async def add_session(
        self, session: WahaSession, *, own_port: bool = False, exists: bool = True, linked: bool = True
    ) -> str:
        """Make *session* known, or replace what is known of it, with a key of its own; returns its base URL.

        It works already where it is *linked*, shows a QR code where it only *exists*, and else waits for the gateway
        to create it, which takes a key of the server's. With *own_port* its connections can be refused while other
        sessions live.
        """
        self.keys[session.api_key] = WahaKey(session.name if exists else None)
        state = await self.session(session.name, own_port=own_port)
        state.engine, state.phone = session.engine, session.phone
        if exists and not state.exists:
            state.exists, state.is_linked = True, linked
            self._arrive(state)
        return state.listener.url

    async def session(self, name: str, *, own_port: bool = False) -> SessionState:
        """The state of the session *name*, a new one where it was unknown."""
        state = self.numbers.get(name)
        if state is None:
            state = SessionState(name, self.engine, None, await self._listener(own_port=own_port))
            self.numbers[name] = state
        return state

    def create(self, state: SessionState, body: Body) -> None:
        """What POST /api/sessions says."""
        state.exists = True
        state.config, state.apps = body.get("config") or {}, body.get("apps")
        if body.get("start", True):
            self.begin(state)

    def configure(self, state: SessionState, body: Body) -> None:
        """The whole configuration anew: what *body* leaves out is gone. A session that runs restarts."""
        state.config, state.apps = body.get("config") or {}, body.get("apps")
        if state.is_running:
            self.restart(state)

    def restart_server(self) -> None:
        """All of it ends and comes back; a Core of before 2026.6.1 has forgotten the configurations then."""
        for state in self.numbers.values():
            if self.server.is_limited:
                state.config, state.apps = {}, None
            if state.is_running:
                self.restart(state)

    async def pause(self, seconds: float) -> None:
        """As long as a real server takes *seconds* for, by the setting."""
        await asyncio.sleep(seconds * self.server.waits)

    async def working(self, name: str) -> SessionState:
        """The session, once it works; a call that needs one waits for that. Raises `WahaError`."""
        state = self.numbers.get(name)
        runs = state is not None and state.exists and state.is_running
        wait_s = (WAIT_NOT_WORKING_S if runs else WAIT_NOT_RUNNING_S) * self.server.waits
        with contextlib.suppress(TimeoutError):
            await self.wait_for(lambda: (found := self.numbers.get(name)) is not None and found.is_working, wait_s)
        state = self.numbers.get(name)
        if state is None or not state.exists:
            raise missing_session(name)
        if not state.is_working:
            raise unexpected_status(name, state.status, "WORKING")
        return state

    def begin(self, state: SessionState) -> None:
        self._turn(state, "STARTING")
        if state.starting_s is not None:
            self.spawn(self._arrive_later(state, state.turns, state.starting_s))

    def stop(self, state: SessionState) -> None:
        if state.is_running:
            self._turn(state, "STOPPED")

    def restart(self, state: SessionState) -> None:
        self.stop(state)
        self.begin(state)

    def log_out(self, state: SessionState) -> None:
        """Unlink the phone. A session that runs starts again, and asks for a scan."""
        state.is_linked = False
        if state.is_running:
            self.restart(state)

    def delete(self, state: SessionState) -> None:
        self.stop(state)
        state.remove()

    async def _arrive_later(self, state: SessionState, turns: int, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if state.turns == turns:
            self._arrive(state)

    def _arrive(self, state: SessionState) -> None:
        """Where a start leads to."""
        if state.is_linked:
            self._turn(state, "WORKING")
        else:
            state.qr = 1
            self._turn(state, "SCAN_QR_CODE")

    def _turn(self, state: SessionState, status: str, data: Any = None) -> None:
        self.announce(state, News(("session.status",), state.turn(status, data)))
        self.changed()

    # ---------------------------------------------------------------- what phones and people do

    def scan(self, session: WahaSession | str, phone: str | None = None) -> None:
        """Link a phone by the QR code that is shown: the session's own, or *phone*."""
        state = self.state_of(session)
        if state.status != "SCAN_QR_CODE":
            raise ValueError(f"there is nothing to scan: the session is {state.status}")
        state.phone = phone or state.phone
        state.is_linked = bool(state.own)
        self._arrive(state)

    def rotate(self, session: WahaSession | str) -> None:
        """The QR code runs out: the next one is shown, or the session fails."""
        state = self.state_of(session)
        if state.status != "SCAN_QR_CODE":
            raise ValueError(f"there is no QR code: the session is {state.status}")
        state.qr += 1
        self._turn(state, "FAILED" if state.qr > QR_CODES else "SCAN_QR_CODE")

    def set_status(self, session: WahaSession | str, status: str, *, data: Any = None, unlinked: bool = False) -> None:
        """Any status, also one yet to come; *unlinked*: the phone, or WhatsApp, ended the link."""
        state = self.state_of(session)
        state.is_linked = state.is_linked and not unlinked
        self._turn(state, status, data)

    def set_me(self, session: WahaSession | str, **fields: Any) -> None:
        """Lay *fields* over what the API shows of the account, as ``messageCapping``. None takes one back."""
        state = self.state_of(session)
        state.me_fields = {name: value for name, value in {**state.me_fields, **fields}.items() if value is not None}

    def set_acks(self, session: WahaSession | str, policy: AckPolicy) -> None:
        unknown = set(policy.statuses) - set(ACKS)
        if unknown:
            raise ValueError(f"no such ack: {', '.join(sorted(unknown))}")
        self.state_of(session).policy = policy

    def set_person(self, phone: str, known_as: str | None) -> None:
        """WhatsApp knows *phone* under the chat *known_as* only, or, with None, not at all."""
        self.known_as[digits_of(phone)] = known_as

    def chat_known_as(self, chat: str) -> str | None:
        digits, _, kind = chat.partition("@")
        return self.known_as.get(digits, chat) if kind == "c.us" else chat

    def inbound(self, session: WahaSession | str, *, seed: int | None = None, people: int = 20) -> WahaInbound:
        """Makes news for *session*; their media can be downloaded here."""
        state = self.state_of(session)
        return WahaInbound(
            state.name,
            state.engine,
            state.own,
            seed=seed,
            people=people,
            store=partial(self.files.add, state.name),
            remember=state.messages.append,
        )

    # ---------------------------------------------------------------- webhooks

    async def post(self, session: WahaSession | str, news: News) -> list[PostResult]:
        """Post *news* to every webhook of the session that is subscribed to it, with retries, all at once."""
        state = self.state_of(session)
        if state.status != "WORKING":
            raise ValueError(f"nothing reaches a session that is {state.status}")
        return await self._deliver(self._addressed(state, news))

    async def post_acks(self, state: SessionState, message: ChatMessage) -> None:
        """All webhooks that follow the send of *message*, as the session's policy has them."""
        policy, engine = state.policy, state.engine
        acks = [self._ack(state, message, status) for status in policy.statuses]
        if policy.echo:
            echo = News(("message.any",), payload(engine, msgspec.structs.replace(message, ack=1), state.own))
            acks = [echo, *(one for one in acks if engine != "GOWS" or one.payload["ack"] != 1)]
        message.ack = max([message.ack, *(ACKS[status] for status in policy.statuses)])
        acks = acks[::-1] if policy.reorder else acks
        await self.post_paced(policy, [partial(self._post_now, state, one) for one in acks])

    def _ack(self, state: SessionState, message: ChatMessage, status: str) -> News:
        of_group = is_group(message.chat) and ACKS[status] > 1
        reader = chat_of(state.policy.reader) if of_group else message.author
        error = state.policy.error if status == "ERROR" else None
        body = ack_payload(state.engine, message, state.own, status, reader=reader, error=error)
        return News(("message.ack.group" if of_group else "message.ack",), body)

    async def _post_now(self, state: SessionState, news: News) -> None:
        await self._deliver(self._addressed(state, news))

    def announce(self, state: SessionState, news: News) -> None:
        """Post *news* later, to whom it is addressed now."""
        if deliveries := self._addressed(state, news):
            self.spawn(self._deliver(deliveries))

    def _addressed(self, state: SessionState, news: News) -> list[WahaDelivery]:
        deliveries = []
        for event in news.events:
            raw = waha_encode(
                waha_envelope(
                    event,
                    self._payload(state, news.payload),
                    self.server,
                    event_id=new_event_id(self.rng),
                    session=state.name,
                    engine=state.engine,
                    me=state.me,
                    metadata=state.config.get("metadata"),
                )
            )
            deliveries += [self._delivery(hook, raw) for hook in state.webhooks if {event, "*"} & set(hook["events"])]
        if not deliveries:
            self.undeliverable += 1
        return deliveries

    def _payload(self, state: SessionState, payload: Body) -> Body:
        if state.engine != "NOWEB" or self.server.has("places"):
            return payload
        return {name: value for name, value in payload.items() if name not in ("location", "vCards")}

    def _delivery(self, hook: Body, raw: bytes) -> WahaDelivery:
        """With as many tries as the webhook's own configuration allows, at the pace of the sandbox."""
        custom = [(one["name"], one["value"]) for one in hook.get("customHeaders") or ()]
        key = (hook.get("hmac") or {}).get("key") if self.server.signs else None
        headers = waha_headers(
            raw, self.server.version, request_id=f"req_{self.rng.randbytes(13).hex()}", key=key, custom=custom
        )
        attempts = (hook.get("retries") or {}).get("attempts")
        retry = self.webhooks.retry
        if attempts is not None:
            retry = msgspec.structs.replace(retry, tries=min(retry.tries, attempts + 1))
        return WahaDelivery(hook["url"], raw, headers, retry)

    async def _deliver(self, deliveries: list[WahaDelivery]) -> list[PostResult]:
        posts = [self.webhooks.post(one.url, one.raw, one.headers, one.retry) for one in deliveries]
        results = await asyncio.gather(*posts)
        self.changed()
        return results
