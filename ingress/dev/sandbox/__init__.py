"""Simulators of what the service talks to. They keep the truth: it never grades itself."""

from .crm.answers import AnyAnswer, CrmFlood, CrmHang, CrmReset, CrmSlow, CrmStatus
from .crm.records import Delivered, Inversion
from .crm.simulator import CrmSimulator
from .fault_proxy import FaultProxy
from .faults import (
    Accept,
    AnyFault,
    Bare5xx,
    Bare5xxAfterAccept,
    EmptyAnswer,
    ErrorCode,
    HalfAnswer,
    Hang,
    HangAfterAccept,
    Refuse,
    ResetAfterAccept,
    ResetBeforeAccept,
    Slow,
    SlowAnswer,
    Throttle429,
)
from .ledger import message_id_of
from .meta.bodies import MetaNumber, encode, example_number, merged, message_ids, signature, signed_headers
from .meta.errors import DOCUMENTED
from .meta.inbound import MetaInbound
from .meta.records import AcceptedMessage, SendCall
from .meta.simulator import MetaSimulator
from .meta.world import StatusPolicy
from .twilio.bodies import TwilioSender, example_sender, message_sid_of, twilio_headers, twilio_signature
from .twilio.errors import TWILIO_DOCUMENTED
from .twilio.inbound import TwilioInbound
from .twilio.records import TwilioMessage, TwilioSend
from .twilio.retries import Pace
from .twilio.simulator import TwilioSimulator
from .twilio.world import TwilioStatusPolicy
from .waha.bodies import News, WahaSession, example_session, waha_encode, waha_headers, waha_signature
from .waha.errors import WAHA_DOCUMENTED
from .waha.inbound import WahaInbound
from .waha.records import WahaMessage, WahaReceipt, WahaSend
from .waha.session import AckPolicy
from .waha.simulator import WahaSimulator
from .webhook_post import PostResult, RetryPolicy

__all__ = [
    "DOCUMENTED",
    "TWILIO_DOCUMENTED",
    "WAHA_DOCUMENTED",
    "Accept",
    "AcceptedMessage",
    "AckPolicy",
    "AnyAnswer",
    "AnyFault",
    "Bare5xx",
    "Bare5xxAfterAccept",
    "CrmFlood",
    "CrmHang",
    "CrmReset",
    "CrmSimulator",
    "CrmSlow",
    "CrmStatus",
    "Delivered",
    "EmptyAnswer",
    "ErrorCode",
    "FaultProxy",
    "HalfAnswer",
    "Hang",
    "HangAfterAccept",
    "Inversion",
    "MetaInbound",
    "MetaNumber",
    "MetaSimulator",
    "News",
    "Pace",
    "PostResult",
    "Refuse",
    "ResetAfterAccept",
    "ResetBeforeAccept",
    "RetryPolicy",
    "SendCall",
    "Slow",
    "SlowAnswer",
    "StatusPolicy",
    "Throttle429",
    "TwilioInbound",
    "TwilioMessage",
    "TwilioSend",
    "TwilioSender",
    "TwilioSimulator",
    "TwilioStatusPolicy",
    "WahaInbound",
    "WahaMessage",
    "WahaReceipt",
    "WahaSend",
    "WahaSession",
    "WahaSimulator",
    "encode",
    "example_number",
    "example_sender",
    "example_session",
    "merged",
    "message_id_of",
    "message_ids",
    "message_sid_of",
    "signature",
    "signed_headers",
    "twilio_headers",
    "twilio_signature",
    "waha_encode",
    "waha_headers",
    "waha_signature",
]
