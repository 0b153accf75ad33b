"""How many connections a process keeps, whose they are, and how long each may be silent."""

import asyncio
import resource
from collections import Counter
from collections.abc import Hashable, Sequence
from heapq import nsmallest
from ipaddress import IPv6Address, ip_address
from operator import attrgetter
from typing import Protocol

from ..settings import Network

MAX_CONNECTIONS = 1_000
# Longer than the idle time of the proxy in front, so that it never reuses a connection that we are closing.
KEEPALIVE_S = 75
# Of a hundred connections, so many may wait for an answer of the API: the rest is left to webhooks and health checks.
API_PERCENT = 80
# Files that the process needs beside its clients, all at once: for calls to providers, transfers, deliveries, the
# database, the port for metrics, connections that are being refused, and its own.
OTHER_FILES = 1_024
# One refused beyond this is closed without a word.
MAX_REFUSED = 100
SWEEP_S = 0.25


def most_connections() -> int:
    """As many as we want, or the files that the process may open leave room for."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + OTHER_FILES
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        allowed = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
        return max(allowed - OTHER_FILES, allowed // 4)
    return MAX_CONNECTIONS


class Connection(Protocol):
    """What is asked of a connection."""

    waiting_since: float

    @property
    def host(self) -> str | None: ...
    @property
    def is_waiting(self) -> bool:
        """It waits for its client, and may be ended for somebody who has something to say."""

    def evict(self) -> None: ...
    def look(self, now: float) -> None:
        """End it if it is overdue."""


class Connections:
    """The connections of one server: a fence, a bound for each client, and one timer for all their deadlines."""

    def __init__(self, most: int, per_address: int, trusted: Sequence[Network]) -> None:
        self._most = most
        self._per_address = per_address
        self._trusted = trusted
        self._open: dict[Connection, Hashable] = {}  # with the client that it counts for
        self._of_client: Counter[Hashable] = Counter()
        self._refused: set[Connection] = set()
        self._sweeping = False

    @property
    def most_api_requests(self) -> int:
        return self._most * API_PERCENT // 100

    @property
    def may_linger(self) -> bool:
        """Whether one that was refused may stay until its client has seen why."""
        return len(self._refused) <= MAX_REFUSED

    def enter(self, connection: Connection) -> bool:
        """Whether *connection* may stay. At the limit the ones that waited longest for their clients go first."""
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
        client = self._client(connection.host)
        if not self._has_room(client):
            self._refused.add(connection)
            return False
        self._open[connection] = client
        if client is not None:
            self._of_client[client] += 1
        return True

    def _has_room(self, client: Hashable) -> bool:
        if client is not None and 0 < self._per_address <= self._of_client[client]:
            return False
        return len(self._open) < self._most or self._make_room()

    def leave(self, connection: Connection) -> None:
        self._refused.discard(connection)
        client = self._open.pop(connection, None)
        if client is not None:
            self._of_client[client] -= 1
            if not self._of_client[client]:
                del self._of_client[client]

    def _client(self, host: str | None) -> Hashable:
        """Who a connection from *host* counts for; None: nobody, as a proxy that is trusted is many clients.

        Of an IPv6 address it is the first half: the second is its customer's to choose.
        """
        if host is None or not self._per_address:
            return None
        address = ip_address(host.partition("%")[0])
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        if any(address in network for network in self._trusted):
            return None
        return address.packed if address.version == 4 else address.packed[:8]

    def _make_room(self) -> bool:
        waiting = [connection for connection in self._open if connection.is_waiting]
        # Several at once: a search for each newcomer would be a way to keep the process busy.
        for connection in nsmallest(1 + self._most // 32, waiting, key=attrgetter("waiting_since")):
            self.leave(connection)
            connection.evict()
        return bool(waiting)

    def _sweep(self) -> None:
        self._sweeping = bool(self._open or self._refused)
        if self._sweeping:
            loop = asyncio.get_running_loop()
            loop.call_later(SWEEP_S, self._sweep)
            now = loop.time()
            for connection in (*self._open, *self._refused):
                connection.look(now)
