"""A sender of Twilio's, and the forms, resources and signatures it is talked about with."""

import base64
import hashlib
import hmac
import random
import re
import uuid
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import urldefrag, urlencode

import msgspec

from .errors import words_of

Form = list[tuple[str, str]]
Body = dict[str, Any]

CHANNEL = "whatsapp:"
API_VERSION = "2010-04-01"
USER_ID = re.compile(r"[A-Z]{2}\.(ENT\.)?[A-Za-z0-9]{1,128}")


class TwilioSender(msgspec.Struct, frozen=True, kw_only=True):
    """One WhatsApp sender with everything that the gateway's configuration of it needs."""

    account_sid: str
    auth_token: str
    sender_sid: str
    phone_number: str  # E.164, with the plus
    api_key_sid: str | None = None
    api_key_secret: str | None = None
    messaging_service_sid: str | None = None
    shared_key_id: str | None = None  # where set, webhooks are signed with it and not with the token
    shared_key_secret: str | None = None
    webhook_url: str | None = None
    status_callback_url: str | None = None

    @property
    def address(self) -> str:
        return f"{CHANNEL}{self.phone_number}"

    def config_data(self, base_url: str) -> dict[str, Any]:
        """The same as `POST …/provider/configure` wants it. A simulator takes as many messages as come."""
        known = {
            "account_sid": self.account_sid,
            "auth_token": self.auth_token,
            "phone_number": self.phone_number,
            "api_key_sid": self.api_key_sid,
            "api_key_secret": self.api_key_secret,
            "messaging_service_sid": self.messaging_service_sid,
            "shared_key_id": self.shared_key_id,
            "shared_key_secret": self.shared_key_secret,
            "base_url": base_url,
            "messages_per_second": 0,
        }
        return {name: value for name, value in known.items() if value is not None}


def example_sender(index: int = 1, webhook_url: str | None = None) -> TwilioSender:
    """An invented sender, a different one for each *index*. All share nothing but their shape."""
    digest = hashlib.sha256(f"sender {index}".encode()).hexdigest()
    return TwilioSender(
        account_sid=f"AC{digest[:32]}",
        auth_token=digest[32:],
        sender_sid=f"XE{digest[16:48]}",
        phone_number=f"+1500{index:07d}",
        webhook_url=webhook_url,
    )


def new_sid(rng: random.Random, prefix: str) -> str:
    return prefix + rng.randbytes(16).hex()


def encode_form(form: Form) -> bytes:
    return urlencode(form).encode()


# ---------------------------------------------------------------- signed webhooks


def twilio_signature(secret: str, url: str, form: Form, algorithm: str = "sha1") -> str:
    """The value of ``X-Twilio-Signature`` for *form* posted to *url*."""
    text = urldefrag(url).url + "".join(name + value for name, value in sorted(set(form)))
    return base64.b64encode(hmac.digest(secret.encode(), text.encode(), algorithm)).decode()


def twilio_headers(sender: TwilioSender, url: str, form: Form, token: str | None = None) -> dict[str, str]:
    """With the idempotency *token*, which stays the same while one webhook is tried again."""
    headers = {
        "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
        "User-Agent": "TwilioProxy/1.1",
        "I-Twilio-Idempotency-Token": token or str(uuid.uuid4()),
    }
    if sender.shared_key_id is None or sender.shared_key_secret is None:
        return {**headers, "X-Twilio-Signature": twilio_signature(sender.auth_token, url, form)}
    return {
        **headers,
        "X-Twilio-Signature": twilio_signature(sender.shared_key_secret, url, form, "sha256"),
        "X-Twilio-Webhooks-Signature-Settings": f"key={sender.shared_key_id},algorithm=HMAC_SHA256",
    }


def status_form(
    sender: TwilioSender, sid: str, to: str, status: str, *, error_code: int | None = None, has_service: bool = False
) -> Form:
    """The callback that says *status* of message *sid*, which went to *to* (without its channel).

    Source: https://www.twilio.com/docs/messaging/guides/track-outbound-message-status; `StructuredMessage` is judgement
    """
    form = [
        ("SmsSid", sid),
        ("SmsStatus", status),
        ("MessageStatus", status),
        ("To", f"{CHANNEL}{to}"),
        ("ChannelPrefix", "whatsapp"),
        ("MessageSid", sid),
        ("AccountSid", sender.account_sid),
        ("From", sender.address),
        ("ApiVersion", API_VERSION),
        ("ChannelInstallSid", sender.sender_sid),
    ]
    if to.startswith("+"):
        form.append(("ChannelToAddress", f"{to[:-4]}XXXX"))
    if status in ("delivered", "read", "undelivered"):
        form.append(("EventType", status.upper()))
    if status == "sent":
        form.append(("StructuredMessage", "false"))
    if has_service and sender.messaging_service_sid is not None:
        form.append(("MessagingServiceSid", sender.messaging_service_sid))
    if error_code is not None:
        words = words_of(error_code)
        form += [("ErrorCode", str(error_code)), ("ErrorMessage", words), ("ChannelStatusMessage", words)]
    return form


def message_sid_of(form: Form) -> str:
    return dict(form)["MessageSid"]


# ---------------------------------------------------------------- resources


def message_resource(
    sender: TwilioSender, sid: str, form: Form, *, status: str, body: str, at: float, is_picked: bool = True
) -> Body:
    """A message as an answer shows it; without *is_picked* the service has not chosen its sender yet.

    Source: https://github.com/twilio/twilio-oai, spec/json/twilio_api_v2010.json (`api.v2010.account.message`)
    """
    fields = dict(form)
    moment = rfc2822(at)
    path = f"/{API_VERSION}/Accounts/{sender.account_sid}/Messages/{sid}"
    return {
        "sid": sid,
        "account_sid": sender.account_sid,
        "api_version": API_VERSION,
        "messaging_service_sid": fields.get("MessagingServiceSid"),
        "from": sender.address if is_picked else None,
        "to": fields["To"],
        "body": body,
        "status": status,
        "direction": "outbound-api",
        "num_media": str(sum(name == "MediaUrl" for name, _ in form)),
        "num_segments": "1" if is_picked else "0",
        "date_created": moment,
        "date_updated": moment,
        "date_sent": None,
        "price": None,
        "price_unit": None,
        "error_code": None,
        "error_message": None,
        "subresource_uris": {"media": f"{path}/Media.json"},
        "uri": f"{path}.json",
    }


def account_resource(sid: str, auth_token: str) -> Body:
    """The account, its secret included.

    Source: https://github.com/twilio/twilio-oai, spec/json/twilio_api_v2010.json (`api.v2010.account`)
    """
    path = f"/{API_VERSION}/Accounts/{sid}"
    return {
        "auth_token": auth_token,
        "date_created": "Mon, 01 Jun 2026 08:00:00 +0000",
        "date_updated": "Mon, 01 Jun 2026 08:00:00 +0000",
        "friendly_name": "Sandbox",
        "owner_account_sid": sid,
        "sid": sid,
        "status": "active",
        "subresource_uris": {"messages": f"{path}/Messages.json"},
        "type": "Full",
        "uri": f"{path}.json",
    }


def sender_resource(sender: TwilioSender, webhook: Body, base_url: str) -> Body:
    """A WhatsApp sender as it is fetched and listed.

    Source: https://github.com/twilio/twilio-oai, spec/json/twilio_messaging_v2.json (the example `whatsapp_fetch`)
    """
    unset = ("verification_method", "verification_code", "voice_application_sid", "account_type")
    return {
        "sid": sender.sender_sid,
        "status": "ONLINE",
        "sender_id": sender.address,
        "configuration": {"waba_id": "123456789012345", **dict.fromkeys(unset)},
        "webhook": webhook,
        "profile": {**dict.fromkeys(_PROFILE), "name": "Sandbox"},
        "compliance": None,
        "properties": {"quality_rating": "HIGH", "messaging_limit": "10K Customers/24hr"},
        "offline_reasons": None,
        "url": f"{base_url}/v2/Channels/Senders/{sender.sender_sid}",
    }


_PROFILE = (
    "name", "about", "address", "description", "logo_url", "banner_url", "privacy_url", "terms_of_service_url",
    "accent_color", "use_case", "vertical", "websites", "emails", "phone_numbers",
)  # fmt: skip


def updated_sender(sender: Body) -> Body:
    """What an update of *sender* answers: less than a fetch. Which status it shows is our judgement.

    Source: https://github.com/twilio/twilio-oai, spec/json/twilio_messaging_v2.json (`UpdateChannelsSender`)
    """
    left_out = {"properties", "offline_reasons", "url"}
    shown = {name: value for name, value in sender.items() if name not in left_out}
    return {**shown, "friendly_name": None, "status": "ONLINE:UPDATING"}


def service_resource(sid: str, account_sid: str, base_url: str) -> Body:
    """A Messaging Service that leaves it to its senders where messages go.

    Source: https://github.com/twilio/twilio-oai, spec/json/twilio_messaging_v1.json (`messaging.v1.service`)
    """
    url = f"{base_url}/v1/Services/{sid}"
    return {
        "sid": sid,
        "account_sid": account_sid,
        "friendly_name": "Sandbox",
        "date_created": "2026-06-01T08:00:00Z",
        "date_updated": "2026-06-01T08:00:00Z",
        "inbound_request_url": None,
        "inbound_method": "POST",
        "fallback_url": None,
        "fallback_method": "POST",
        "status_callback": None,
        "sticky_sender": True,
        "mms_converter": True,
        "smart_encoding": True,
        "scan_message_content": "inherit",
        "fallback_to_long_code": True,
        "area_code_geomatch": True,
        "synchronous_validation": False,
        "validity_period": 14400,
        "url": url,
        "links": {"phone_numbers": f"{url}/PhoneNumbers"},
        "usecase": "undeclared",
        "us_app_to_person_registered": False,
        "use_inbound_webhook_on_number": True,
    }


def rfc2822(at: float) -> str:
    return format_datetime(datetime.fromtimestamp(at, UTC))
