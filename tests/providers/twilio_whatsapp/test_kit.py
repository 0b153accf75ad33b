"""The provider kit over the samples of Twilio."""

import json
from typing import Any

from providers import Event, Recipient
from providers.testing import (
    DocumentedError,
    Exchange,
    ExpectedError,
    FlowCase,
    ProviderContract,
    Samples,
    WebhookCase,
)

from ..flows import answered
from ..kit_cases import answer_of, asked, expected_error, send_case
from .envelopes import message_data
from .projection import project
from .samples import ACCOUNT, account_of, hook, names, sample
from .test_errors import CODES

WEBHOOKS = names("msg_*") + names("status_*") + names("events_*")
# What a sample's request has and ours has not: a message of ours has no time to be sent at.
BEYOND = {"send_text_scheduled": {"ScheduleType": None, "SendAt": None}}
# What Twilio was asked for once, and is not any more: its limit is known.
KNOWN_LIMIT = "send_error_21617_too_long"
NO_CONTENT = Exchange(request=None, answer=answered({"contents": [], "meta": {"key": "contents"}}))


def webhook(name: str) -> WebhookCase:
    return WebhookCase(name=name, hook=hook(name), events=sample(f"{name}.expected"), owned=name != "msg_sandbox_join")


def forged(name: str) -> WebhookCase:
    return WebhookCase(name=name, hook=hook(name), error="Unverified")


def send(name: str) -> FlowCase:
    case = sample(name)
    envelope, outcome = case["envelope"], case["outcome"]
    error = (
        expected_error(outcome) if name != KNOWN_LIMIT else ExpectedError(class_="Unsupported", code="text_too_long")
    )
    result = outcome.get("provider_message_id") and {"provider_message_id": outcome["provider_message_id"]}
    if envelope["type"] == "typing":
        typing = {"message_id": envelope["target_id"], "chat": Recipient(phone=envelope["to"]), "typing": True}
        return send_case(name, typing, _exchanges(name), result=None, error=error)
    account = account_of(name)
    return send_case(name, message_data(envelope), _exchanges(name), result=result, error=error, account=account)


def _exchanges(name: str) -> list[Exchange]:
    case = sample(name)
    if case["http_request"] is None or name == KNOWN_LIMIT:
        return []
    fields = dict(case["http_request"]["form"]) | BEYOND.get(name, {})
    if "ContentVariables" in fields:
        fields["ContentVariables"] = json.dumps(json.loads(fields["ContentVariables"]), separators=(",", ":"))
    last = Exchange(request=asked({**case["http_request"], "form": fields}), answer=answer_of(case))
    if case["envelope"]["type"] != "interactive":
        return [last]
    # The content is looked for and made before the message is sent.
    made = Exchange(request=None, answer=answered({"sid": fields["ContentSid"]}, 201))
    return [NO_CONTENT, made, last]


def sends() -> list[str]:
    """Making content alone is a step of a send; its samples are in test_outbound.py."""
    return [name for name in names("send_*") if sample(name)["envelope"]["type"] != "content_create"]


def test_all_samples_are_here() -> None:
    """The samples came along: an empty folder would pass everything."""
    assert (len(WEBHOOKS), len(names("reject_*")), len(sends()), len(CODES)) == (58, 8, 47, 107)


class TestTwilioWhatsApp(ProviderContract):
    provider = ACCOUNT
    samples = Samples(
        webhooks=[*map(webhook, WEBHOOKS), *map(forged, names("reject_*"))],
        flows=map(send, sends()),
        errors=[
            DocumentedError(
                name=str(code), answer=answered({"code": code}, 418), error=ExpectedError(class_=name, code=str(code))
            )
            for code, name in CODES
        ],
    )

    def seen(self, event: Event) -> Any:
        return project(event)
