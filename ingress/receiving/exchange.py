"""One webhook on one connection, from its header to its answer, without ASGI."""

from typing import Any, Protocol
from uuid import UUID

from .. import identifiers
from ..accounts.config import Config
from ..storage.group_commit import Overloaded
from ..web.bodies import SMALL_BODY_BYTES, TooLarge
from .answers import NOT_FOUND, Header, WebhookAnswer
from .ingestion import target_of
from .webhooks import WebhookReceiver


class Channel(Protocol):
    """What an exchange needs of its connection."""

    url: bytes
    parser: Any
    flow: Any
    transport: Any

    def write(self, status: int, head: bytes, body: bytes, request_id: str, *, keep_alive: bool) -> None: ...
    def rest(self) -> None: ...
    def end(self) -> None: ...


class Exchange:
    """One webhook on one connection: stands where uvicorn keeps its `RequestResponseCycle`."""

    __slots__ = (
        "_begun",
        "_chunks",
        "_headers",
        "_limit_bytes",
        "_looking_up",
        "_owner",
        "_protocol",
        "_receiver",
        "_size_bytes",
        "_target",
        "disconnected",
        "keep_alive",
        "more_body",
        "response_complete",
    )

    def __init__(self, protocol: Channel, headers: list[Header], receiver: WebhookReceiver) -> None:
        self._protocol = protocol
        self._receiver = receiver
        self._target = target_of(protocol.url)
        self._headers = headers
        self._chunks: list[bytes] = []
        self._size_bytes = self._limit_bytes = 0
        self._begun = self._looking_up = False
        self._owner: UUID | None = None
        # What uvicorn reads and sets.
        self.keep_alive = protocol.parser.should_keep_alive()
        self.more_body = True
        self.response_complete = self.disconnected = False

    @property
    def message_event(self) -> "Exchange":
        """What uvicorn calls `set` of. Not an attribute: a cycle for each webhook would wait for the collector."""
        return self

    def feed(self, chunk: bytes) -> None:
        """Take a piece of the body, counted: a length that a client declares is not believed."""
        if self.response_complete:
            return
        self._chunks.append(chunk)
        self._size_bytes += len(chunk)
        if self._size_bytes > SMALL_BODY_BYTES:
            self._admit(self._size_bytes, len(chunk))

    def foresee(self, left_bytes: int) -> None:
        """Refuse a body that is not here yet, if the length that its client declares is too much."""
        declared = self._size_bytes + left_bytes
        if not self.response_complete and declared > SMALL_BODY_BYTES:
            self._admit(declared, 0)

    def _admit(self, size_bytes: int, held_bytes: int) -> None:
        """Count *held_bytes* more of a large body, which may have *size_bytes*. Nobody's is held."""
        if self._looking_up:
            return
        if self._owner is None and not self._find_owner(size_bytes):
            return
        try:
            if held_bytes:
                self._receiver.bodies.grow(self._size_bytes, held_bytes, self._owner)
            if size_bytes > self._limit_bytes:
                raise TooLarge
        except (TooLarge, Overloaded) as error:
            self._turn_away(self._receiver.turn_away(error))

    def _find_owner(self, size_bytes: int) -> bool:
        """Whether it is known whose the body is; else it goes on when that was looked up."""
        config = self._receiver.routes.known_config_of_webhook(self._target.token)
        if config is None:
            self._looking_up = True
            self._protocol.flow.pause_reading()
            self._receiver.spawn(self._look_up(size_bytes))
            return False
        self._own(config)
        return True

    async def _look_up(self, size_bytes: int) -> None:
        try:
            config = await self._receiver.routes.config_of_webhook(self._target.token)
        except Exception as error:  # noqa: BLE001  (which one, the answer says)
            self._looking_up = False
            self._turn_away(self._receiver.turn_away(error))
            return
        self._looking_up = False
        if config is None:
            self._turn_away(NOT_FOUND)
        elif not self.disconnected:
            self._own(config)
            self._admit(max(size_bytes, self._size_bytes), self._size_bytes)
            self._protocol.flow.resume_reading()
            self.set()

    def _own(self, config: Config) -> None:
        self._owner, self._limit_bytes = config.share, self._receiver.limit_bytes(config)

    def _turn_away(self, answer: WebhookAnswer) -> None:
        self._release()
        self.keep_alive = False
        self._answer(answer, identifiers.request_id())

    def _release(self) -> None:
        # An idle connection keeps its last exchange: without the body.
        self._chunks.clear()
        if self._owner is not None:
            self._receiver.bodies.release(self._size_bytes, self._owner)

    def set(self) -> None:
        """uvicorn's sign that the body is complete, or the client gone."""
        if self._begun or self.response_complete or (self._looking_up and not self.disconnected):
            return
        if self.disconnected:
            self._begun = True
            self._release()
        elif not self.more_body:
            self._begun = True
            body = b"".join(self._chunks)
            if self._size_bytes > SMALL_BODY_BYTES:
                self._release()
            self._receiver.begin("POST", self._target, self._headers, body, self._answer)

    def _answer(self, answer: WebhookAnswer, request_id: str) -> None:
        self.response_complete = True
        protocol = self._protocol
        if self.disconnected or protocol.transport.is_closing():
            return
        protocol.write(answer.status, answer.head, answer.body, request_id, keep_alive=self.keep_alive)
        if self.keep_alive:
            protocol.rest()
        else:
            protocol.end()
