"""Calls that leave: which private addresses they may reach, and whether the providers' hosts can be reached at all."""

import asyncio
import socket
import ssl
from ipaddress import ip_address
from urllib.parse import urlsplit

from providers import Registry, WhatsAppProvider
from providers.description import config_fields

from ..accounts.fields import is_url
from ..calls.egress import EgressBlocked
from .findings import DoctorCheck, Examined, Findings, error, listed, ok, warning, words

# Where clouds give out credentials to whoever asks from inside.
METADATA = ("169.254.169.254", "169.254.170.2", "100.100.100.200", "fd00:ec2::254")
LOOPBACK = ("127.0.0.1", "::1")
PROXIES = ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
HANDSHAKE_S = 5.0


async def guard(examined: Examined) -> Findings:
    """Whoever may set an address could call what only this machine reaches."""
    egress, given = examined.egress, examined.settings.egress_allow
    allowed = [each for each in (*METADATA, *LOOPBACK) if egress.allows(ip_address(each))]
    if metadata := [each for each in allowed if each in METADATA]:
        means = "whoever may set a callback can have the service fetch this machine's own credentials"
        fix = f"leave {listed(metadata)} out of INGRESS_EGRESS_ALLOW: name the networks of your servers alone"
        yield error(f"calls may reach {listed(metadata)}, where clouds keep credentials", means, fix)
    elif allowed:
        means = "whoever may set a callback can have the service call what listens on this machine alone, metrics too"
        fix = "leave 127.0.0.0/8 and ::1 out of INGRESS_EGRESS_ALLOW"
        yield warning(f"calls may reach {listed(allowed)}", means, fix)
    else:
        try:
            await egress.certificate(METADATA[0], 443)
        except EgressBlocked:
            yield ok(f"a call to {METADATA[0]} was refused{f'; allowed are {given}' if given else ''}")


async def hosts(examined: Examined) -> Findings:
    """A handshake with each, and nothing asked."""
    await examined.entries()
    wanted = hosts_of(examined.registry)
    failures = await asyncio.gather(*[_failure(examined, *each) for each in wanted])
    failed = [f"{host} ({wrong})" for (host, _), wrong in zip(wanted, failures, strict=True) if wrong]
    if failed:
        means = "sends and connection tests of these providers fail; the others are not touched"
        fix = "allow the service DNS, and TCP to these hosts on port 443: a firewall, or a NetworkPolicy's egress rules"
        judge = error if len(failed) == len(wanted) else warning
        yield judge(f"not reached: {listed(failed)}", means, fix)
    else:
        yield ok(
            f"reached, by valid certificates: {listed([host for host, _ in wanted]) or 'no provider names a host'}"
        )
    if ignored := [name for name in PROXIES if examined.environment.get(name)]:
        means = "the service follows no proxy, as that would see what it may call: it calls providers itself"
        fix = f"let it out without a proxy, and unset {listed(ignored)}"
        yield warning(f"{listed(ignored)} is set", means, fix)


def hosts_of(registry: Registry) -> list[tuple[str, int]]:
    """Of the address that each provider has by itself, where it has one."""
    found = set()
    for entry in registry.entries():
        if entry.info is not None:
            found |= _default_hosts(registry.get(entry.name))
            found |= {(host, 443) for host in entry.info.hosts if not host.startswith(".")}
    return sorted(found)


def _default_hosts(provider: type[WhatsAppProvider]) -> set[tuple[str, int]]:
    defaults = [field.default for field in config_fields(provider)]
    urls = [urlsplit(value) for value in defaults if isinstance(value, str) and is_url(value)]
    return {(url.hostname, url.port or 443) for url in urls if url.hostname and url.scheme == "https"}


async def _failure(examined: Examined, host: str, port: int) -> str | None:
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            await examined.egress.certificate(host, port)
    except OSError as failure:  # a TimeoutError is one
        return tls_failure(failure)
    return None


def tls_failure(failure: OSError) -> str:
    """Why a handshake failed, in the system's words."""
    if isinstance(failure, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {failure.verify_message}"
    if isinstance(failure, socket.gaierror):
        return "its name is not found"
    return words(failure)


CHECKS = (
    DoctorCheck("egress.guard", guard),
    DoctorCheck("egress.hosts", hosts),
)
