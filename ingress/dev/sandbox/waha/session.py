"""One session of a WAHA server: its configuration, its phone, and what it has seen."""

import time
from typing import Any

import msgspec

from ..accounts import ScriptedAccount
from ..listener import Listener
from ..world import Statuses
from .bodies import Body, Engine, account_of, chat_of, lid_of
from .messages import ChatMessage

KEPT_STATUSES = 3
QR_CODES = 6  # after that the session gives up


class AckPolicy(Statuses, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The acks that follow an accepted message, by WAHA's words for them."""

    statuses: tuple[str, ...] = ("SERVER", "DEVICE", "READ")
    echo: bool = True  # the message itself comes first, as `message.any`; GOWS has no other SERVER than that
    error: dict[str, Any] | None = None  # what an ack `ERROR` says, as {"code": "463", "blocked": true, …}
    reader: str = "+15005550100"  # whose acks they are, in a group


class SessionState(ScriptedAccount):
    """A session as it is now. Where it does not exist, its scripts and policies wait for it to be created."""

    def __init__(self, name: str, engine: Engine, phone: str | None, listener: Listener) -> None:
        super().__init__(listener)
        self.name = name
        self.engine = engine
        self.phone = phone  # of the phone that links itself
        self.policy = AckPolicy()
        self.starting_s: float | None = 0.0  # None: it stays STARTING until somebody sets another status
        self.hides = False  # chats are kept under hidden numbers, whatever a send called them
        self.me_fields: Body = {}  # laid over what the API shows of the account
        self.remove()

    def remove(self) -> None:
        self.exists = False
        self.config: Body = {}
        self.apps: Any = None
        self.is_linked = False
        self.status = "STOPPED"
        self.statuses: list[Body] = []
        self.turns = 0  # changes of the status: what was to follow an older one does not any more
        self.qr = 0  # the code shown now
        self.active_at = time.time()
        self.messages: list[ChatMessage] = []

    def turn(self, status: str, data: Any) -> Body:
        """Change the status; the payload of its webhook."""
        self.status = status
        self.turns += 1
        self.active_at = time.time()
        self.statuses = [*self.statuses, {"status": status, "timestamp": int(time.time() * 1000)}][-KEPT_STATUSES:]
        return {"name": self.name, "status": status, "statuses": self.statuses, "data": data}

    @property
    def is_running(self) -> bool:
        return self.status != "STOPPED"

    @property
    def own(self) -> str:
        """The chat id of the phone."""
        if self.phone is None:
            raise ValueError(f"session {self.name} has no phone")
        return chat_of(self.phone)

    @property
    def me(self) -> Body | None:
        return {**account_of(self.phone), **self.me_fields} if self.is_linked and self.phone else None

    @property
    def is_working(self) -> bool:
        return self.exists and self.status == "WORKING"

    @property
    def webhooks(self) -> list[Body]:
        return self.config.get("webhooks") or []

    @property
    def has_store(self) -> bool:
        """Whether chats can be looked into."""
        store = (self.config.get("noweb") or {}).get("store") or {}
        return self.engine != "NOWEB" or bool(store.get("enabled"))

    def info(self) -> Body:
        hooks = [{"hmac": None, "retries": None, "customHeaders": None, **hook} for hook in self.webhooks]
        return {
            "name": self.name,
            "status": self.status,
            "config": ({**self.config, "webhooks": hooks} if "webhooks" in self.config else self.config) or None,
            "me": self.me,
            "engine": {"engine": self.engine},
            **({"apps": self.apps} if self.apps is not None else {}),
            "assignedWorker": None,
            "presence": None,
            "timestamps": {"activity": int(self.active_at * 1000)},
        }

    # ---------------------------------------------------------------- messages

    def keep(self, message: ChatMessage) -> ChatMessage:
        """Remember *message*, as the engine does: under the name that it knows the chat by."""
        if self.hides and message.chat.endswith("@c.us"):
            message = msgspec.structs.replace(message, chat=lid_of(message.chat), twin=message.chat)
        self.messages.append(message)
        return message

    def phone_of(self, lid: str) -> str | None:
        """The chat id by phone of who is behind *lid*, where the session ever learned it."""
        known = (one.twin or one.chat for one in self.messages)
        return next((chat for chat in known if chat.endswith("@c.us") and lid_of(chat) == lid), None)

    def sent_as(self, bare: str) -> ChatMessage | None:
        """Our own message with that bare id."""
        return next((one for one in self.messages if one.from_me and one.bare == bare), None)

    def chat(self, chat: str) -> list[ChatMessage]:
        """The messages of *chat*, newest first, whichever of its two names it is asked by."""
        found = [one for one in self.messages if one.kind != "reaction" and _names(one.chat) & _names(chat)]
        return found[::-1]


def _names(chat: str) -> set[str]:
    return {chat, lid_of(chat)} if chat.endswith("@c.us") else {chat}
