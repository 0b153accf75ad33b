"""People who write to a business number: realistic webhook bodies of every common kind.

Source: https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/messages
"""

import base64
import hashlib
import time
from collections.abc import Callable
from typing import Any

from ..people import People, name_of
from .bodies import Body, MediaStore, MetaNumber, envelope, new_wamid, user_id_of


class MetaInbound(People):
    """Makes bodies of inbound messages to *number*.

    Each method returns a whole webhook body with one message; ``phone`` (E.164) names the person, None takes
    one of ``people`` invented ones. Media are downloadable where *store* is given.
    """

    def __init__(
        self,
        number: MetaNumber,
        *,
        seed: int | None = None,
        people: int = 20,
        store: MediaStore | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(number.phone_number_id, seed, people)
        self.number = number
        self._store = store
        self._clock = clock

    def text(self, body: str | None = None, *, phone: str | None = None, reply_to: str | None = None) -> Body:
        return self._message("text", {"body": self._words(body)}, phone, reply_to)

    def image(self, caption: str | None = None, *, phone: str | None = None, data: bytes | None = None) -> Body:
        medium = self._medium(data, "image/jpeg")
        return self._message("image", {**medium, "caption": caption} if caption else medium, phone)

    def audio(self, *, phone: str | None = None, data: bytes | None = None) -> Body:
        medium = self._medium(data, "audio/ogg; codecs=opus")
        return self._message("audio", {**medium, "voice": True}, phone)

    def document(
        self, filename: str = "nota fiscal.pdf", *, phone: str | None = None, data: bytes | None = None
    ) -> Body:
        return self._message("document", {**self._medium(data, "application/pdf"), "filename": filename}, phone)

    def location(self, *, phone: str | None = None) -> Body:
        place = {
            "latitude": -23.561414,
            "longitude": -46.655881,
            "name": "MASP",
            "address": "Av. Paulista, 1578",
        }
        return self._message("location", place, phone)

    def button_reply(
        self,
        title: str = "Cancelar",
        id: str = "cancel",
        *,
        phone: str | None = None,
        reply_to: str | None = None,
    ) -> Body:
        reply = {"type": "button_reply", "button_reply": {"id": id, "title": title}}
        return self._message("interactive", reply, phone, reply_to or new_wamid(self._rng))

    def list_reply(
        self,
        title: str = "Expresso",
        id: str = "ship_express",
        *,
        phone: str | None = None,
        reply_to: str | None = None,
    ) -> Body:
        reply = {"type": "list_reply", "list_reply": {"id": id, "title": title, "description": "1 dia"}}
        return self._message("interactive", reply, phone, reply_to or new_wamid(self._rng))

    def template_button(self, text: str = "Confirmar", payload: str = "CONFIRM:1", *, phone: str | None = None) -> Body:
        return self._message("button", {"payload": payload, "text": text}, phone, new_wamid(self._rng))

    def reaction(self, emoji: str = "👍🏾", *, message_id: str | None = None, phone: str | None = None) -> Body:
        """An empty *emoji* takes the reaction back."""
        target = message_id or new_wamid(self._rng)
        return self._message("reaction", {"message_id": target, "emoji": emoji}, phone)

    def contacts(self, *, phone: str | None = None) -> Body:
        card = {
            "name": {"formatted_name": "Maria da Silva", "first_name": "Maria", "last_name": "da Silva"},
            "phones": [{"phone": "+55 11 91234-5678", "wa_id": "5511912345678", "type": "CELL"}],
            "org": {"company": "Padaria São João"},
        }
        return self._message("contacts", [card], phone)

    def unsupported(self, kind: str = "poll_creation", *, phone: str | None = None) -> Body:
        words = "Message type unknown"
        error = {"code": 131051, "title": words, "message": words, "error_data": {"details": f"{words}."}}
        body = self._message("unsupported", {"type": kind}, phone)
        body["entry"][0]["changes"][0]["value"]["messages"][0]["errors"] = [error]
        return body

    def mixed(self) -> Body:
        """One message of any kind, texts most often, as people write."""
        kinds: list[Callable[[], Body]] = [
            *[self.text] * 6, self.image, self.audio, self.document, self.location, self.button_reply,
            self.list_reply, self.template_button, self.reaction, self.contacts, self.unsupported,
        ]  # fmt: skip
        return self._rng.choice(kinds)()

    def batch(self, messages: int, *, entries: int = 1, make: Callable[[], Body] | None = None) -> Body:
        """One body with *messages* messages over *entries* entries, two changes in each where possible."""
        values = [(make or self.mixed)()["entry"][0]["changes"][0] for _ in range(messages)]
        body = envelope()
        for index in range(entries):
            mine = values[index::entries]
            halves = [half for half in (mine[::2], mine[1::2]) if half]
            body["entry"].append({"id": self.number.waba_id, "changes": [_joined(half) for half in halves]})
        return body

    def _message(self, kind: str, content: Any, phone: str | None, reply_to: str | None = None) -> Body:
        phone = self._phone(phone)
        digits, user_id = phone.lstrip("+"), user_id_of(phone)
        message: Body = {
            "from": digits,
            "from_user_id": user_id,
            "id": new_wamid(self._rng),
            "timestamp": str(int(self._clock())),
            "type": kind,
            kind: content,
        }
        if reply_to is not None:
            message["context"] = {"from": self.number.digits, "id": reply_to}
        contact = {"profile": {"name": name_of(phone)}, "wa_id": digits, "user_id": user_id}
        return envelope((self.number, {"contacts": [contact], "messages": [message]}))

    def _medium(self, data: bytes | None, mime_type: str) -> Body:
        data = self._rng.randbytes(64) if data is None else data
        medium = {"mime_type": mime_type, "sha256": base64.b64encode(hashlib.sha256(data).digest()).decode()}
        if self._store is None:
            return {**medium, "id": str(self._rng.randrange(10**14, 10**15))}
        media_id, url = self._store(data, mime_type)
        return {**medium, "id": media_id, "url": url}


def _joined(changes: list[Body]) -> Body:
    """One change with the messages of all of *changes*, each contact once."""
    contacts = {contact["wa_id"]: contact for change in changes for contact in change["value"]["contacts"]}
    messages = [message for change in changes for message in change["value"]["messages"]]
    value = {**changes[0]["value"], "contacts": list(contacts.values()), "messages": messages}
    return {**changes[0], "value": value}
