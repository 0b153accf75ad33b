"""Driving a flow by hand: what it asks for, and what it makes of the answers."""

import json
from collections.abc import Iterable
from typing import Any, TypeVar

from providers import Check, ChecksFlow, Flow, Request, Response

Result = TypeVar("Result")


def first(flow: Flow[Any]) -> Request:
    return next(flow)


def drive(flow: ChecksFlow[Result], answers: Iterable[Response]) -> tuple[Result, list[Request]]:
    """The result of *flow* and its requests; fails where it asks for more or fewer than *answers*."""
    requests = []
    left = list(answers)
    try:
        request = next(flow)
        while True:
            if isinstance(request, Check):
                request = next(flow)
                continue
            requests.append(request)
            assert left, f"no answer left for {request.url}"
            request = flow.send(left.pop(0))
    except StopIteration as done:
        assert not left, "answers left over"
        result: Result = done.value
        return result, requests


def answered(json_body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(status=status, headers=headers or {}, body=json.dumps(json_body).encode())


def recorded(http_response: dict[str, Any]) -> Response:
    """The answer of a sample."""
    text = http_response.get("body_text")
    content = json.dumps(http_response["json"]) if text is None else text
    headers = {name.lower(): value for name, value in (http_response.get("headers") or {}).items()}
    return Response(status=http_response["status"], headers=headers, body=content.encode())
