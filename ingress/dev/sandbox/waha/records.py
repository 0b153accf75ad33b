"""What really happened at WhatsApp: every send that arrived and every message that a person got."""

from typing import Any

import msgspec

from ..ledger import ArrivedSend, Ledger, TakenMessage
from .bodies import Body, waha_encode


class WahaMessage(TakenMessage, frozen=True, kw_only=True):
    id: str  # the bare one
    session: str
    chat: str | None  # as the send named it; None: a reaction names a message
    call: str  # "sendText"
    chosen_id: str | None  # the one that the send asked for, which an engine may ignore
    body: dict[str, Any]


class WahaSend(ArrivedSend, kw_only=True):
    session: str
    call: str
    chosen_id: str | None
    status: int | None = None  # the HTTP status it was refused with
    id: str | None = None  # the bare id of its message; None: not accepted
    repeated: bool = False  # it named a message that was there already: nobody got another


class WahaReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """What people were shown: that something was read, or that somebody types or stopped."""

    session: str
    chat: str
    call: str  # "sendSeen", "startTyping", "stopTyping"
    message_ids: list[str] = []


class WahaKey(msgspec.Struct, frozen=True):
    """A key for one session, which may do these things; for *session* None it is a server's own and may do all."""

    session: str | None
    may: frozenset[str] = frozenset({"read", "send", "control", "setting"})


class WahaTruth(Ledger[WahaMessage, WahaSend]):
    """The tracker of a message is the id that was chosen for it, or else its content and who gets it.

    So one that went out twice is found as such where the engine ignores chosen ids; without one, two equal messages
    that were meant as two look the same, and tests had better write different ones.
    """

    def forget(self) -> None:
        super().forget()
        self.receipts: list[WahaReceipt] = []

    def arrived(self, session: str, call: str, body: Any) -> WahaSend:
        chosen = body.get("id") if isinstance(body, dict) else None
        send = WahaSend(session=session, call=call, chosen_id=chosen if isinstance(chosen, str) else None)
        self.sends.append(send)
        return send

    def accept(self, send: WahaSend, bare: str, body: Body) -> WahaMessage:
        message = WahaMessage(
            id=bare,
            session=send.session,
            chat=body.get("chatId"),
            call=send.call,
            chosen_id=send.chosen_id,
            body=body,
        )
        send.id = bare
        self.keep(message, bare, send.chosen_id or waha_encode([send.call, body]).decode())
        return message
