"""What really happened at Meta: `ledger.py` with the fields that its messages have."""

import time
from typing import Any

import msgspec

from ..ledger import Ledger


class AcceptedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that a person got, whatever answer the caller got."""

    wamid: str
    phone_number_id: str
    tracker: str | None  # the send's biz_opaque_callback_data; None: it had none
    body: dict[str, Any]
    time: float  # Unix seconds
    monotonic_s: float  # comparable between the processes of one machine


class SendCall(msgspec.Struct, kw_only=True):
    """A send that arrived. What follows ``monotonic_s`` is known a moment later than the rest."""

    phone_number_id: str
    tracker: str | None
    time: float
    monotonic_s: float
    fault: str | None = None  # the tag of the fault it met
    error_code: int | None = None  # what it was refused with
    wamid: str | None = None  # None: not accepted


class Receipt(msgspec.Struct, frozen=True):
    """A message of a person that was marked as read."""

    phone_number_id: str
    message_id: str
    typing: bool = False


class GroundTruth(Ledger[AcceptedMessage, SendCall]):
    """What it counts belongs to a phone number id."""

    def forget(self) -> None:
        super().forget()
        self.receipts: list[Receipt] = []

    def arrived(self, phone_number_id: str, tracker: str | None) -> SendCall:
        call = SendCall(
            phone_number_id=phone_number_id, tracker=tracker, time=time.time(), monotonic_s=time.monotonic()
        )
        self.sends.append(call)
        return call

    def accept(self, call: SendCall, wamid: str, body: dict[str, Any]) -> AcceptedMessage:
        message = AcceptedMessage(
            wamid=wamid,
            phone_number_id=call.phone_number_id,
            tracker=call.tracker,
            body=body,
            time=time.time(),
            monotonic_s=time.monotonic(),
        )
        call.wamid = wamid
        self.keep(message, wamid, message.tracker)
        return message

    def by_wamid(self, wamid: str) -> AcceptedMessage | None:
        return self.by_id(wamid)
