"""Settings: what is unknown or ill-typed stops the start, and the message names it."""

import ipaddress
import secrets

import pytest

from ingress.doctor.environment import insecure
from ingress.settings import PLAIN_NAMES, Settings, SettingsError, load, login_of, variable

SECRET = "canary-2f6b1f0a-c61e47d8b95a0327"


def test_nothing_is_needed() -> None:
    assert load({}) == Settings()
    assert load({"PATH": "/bin", "ingress_port": "1", "INGRESSIVE": "1"}) == Settings()


def test_every_field_has_its_variable() -> None:
    """One field, one variable; those that platforms set have no prefix."""
    names = {field: variable(field) for field in Settings.__struct_fields__}
    assert len(set(names.values())) == len(names)
    assert {field for field, name in names.items() if not name.startswith("INGRESS_")} == set(PLAIN_NAMES)
    assert (names["database_url"], names["redis_url"]) == ("DATABASE_URL", "REDIS_URL")
    assert names["database_owner_url"] == "DATABASE_OWNER_URL"


def test_values_are_read_with_their_types() -> None:
    settings = load(
        {
            "DATABASE_URL": " postgresql://u@h/d\n",
            "REDIS_URL": "redis://h",
            "INGRESS_PORT": "9000",
            "INGRESS_METRICS_PORT": "0",
            "INGRESS_SANDBOX": "true",
            "INGRESS_LOG_LEVEL": "debug",
            "INGRESS_EGRESS_ALLOW": "10.1.0.0/16, fd00::/8,192.168.1.7",
            "INGRESS_PUBLIC_URL": "https://in.example.com/",
            "INGRESS_TRUSTED_HOSTS": "Gateway.example, 10.1.0.2,::1,",
        }
    )
    assert settings.vouching_hosts == {"gateway.example", "10.1.0.2", "::1"}
    assert (settings.database_url, settings.redis_url) == ("postgresql://u@h/d", "redis://h")
    assert (settings.port, settings.sandbox, settings.log_level) == (9000, True, "debug")
    assert settings.allowed_networks == [
        ipaddress.ip_network("10.1.0.0/16"),
        ipaddress.ip_network("fd00::/8"),
        ipaddress.ip_network("192.168.1.7/32"),
    ]
    assert settings.origin == "https://in.example.com"


@pytest.mark.parametrize(("text", "value"), [("1", True), ("0", False), ("true", True), ("False", False)])
def test_switches(text: str, value: bool) -> None:
    assert load({"INGRESS_SANDBOX": text}).sandbox is value


@pytest.mark.parametrize(
    ("host", "origin"),
    [("127.0.0.1", "http://127.0.0.1:8000"), ("::1", "http://[::1]:8000"), ("in.example", "http://in.example:8000")],
)
def test_origin_without_a_public_url(host: str, origin: str) -> None:
    assert load({"INGRESS_HOST": host}).origin == origin


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("INGRESS_PORT", "http"),
        ("INGRESS_PORT", "-1"),
        ("INGRESS_PORT", "65536"),
        ("INGRESS_PORT", "80.5"),
        ("INGRESS_PORT", ""),
        ("INGRESS_SANDBOX", "yes please"),
        ("INGRESS_LOG_LEVEL", "loud"),
        ("INGRESS_EGRESS_ALLOW", "10.1.0.0/33"),
        ("INGRESS_EGRESS_ALLOW", "10.1.0.1/16"),
        ("INGRESS_EGRESS_ALLOW", "localhost"),
        ("INGRESS_TRUSTED_PROXIES", "10.1.0.1/16"),
        ("INGRESS_TRUSTED_PROXIES", "proxy"),
        ("INGRESS_TRUSTED_HOSTS", "https://gateway.example"),
        ("INGRESS_TRUSTED_HOSTS", "gateway.example:443"),
        ("INGRESS_TRUSTED_HOSTS", "*.example"),
        ("INGRESS_CONSOLE_LINKS", "voip"),
        ("INGRESS_CONSOLE_LINKS", "voip=javascript:alert(1)"),
        ("INGRESS_CONSOLE_LINKS", "fax=https://fax.example"),
        ("INGRESS_PUBLIC_URL", "in.example.com"),
        ("INGRESS_PUBLIC_URL", "ftp://in.example.com"),
        ("INGRESS_PUBLIC_URL", "https://"),
        ("INGRESS_PUBLIC_URL", "https://in.example.com:port"),
        ("INGRESS_PUBLIC_URL", "https://user:x@in.example.com"),
        ("INGRESS_PUBLIC_URL", "https://in.example.com/?x"),
        ("INGRESS_PUBLIC_URL", "https://in.example.com /"),
        ("INGRESS_PUBLIC_URL", "https://in.example.com:0"),
        ("INGRESS_PLATFORM_KEY", "abc"),
        ("INGRESS_PLATFORM_KEY", "a" * 64),
        ("INGRESS_PLATFORM_KEY", "0123456789012345678901234567890"),
        ("DATABASE_URL", "db.example"),
        ("DATABASE_OWNER_URL", "mysql://h/d"),
        ("REDIS_URL", "h:6379"),
        ("REDIS_URL", "redis://h:port"),
        ("REDIS_URL", "redis://h?ssl_cert_reqs=none"),
        ("REDIS_URL", "redis://h?db=x"),
        ("REDIS_URL", "rediss://h?ssl_cert_reqs=odd"),
        ("DATABASE_URL", "postgresql://[::1/d"),
        ("INGRESS_PUBLIC_URL", "https://[::1"),
        ("INGRESS_PROT", "8000"),
        ("INGRESS_", "x"),
        ("INGRESS_DATABASE_URL", "postgresql://h"),
        ("INGRESS_REDIS_URL", "redis://h"),
    ],
)
def test_mistakes_stop_the_start_and_are_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({name: value, "INGRESS_REQUIRE_TLS": "true"}, lambda settings: insecure(settings, *ADDRESSES))
    [line, *_] = str(caught.value).splitlines()
    assert name in line
    assert any(words in line for words in ("must be", "can be guessed", "unknown setting"))


def test_each_mistake_is_a_plain_sentence_and_all_are_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load(
            {
                "INGRESS_PORT": "http",
                "INGRESS_CONNECTIONS_PER_ADDRESS": "-1",
                "INGRESS_HEALTH_INTERVAL_S": "soon",
                "INGRESS_SANDBOX": "perhaps",
                "INGRESS_LOG_LEVEL": "loud",
                "INGRESS_EGRESS_ALLOW": "10.0.0.1/8",
                "INGRESS_PUBLIC_URL": "https://in.example.com:port",
                "INGRESS_PLATFORM_KEY": "abc",
                "INGRESS_PROT": "8000",
            },
            lambda settings: [f"found with port {settings.port}"],
        )
    unknown, *others = str(caught.value).splitlines()
    assert unknown.startswith("unknown setting INGRESS_PROT; known are ")
    assert others == [
        "INGRESS_PORT: must be a whole number from 0 to 65535",
        "INGRESS_PUBLIC_URL: must be like https://in.example.com",
        "INGRESS_CONNECTIONS_PER_ADDRESS: must be a whole number, 0 or more",
        "INGRESS_PLATFORM_KEY: can be guessed: 32 random characters are the least; make one with"
        " python3 -c 'import secrets; print(secrets.token_urlsafe(32))'",
        "INGRESS_EGRESS_ALLOW: must be networks as in 10.1.0.0/16, separated by commas; '10.0.0.1/8' is none, or has"
        " bits set after its prefix",
        "INGRESS_HEALTH_INTERVAL_S: must be a number from 0 to 3600",
        "INGRESS_LOG_LEVEL: must be one of debug, error, info, warning",
        "INGRESS_SANDBOX: must be true or false",
        "found with port 8000",
    ]


def test_a_platform_key_as_the_message_says_to_make_it() -> None:
    for _ in range(100):
        load({"INGRESS_PLATFORM_KEY": secrets.token_urlsafe(32)})
        load({"INGRESS_PLATFORM_KEY": secrets.token_hex(32)})


def test_an_unknown_setting_is_told_the_known_ones() -> None:
    with pytest.raises(SettingsError) as caught:
        load({"INGRESS_PLATFROM_KEY": SECRET, "INGRESS_X": SECRET})
    assert "INGRESS_PLATFORM_KEY" in str(caught.value)
    assert "INGRESS_X" in str(caught.value)
    assert "INGRESS_API_URL" in str(caught.value)
    assert SECRET not in str(caught.value)


VERIFIED = {
    "DATABASE_URL": f"postgresql://user:{SECRET}@h/d?sslmode=verify-full&sslrootcert=system",
    "REDIS_URL": f"rediss://:{SECRET}@h",
    "INGRESS_PUBLIC_URL": "https://in.example.com",
    "INGRESS_REQUIRE_TLS": "true",
}
ADDRESSES = ("database_url", "redis_url", "public_url")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", ""),
        ("DATABASE_URL", "postgresql://h/d"),
        # What the driver takes for "encrypted if it can be", and for "by whomever".
        ("DATABASE_URL", "postgresql://h/d?sslmode=prefer"),
        ("DATABASE_URL", "postgresql://h/d?sslmode=require"),
        ("DATABASE_URL", "postgresql://h/d?sslmode=verify-full&sslmode=disable"),
        ("DATABASE_URL", "postgresql://h/d?application_name=sslmode=verify-full"),
        ("REDIS_URL", ""),
        ("REDIS_URL", "redis://h"),
        ("REDIS_URL", "unix:///tmp/redis"),
        ("REDIS_URL", "rediss://h?ssl_cert_reqs=none"),
        ("REDIS_URL", "rediss://h?ssl_cert_reqs=required&ssl_check_hostname=no"),
        ("INGRESS_PUBLIC_URL", ""),
        ("INGRESS_PUBLIC_URL", "http://in.example.com"),
    ],
)
def test_an_address_without_verified_tls_is_named(name: str, value: str) -> None:
    """Where that is required, and only there."""
    assert insecure(load(VERIFIED), *ADDRESSES) == []
    assert not insecure(load({**VERIFIED, "DATABASE_URL": "postgresql://h/d?sslmode=verify-ca"}), *ADDRESSES)
    assert not insecure(load({**VERIFIED, name: value, "INGRESS_REQUIRE_TLS": "false"}), *ADDRESSES)
    [wrong] = insecure(load({**VERIFIED, name: value}), *ADDRESSES)
    assert wrong.startswith(f"{name}: ")
    assert "INGRESS_REQUIRE_TLS" in wrong
    assert SECRET not in wrong


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("postgresql://serving@h/d", "serving"),
        ("postgresql://serv%40ing:x@h/d", "serv@ing"),
        ("postgresql:///d?host=/tmp&user=serving", "serving"),
        ("postgresql://h/d", None),
        ("", None),
    ],
)
def test_whom_an_address_logs_in(url: str, login: str | None) -> None:
    assert login_of(url) == login


def test_secrets_are_not_shown() -> None:
    """Not by a repr, and not by the error of another variable."""
    environment = {
        "DATABASE_URL": f"postgresql://user:{SECRET}@h/d",
        "REDIS_URL": f"redis://:{SECRET}@h",
        "INGRESS_PLATFORM_KEY": SECRET,
        "INGRESS_ENCRYPTION_KEYS": SECRET,
    }
    settings = load(environment)
    assert SECRET not in f"{settings!r} {settings}"
    with pytest.raises(SettingsError) as caught:
        load({**environment, "INGRESS_PORT": "x"})
    assert SECRET not in str(caught.value)
