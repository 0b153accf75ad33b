"""The send samples of the three providers, which share their form, as cases of the provider kit."""

from collections.abc import Mapping
from typing import Any

import msgspec

from providers import MessageData, Response, SendError, Unavailable, Uncertain, WhatsAppProvider
from providers.testing import Exchange, ExpectedError, ExpectedRequest, FlowCase

from .flows import recorded

Sample = dict[str, Any]

CLASSES = {
    "permanent_content": "Rejected",
    "permanent_account": "AccountBroken",
    "throttled": "Throttled",
    "transient": "Unavailable",
    "ambiguous": "Uncertain",
    "unsupported": "Unsupported",
}


def asked(http_request: Sample, root: str = "") -> ExpectedRequest:
    """The request of a sample; *root* stands before an address that is only a path."""
    return ExpectedRequest(
        method=http_request["method"],
        url=http_request.get("url") or f"{root}{http_request['path']}",
        headers=http_request["headers"],
        body=dict(http_request["form"]) if "form" in http_request else http_request["json"],
    )


def answer_of(sample: Sample) -> Response | SendError:
    """The answer of a sample; where there is none, what the driver throws, who knows what was written."""
    if sample["http_response"] is not None:
        return recorded({"body_text": sample["http_response"].get("text"), **sample["http_response"]})
    transport = sample["transport_error"]
    written = transport.get("request_written", transport.get("phase") == "read")
    return (Uncertain if written else Unavailable)("the wire", code="transport")


def expected_error(outcome: Sample, *, restricted: bool = False) -> ExpectedError | None:
    if outcome["class"] == "accepted":
        return None
    code = outcome.get("error_code", outcome.get("provider_code"))
    return ExpectedError(
        class_="Restricted" if restricted else CLASSES[outcome["class"]],
        code=None if code is None else str(code),
        scope=outcome.get("scope"),
        retry_after_s=outcome.get("first_retry_after_s", outcome.get("retry_after_s")),
    )


def send_case(
    name: str,
    message: MessageData | Mapping[str, Any],
    exchanges: list[Exchange],
    *,
    result: Any,
    error: ExpectedError | None,
    account: WhatsAppProvider | None = None,
    operation: str = "mark_read",
) -> FlowCase:
    """*message* sent; a mapping holds the arguments of another *operation*."""
    sends = isinstance(message, MessageData)
    return FlowCase(
        name=name,
        operation="send_message" if sends else operation,
        arguments={"message": message} if isinstance(message, MessageData) else dict(message),
        exchanges=exchanges,
        result=msgspec.UNSET if error is not None else result,
        error=error,
        account=account,
    )
