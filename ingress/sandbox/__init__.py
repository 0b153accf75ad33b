"""Simulators of what the service talks to. They keep the truth: it never grades itself."""

from .crm import CrmSimulator
from .crm_answers import AnyAnswer, CrmFlood, CrmHang, CrmReset, CrmSlow, CrmStatus
from .crm_records import Delivered, Inversion
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
    Throttle429,
)
from .ledger import message_id_of
from .meta import MetaSimulator
from .meta_bodies import MetaNumber, encode, example_number, merged, message_ids, signature, signed_headers
from .meta_errors import DOCUMENTED
from .meta_inbound import MetaInbound
from .meta_records import AcceptedMessage, SendCall
from .meta_world import StatusPolicy
from .twilio import TwilioSimulator
from .twilio_bodies import TwilioSender, example_sender, message_sid_of, twilio_headers, twilio_signature
from .twilio_errors import TWILIO_DOCUMENTED
from .twilio_inbound import TwilioInbound
from .twilio_records import TwilioMessage, TwilioSend
from .twilio_retries import Pace
from .twilio_world import TwilioStatusPolicy
from .waha import WahaSimulator
from .waha_bodies import News, WahaSession, example_session, waha_encode, waha_headers, waha_signature
from .waha_errors import WAHA_DOCUMENTED
from .waha_inbound import WahaInbound
from .waha_records import WahaMessage, WahaReceipt, WahaSend
from .waha_session import AckPolicy
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
