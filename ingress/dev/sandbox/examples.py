"""What the simulated providers post and answer, as samples for `ingress providers check`: signed as they sign.

The simulators were written from the providers' documentation and not from our code, so that the two check each other.
"""

import base64
import random
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec

from providers import Contacts, MessageData, OutboundContent, Recipient, Response, Template, Text, Webhook
from providers.testing import (
    DocumentedError,
    Exchange,
    ExpectedError,
    ExpectedRequest,
    FlowCase,
    Samples,
    WebhookCase,
)

from .meta import bodies as meta_bodies
from .meta.errors import GraphError
from .meta.inbound import MetaInbound
from .twilio import bodies as twilio_bodies
from .twilio.errors import TwilioError
from .twilio.inbound import TwilioInbound
from .waha import bodies as waha_bodies
from .waha.errors import WahaError
from .waha.inbound import WahaInbound
from .waha.messages import ChatMessage, ack_payload, sent
from .waha.server import NEWEST, WahaServer

_META, _TWILIO, _WAHA = "https://graph.facebook.com", "https://api.twilio.com", "http://127.0.0.1:3000"
_URL = "https://gw.example.org/webhooks/provider/token"
_WORDS = "Olá, tudo bem? 🙂"
_PERSON = "+5511987654321"
_SEED = 20261125
_NOW = 1793800805

# What each method of a generator of inbound messages is to be read as.
_KINDS = {
    "image": "image", "audio": "audio", "voice": "audio", "video": "video", "document": "document",
    "sticker": "sticker", "location": "location", "contacts": "contacts", "reaction": "reaction",
    "button_reply": "button_reply", "list_reply": "list_reply", "template_button": "button_reply",
    "flow_reply": "flow_reply", "unsupported": "unsupported",
}  # fmt: skip

# Signs a body of the provider's with the account of that index.
_Sign = Callable[[Any, int], Webhook]


def examples(provider: str) -> tuple[dict[str, Any], Samples] | None:
    """The configuration of an invented account, and its webhooks; None for a provider that is not simulated."""
    makers = {"meta_business": _meta, "twilio_whatsapp": _twilio, "whatsapp_web": _waha}
    return makers[provider]() if provider in makers else None


def _meta() -> tuple[dict[str, Any], Samples]:
    number = meta_bodies.example_number()
    people = MetaInbound(number, seed=_SEED, clock=lambda: _NOW)

    def sign(body: meta_bodies.Body, index: int) -> Webhook:
        raw = meta_bodies.encode(body)
        secret = meta_bodies.example_number(index).app_secret
        return _hook(_URL, meta_bodies.signed_headers(secret, raw), raw)

    def status(value: str) -> meta_bodies.Body:
        item = meta_bodies.status_item("wamid.A", value, {"to": _PERSON}, at=_NOW)
        return meta_bodies.envelope((number, meta_bodies.statuses_value([item])))

    query = {"hub.mode": "subscribe", "hub.challenge": "0158201444", "hub.verify_token": number.verify_token}
    handshakes = [
        WebhookCase(
            name=f"handshake {answer['status']}",
            hook=Webhook(method="GET", url=f"{_URL}?{urlencode({**query, **changed})}", headers={}),
            answer=answer,
        )
        for changed, answer in (
            ({}, {"status": 200, "body": "0158201444"}),
            ({"hub.verify_token": "another"}, {"status": 403}),
            ({"hub.mode": "unsubscribe"}, {"status": 400}),
        )
    ]
    cases = _cases(people, sign, {value: status(value) for value in ("sent", "delivered", "read", "failed")})
    cases.append(WebhookCase(name="batch", hook=sign(people.batch(9, entries=3), 1), events=[{}] * 9, owned=True))
    asked = ExpectedRequest(
        method="POST",
        url=f"{_META}/v25.0/{number.phone_number_id}/messages",
        headers={"Authorization": f"Bearer {number.access_token}"},
        body={
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to": _PERSON,
            "type": "text",
            "text": {"body": _WORDS},
            "biz_opaque_callback_data": "send-1",
        },
    )
    answer = {"messaging_product": "whatsapp", "contacts": [], "messages": [{"id": "wamid.A"}]}
    classes = {190: "AccountBroken", 130429: "Throttled", 131026: "Rejected", 131031: "Restricted", 131000: "Uncertain"}
    errors = [_error(error.json(), error.http_status, classes[error.code]) for error in map(GraphError, classes)]
    flows = [_sent("text", Text(body=_WORDS), answer, "wamid.A", asked)]
    return number.config_data(_META), Samples(webhooks=[*cases, *handshakes], flows=flows, errors=errors)


def _twilio() -> tuple[dict[str, Any], Samples]:
    sender = twilio_bodies.example_sender()
    media = f"{_TWILIO}/2010-04-01/Accounts/{sender.account_sid}/Messages"
    people = TwilioInbound(sender, seed=_SEED, keep=lambda sids, data, kind: f"{media}/{sids[0]}/Media/{sids[1]}")

    def sign(form: twilio_bodies.Form, index: int) -> Webhook:
        signer = twilio_bodies.example_sender(index)
        return _hook(_URL, twilio_bodies.twilio_headers(signer, _URL, form, "token-1"), twilio_bodies.encode_form(form))

    statuses = {
        value: twilio_bodies.status_form(
            sender, f"SM{'0' * 32}", _PERSON, value, error_code=63016 if value == "failed" else None
        )
        for value in ("sent", "delivered", "read", "failed")
    }
    basic = base64.b64encode(f"{sender.account_sid}:{sender.auth_token}".encode()).decode()
    form = [("To", f"whatsapp:{_PERSON}"), ("From", sender.address), ("Body", _WORDS)]
    asked = ExpectedRequest(
        method="POST",
        url=f"{_TWILIO}/2010-04-01/Accounts/{sender.account_sid}/Messages.json",
        headers={"Authorization": f"Basic {basic}"},
        body=dict(form),
    )
    sid, template = f"SM{'0' * 32}", Template(name=f"HX{'0' * 32}", language="en")
    card = Contacts(contacts=[{"url": "https://files.example.com/ana.vcf"}])
    answer = twilio_bodies.message_resource(sender, sid, form, status="queued", body=_WORDS, at=_NOW)
    classes = {20003: "AccountBroken", 20429: "Throttled", 21211: "Rejected"}
    samples = Samples(
        webhooks=_cases(people, sign, statuses),
        flows=[
            _sent("text", Text(body=_WORDS), answer, sid, asked),
            _sent("template", template, answer, sid),
            _sent("contacts", card, answer, sid),
        ],
        errors=[_error(error.json(), error.http_status, classes[error.code]) for error in map(TwilioError, classes)],
    )
    return sender.config_data(_TWILIO), samples


def _waha() -> tuple[dict[str, Any], Samples]:
    session = waha_bodies.example_session()
    own, kept = waha_bodies.chat_of(session.phone), list[ChatMessage]()
    people = WahaInbound(
        session.name,
        session.engine,
        own,
        seed=_SEED,
        store=lambda bare, data, kind, name: {
            "url": f"{_WAHA}/api/files/{session.name}/{bare}",
            "mimetype": kind,
            "filename": name,
            "error": None,
        },
        remember=kept.append,
    )

    def sign(news: waha_bodies.News, index: int) -> Webhook:
        raw = waha_bodies.waha_encode(
            waha_bodies.waha_envelope(
                news.events[0],
                news.payload,
                WahaServer(),
                event_id=waha_bodies.new_event_id(random.Random(_SEED)),  # noqa: S311  it makes an id, not a key
                session=session.name,
                engine=session.engine,
                me=waha_bodies.account_of(session.phone),
                metadata=None,
            )
        )
        key = waha_bodies.example_session(index).hmac_key
        return _hook(_URL, waha_bodies.waha_headers(raw, NEWEST, request_id="req_1", key=key), raw)

    people.own(_WORDS, phone=_PERSON)
    statuses = {
        value: waha_bodies.News(("message.ack",), ack_payload(session.engine, kept[0], own, ack))
        for value, ack in (("sent", "SERVER"), ("delivered", "DEVICE"), ("read", "READ"), ("failed", "ERROR"))
    }
    answer = sent(session.engine, kept[0], own)
    template = Template(name="greeting", language="pt_BR", rendered=_WORDS)
    errors = {
        "AccountBroken": WahaError(401, "Unauthorized"),
        "Rejected": WahaError(400, ["chatId must be a string"]),
    }
    samples = Samples(
        webhooks=_cases(people, sign, statuses),
        flows=[  # an id is chosen by who asks
            _sent("text", Text(body=_WORDS), answer, kept[0].bare),
            _sent("template", template, answer, kept[0].bare),
        ],
        errors=[
            _error(error.body(request={}, server=WahaServer(), engine=session.engine), error.status, name)
            for name, error in errors.items()
        ],
    )
    return session.config_data(_WAHA), samples


def _cases(people: Any, sign: _Sign, statuses: Mapping[str, Any]) -> list[WebhookCase]:
    """A text, each other kind that *people* can write, a status of each kind, and a text signed by somebody else."""
    text = people.text(_WORDS, phone=_PERSON)
    found = [_message("text", sign(text, 1), {"type": "text", "body": _WORDS})]
    for method, kind in _KINDS.items():
        if make := getattr(people, method, None):
            found.append(_message(method, sign(make(phone=_PERSON), 1), {"type": kind}))
    for value, body in statuses.items():
        events = [{"type": "message.status", "status": {"value": value}}]
        hook = sign(body, 1)
        found.append(WebhookCase(name=f"status {value}", hook=hook, events=events, owned=True, about="text"))
    return [*found, WebhookCase(name="signed by another account", hook=sign(text, 2), error="Unverified")]


def _message(name: str, hook: Webhook, content: dict[str, Any]) -> WebhookCase:
    events = [{"type": "message.received", "contact": {"phone": _PERSON}, "message": {"content": content}}]
    return WebhookCase(name=name, hook=hook, events=events, owned=True)


def _sent(
    name: str, content: OutboundContent, answer: Any, message_id: str, asked: ExpectedRequest | None = None
) -> FlowCase:
    """A send, accepted with the answer *answer*."""
    message = MessageData(
        to=Recipient(phone=_PERSON), content=content, organization_id="org-1", correlation_id="send-1"
    )
    return FlowCase(
        name=name,
        operation="send_message",
        arguments={"message": message},
        exchanges=[Exchange(request=asked, answer=Response(status=200, body=msgspec.json.encode(answer)))],
        result={"provider_message_id": message_id},
    )


def _error(answer: Any, status: int, class_: str) -> DocumentedError:
    answer = Response(status=status, body=msgspec.json.encode(answer))
    return DocumentedError(name=class_, answer=answer, error=ExpectedError(class_=class_))


def _hook(url: str, headers: Mapping[str, str], body: bytes) -> Webhook:
    return Webhook(method="POST", url=url, headers={name.lower(): value for name, value in headers.items()}, body=body)
