"""People who write to a sender of Twilio's: realistic webhook forms of every common kind.

Source: https://www.twilio.com/docs/messaging/guides/webhook-request
"""

import json
from collections.abc import Callable

from ..meta.bodies import user_id_of
from ..people import People, name_of
from .bodies import API_VERSION, CHANNEL, Form, TwilioSender, new_sid

# Keeps the bytes of a medium, given the SIDs of message and medium and its type; returns its URL.
Keep = Callable[[tuple[str, str], bytes, str], str]

CARD = "BEGIN:VCARD\r\nVERSION:3.0\r\nFN:Maria da Silva\r\nTEL;TYPE=CELL:+55 11 91234-5678\r\nEND:VCARD\r\n"
FLOW = {"pages": [{"page_id": "details", "items": [{"name": "full_name", "value": "José Ñ."}]}], "flow_token": "ft-77"}


class TwilioInbound(People):
    """Makes forms of inbound messages to *sender*.

    Each method returns one form; ``phone`` (E.164) names the person, None takes one of ``people`` invented ones.
    """

    def __init__(self, sender: TwilioSender, *, keep: Keep, seed: int | None = None, people: int = 20) -> None:
        super().__init__(sender.sender_sid, seed, people)
        self.sender = sender
        self._keep = keep

    def text(self, body: str | None = None, *, phone: str | None = None, reply_to: str | None = None) -> Form:
        return self._message("text", self._words(body), phone, self._quoted(reply_to) if reply_to else [])

    def image(self, caption: str = "", *, phone: str | None = None, data: bytes | None = None) -> Form:
        return self._medium("image", "image/jpeg", caption, phone, data)

    def audio(self, *, phone: str | None = None, data: bytes | None = None) -> Form:
        return self._medium("audio", "audio/ogg", "", phone, data)

    def video(self, caption: str = "", *, phone: str | None = None, data: bytes | None = None) -> Form:
        return self._medium("video", "video/mp4", caption, phone, data)

    def document(self, caption: str = "", *, phone: str | None = None, data: bytes | None = None) -> Form:
        return self._medium("document", "application/pdf", caption, phone, data)

    def sticker(self, *, phone: str | None = None, data: bytes | None = None) -> Form:
        return self._medium("sticker", "image/webp", "", phone, data)

    def contacts(self, *, phone: str | None = None) -> Form:
        return self._medium("contacts", "text/vcard", "", phone, CARD.encode())

    def location(self, label: str = "MASP", address: str = "Av. Paulista, 1578", *, phone: str | None = None) -> Form:
        place = [("Latitude", "-23.561414"), ("Longitude", "-46.655881"), ("Label", label), ("Address", address)]
        return self._message("location", label, phone, [pair for pair in place if pair[1]])

    def button_reply(
        self, title: str = "Cancelar", id: str = "cancel", *, phone: str | None = None, reply_to: str | None = None
    ) -> Form:
        tapped = [("ButtonText", title), ("ButtonPayload", id)]
        return self._message("interactive", title, phone, tapped + self._quoted(reply_to))

    def list_reply(
        self,
        title: str = "Expresso",
        id: str = "ship_express",
        *,
        phone: str | None = None,
        reply_to: str | None = None,
    ) -> Form:
        chosen = [("ListId", id), ("ListTitle", title)]
        return self._message("interactive", title, phone, chosen + self._quoted(reply_to))

    def template_button(self, text: str = "Confirmar", *, phone: str | None = None) -> Form:
        tapped = [("ButtonText", text), ("ButtonPayload", text)]
        return self._message("button", text, phone, tapped + self._quoted(None))

    def flow_reply(self, *, phone: str | None = None) -> Form:
        return self._message("interactive", "", phone, [("InteractiveData", json.dumps(FLOW)), *self._quoted(None)])

    def unsupported(self, *, phone: str | None = None) -> Form:
        return self._message("unsupported", "", phone, [])

    def mixed(self) -> Form:
        """One message of any kind, texts most often, as people write."""
        kinds: list[Callable[[], Form]] = [
            *[self.text] * 6, self.image, self.audio, self.video, self.document, self.sticker, self.contacts,
            self.location, self.button_reply, self.list_reply, self.template_button, self.flow_reply, self.unsupported,
        ]  # fmt: skip
        return self._rng.choice(kinds)()

    def _quoted(self, sid: str | None) -> Form:
        target = sid or new_sid(self._rng, "SM")
        return [("OriginalRepliedMessageSid", target), ("OriginalRepliedMessageSender", self.sender.address)]

    def _medium(self, kind: str, mime_type: str, caption: str, phone: str | None, data: bytes | None) -> Form:
        sids = (new_sid(self._rng, "MM"), new_sid(self._rng, "ME"))
        url = self._keep(sids, self._rng.randbytes(64) if data is None else data, mime_type)
        extra = [("MediaUrl0", url), ("MediaContentType0", mime_type)]
        return self._message(kind, caption, phone, extra, sid=sids[0])

    def _message(self, kind: str, body: str, phone: str | None, extra: Form, *, sid: str | None = None) -> Form:
        phone = self._phone(phone)
        digits, name = phone.removeprefix("+"), name_of(phone)
        sid = sid or new_sid(self._rng, "SM")
        context = {"ProfileName": name, "WaId": digits, "Forwarded": "false", "FrequentlyForwarded": "false"}
        metadata = {"type": "whatsapp", "data": {"context": context}}
        service = self.sender.messaging_service_sid
        return [
            *extra,
            ("SmsMessageSid", sid),
            ("NumMedia", "1" if any(name == "MediaUrl0" for name, _ in extra) else "0"),
            ("ProfileName", name),
            ("MessageType", kind),
            ("SmsSid", sid),
            ("WaId", digits),
            ("ExternalUserId", f"{CHANNEL}{user_id_of(phone)}"),
            ("SmsStatus", "received"),
            ("Body", body),
            ("To", self.sender.address),
            ("NumSegments", "1"),
            ("ReferralNumMedia", "0"),
            ("MessageSid", sid),
            ("AccountSid", self.sender.account_sid),
            ("From", f"{CHANNEL}{phone}"),
            ("ApiVersion", API_VERSION),
            ("ChannelMetadata", json.dumps(metadata, ensure_ascii=False, separators=(",", ":"))),
            *([("MessagingServiceSid", service)] if service is not None else []),
        ]
