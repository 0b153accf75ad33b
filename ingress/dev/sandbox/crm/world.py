"""The CRM behind its two doors: endpoints with secrets and scripted answers, and the record of what came."""

from collections.abc import Callable
from typing import TypeVar

from aiohttp import web

from ..conditions import Changes
from ..listener import Listener, Startable
from ..standard_webhooks import key_of, problem
from .answers import OK, AnswerScript, AnyAnswer, give
from .records import DeliveryRecord

T = TypeVar("T")

DEFAULT = "default"  # the endpoint of `url`


class CrmWorld(DeliveryRecord, Startable):
    def __init__(self, *, port: int = 0, keep_bodies: bool = True) -> None:
        super().__init__(keep_bodies=keep_bodies)
        self.secrets: dict[str, tuple[str, ...]] = {}
        # (endpoint, conversation or None for all of them)
        self.scripts: dict[tuple[str, str | None], AnswerScript] = {}
        self._changes = Changes()
        self._listener = Listener(self._receive, port)

    async def start(self) -> None:
        await self._listener.open()

    async def close(self) -> None:
        await self._listener.close()

    @property
    def url(self) -> str:
        """Where deliveries go, unless several endpoints are wanted."""
        return self.url_for(DEFAULT)

    def url_for(self, endpoint: str) -> str:
        """The URL of *endpoint*, any word without a slash."""
        return f"{self._listener.url}/hooks/{endpoint}"

    # ---------------------------------------------------------------- scripting

    def set_secret(self, *secrets: str, endpoint: str = DEFAULT) -> None:
        """The secrets (``whsec_…``) that may sign for *endpoint*; two while one is being rotated."""
        for secret in secrets:
            key_of(secret)
        self.secrets[endpoint] = secrets

    def script(self, *answers: AnyAnswer, endpoint: str = DEFAULT, conversation: str | None = None) -> None:
        """Append *answers* to the queue of *endpoint*, or of one of its conversations, which goes first."""
        self._script(endpoint, conversation).queue.extend(answers)

    def set_default(
        self, answer: AnyAnswer | None, *, endpoint: str = DEFAULT, conversation: str | None = None
    ) -> None:
        """The answer where the queue is empty; None: 200."""
        self._script(endpoint, conversation).default = answer

    def clear_answers(self) -> None:
        self.scripts.clear()

    async def refuse(self) -> None:
        """Stop listening: connections are refused until `resume`."""
        await self._listener.refuse()

    async def resume(self) -> None:
        await self._listener.open()

    def _script(self, endpoint: str, conversation: str | None) -> AnswerScript:
        return self.scripts.setdefault((endpoint, conversation), AnswerScript())

    # ---------------------------------------------------------------- receiving

    async def _receive(self, request: web.BaseRequest) -> web.StreamResponse:
        prefix, _, endpoint = request.path.rpartition("/")
        if prefix != "/hooks" or request.method != "POST":
            return web.Response(status=404)
        body = await request.read()
        wrong = problem(request.headers, body, self.secrets.get(endpoint, ()))
        attempt = self.arrived(endpoint, request.headers.get("webhook-id"), body, wrong)
        self._changes.notify()
        if not attempt.verified:
            self.answered(attempt, 401)
            self._changes.notify()
            return web.Response(status=401, text=attempt.problem)
        self.begin(attempt)
        try:
            response = await give(self._next(endpoint, attempt.conversation_id), request)
            self.answered(attempt, response.status)
            return response
        finally:
            self.end(attempt)
            self._changes.notify()

    def _next(self, endpoint: str, conversation: str | None) -> AnyAnswer:
        for key in ((endpoint, conversation), (endpoint, None)):
            answer = self.scripts[key].take() if key in self.scripts else None
            if answer is not None:
                return answer
        return OK

    # ---------------------------------------------------------------- waiting

    async def wait_for(self, condition: Callable[[], T], timeout: float = 30.0) -> T:
        """The first true value of *condition*, looked at after each arrival and each answer."""
        return await self._changes.wait_for(condition, timeout)

    async def wait_received(self, count: int, timeout: float = 30.0) -> None:
        """Wait until *count* different events have been received successfully."""
        await self.wait_for(lambda: len(self.received) >= count, timeout)

    async def reset(self) -> None:
        """Forget what came and what is scripted. Secrets stay: the service still signs with them."""
        self.forget()
        self.scripts.clear()
        await self.resume()
        self._changes.notify()
