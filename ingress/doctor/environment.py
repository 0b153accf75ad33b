"""The settings, each and together, and what the system gives the process."""

import resource
import stat
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from ..settings import CLIENT_NAMES, PREFIX, REDIS_CLUSTER, Settings, variable
from ..storage.vault import Vault, VaultError
from ..web.connections import MAX_CONNECTIONS, OTHER_FILES
from .findings import DoctorCheck, DoctorFinding, Examined, Findings, error, ok, warning

KNOWN = tuple(variable(field) for field in Settings.__struct_fields__)
NEW_PLATFORM_KEY = "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
# Without a bound they are off; each with what it bounds.
BOUNDS = {
    "requests_per_key": ("requests of a key", 50),
    "sign_in_failures_per_minute": ("failed sign-ins of an address", 5),
    "connection_tests_per_minute": ("connection tests of an organization", 10),
    "connections_per_address": ("connections of a client", 256),
}


def unfit_to_serve(settings: Settings) -> list[str]:
    """What the service does not start with, though each setting is as it must be; a line each."""
    direct = ("database_direct_url",) if settings.database_direct_url else ()
    wrong = insecure(settings, "database_url", *direct, "redis_url", "public_url")
    if direct and not settings.database_url:
        wrong.append("DATABASE_DIRECT_URL: it is another way to the database of DATABASE_URL, which is not set")
    if settings.encryption_keys or settings.database_url:  # else they are generated
        try:
            Vault(settings.encryption_keys)
        except VaultError as failure:
            wrong.append(f"{variable('encryption_keys')}: {failure}; `ingress generate-key` makes one")
    return wrong


async def valid(examined: Examined) -> Findings:
    """All that keeps the service from starting, at once."""
    keys = variable("encryption_keys")  # of which `keys.given` says what is wrong
    wrong = [line for line in (*examined.wrong, *unfit_to_serve(examined.settings)) if not line.startswith(keys)]
    for line in wrong:
        for each in _misfit(examined, line):
            yield each
    if not wrong:
        given = sum(name in examined.environment for name in KNOWN)
        yield ok(f"{given} settings are given, and each is as it must be")


def _misfit(examined: Examined, line: str) -> Iterator[DoctorFinding]:
    name, _, _ = line.partition(": ")
    if name.startswith("unknown setting"):
        yield from _unknown(examined)
    else:
        fix = NEW_PLATFORM_KEY if name == variable("platform_key") else f"correct {name}"
        yield error(line.partition("; ")[0], "the service does not start", fix)


def _unknown(examined: Examined) -> Iterator[DoctorFinding]:
    for name in sorted(examined.environment.keys() - set(KNOWN)):
        if name.startswith(PREFIX) and name not in CLIENT_NAMES:
            close = get_close_matches(name, KNOWN, 1)
            fix = f"rename it to {close[0]}" if close else f"unset {name}"
            yield error(f"there is no setting {name}", "the service does not start", fix)


def is_local(url: str) -> bool:
    """Whether it does not leave this machine."""
    parts = urlsplit(url)
    host = parts.hostname or parse_qs(parts.query).get("host", ["/"])[0]
    try:
        return host.startswith("/") or host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


_WANTED = {
    "database_url": "sslmode=verify-full",
    "database_owner_url": "sslmode=verify-full",
    "database_direct_url": "sslmode=verify-full",
    "redis_url": "rediss:// or rediss+cluster://, and no option about certificates or host names that are not verified",
    "public_url": "https://",
}


def _is_verified(field: str, url: str) -> bool:
    """Whether what speaks to *url* makes sure who answers."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    if field == "public_url":
        return parts.scheme == "https"
    if field == "redis_url":
        unverified = query.keys() & {"ssl_cert_reqs", "ssl_check_hostname"}
        return parts.scheme.removesuffix(REDIS_CLUSTER) == "rediss" and not unverified
    # With `require` asyncpg verifies nothing, unless it finds a certificate somewhere.
    return query.get("sslmode", [""])[-1] in ("verify-full", "verify-ca")


def insecure(settings: Settings, *fields: str) -> list[str]:
    """What is wrong where `require_tls` is set, and the address in one of *fields* does without."""
    return [
        f"{variable(field)}: {variable('require_tls')} is set, so it must have {wanted}"
        for field, wanted in unverified(settings, *(fields if settings.require_tls else ()))
    ]


def unverified(settings: Settings, *fields: str) -> Iterator[tuple[str, str]]:
    """Those of *fields* whose address is reached without TLS, or unverified, and what it must have."""
    for field in fields:
        if not _is_verified(field, getattr(settings, field)):
            yield field, _WANTED[field]


async def tls(examined: Examined) -> Findings:
    """Where it would speak without TLS, or to whoever answers."""
    settings = examined.settings
    fields = ["database_url", "database_direct_url", "redis_url", "public_url"]
    remote = [field for field in fields if (url := getattr(settings, field)) and not is_local(url)]
    wanting = [] if settings.require_tls else list(unverified(settings, *remote))  # else `valid` has said it
    for field, wanted in wanting:
        name = variable(field)
        if field == "public_url":
            means = "credentials of webhooks cross the network readable, and most providers refuse such an address"
            yield error(f"{name} is not https://", means, f"set {name}=https://..., behind a proxy that has TLS")
        else:
            means = "whoever is on the way can read and change what is stored, passwords included"
            yield warning(f"{name} leads off this machine without verified TLS", means, f"give {name} {wanted}")
    if not wanting:
        kept = "" if settings.require_tls else "; INGRESS_REQUIRE_TLS=true would keep it so"
        yield ok(f"{len(remote)} addresses lead off this machine, each by verified TLS{kept}")


async def exposure(examined: Examined) -> Findings:
    """What is for development, or lets strangers do more than they should."""
    found = [*_development(examined.settings), *_proxies(examined.settings), *_unbounded(examined.settings)]
    for each in found:
        yield each
    if not found:
        yield ok("nothing of development is on, and every bound is")


def _development(settings: Settings) -> Iterator[DoctorFinding]:
    if settings.sandbox and (settings.database_url or settings.public_url):
        means = "simulators of providers run beside the service, and a development organization with known keys"
        yield error("INGRESS_SANDBOX is on beside a database of its own", means, "set INGRESS_SANDBOX=false")
    if settings.database_url and not settings.public_url:
        means = f"providers are given webhook addresses that begin with {settings.origin}, which they cannot reach"
        yield warning("INGRESS_PUBLIC_URL is not set", means, "set INGRESS_PUBLIC_URL=https://the.name.of.this.service")
    if settings.http_protocol == "uvicorn":
        means = "few bounds on connections and bodies hold (docs/security.md)"
        yield warning("INGRESS_HTTP_PROTOCOL is uvicorn", means, "set INGRESS_HTTP_PROTOCOL=own")


def _proxies(settings: Settings) -> Iterator[DoctorFinding]:
    everybody = [str(network) for network in settings.trusted_networks if network.prefixlen == 0]
    if everybody:
        means = "whoever asks says which address the audit trail and the limits see"
        fix = "set INGRESS_TRUSTED_PROXIES to the networks of the proxies alone, as in 10.0.0.0/8"
        yield error(f"INGRESS_TRUSTED_PROXIES trusts {', '.join(everybody)}", means, fix)
    elif settings.public_url.startswith("https://") and not settings.trusted_proxies:
        means = (
            "a proxy must be in front, as the service has no TLS itself: all clients have its address, share its"
            " limits on connections and sign-ins, and the audit trail knows none of them"
        )
        fix = "set INGRESS_TRUSTED_PROXIES to the networks of the proxies, as in 10.0.0.0/8"
        yield warning("INGRESS_TRUSTED_PROXIES is not set, and INGRESS_PUBLIC_URL is https://", means, fix)


def _unbounded(settings: Settings) -> Iterator[DoctorFinding]:
    for field, (what, usual) in BOUNDS.items():
        if not getattr(settings, field):
            name = variable(field)
            means = "one client alone can take all that the service has"
            yield warning(f"{name} is 0: the number of {what} has no limit", means, f"set {name}={usual}")
    if not settings.health_interval_s:
        means = "where it is 0 in every process no account is watched, and none is switched from when it fails"
        yield warning("INGRESS_HEALTH_INTERVAL_S is 0", means, "set INGRESS_HEALTH_INTERVAL_S=30")


async def files(_examined: Examined) -> Findings:
    """Each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + OTHER_FILES
    if most == resource.RLIM_INFINITY:
        yield ok("the process may open any number of files")
    elif most < wanted:
        means = f"fewer than {MAX_CONNECTIONS:,} clients are served at a time"
        fix = f"LimitNOFILE={wanted} in the unit, `ulimit -Hn {wanted}` in a shell, or the container's ulimits"
        yield warning(f"the process may open {most:,} files, and wants {wanted:,}", means, fix)
    else:
        yield ok(f"the process may open {most:,} files")


async def folder(examined: Examined) -> Findings:
    """Where generated secrets are, if there are any."""
    path = Path(examined.settings.data_dir)
    open_to_others = [str(each) for each in _secret(path) if each.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)]
    if open_to_others:
        means = "others on this machine can read the encryption keys or the platform key"
        yield error(f"others may read {', '.join(open_to_others)}", means, f"chmod 600 {' '.join(open_to_others)}")
    else:
        yield ok(f"no secret in {path} can be read by others")


def _secret(path: Path) -> Iterable[Path]:
    return [each for name in ("secrets.json", "dev.json") if (each := path / name).exists()]


CHECKS = (
    DoctorCheck("settings.valid", valid),
    DoctorCheck("settings.tls", tls),
    DoctorCheck("settings.exposure", exposure),
    DoctorCheck("system.files", files),
    DoctorCheck("system.folder", folder),
)
