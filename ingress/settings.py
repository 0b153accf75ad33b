"""Settings: one struct, one field a variable. Unknown or ill-typed ones stop the start, all of them named at once."""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import redis.asyncio
from redis.exceptions import RedisError

from .validation import described

PREFIX = "INGRESS_"
# What the scheme of a cluster's address ends with.
REDIS_CLUSTER = "+cluster"
# Set by the platforms the service runs on, hence without our prefix.
PLAIN_NAMES = {
    "database_url": "DATABASE_URL",
    "database_owner_url": "DATABASE_OWNER_URL",
    "database_direct_url": "DATABASE_DIRECT_URL",
    "redis_url": "REDIS_URL",
}

# Of the commands that speak to a running service (ingress/cli/remote.py), which are written down all the same.
CLIENT_NAMES = {
    "INGRESS_API_URL": "The service that commands speak to. Not set: the one of `.data/dev.json`.",
    "INGRESS_API_KEY": "Their key. Not set: the one of `.data/dev.json`.",
    "INGRESS_API_ORG": "The organization that they act for, where the key is the platform's.",
}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Days = Annotated[int, msgspec.Meta(ge=1, le=36_500)]


# Each is an open file of the process (web/connections.py).
MAX_DATABASE_CONNECTIONS = 64
# Of the platform key: it opens every organization, and may be guessed at from anywhere.
MIN_KEY_CHARACTERS, MIN_KEY_DISTINCT = 32, 10


class SettingsError(Exception):
    """Variables are unknown, missing or ill-typed; each line of the message names one, and what is wanted."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Each field is the environment variable INGRESS_<NAME IN CAPITALS>, but for those of PLAIN_NAMES.

    What stands below a field is what docs/configuration.md says of it (ingress/cli/reference.py).
    """

    # ---------------------------------------------------------------- PostgreSQL

    database_url: str = ""
    """PostgreSQL 15 or newer, as in `postgresql://user:password@host:5432/database?sslmode=verify-full`. Not set: one
    from a wheel (extra `dev`), in the data folder."""

    database_owner_url: str = ""
    """Of `ingress migrate` alone: the same database with the login that owns the schema, so that the one of
    `DATABASE_URL` needs to own nothing. Not set: one login for both."""

    database_direct_url: str = ""
    """The same database without a pooler in between, where `DATABASE_URL` leads through PgBouncer in transaction mode:
    for who listens, who changes organizations, and migrations ([pgbouncer.md](pgbouncer.md))."""

    database_connections: Annotated[int, msgspec.Meta(ge=10, le=MAX_DATABASE_CONNECTIONS)] = 16
    """Connections to PostgreSQL that this process may have open at once. Each of ten uses keeps one place, such as the
    API, storing webhooks, sends, and changes of organizations; the other places are for whichever needs them, and
    changes of organizations, one each, leave two of them. What is idle is closed after a minute;
    `whatsapp_ingress_db_connections` shows how many are open. The processes of a database count each other, and log a
    warning where they may open more than the server has for them."""

    database_wait_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 60
    """Seconds that `ingress serve` waits at its start for a database that does not answer; then it ends, with
    status 1."""

    # ---------------------------------------------------------------- Redis

    redis_url: str = ""
    """Redis 7 or Valkey 8 or newer, `redis://:password@host:6379` (`rediss://` for TLS). A cluster by some of its
    nodes: `redis+cluster://:password@host:6379,host:6379` (`rediss+cluster://`). Not set: one from a wheel (extra
    `dev`), in the data folder."""

    # ---------------------------------------------------------------- Addresses

    host: str = "127.0.0.1"
    """Address to listen on."""

    port: Port = 8000
    """Port of the API, the console and webhooks."""

    metrics_port: Port = 9464
    """Port of `/metrics`, at the same address, which the public must not reach; `/healthz` and `/readyz` are there too.
    0: any free one, shown at the start of `ingress run`."""

    public_url: str = ""
    """Origin under which providers reach the service, as in `https://in.example.com`. Webhook addresses and URL
    signatures are built from it, never from a request's headers. Not set: `http://host:port`."""

    connections_per_address: Annotated[int, msgspec.Meta(ge=0)] = 256
    """Connections that one client address may have at a time (of IPv6, a network of 64 bits); a proxy of
    `INGRESS_TRUSTED_PROXIES` has no bound. 0: nobody has one."""

    http_protocol: Literal["own", "uvicorn"] = "own"
    """What reads requests. `uvicorn`: uvicorn alone, in case a release of it and our own reading do not go together;
    then [few bounds hold](security.md#without-our-own-protocol)."""

    # ---------------------------------------------------------------- Secrets

    platform_key: str = ""
    """Creates organizations and keys, and acts for the organization in `X-Org-Id`: at least 32 characters, random ones.
    Not set: nobody can; beside an embedded database one is generated."""

    encryption_keys: str = ""
    """Each is `id:base64 of 32 bytes`, comma-separated, newest first: the first encrypts, all decrypt; `ingress
    generate-key` makes one. `ingress keys rotate` puts another in the place of one
    ([security.md](security.md#another-encryption-key)). Needed, but beside an embedded database one is generated."""

    # ---------------------------------------------------------------- Whom it talks to, and whom it believes

    require_tls: bool = False
    """Refuse to start unless `DATABASE_URL` has `sslmode=verify-full` (or `verify-ca`; with `require` alone nobody is
    verified), `REDIS_URL` is `rediss://` (or `rediss+cluster://`) with verification on, and `INGRESS_PUBLIC_URL` is
    `https://`."""

    egress_allow: str = ""
    """Private networks that outgoing calls may reach, comma-separated, as in `10.1.0.0/16`; plain http is allowed only
    where this is set. Not set: public addresses only."""

    trusted_hosts: str = ""
    """Hosts of gateways and servers of your own, comma-separated, as in `gateway.example.com`: a connection test that
    passes there shows whose an account is, as at the provider's own hosts."""

    trusted_proxies: str = ""
    """Networks of the proxies in front, comma-separated, as in `10.0.0.0/8`: the rightmost `X-Forwarded-For` entry that
    is not of them is the client's address in the audit trail; nobody else's is believed."""

    # ---------------------------------------------------------------- Limits

    requests_per_key: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 50
    """Requests a second that a key may make of each process, twice as many at once. 0: no limit, as in `make run`."""

    sign_in_failures_per_minute: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 5
    """Invalid keys a minute from one address (of IPv6: from one /64), after which the next are refused without being
    looked up. Behind a proxy that is not in `INGRESS_TRUSTED_PROXIES` all clients have one address, and this limit
    together. 0: no limit."""

    connection_tests_per_minute: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 10
    """Connection tests, configurations, pairings, look-ups of numbers and test events a minute of one organization in
    each process: each calls out. 0: no limit, as in `make run`."""

    # ---------------------------------------------------------------- Watching

    health_interval_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 30
    """Seconds between two looks at an account that is sent through ([health.md](health.md)). 0: this process looks at
    none. With 0 in every process no account is: no health, no switch of the service's own, and none that waits for a
    phone is completed."""

    organizations_in_metrics: Annotated[int, msgspec.Meta(ge=0, le=200)] = 0
    """Organizations that `/metrics` names by their ids, each with two series of each process: the busiest ones of the
    last hour; all others are `other`. 50 is plenty. 0: metrics name none."""

    canary: bool = False
    """Take the webhooks of [`ingress canary`](operating.md#whether-anything-is-lost-ingress-canary). It is among the
    providers of every organization then, and sends nothing."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""

    # ---------------------------------------------------------------- How long data is kept

    retention_bodies_days: Days = 30
    """Days that raw bodies of webhooks are kept, those in the quarantine, too. An organization may have this, and the
    two below, [shorter](retention.md)."""

    retention_events_days: Days = 90
    """Days that events and messages are kept, with their attempts and deliveries."""

    retention_statuses_days: Days = 180
    """Days that statuses are kept as their providers reported them."""

    retention_keys_days: Annotated[int, msgspec.Meta(ge=8, le=36_500)] = 30
    """Days that repeated webhooks and repeated `Idempotency-Key`s are recognised; providers repeat for a week."""

    retention_audit_days: Annotated[int, msgspec.Meta(ge=366, le=36_500)] = 1826
    """Days that the audit trail is kept."""

    # ---------------------------------------------------------------- The console

    console_links: str = ""
    """Where the console's entries VoIP and Email lead, as in
    `voip=https://voip.example.com,email=https://mail.example.com`. Not set: they are shown disabled."""

    # ---------------------------------------------------------------- Development

    sandbox: bool = False
    """Simulators of the providers and of a CRM, and a development organization; `make run` switches it on."""

    data_dir: str = ".data"
    """Where the embedded servers' data, generated secrets and `dev.json` live."""

    @property
    def origin(self) -> str:
        """Public origin without a trailing slash."""
        return self.public_url.rstrip("/") or self.address

    @property
    def address(self) -> str:
        """For who is on the same network."""
        return self._at(self.port)

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
    def links(self) -> dict[str, str]:
        """The console's entries of other systems: addresses by name, in lower case."""
        return _links(self.console_links)

    @property
    def vouching_hosts(self) -> frozenset[str]:
        return frozenset(_hosts(self.trusted_hosts))

    @property
    def trusted_networks(self) -> list[Network]:
        return _networks(self.trusted_proxies)

    def __repr__(self) -> str:
        return f"Settings(host={self.host!r}, port={self.port})"


def _networks(text: str) -> list[Network]:
    """Raises `ValueError` where one is none."""
    networks = []
    for part in filter(None, map(str.strip, text.split(","))):
        try:
            networks.append(ipaddress.ip_network(part))
        except ValueError:
            raise ValueError(
                f"must be networks as in 10.1.0.0/16, separated by commas; {part!r} is none, or has bits set after its"
                " prefix"
            ) from None
    return networks


# The entries of the console that this service has nothing behind.
LINKS = ("voip", "email")


def _links(text: str) -> dict[str, str]:
    """Raises `ValueError` where a part of it is no name with an address."""
    links = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, address = part.partition("=")
        _check_url(address)
        if name.strip().lower() not in LINKS or not address:
            raise ValueError("must be like voip=https://voip.example.com,email=https://mail.example.com")
        links[name.strip().lower()] = address.strip()
    return links


def _hosts(text: str) -> list[str]:
    """Raises `ValueError` where one is more than the name of a host, or an address."""
    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    if not all(re.fullmatch(r"[^\s@:/?#*]+|[0-9a-f:]+", name) for name in names):
        raise ValueError("must be names of hosts as in gateway.example.com, separated by commas")
    return names


def _check_url(text: str) -> None:
    """Raises `ValueError` where *text* is not empty, and nothing to begin an address with."""
    try:
        parts = urlsplit(text)
        plain = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        plain = False
    if text and (not plain or parts.query or parts.fragment or not text.isprintable() or " " in text):
        raise ValueError("must be like https://in.example.com")


def _check_database_url(text: str) -> None:
    try:
        is_one = urlsplit(text).scheme in ("postgresql", "postgres")
    except ValueError:
        is_one = False
    if text and not is_one:
        raise ValueError("must be like postgresql://user:password@host:5432/database")


def redis_nodes(url: str) -> list[str] | None:
    """The address of each node that the *url* of a cluster names; None: it is of a single server."""
    scheme, _, rest = url.partition("://")
    if not scheme.endswith(REDIS_CLUSTER):
        return None
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    options = rest.removeprefix(authority)
    login, at, hosts = authority.rpartition("@")
    return [f"{scheme.removesuffix(REDIS_CLUSTER)}://{login}{at}{host}{options}" for host in hosts.split(",")]


def _check_redis_url(text: str) -> None:
    try:
        for url in filter(None, redis_nodes(text) or [text]):
            pool = redis.asyncio.ConnectionPool.from_url(url)
            pool.connection_class(**pool.connection_kwargs)  # it connects when it is used
            if url != text and (not pool.connection_kwargs.get("host") or pool.connection_kwargs.get("db")):
                raise ValueError  # a cluster has one database, and no socket of a file
    except (TypeError, ValueError, RedisError):
        raise ValueError(
            "must be like redis://:password@host:6379, or rediss:// for TLS, with their options; of a cluster like"
            " redis+cluster://:password@host:6379,host:6379, or rediss+cluster://"
        ) from None


def _check_platform_key(text: str) -> None:
    if text and (len(text) < MIN_KEY_CHARACTERS or len(set(text)) < MIN_KEY_DISTINCT):
        raise ValueError(
            f"can be guessed: {MIN_KEY_CHARACTERS} random characters are the least; make one with"
            " python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )


_CHECKS: dict[str, Callable[[str], object]] = {
    "database_url": _check_database_url,
    "database_owner_url": _check_database_url,
    "database_direct_url": _check_database_url,
    "redis_url": _check_redis_url,
    "egress_allow": _networks,
    "trusted_proxies": _networks,
    "trusted_hosts": _hosts,
    "console_links": _links,
    "public_url": _check_url,
    "platform_key": _check_platform_key,
}


def login_of(database_url: str) -> str | None:
    """Whom *database_url* logs in; None: it does not say."""
    parts = urlsplit(database_url)
    return unquote(parts.username) if parts.username else parse_qs(parts.query).get("user", [None])[-1]


def variable(field: str) -> str:
    return PLAIN_NAMES.get(field, PREFIX + field.upper())


def load(environment: Mapping[str, str], check: Callable[[Settings], Iterable[str]] = lambda _: ()) -> Settings:
    """Settings from *environment*; raises `SettingsError` with all that is wrong, and with what *check* finds."""
    settings, wrong = read(environment)
    if wrong := [*wrong, *check(settings)]:
        raise SettingsError("\n".join(wrong))
    return settings


def read(environment: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """Settings from what is right in *environment*, and what is wrong there, a line each."""
    fields = {variable(field.name): field for field in msgspec.structs.fields(Settings)}
    wrong = list(_unknown(environment, {*fields, *CLIENT_NAMES}))
    values = {}
    for name, field in fields.items():
        try:
            if name in environment:
                values[field.name] = _value(field.name, field.type, environment[name].strip())
        except ValueError as error:
            wrong.append(f"{name}: {error}")
    return Settings(**values), wrong


def _unknown(names: Iterable[str], known: set[str]) -> Iterator[str]:
    if unknown := sorted(name for name in names if name.startswith(PREFIX) and name not in known):
        yield f"unknown setting {', '.join(unknown)}; known are {', '.join(sorted(known))}"


def _value(field: str, kind: Any, text: str) -> Any:
    """Raises `ValueError` that says what is wanted."""
    try:
        value = msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError:
        raise ValueError(f"must be {described(msgspec.inspect.type_info(kind))}") from None
    if field in _CHECKS:
        _CHECKS[field](text)
    return value
