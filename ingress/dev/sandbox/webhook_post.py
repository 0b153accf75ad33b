"""Posting webhooks as providers do: signed bytes, again and again until they are taken."""

import asyncio
import io
import time

import aiohttp
import msgspec
from yarl import URL


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Meta goes on for days; a sandbox for seconds. The wait doubles up to ``cap_s``."""

    tries: int = 6
    backoff_s: float = 0.05
    cap_s: float = 1.0
    timeout_s: float = 5.0  # of one try; Meta's own is not documented
    connect_timeout_s: float | None = None  # of one try
    total_s: float | None = None  # of all tries together
    # What is worth another try: `ct` and `rt` (no connection, no answer), `4xx`, `5xx`, or `all`.
    causes: frozenset[str] = frozenset({"all"})
    any_2xx: bool = False  # taken with any 2xx, not with 200 alone


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """What one try came to. *cause* is the failure as `RetryPolicy.causes` has it."""

    status: int | None = None
    cause: str | None = None
    content_type: str = ""
    body: bytes = b""

    def is_taken(self, retry: RetryPolicy) -> bool:
        return self.status == 200 or (retry.any_2xx and self.status is not None and 200 <= self.status < 300)

    def is_worth_another(self, retry: RetryPolicy) -> bool:
        return bool({"all", self.cause} & retry.causes)


class PostResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one webhook: the last try's answer (status None: there was none), and how many tries it took."""

    status: int | None
    tries: int
    duration_s: float
    delivered: bool
    content_type: str = ""
    body: bytes = b""


class WebhookPoster:
    """Keeps count: ``delivered`` and ``failed`` webhooks, ``tries`` in total."""

    def __init__(self, retry: RetryPolicy) -> None:
        self.retry = retry
        self.delivered = 0
        self.failed = 0
        self.tries = 0
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        # No limit: a provider posts as many webhooks at once as it likes.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def reset_counts(self) -> None:
        self.delivered = self.failed = self.tries = 0

    async def post(self, url: str, raw: bytes, headers: dict[str, str], retry: RetryPolicy | None = None) -> PostResult:
        """Post *raw* until it is taken or the tries are used up, as *retry* or else our own policy has it.

        Raises nothing for the other side.
        """
        retry = retry or self.retry
        started = time.monotonic()
        ends = started + retry.total_s if retry.total_s is not None else float("inf")
        tries = 0
        last = Try()
        taken = False
        while tries < retry.tries:
            if tries:
                await asyncio.sleep(min(retry.cap_s, retry.backoff_s * 2 ** (tries - 1)))
            left = ends - time.monotonic()
            if left <= 0:
                break
            tries += 1
            self.tries += 1
            last = await self._try(url, raw, headers, retry, min(retry.timeout_s, left))
            taken = last.is_taken(retry)
            if taken or not last.is_worth_another(retry):
                break
        self.delivered += taken
        self.failed += not taken
        return PostResult(
            status=last.status,
            tries=tries,
            duration_s=time.monotonic() - started,
            delivered=taken,
            content_type=last.content_type,
            body=last.body,
        )

    async def get(self, url: str, params: dict[str, str]) -> tuple[int | None, bytes]:
        """One GET, for handshakes: (status, body), or (None, b"") where there is no answer."""
        timeout = aiohttp.ClientTimeout(total=self.retry.timeout_s)
        try:
            async with self.session.get(url, params=params, timeout=timeout, allow_redirects=False) as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            return None, b""

    async def _try(self, url: str, raw: bytes, headers: dict[str, str], retry: RetryPolicy, timeout_s: float) -> Try:
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=retry.connect_timeout_s)
        try:
            # The address is asked for as it is written, since some sign it. The body is a stream: aiohttp warns of
            # bytes above 1 MiB, and Meta sends up to 3 MB.
            async with self.session.post(
                URL(url, encoded=True), data=io.BytesIO(raw), headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                body = await answer.read()
                cause = f"{answer.status // 100}xx"
                return Try(status=answer.status, cause=cause, content_type=answer.content_type, body=body)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return Try(cause="ct")
        except (aiohttp.ClientError, TimeoutError):
            return Try(cause="rt")

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the simulator is not started")
        return self._session
