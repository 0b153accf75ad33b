"""Samples are data: one JSON file a case, read into the two kinds of case there are.

**A webhook** is a request and what comes of it: ``events``, an ``answer`` to a handshake, or an ``error``::

    {"request": {"method": "POST", "url": "https://gw.example.org/hook", "headers": {}, "body": {"id": "1"}},
     "events": [{"type": "message.received", "message": {"content": {"type": "text", "body": "Hello"}}}]}

A ``body`` that is a text is taken byte for byte; any other JSON value is written without spaces. ``events`` names
as many events as there are, in their order, and of each what matters: what is not named is not compared, null is
absent. ``"owned": false`` says that they are about another account, ``"about": "send_text"`` that its statuses and
echoes are about the message of that sample: they name the id that the send got, or one with the same `message_key`.
``"error": "Unverified"`` is a forged request; all others are signed by the contract's `sign` before they are verified.

**A flow** is a message to send, or another operation with its arguments, what it asks for, and how it ends::

    {"message": {"to": {"phone": "+5511987654321"}, "content": {"type": "text", "body": "Hello"}},
     "exchanges": [{"request": {"method": "POST", "url": "https://api.example.org/messages", "body": {"text": "Hello"}},
                    "answer": {"status": 200, "body": {"id": "m1"}}}],
     "result": {"provider_message_id": "m1"}}

    {"operation": "mark_read", "arguments": {"message_id": "m1", "chat": {"phone": "+5511987654321"}},
     "exchanges": [{"answer": {"status": 200, "body": {"success": true}}}], "result": null}

Of a request, method, address and body are compared whole (JSON and forms as values), of the headers those that are
named. An ``answer`` may be ``{"error": "Uncertain"}``: the line died. The end is a ``result``, compared like an event,
or an ``error``: ``{"class": "Rejected", "code": "131026", "scope": "recipient"}``.

Two files of a folder are no cases: ``account.json`` is the configuration that the samples were made with, and
``errors.json`` lists documented errors, as in ``[{"answer": {"status": 401}, "error": {"class": "AccountBroken"}}]``.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints
from urllib.parse import parse_qsl

import msgspec

from .. import errors
from ..base import Flow, Request, Response, Webhook, WhatsAppProvider
from ..errors import SendError
from ..messages import MessageData

ACCOUNT = "account.json"
ERRORS = "errors.json"

Read = TypeVar("Read")


class SampleError(ValueError):
    """A file is no sample; the text names it and says why."""


class ExpectedError(msgspec.Struct, frozen=True, kw_only=True, rename={"class_": "class"}, forbid_unknown_fields=True):
    """The class of an error, and what else is asked of it; None is not asked."""

    class_: str
    code: str | None = None
    scope: str | None = None
    retry_after_s: float | None = None


class ExpectedRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request as it should be. ``body`` is None where there is none, else a value or a text."""

    method: str
    url: str
    headers: dict[str, str] = {}
    body: Any = None


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a flow: what it asks for (None is not compared), and the answer that it gets."""

    request: ExpectedRequest | None
    answer: Response | SendError


class WebhookCase(msgspec.Struct, frozen=True, kw_only=True):
    """A request to us. Where ``events``, ``answer`` and ``error`` are None, it only has to be read."""

    name: str
    hook: Webhook
    events: list[Any] | None = None
    answer: dict[str, Any] | None = None
    error: str | None = None  # Unverified or Malformed
    owned: bool | None = None  # None: not compared
    about: str | None = None  # the flow that sent the message of its statuses and echoes

    def __str__(self) -> str:
        return self.name


class FlowCase(msgspec.Struct, frozen=True, kw_only=True):
    """An operation with its arguments. ``account`` is another one than the contract's, where this needs one."""

    name: str
    operation: str
    arguments: dict[str, Any]
    exchanges: list[Exchange]
    result: Any = msgspec.UNSET  # UNSET: not compared
    error: ExpectedError | None = None
    account: WhatsAppProvider | None = None

    def start(self, account: WhatsAppProvider) -> Flow[Any]:
        flow: Flow[Any] = getattr(self.account or account, self.operation)(**self.arguments)
        return flow

    def __str__(self) -> str:
        return self.name


class DocumentedError(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to a send that the provider documents, and what it means."""

    name: str
    answer: Response
    error: ExpectedError

    def __str__(self) -> str:
        return self.name


class Samples:
    """The cases of *folder*, and those given by hand, for samples that are written in a form of their own."""

    def __init__(
        self,
        folder: Path | str | None = None,
        *,
        webhooks: Iterable[WebhookCase] = (),
        flows: Iterable[FlowCase] = (),
        errors: Iterable[DocumentedError] = (),
    ) -> None:
        self.webhooks = list(webhooks)
        self.flows = list(flows)
        self.errors = list(errors)
        self._folder = None if folder is None else Path(folder)
        if self._folder is not None:
            self._read(self._folder)

    def account(self, provider: type[WhatsAppProvider]) -> WhatsAppProvider:
        """The account of the folder's `account.json`."""
        if self._folder is None:
            raise SampleError(f"there is no folder with an {ACCOUNT}")
        return _decoded(self._folder / ACCOUNT, provider)

    def _read(self, folder: Path) -> None:
        if not folder.is_dir():
            raise SampleError(f"{folder} is no folder")
        for path in sorted(folder.glob("*.json")):
            if path.name == ERRORS:
                rows = _decoded(path, list[_ErrorFile])
                self.errors += [row.case(f"{number} {row.error.class_}") for number, row in enumerate(rows, 1)]
            elif path.name != ACCOUNT:
                self._add(path)

    def _add(self, path: Path) -> None:
        if "request" in _decoded(path, dict[str, msgspec.Raw]):
            self.webhooks.append(_decoded(path, _WebhookFile).case(path.stem))
            return
        file = _decoded(path, _FlowFile)
        try:
            self.flows.append(file.case(path.stem))
        except (AttributeError, ValueError) as error:
            raise SampleError(f"{path.name}: {error}") from None


def error_class(name: str) -> type[errors.ProviderError]:
    """The class *name* of `providers.errors`, or SampleError."""
    found = getattr(errors, name, None)
    if not (isinstance(found, type) and issubclass(found, errors.ProviderError)):
        raise SampleError(f"there is no error {name!r}: see providers/errors.py")
    return found


def octets(body: Any) -> bytes:
    """A text as it is, nothing as nothing, any other value as JSON without spaces."""
    if body is None:
        return b""
    return body.encode() if isinstance(body, str) else msgspec.json.encode(body)


def value_of(request: Request) -> Any:
    """The body of *request* as it is compared: JSON and forms as values, else the text; None where there is none."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not request.body:
        return None
    if kind.endswith("json"):
        return msgspec.json.decode(request.body)
    if kind == "application/x-www-form-urlencoded":
        return dict(parse_qsl(request.body.decode(), keep_blank_values=True, strict_parsing=True))
    return request.body.decode("utf-8", "backslashreplace")


# ---------------------------------------------------------------- the files


class _RequestFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    url: str
    method: str = "POST"
    headers: dict[str, str] = {}
    body: Any = None


class _WebhookFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    request: _RequestFile
    description: str | None = None
    events: list[dict[str, Any]] | None = None
    answer: dict[str, Any] | None = None
    error: str | None = None
    owned: bool = True
    about: str | None = None

    def case(self, name: str) -> WebhookCase:
        hook = Webhook(
            method=self.request.method,
            url=self.request.url,
            headers=_lower(self.request.headers),
            body=octets(self.request.body),
        )
        owned = None if self.events is None else self.owned
        return WebhookCase(
            name=name,
            hook=hook,
            events=self.events,
            answer=self.answer,
            error=self.error,
            owned=owned,
            about=self.about,
        )


class _AnswerFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    status: int = 200
    headers: dict[str, str] = {}
    body: Any = None
    error: str | None = None

    def answer(self) -> Response | SendError:
        if self.error is None:
            return Response(status=self.status, headers=_lower(self.headers), body=octets(self.body))
        kind = error_class(self.error)
        if not issubclass(kind, SendError):
            raise SampleError(f"{self.error} is no error of a transport: Unavailable or Uncertain")
        return kind("the line died", code="transport")


class _ErrorFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    answer: _AnswerFile
    error: ExpectedError

    def case(self, name: str) -> DocumentedError:
        answer = self.answer.answer()
        if not isinstance(answer, Response):
            raise SampleError(f"{ERRORS}: an answer is a status and a body")
        return DocumentedError(name=name, answer=answer, error=self.error)


class _ExchangeFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    answer: _AnswerFile
    request: ExpectedRequest | None = None


class _FlowFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    description: str | None = None
    message: dict[str, Any] | None = None
    operation: str = "send_message"
    arguments: dict[str, Any] = {}
    exchanges: list[_ExchangeFile] = []
    result: Any = msgspec.UNSET
    error: ExpectedError | None = None

    def case(self, name: str) -> FlowCase:
        arguments = self.arguments if self.message is None else {**self.arguments, "message": self.message}
        return FlowCase(
            name=name,
            operation=self.operation,
            arguments=_converted(self.operation, arguments),
            exchanges=[Exchange(request=one.request, answer=one.answer.answer()) for one in self.exchanges],
            result=self.result,
            error=self.error,
        )


def _converted(operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """*arguments* as the types that *operation* is declared with."""
    hints = get_type_hints(getattr(WhatsAppProvider, operation))
    if unknown := sorted(set(arguments) - set(hints)):
        raise SampleError(f"{operation} takes no {', '.join(unknown)}")
    usual = {"organization_id": "org-1", "correlation_id": "send-1"}
    return {
        name: msgspec.convert({**usual, **value} if hints[name] is MessageData else value, hints[name])
        for name, value in arguments.items()
    }


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _decoded(path: Path, kind: type[Read]) -> Read:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise SampleError(f"{path.name}: {error}") from None
