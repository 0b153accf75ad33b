"""WAHA's error answers: NestJS's shapes, WAHA's own for the state of a session, and the one of a crash.

Source: https://waha.devlike.pro/docs/how-to/send-messages, and reports in
    https://github.com/devlikeapro/waha/issues
"""

import base64
from datetime import UTC, datetime

from ..faults import ErrorCode
from .bodies import Body, Engine, environment
from .server import WahaServer

NAMES = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    413: "Payload Too Large",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
    501: "Not Implemented",
}
# Each as it was recorded (tests/samples/whatsapp_web/recorded), on 2026.2.1 under NOWEB.
NO_STORE = (
    'Enable NOWEB store "config.noweb.store.enabled=True" and "config.noweb.store.full_sync=True" when starting a new '
    "session. Read more: https://waha.devlike.pro/docs/engines/noweb#store"
)
NO_SESSION = "Session not found"
SITE = "https://waha.devlike.pro/"
# What a fault `error_code` says: HTTP statuses in their usual words, and codes of WhatsApp's own server, which come
# as a crash.
WAHA_DOCUMENTED: dict[int, tuple[int, str]] = {
    400: (400, "text must be a string"),
    401: (401, "Unauthorized"),
    403: (403, "Forbidden resource"),
    404: (404, NO_SESSION),
    413: (413, "request entity too large"),
    422: (422, "Unprocessable Entity"),
    429: (429, "Too Many Requests"),
    463: (500, "2 UNKNOWN: server returned error 463"),
    479: (500, "2 UNKNOWN: server returned error 479"),
    500: (500, "Cannot read properties of undefined (reading '_serialized')"),
}


class WahaError(Exception):
    """An error answer. One without a name of its own is a crash, whose answer repeats the request."""

    def __init__(self, status: int, message: str | list[str], body: Body | None = None) -> None:
        super().__init__(str(message))
        self.status = status
        self.message = message
        self._body = body

    def body(self, *, request: Body, server: WahaServer, engine: Engine) -> Body:
        """*request* is what a crash repeats, with all that was written in it."""
        if self._body is not None:
            return self._body
        if self.status == 401:
            return {"message": self.message, "statusCode": 401}
        if self.status in NAMES:
            return {"statusCode": self.status, "message": self.message, "error": NAMES[self.status]}
        return {
            "statusCode": self.status,
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "exception": {"message": self.message, "name": "Error", "stack": f"Error: {self.message}\n    at …"},
            "request": request,
            "version": environment(server, engine),
        }


def scripted_error(fault: ErrorCode) -> WahaError:
    """What *fault* says: ``details`` and ``subcode`` have no place in WAHA's errors."""
    status, words = WAHA_DOCUMENTED.get(fault.code, (500, f"2 UNKNOWN: server returned error {fault.code}"))
    return WahaError(fault.http_status or status, fault.message or words)


def not_implemented(server: WahaServer, engine: Engine) -> WahaError:
    words = f"The method is not implemented by '{engine}' engine. Check the docs and try another engine: {SITE}"
    return WahaError(501 if server.has("status_501") else 422, words)


def plus_only(engine: Engine) -> WahaError:
    words = f"The feature is available only in Plus version for '{engine}' engine. Check this out: {SITE}"
    return WahaError(422, words)


def other_session(name: str) -> WahaError:
    encoded = base64.b64encode(name.encode()).decode()
    words = (
        f"WAHA Core support only 'default' session. You tried to access '{name}' session (base64: {encoded}). If you "
        f"want to run more then one WhatsApp account - please get WAHA PLUS version. Check this out: {SITE}"
    )
    return WahaError(422, words)


def missing_session(name: str) -> WahaError:
    """What a call says that needs a session which works."""
    words = f'Session "{name}" does not exist'
    return WahaError(422, words, {"error": words, "session": name})


def not_started(name: str) -> WahaError:
    """What linking a phone says, of a session that does not run."""
    ask = f"Please start it first by using POST /api/sessions/{name}/start request"
    return WahaError(404, f"We didn't find a session with name '{name}'.\n{ask}")


def unexpected_status(session: str, status: str, expected: str) -> WahaError:
    words = "Session status is not as expected. Try again later or restart the session"
    return WahaError(422, words, {"error": words, "session": session, "status": status, "expected": [expected]})
