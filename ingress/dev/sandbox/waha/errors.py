"""WAHA's error answers: NestJS's shapes, WAHA's own for the state of a session, and the one of a crash.

Source: https://waha.devlike.pro/docs/how-to/send-messages, and reports in
    https://github.com/devlikeapro/waha/issues
"""

from datetime import UTC, datetime

from ..faults import ErrorCode
from .bodies import Body, Engine, environment

NAMES = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    413: "Payload Too Large",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
}
NOT_IMPLEMENTED = "The method is not implemented by the engine. Read more about engines in the documentation"
NO_STORE = (
    'Enable NOWEB store "config.noweb.store.enabled=True" and "config.noweb.store.full_sync=True" '
    "when starting a new session."
)
NO_SESSION = "Session not found"
# What a fault `error_code` says: HTTP statuses in their usual words, and codes of WhatsApp's own server, which come
# as a crash.
WAHA_DOCUMENTED: dict[int, tuple[int, str]] = {
    400: (400, "text must be a string"),
    401: (401, "Unauthorized"),
    403: (403, "Forbidden resource"),
    404: (404, NO_SESSION),
    413: (413, "request entity too large"),
    422: (422, NOT_IMPLEMENTED),
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

    def body(self, *, request: Body, engine: Engine) -> Body:
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
            "version": environment(engine),
        }


def scripted_error(fault: ErrorCode) -> WahaError:
    """What *fault* says: ``details`` and ``subcode`` have no place in WAHA's errors."""
    status, words = WAHA_DOCUMENTED.get(fault.code, (500, f"2 UNKNOWN: server returned error {fault.code}"))
    return WahaError(fault.http_status or status, fault.message or words)


def unexpected_status(session: str, status: str, expected: str) -> WahaError:
    words = "Session status is not as expected. Try again later or restart the session"
    return WahaError(422, words, {"error": words, "session": session, "status": status, "expected": [expected]})
