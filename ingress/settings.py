"""Settings: one struct, one field a variable. Unknown or ill-typed ones stop the start."""

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

PREFIX = "INGRESS_"
# Set by the platforms the service runs on, hence without our prefix.
PLAIN_NAMES = {
    "database_url": "DATABASE_URL",
    "database_owner_url": "DATABASE_OWNER_URL",
    "redis_url": "REDIS_URL",
}

# Of the commands that speak to a running service (ingress/cli/remote.py), which are in the README all the same.
CLIENT_NAMES = frozenset({"INGRESS_API_URL", "INGRESS_API_KEY", "INGRESS_API_ORG"})

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class SettingsError(Exception):
    """A variable is unknown, missing or ill-typed; the message names it."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Each field is the environment variable INGRESS_<NAME IN CAPITALS>, but for those of PLAIN_NAMES."""

    # PostgreSQL 15 or newer. Empty: an embedded one in data_dir.
    database_url: str = ""
    # The same database with the login that owns the schema: of `ingress migrate` alone. Empty: one login for both.
    database_owner_url: str = ""
    # Redis 7 or Valkey 8 or newer. Empty: an embedded one in data_dir.
    redis_url: str = ""
    # Address and port to listen on.
    host: str = "127.0.0.1"
    port: Port = 8000
    # Port of /metrics, which the public is not to reach; /healthz and /readyz are there too.
    metrics_port: Port = 9464
    # Where the embedded servers, generated secrets and dev.json live.
    data_dir: str = ".data"
    # Origin under which providers reach this service, as in https://in.example.com. Empty: http://host:port.
    # Webhook addresses and URL signatures are built from it, never from a request's headers.
    public_url: str = ""
    # Creates organizations and keys, and acts for the organization in X-Org-Id. Empty: nobody can.
    platform_key: str = ""
    # Comma-separated `id:base64 of 32 bytes`, newest first: the newest encrypts, all decrypt.
    encryption_keys: str = ""
    # Start the simulators of the providers and of a CRM, and a development organization.
    sandbox: bool = False
    # Comma-separated networks that outgoing calls may reach though they are private, as in 10.1.0.0/16.
    # Plain http is allowed only where this is not empty.
    egress_allow: str = ""
    # Comma-separated hosts that vouch for whose an account is as the provider's own do: gateways, servers of one's own.
    trusted_hosts: str = ""
    # Comma-separated networks of the proxies in front: what they say in X-Forwarded-For is believed, and nobody else.
    trusted_proxies: str = ""
    # Connections that one client may have at a time; the proxies of trusted_proxies have no bound. 0: nobody has.
    connections_per_address: Annotated[int, msgspec.Meta(ge=0)] = 256
    # Refuse to start where PostgreSQL, Redis or the public address would be reached without TLS, or unverified.
    require_tls: bool = False
    # Seconds between two looks at an account that is sent through (docs/health.md). 0: this process looks at none.
    health_interval_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 30
    # Requests a second that a key may make of each process, twice as many at once. 0: no limit.
    requests_per_key: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 50
    # Sign-ins a minute that may fail from one address, before the next ones are refused unseen. 0: no limit.
    sign_in_failures_per_minute: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 5
    # Connection tests, configurations, pairings and test events a minute of an organization in each process: each calls
    # out. 0: no limit.
    connection_tests_per_minute: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 10
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def origin(self) -> str:
        """Public origin without a trailing slash."""
        return self.public_url.rstrip("/") or self._at(self.port)

    @property
    def metrics_url(self) -> str:
        """For this machine; the public does not reach it."""
        return self._at(self.metrics_port) + "/metrics"

    def _at(self, port: int) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}"

    @property
    def allowed_networks(self) -> list[Network]:
        return _networks(self.egress_allow)

    @property
    def vouching_hosts(self) -> frozenset[str]:
        return frozenset(_hosts(self.trusted_hosts))

    @property
    def trusted_networks(self) -> list[Network]:
        return _networks(self.trusted_proxies)

    def __repr__(self) -> str:
        return f"Settings(host={self.host!r}, port={self.port})"


def _networks(text: str) -> list[Network]:
    return [ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip()]


def _hosts(text: str) -> list[str]:
    """Raises `ValueError` where one is more than the name of a host, or an address."""
    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    if not all(re.fullmatch(r"[^\s@:/?#*]+|[0-9a-f:]+", name) for name in names):
        raise ValueError("must be names of hosts, as in gateway.example.com")
    return names


def _check_url(text: str) -> None:
    """Raises `ValueError` where *text* is not empty, and nothing to begin an address with."""
    parts = urlsplit(text)
    plain = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.netloc
    if text and (not plain or parts.query or parts.fragment or not text.isprintable() or " " in text):
        raise ValueError("must be like https://in.example.com")


def login_of(database_url: str) -> str | None:
    """Whom *database_url* logs in; None: it does not say."""
    parts = urlsplit(database_url)
    return unquote(parts.username) if parts.username else parse_qs(parts.query).get("user", [None])[-1]


_WANTED = {
    "database_url": "sslmode=verify-full",
    "database_owner_url": "sslmode=verify-full",
    "redis_url": "rediss://, and no option about certificates or host names that are not verified",
    "public_url": "https://",
}


def _is_verified(field: str, url: str) -> bool:
    """Whether what speaks to *url* makes sure who answers."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    if field == "public_url":
        return parts.scheme == "https"
    if field == "redis_url":
        return parts.scheme == "rediss" and not query.keys() & {"ssl_cert_reqs", "ssl_check_hostname"}
    # With `require` asyncpg verifies nothing, unless it finds a certificate somewhere.
    return query.get("sslmode", [""])[-1] in ("verify-full", "verify-ca")


def check_tls(settings: Settings, *fields: str) -> None:
    """Raise `SettingsError` where `require_tls` is set, and the address in one of *fields* does without."""
    for field in fields if settings.require_tls else ():
        if not _is_verified(field, getattr(settings, field)):
            raise SettingsError(
                f"{variable(field)}: {variable('require_tls')} is set, so it must have {_WANTED[field]}"
            )


def variable(field: str) -> str:
    return PLAIN_NAMES.get(field, PREFIX + field.upper())


def load(environment: Mapping[str, str]) -> Settings:
    """Settings from *environment*; raises `SettingsError` naming the variable that is unknown or ill-typed."""
    fields = {variable(field): field for field in Settings.__struct_fields__}
    known = {*fields, *CLIENT_NAMES}
    if unknown := sorted(name for name in environment if name.startswith(PREFIX) and name not in known):
        raise SettingsError(f"unknown setting {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    given = {field: environment[name].strip() for name, field in fields.items() if name in environment}
    values = {}
    types = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    for field, text in given.items():
        try:
            values[field] = msgspec.convert(text, types[field], strict=False)
        except msgspec.ValidationError as error:
            raise SettingsError(f"{variable(field)}: {error}") from None
    settings = Settings(**values)
    for field, check in (
        ("egress_allow", _networks),
        ("trusted_proxies", _networks),
        ("trusted_hosts", _hosts),
        ("public_url", _check_url),
    ):
        try:
            check(getattr(settings, field))
        except ValueError as error:
            raise SettingsError(f"{variable(field)}: {error}") from None
    return settings
