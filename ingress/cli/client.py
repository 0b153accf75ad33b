"""The API of a running service, as its commands speak to it."""

import http.client
import json
from collections.abc import Generator, Iterable, Mapping
from typing import Any
from urllib.parse import SplitResult, urlencode, urlsplit

URL, KEY, ORGANIZATION = "INGRESS_API_URL", "INGRESS_API_KEY", "INGRESS_API_ORG"
# Longer than the service waits for others that change the same organization, and tests a provider.
TIMEOUT_S = 60.0
REFUSED, CONFLICT, UNAVAILABLE = 1, 3, 4

Row = Mapping[str, Any]


class Failed(Exception):
    """The command ends with ``status``; the message is for people, ``problem`` the answer of the service."""

    def __init__(self, message: str, status: int = REFUSED, problem: Row | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem


class Client:
    """The API of one service, with one key."""

    def __init__(self, url: str, key: str, organization: str | None) -> None:
        self._url = urlsplit(url)
        if self._url.scheme not in ("http", "https") or not self._url.hostname:
            raise Failed(f"{url!r} is no http:// or https:// address: give one by --url or {URL}")
        self.key = key
        self.timeout_s = TIMEOUT_S
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        if organization:
            self._headers["x-org-id"] = organization

    def call(self, method: str, path: str, body: object = None, **query: object) -> Any:
        """The answer's JSON. Raises `Failed` with what the service says."""
        target = path + _query(query)
        status, raw = self._exchange(method, target, None if body is None else json.dumps(body))
        try:
            answer = json.loads(raw) if raw else None
        except ValueError:
            raise Failed(f"what answers there is no WhatsApp Ingress (HTTP {status})", UNAVAILABLE) from None
        if status >= 400:
            raise _failed(status, answer if isinstance(answer, dict) else {})
        return answer

    def lines(self, method: str, path: str) -> Generator[bytes, None, None]:
        """The lines of the answer, as they come. Raises `Failed`, also where it breaks off."""
        connection = self._connection()
        try:
            connection.request(method, self._url.path.rstrip("/") + path, headers=self._headers)
            response = connection.getresponse()
            if response.status >= 400:
                raise _failed(response.status, json.loads(response.read()))
            yield from response
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _no_answer(connection, error) from None
        finally:
            connection.close()

    def _exchange(self, method: str, target: str, body: str | None) -> tuple[int, bytes]:
        """The answer's status and body. Raises `Failed` where there is none."""
        connection = self._connection()
        try:
            connection.request(method, self._url.path.rstrip("/") + target, body, self._headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise _no_answer(connection, error) from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        return connect(self._url, self.timeout_s)


def connect(url: SplitResult, timeout_s: float) -> http.client.HTTPConnection:
    """To the host of *url*, when it is used. *timeout_s*: for each part of an answer."""
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    assert url.hostname
    return kind(url.hostname, url.port, timeout=timeout_s)


def _no_answer(connection: http.client.HTTPConnection, error: Exception) -> Failed:
    where = f"{connection.host}:{connection.port}"
    return Failed(f"the service at {where} does not answer ({type(error).__name__})", UNAVAILABLE)


def _query(given: Row) -> str:
    query = urlencode({name: value for name, value in given.items() if value is not None})
    return query and f"?{query}"


def _failed(status: int, problem: Row) -> Failed:
    """What the command says of an answer with a *problem*, and its exit status."""
    refused = CONFLICT if problem.get("code") == "version_conflict" else REFUSED
    message = "\n".join([_head_of(problem, status), *_lines_of(problem)])
    return Failed(message, UNAVAILABLE if status >= 500 else refused, problem)


def _head_of(problem: Row, status: int) -> str:
    if status == 404:
        return "There is no such thing in this organization."
    detail = str(problem.get("detail") or f"HTTP {status}")
    return f"{detail} Give it by --key or {KEY}." if status == 401 else detail


def _lines_of(problem: Row) -> Iterable[str]:
    for error in problem.get("errors", []):
        yield f"  {error['path']}: {error['detail']}"
    for check in problem.get("checks", []):
        if not check["passed"]:
            yield line_of(check, f"{check['name']}:")
    if problem.get("request_id"):
        yield f"  ({problem['code']}, {problem['request_id']})"


def line_of(check: Row, head: str) -> str:
    return "  " + " ".join(filter(None, [head, check.get("detail"), check.get("fix")]))
