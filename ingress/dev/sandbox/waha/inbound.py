"""People who write to the phone of a session, in the form of its engine."""

import time
from collections.abc import Callable
from typing import Any

from ..people import People, name_of
from .bodies import IN_BROWSER, Body, Engine, News, chat_of, lid_of, new_bare_id, serialized
from .messages import ChatMessage, payload, reaction_payload

RECEIVED = ("message", "message.any")
BY_HAND = ("message.any",)  # what the owner of the phone writes

# Keeps the bytes of a medium, given the message's bare id, its type and name; returns its ``media``.
WahaStore = Callable[[str, bytes, str, str | None], Body]


class WahaInbound(People):
    """Makes news of one session.

    Each method returns one message; ``phone`` (E.164) names the person, None takes one of ``people`` invented ones;
    ``group`` is the chat it is written in; ``hidden`` has the person known by a hidden number, whose phone the engine
    gives beside it, but for WEBJS.
    """

    def __init__(
        self,
        session: str,
        engine: Engine,
        own: str,
        *,
        seed: int | None = None,
        people: int = 20,
        store: WahaStore,
        remember: Callable[[ChatMessage], None],
    ) -> None:
        super().__init__(session, seed, people)
        self._engine = engine
        self._own = own
        self._store = store
        self._remember = remember

    def text(self, body: str | None = None, *, reply_to: str | None = None, **about: Any) -> News:
        """*reply_to* is the bare id of a message of ours."""
        return self._received(self._message("text", self._words(body), reply_to=self._quoted(reply_to), **about))

    def own(self, body: str | None = None, **about: Any) -> News:
        """What the owner of the phone writes by hand."""
        message = self._message("text", self._words(body), from_me=True, ack=1, **about)
        return News(BY_HAND, payload(self._engine, message, self._own))

    def image(self, caption: str | None = None, *, data: bytes | None = None, **about: Any) -> News:
        return self._medium("image", "image/jpeg", caption, data, None, about)

    def voice(self, *, data: bytes | None = None, **about: Any) -> News:
        return self._medium("voice", "audio/ogg; codecs=opus", None, data, None, about)

    def video(self, caption: str | None = None, *, data: bytes | None = None, **about: Any) -> News:
        return self._medium("video", "video/mp4", caption, data, None, about)

    def document(self, filename: str = "nota fiscal.pdf", *, data: bytes | None = None, **about: Any) -> News:
        return self._medium("document", "application/pdf", None, data, filename, about)

    def location(self, **about: Any) -> News:
        place: Body = {"latitude": -23.561414, "longitude": -46.655881, "name": "MASP", "address": "Av. Paulista, 1578"}
        if self._engine in IN_BROWSER:
            place |= {"latitude": "-23.561414", "longitude": "-46.655881"}
        return self._received(self._message("location", None, place=place, **about))

    def contacts(self, **about: Any) -> News:
        card = "BEGIN:VCARD\nVERSION:3.0\nFN:Maria da Silva\nTEL;waid=5511912345678:+55 11 91234-5678\nEND:VCARD"
        return self._received(self._message("contacts", None, vcards=[card], **about))

    def button_reply(self, title: str = "Cancelar", id: str = "cancel", **about: Any) -> News:
        proto = {"selectedButtonId": id, "selectedDisplayText": title}
        return self._received(self._message("button_reply", title, proto=proto, **about))

    def list_reply(self, title: str = "Expresso", id: str = "ship_express", **about: Any) -> News:
        proto = {"title": title, "description": "1 dia", "singleSelectReply": {"selectedRowId": id}}
        return self._received(self._message("list_reply", title, proto=proto, **about))

    def reaction(self, emoji: str = "👍🏾", *, message_id: str | None = None, **about: Any) -> News:
        """To *message_id*, a whole id; an empty *emoji* takes the reaction back."""
        message = self._message("reaction", None, proto={"text": emoji}, **about)
        target = message_id or serialized(True, message.chat, new_bare_id(self._engine, self._rng))
        body = reaction_payload(self._engine, message, self._own, target=target, emoji=emoji)
        return News(("message.reaction",), body)

    def edited(self, of: str, body: str = "Corrigido", **about: Any) -> News:
        """The message with the bare id *of* again, with another text."""
        edited = payload(self._engine, self._message("text", body, **about), self._own)
        return News(("message.edited",), {**edited, "editedMessageId": of})

    def revoked(self, of: str, **about: Any) -> News:
        """The message with the bare id *of* taken back by who wrote it."""
        after = payload(self._engine, self._message("revoked", None, proto={"type": 0}, **about), self._own)
        return News(("message.revoked",), {"after": after, "before": None, "revokedMessageId": of, "_data": {}})

    def mixed(self) -> News:
        """One message of any kind, texts most often, as people write."""
        kinds: list[Callable[[], News]] = [
            *[self.text] * 6, self.image, self.voice, self.document, self.location, self.contacts,
            self.button_reply, self.list_reply, self.reaction,
        ]  # fmt: skip
        return self._rng.choice(kinds)()

    def _received(self, message: ChatMessage) -> News:
        return News(RECEIVED, payload(self._engine, message, self._own))

    def _message(
        self,
        kind: str,
        body: str | None,
        *,
        phone: str | None = None,
        group: str | None = None,
        hidden: bool = False,
        from_me: bool = False,
        **more: Any,
    ) -> ChatMessage:
        phone = self._phone(phone)
        person = lid_of(phone) if hidden else chat_of(phone)
        message = ChatMessage(
            bare=new_bare_id(self._engine, self._rng),
            chat=group or person,
            kind=kind,
            from_me=from_me,
            timestamp=int(time.time()),
            body=body,
            author=None if group is None else self._own if from_me else person,
            name=name_of(phone),
            twin=chat_of(phone) if hidden and self._engine not in IN_BROWSER else None,
            **more,
        )
        self._remember(message)
        return message

    def _medium(
        self, kind: str, mime_type: str, caption: str | None, data: bytes | None, filename: str | None, about: Body
    ) -> News:
        message = self._message(kind, caption, **about)
        content = self._rng.randbytes(64) if data is None else data
        message.media = self._store(message.bare, content, mime_type, filename)
        return self._received(message)

    def _quoted(self, bare: str | None) -> Body | None:
        """That message of ours, as an answer to it quotes it."""
        if bare is None:
            return None
        return {"id": bare, "participant": self._own, "body": None, "hasMedia": False, "media": None, "_data": {}}
