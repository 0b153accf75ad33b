"""Posting webhooks as providers do: signed bytes, again and again until the answer is 200."""

import asyncio
import io
import time

import aiohttp
import msgspec


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Meta goes on for days; a sandbox for seconds. The wait doubles up to ``cap_s``."""

    tries: int = 6
    backoff_s: float = 0.05
    cap_s: float = 1.0
    timeout_s: float = 5.0  # of one try; Meta's own is not documented


class PostResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one webhook: the last try's status (None: no answer), and how many tries it took."""

    status: int | None
    tries: int
    duration_s: float

    @property
    def delivered(self) -> bool:
        return self.status == 200


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

    async def post(self, url: str, raw: bytes, headers: dict[str, str]) -> PostResult:
        """Post *raw* until the answer is 200 or the tries are used up. Raises nothing for the other side."""
        started = time.monotonic()
        status = None
        tries = 0
        while tries < self.retry.tries:
            if tries:
                await asyncio.sleep(min(self.retry.cap_s, self.retry.backoff_s * 2 ** (tries - 1)))
            tries += 1
            self.tries += 1
            status = await self._try(url, raw, headers)
            if status == 200:
                self.delivered += 1
                break
        else:
            self.failed += 1
        return PostResult(status=status, tries=tries, duration_s=time.monotonic() - started)

    async def get(self, url: str, params: dict[str, str]) -> tuple[int | None, bytes]:
        """One GET, for handshakes: (status, body), or (None, b"") where there is no answer."""
        try:
            async with self.session.get(url, params=params, timeout=self._timeout, allow_redirects=False) as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            return None, b""

    async def _try(self, url: str, raw: bytes, headers: dict[str, str]) -> int | None:
        try:
            # A stream: aiohttp warns of bytes above 1 MiB, and Meta sends up to 3 MB.
            async with self.session.post(
                url, data=io.BytesIO(raw), headers=headers, timeout=self._timeout, allow_redirects=False
            ) as answer:
                await answer.read()
                return answer.status
        except (aiohttp.ClientError, TimeoutError):
            return None

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the simulator is not started")
        return self._session

    @property
    def _timeout(self) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=self.retry.timeout_s)
