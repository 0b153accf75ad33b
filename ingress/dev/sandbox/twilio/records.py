"""What really happened at Twilio: `ledger.py` with the fields that its messages have."""

from urllib.parse import parse_qs, urlsplit

import msgspec

from ..ledger import ArrivedSend, Ledger, TakenMessage
from .bodies import Form, TwilioSender

REFERENCE = "ref"  # the parameter of a StatusCallback by which the gateway knows its messages


class TwilioMessage(TakenMessage, frozen=True, kw_only=True):
    sid: str
    account_sid: str
    phone_number: str  # of the sender, E.164
    to: str  # without its channel
    status_callback: str | None
    tracker: str | None  # the `ref` of the status callback; None: it had none
    form: Form

    def parameter(self, name: str) -> str | None:
        return dict(self.form).get(name)


class TwilioSend(ArrivedSend, kw_only=True):
    account_sid: str
    tracker: str | None
    phone_number: str | None = None  # None: of no sender of ours
    sid: str | None = None  # None: not accepted


class Leak(msgspec.Struct, frozen=True):
    """A request that took credentials to where they must not go."""

    method: str
    path: str
    header: str


class Alert(msgspec.Struct, frozen=True):
    """An entry of Twilio's debugger: what was wrong with an address, or with the answer to a webhook."""

    code: int
    url: str


class Indicator(msgspec.Struct, frozen=True):
    """A typing indicator, which also marks the message as read."""

    account_sid: str
    message_sid: str


class Spoken(msgspec.Struct, frozen=True):
    """Words that went to a person because the answer to a webhook was not the empty TwiML."""

    phone_number: str
    to: str
    body: str


def tracker_of(status_callback: str | None) -> str | None:
    try:
        values = parse_qs(urlsplit(status_callback or "").query).get(REFERENCE)
    except ValueError:
        return None
    return values[0] if values else None


class TwilioTruth(Ledger[TwilioMessage, TwilioSend]):
    """What it counts belongs to an account."""

    def forget(self) -> None:
        super().forget()
        self.leaks: list[Leak] = []
        self.alerts: list[Alert] = []
        self.indicators: list[Indicator] = []
        self.spoken: list[Spoken] = []

    def arrived(self, account_sid: str, form: Form) -> TwilioSend:
        call = TwilioSend(account_sid=account_sid, tracker=tracker_of(dict(form).get("StatusCallback")))
        self.sends.append(call)
        return call

    def accept(self, call: TwilioSend, sid: str, sender: TwilioSender, form: Form) -> TwilioMessage:
        fields = dict(form)
        message = TwilioMessage(
            sid=sid,
            account_sid=sender.account_sid,
            phone_number=sender.phone_number,
            to=fields["To"].removeprefix("whatsapp:"),
            status_callback=fields.get("StatusCallback"),
            tracker=call.tracker,
            form=form,
        )
        call.sid = sid
        self.keep(message, sid, message.tracker)
        return message

    def by_sid(self, sid: str) -> TwilioMessage | None:
        return self.by_id(sid)
