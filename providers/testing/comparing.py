"""What is wrong, in words by which an author can repair it."""

from typing import Any

from ..base import Request, Webhook
from ..errors import SendError
from .samples import ExpectedError, ExpectedRequest, error_class, value_of


class ContractBroken(AssertionError):
    """A provider does not keep what the contract promises; the text says what, and where."""


def ask(kept: bool, broken: str) -> None:
    """Raise `ContractBroken` with *broken* unless the promise is *kept*."""
    __tracebackhide__ = True
    if not kept:
        raise ContractBroken(broken)


def differences(expected: Any, actual: Any, path: str = "$", *, whole: bool = False) -> list[str]:
    """Where *actual* lacks what *expected* asks for, or, if *whole*, has more: null is absent."""
    if isinstance(expected, dict):
        held = actual if isinstance(actual, dict) else {}
        found = [differences(value, held.get(key), f"{path}.{key}", whole=whole) for key, value in expected.items()]
        more = [key for key in held if whole and key not in expected and held[key] is not None]
        return [line for lines in found for line in lines] + [
            f"{path}.{key}: {held[key]!r} is too much" for key in more
        ]
    if isinstance(expected, list):
        if not isinstance(actual, list) or len(actual) != len(expected):
            return [f"{path}: {actual!r}, not {expected!r}"]
        found = [differences(value, actual[at], f"{path}[{at}]", whole=whole) for at, value in enumerate(expected)]
        return [line for lines in found for line in lines]
    same = expected == actual and isinstance(expected, bool) == isinstance(actual, bool)
    return [] if same else [f"{path}: {actual!r}, not {expected!r}"]


def ask_same(expected: Any, actual: Any, about: str, *, whole: bool = False) -> None:
    __tracebackhide__ = True
    found = differences(expected, actual, whole=whole)
    ask(not found, "\n    ".join([f"{about}, is not as expected:", *found]))


def ask_request(expected: ExpectedRequest, request: Request, about: str) -> None:
    __tracebackhide__ = True
    headers = {name.lower(): value for name, value in expected.headers.items()}
    wanted = {"method": expected.method, "url": expected.url, "headers": headers}
    ask_same(wanted, {"method": request.method, "url": request.url, "headers": request.headers}, about)
    ask_same({"body": expected.body}, {"body": value_of(request)}, about, whole=True)


def ask_error(expected: ExpectedError, end: Any, about: str) -> None:
    __tracebackhide__ = True
    error_class(expected.class_)
    ask(type(end).__name__ == expected.class_, f"{about}: it ends with {ending(end)}, not with {expected.class_}")
    for name in ("code", "scope", "retry_after_s"):
        wanted, held = getattr(expected, name), getattr(end, name)
        ask(wanted is None or wanted == held, f"{about}: {name} of the error is {held!r}, not {wanted!r}")


def ending(end: Any) -> str:
    """How a flow ended, for its author: everything in it is theirs."""
    if isinstance(end, Request):
        return f"the request {end.method} {end.url}"
    return f"{type(end).__name__} ({end.code}: {end.detail})" if isinstance(end, SendError) else f"the result {end!r}"


def shown(hook: Webhook) -> str:
    return f"the body {hook.body[:600]!r}"


def difference(hook: Webhook, other: Webhook) -> str:
    """Where *other*, of one byte more, less or another, leaves *hook*."""
    if hook.body != other.body:
        pairs = enumerate(zip(hook.body, other.body, strict=False))
        at = next((at for at, (one, two) in pairs if one != two), min(len(hook.body), len(other.body)))
        near = slice(max(0, at - 20), at + 20)
        return f"at byte {at} of the body, {other.body[near]!r} for {hook.body[near]!r}"
    name = next(name for name in hook.headers if hook.headers[name] != other.headers.get(name))
    return f"{name}: {other.headers.get(name)!r} for {hook.headers[name]!r}"
