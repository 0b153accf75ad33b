"""What really happened at Meta: `ledger.py` with the fields that its messages have."""

from typing import Any

import msgspec

from ..ledger import ArrivedSend, Ledger, TakenMessage


class AcceptedMessage(TakenMessage, frozen=True, kw_only=True):
    wamid: str
    phone_number_id: str
    tracker: str | None  # the send's biz_opaque_callback_data; None: it had none
    body: dict[str, Any]


class SendCall(ArrivedSend, kw_only=True):
    phone_number_id: str
    tracker: str | None
    wamid: str | None = None  # None: not accepted


class MetaReceipt(msgspec.Struct, frozen=True):
    """A message of a person that was marked as read."""

    phone_number_id: str
    message_id: str
    typing: bool = False


class GroundTruth(Ledger[AcceptedMessage, SendCall]):
    """What it counts belongs to a phone number id."""

    def forget(self) -> None:
        super().forget()
        self.receipts: list[MetaReceipt] = []
        self.wa_ids: dict[str, str] = {}  # of numbers that WhatsApp has in another spelling, which are taken in both

    def arrived(self, phone_number_id: str, tracker: str | None) -> SendCall:
        call = SendCall(phone_number_id=phone_number_id, tracker=tracker)
        self.sends.append(call)
        return call

    def accept(self, call: SendCall, wamid: str, body: dict[str, Any]) -> AcceptedMessage:
        message = AcceptedMessage(wamid=wamid, phone_number_id=call.phone_number_id, tracker=call.tracker, body=body)
        call.wamid = wamid
        self.keep(message, wamid, message.tracker)
        return message

    def by_wamid(self, wamid: str) -> AcceptedMessage | None:
        return self.by_id(wamid)
