"""What is sent: requests no two of which are alike, made before the clock runs.

A signature costs more than a load generator can spare, so the tail of each request (the value of its last
header, the empty line, the body) is written to a file beforehand. All tails of a file are equally long, so
any generator in any language finds number *n* by a multiplication.
"""

import hmac
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

APP_SECRET = "bench-app-secret"  # invented; the servers get it, too
PHONE_NUMBER_ID = "110987654321098"  # the stand-in for Meta has number 1… in account 2…, whatever follows
CONTACTS = 10_000  # people who write: so many conversations does the traffic have

# As Meta sends it: compact, slashes and non-ASCII characters escaped.
WEBHOOK = (
    rb'{"object":"whatsapp_business_account","entry":[{"id":"%(waba)b","changes":[{"value":{"messaging_product":'
    rb'"whatsapp","metadata":{"display_phone_number":"15550001111","phone_number_id":"%(number)b"},"contacts":'
    rb'[{"profile":{"name":"Ana Souza"},"wa_id":"55119%(contact)08d","user_id":"BR.13491208%(contact)08d"}],'
    rb'"messages":[{"from":"55119%(contact)08d","from_user_id":"BR.13491208%(contact)08d",'
    rb'"id":"wamid.HBgNNTUxMTk4NzY1NDMyMRUCABIYFDNB%(n)020dAA==","timestamp":"%(now)d","type":"text",'
    rb'"text":{"body":"Ol\u00e1, a loja abre hoje? Preciso trocar um presente \ud83c\udf81"}}]},'
    rb'"field":"messages"}]}]}'
)
# What becomes of a message of ours. It has a correlation, so it is about that one.
STATUS = (
    rb'{"object":"whatsapp_business_account","entry":[{"id":"%(waba)b","changes":[{"value":{"messaging_product":'
    rb'"whatsapp","metadata":{"display_phone_number":"15550001111","phone_number_id":"%(number)b"},'
    rb'"statuses":[{"id":"%(id)b","status":"delivered","timestamp":"%(now)d","recipient_id":"%(contact)b",'
    rb'"biz_opaque_callback_data":"%(correlation)b","pricing":{"billable":true,"pricing_model":"PMP",'
    rb'"type":"regular","category":"service"}}]},"field":"messages"}]}]}'
)
SEND = '{"to":"+55119%08d","content":{"type":"text","body":"Olá, Ana! Seu pedido saiu 🚚"},"lead_id":"%012d"}'


class Pool:
    """Request tails in a file that grows as far as a run needs it. *tail* gives number n, always as long."""

    def __init__(self, path: Path, header: str, tail: Callable[[int], tuple[bytes, bytes]]) -> None:
        self.path, self._tail, self._count = path, tail, 0
        value, body = tail(0)
        self.width = len(value) + 4 + len(body)
        self._fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{header}: "
        path.touch()

    def head(self, path: str, headers: dict[str, str] | None = None) -> bytes:
        """What stands before every tail in a request to *path*."""
        lines = [f"{name}: {value}\r\n" for name, value in (headers or {}).items()]
        return f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{''.join(lines)}{self._fields}".encode()

    def reach(self, count: int) -> None:
        """Have at least *count* tails in the file."""
        with self.path.open("ab", buffering=1 << 20) as file:
            for n in range(self._count, count):
                file.write(b"\r\n\r\n".join(self._tail(n)))
        self._count = max(self._count, count)
        assert self.path.stat().st_size == self._count * self.width, "tails differ in length"

    def tails(self, first: int, count: int) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            file.seek(first * self.width)
            for _ in range(count):
                yield file.read(self.width)


def account_of(number: str) -> str:
    """The account that the stand-in has *number* in."""
    return f"2{number[1:]}"


def signature(body: bytes) -> bytes:
    return b"sha256=" + hmac.digest(APP_SECRET.encode(), body, "sha256").hex().encode()


RUN = 10**8  # requests of one run at most


def webhooks(folder: Path, numbers: Sequence[str] = (PHONE_NUMBER_ID,), run: int = 0) -> Pool:
    """Signed webhooks of Meta: one text message each, each a new one, for *numbers* in turn; others in each *run*."""
    now = int(time.time())  # a webhook of last year would be refused as stale
    fields = [{b"waba": account_of(number).encode(), b"number": number.encode()} for number in numbers]

    def tail(n: int) -> tuple[bytes, bytes]:
        body = WEBHOOK % {**fields[n % len(fields)], b"contact": n % CONTACTS, b"n": run * RUN + n, b"now": now}
        return signature(body), body

    return Pool(folder / f"webhooks-{run}-{len(numbers)}", "X-Hub-Signature-256", tail)


def sends(folder: Path, people: int = RUN, run: int = 0) -> Pool:
    """Text messages to send, each to another of *people* (providers limit messages per pair of numbers)."""

    def tail(n: int) -> tuple[bytes, bytes]:
        return b"bench-%012d" % (run * RUN + n), (SEND % (n % people, run * RUN + n)).encode()

    return Pool(folder / f"sends-{run}", "Idempotency-Key", tail)
