"""The one place where outgoing connections are made, and the guard on them.

The guard sits where the socket is made, so it sees the concrete address whatever the name resolved to, of every
redirect, literal and reused name; a guard on names or in a resolver is bypassed by literals.
"""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import aiohttp
from yarl import URL

from .. import __version__, metrics

# Python's is_global calls these global; they translate to, tunnel to, or are reserved like private ones.
_DENIED = [
    ipaddress.ip_network(text)
    for text in (
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2002::/16",
        "fec0::/10",
        "5f00::/16",
        "3fff::/20",
        "192.88.99.0/24",
    )
]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
KEEPALIVE_S = 15  # shorter than the providers', so that we rarely write into a connection they are closing
CONNECTIONS = 100


class EgressBlocked(OSError):
    """The address is none that this service may call."""


class InvalidUrl(ValueError):
    """The URL may not be called; the message says why."""


class Egress:
    """Makes client sessions that reach public addresses and the *allowed* networks only."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed

    def check_url(self, url: str) -> None:
        """Refuse at once what the guard would refuse later, with a reason. Raises `InvalidUrl`."""
        parts, host = _parts(url)
        self._check_scheme(parts.scheme)
        if not host:
            raise InvalidUrl("has no host")
        if parts.user or parts.password:
            raise InvalidUrl("must not hold a user or password")
        if parts.explicit_port == 0:
            raise InvalidUrl("port 0 is none")
        address = _literal(host)
        if address is not None and not self.allows(address):
            raise InvalidUrl("must have a public address")

    def _check_scheme(self, scheme: str) -> None:
        schemes = ("https", "http") if self._allowed else ("https",)
        if scheme not in schemes:
            raise InvalidUrl(f"must start with {' or '.join(f'{each}://' for each in schemes)}")

    def allows(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        if any(address in network for network in self._allowed if network.version == address.version):
            return True
        if any(address in network for network in _DENIED if network.version == address.version):
            return False
        # Reserved: what is outside of 2000::/3, as the addresses that only wrap an IPv4 one.
        return address.is_global and not address.is_multicast and not address.is_reserved

    def session(self, *, per_host: int, connections: int = CONNECTIONS) -> aiohttp.ClientSession:
        """A session that the caller closes. It follows no proxy of the environment and keeps no cookies.

        0 *connections*: as many as there are hosts, so that one that hangs takes none from the others.
        """
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=connections,
                limit_per_host=per_host,
                keepalive_timeout=KEEPALIVE_S,
                socket_factory=self._socket,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            skip_auto_headers=("accept", "accept-encoding", "user-agent"),
            headers={"user-agent": f"whatsapp-ingress/{__version__}"},
        )

    async def certificate(self, host: str, port: int) -> datetime:
        """Until when the certificate that *host* shows is valid. Raises `OSError`: it is not, or nobody answers."""
        made = await self._connected(host, port)
        try:
            _, writer = await asyncio.open_connection(sock=made, ssl=ssl.create_default_context(), server_hostname=host)
        except BaseException:
            made.close()
            raise
        shown = writer.get_extra_info("peercert")
        writer.transport.abort()  # nothing is asked
        return datetime.fromtimestamp(ssl.cert_time_to_seconds(shown["notAfter"]), UTC)

    async def _connected(self, host: str, port: int) -> socket.socket:
        """At the first of its addresses that takes it. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        failure = OSError(f"{host} has no address")
        for info in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            made = self._socket(info)
            try:
                await loop.sock_connect(made, info[4])
                return made
            except OSError as error:
                made.close()
                failure = error
            except BaseException:
                made.close()
                raise
        raise failure

    def _socket(self, info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, destination = info
        if not self.allows(ipaddress.ip_address(destination[0].partition("%")[0])):
            metrics.ssrf_blocked.labels("address").inc()
            raise EgressBlocked("address not allowed")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made


def _parts(url: str) -> tuple[URL, str]:
    """*url* and its host, by the parser of the client that will call it: another one might see another host."""
    if any(character.isspace() or not character.isprintable() for character in url):
        raise InvalidUrl("must not hold spaces or control characters")
    try:
        parts = URL(url)
        host = (parts.raw_host or "").partition("%")[0]
        host.encode("idna")
    except ValueError:
        raise InvalidUrl("is not a valid URL") from None
    return parts, host


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that *host* is, also in the forms that only resolvers know (127.1, 0x7f.1); None: a name."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host)
    with contextlib.suppress(OSError):
        return ipaddress.IPv4Address(socket.inet_aton(host))
    return None
