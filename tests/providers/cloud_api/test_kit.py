"""The provider kit over the samples of the Cloud API."""

from typing import Any

import msgspec

from providers import Event, Recipient, Webhook
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
from .samples import ACCOUNT, compact, names, sample, signed
from .test_errors import REPLIES, codes, expected, label

WEBHOOKS = names("in_*") + names("st_*") + names("other_*")
PUNISHED = {row["code"] for row in sample("error_classification") if row.get("punished")}
PERSON = Recipient(phone="+5511987654321")


def webhook(name: str) -> WebhookCase:
    return WebhookCase(name=name, hook=signed(compact(name)), events=sample(f"{name}.expected"))


def send(name: str) -> FlowCase:
    case = sample(name)
    envelope, outcome = case["envelope"], case["outcome"]
    receipts = envelope["type"] in ("mark_read", "typing")
    read = {"message_id": envelope["message_id"], "chat": PERSON, "typing": envelope["type"] == "typing"}
    error = expected_error(outcome, restricted=outcome.get("error_code") in PUNISHED)
    exchanges = []
    if case["http_request"] is None:
        reason = outcome["reason"]
        error = ExpectedError(class_="Unsupported" if _is_limit(reason) else "Rejected", code=reason)
    else:
        exchanges = [
            Exchange(request=asked(case["http_request"], "https://graph.facebook.com"), answer=answer_of(case))
        ]
    return send_case(name, read if receipts else message_data(envelope), exchanges, result=_result(case), error=error)


def _is_limit(reason: str) -> bool:
    """What Meta alone does not take: others are asked. Nobody keeps more than so much of ours beside a message."""
    return "_too_" in reason.replace("too_many_", "_too_") and reason != "tracker_too_long"


def _result(case: dict[str, Any]) -> Any:
    outcome = case["outcome"]
    if outcome.get("provider_message_id") is None:
        return None
    held = outcome.get("message_status") == "held_for_quality_assessment"
    # "sent" is what is left out.
    result: dict[str, Any] = {
        "provider_message_id": outcome["provider_message_id"],
        "status": "held" if held else None,
    }
    if "recipient_wa_id" in outcome:
        result["contact"] = {"phone": f"+{outcome['recipient_wa_id']}"}
    return result


def documented(row: dict[str, Any], code: int) -> DocumentedError:
    """The code decides: the status is one that means nothing here."""
    error = {"code": code, "error_subcode": row.get("subcode"), "message": "refused"}
    return DocumentedError(
        name=f"{code} {label(row)}",
        answer=answered({"error": error}, 418),
        error=ExpectedError(class_=expected(row), scope=row["scope"]),
    )


def test_all_samples_are_here() -> None:
    """The samples came along: an empty folder would pass everything."""
    assert (len(WEBHOOKS), len(names("send_*")), len(REPLIES)) == (130, 115, 88)


class TestMetaBusiness(ProviderContract):
    provider = msgspec.structs.replace(ACCOUNT, app_secret_previous="fedcba9876543210", pin="123456")
    samples = Samples(
        webhooks=map(webhook, WEBHOOKS),
        flows=map(send, names("send_*")),
        errors=[documented(row, code) for row in REPLIES for code in codes(row)],
    )

    def sign(self, hook: Webhook) -> Webhook:
        return msgspec.structs.replace(hook, headers=signed(hook.body).headers)

    def seen(self, event: Event) -> Any:
        return project(event)
