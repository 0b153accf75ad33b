"""The provider kit over the samples of WAHA."""

from typing import Any

from providers import Event, MessageData
from providers.testing import (
    DocumentedError,
    Exchange,
    ExpectedError,
    ExpectedRequest,
    FlowCase,
    ProviderContract,
    Samples,
    WebhookCase,
)
from providers.whatsapp_web.addresses import chosen_id
from providers.whatsapp_web.outbound import has_chosen_id

from ..flows import answered
from ..kit_cases import answer_of, asked, expected_error, send_case
from .envelopes import message_data, recipient
from .projection import project
from .samples import ACCOUNT, answers_of, hook, names, sample
from .test_inbound import WEBHOOKS, media_of
from .test_outbound import ANSWER_ONLY, ERROR_ANSWERS, RECORDED, SENDS

DONE = answered({}, 201)


def webhook(name: str) -> WebhookCase:
    return WebhookCase(name=name, hook=hook(name), events=sample(f"{name}.expected"), owned=True)


def forged(name: str) -> WebhookCase:
    return WebhookCase(name=name, hook=hook(name), error="Unverified")


def send(name: str) -> FlowCase:
    case = sample(name)
    envelope, outcome = case["envelope"], case["outcome"]
    error = expected_error(outcome, restricted=outcome.get("punished", False))
    if name == "send_error_413_too_large":
        # Another provider takes more: what the sample says of repeating it is about this one.
        error = ExpectedError(class_="Unsupported", code="too_large")
    call: MessageData | dict[str, Any]
    exchanges = []
    stops = envelope.get("state") == "stop"
    if stops:
        call = {"chat": recipient(envelope["to"])}
    elif envelope["type"] == "read":
        call = {"message_id": envelope["target_ids"][0], "chat": recipient(envelope["to"])}
    elif envelope["type"] == "typing":
        # Typing comes after reading.
        call = {"message_id": "false_1@c.us_3EB0AA", "chat": recipient(envelope["to"]), "typing": True}
        exchanges.append(Exchange(request=None, answer=DONE))
    else:
        call = message_data(envelope)
    request = None if name in ANSWER_ONLY else _request(name, call)
    exchanges.append(Exchange(request=request, answer=answer_of(case)))
    if outcome.get("verify") == "check-exists":
        exchanges.append(Exchange(request=None, answer=answered({"numberExists": False})))
    key = outcome.get("message_key")
    result = key and {"provider_message_id": key}
    operation = "stop_typing" if stops else "mark_read"
    return send_case(name, call, exchanges, result=result, error=error, operation=operation)


def _request(name: str, call: MessageData | dict[str, Any]) -> ExpectedRequest:
    """As the sample has it, but for what is ours to choose."""
    request = asked(sample(name)["http_request"])
    if isinstance(call, MessageData) and has_chosen_id(call):
        request.body["id"] = chosen_id(call.correlation_id)
    if name == "send_image_url":
        # The sample takes a name out of the URL, which those of errors, with the same kinds of files, do not do.
        del request.body["file"]["filename"]
    if name == "send_contact":
        # The sample spaces the number for people, which takes a table of all countries; ours is as it was given.
        contact = request.body["contacts"][0]
        contact["phoneNumber"] = contact["phoneNumber"].replace(" ", "")
    return request


class TestWhatsAppWeb(ProviderContract):
    provider = ACCOUNT
    samples = Samples(
        webhooks=[*map(webhook, WEBHOOKS), *map(forged, names("reject_*"))],
        flows=map(send, SENDS),
        errors=[
            DocumentedError(name=code, answer=answer, error=ExpectedError(class_=name, code=code))
            for answer, name, code in ERROR_ANSWERS
        ]
        + [
            DocumentedError(name=name, answer=answers_of(name)[0], error=ExpectedError(class_=class_, code=code))
            for name, (class_, code) in RECORDED.items()
        ],
    )

    def seen(self, event: Event) -> Any:
        return project(event, media_of(event))
