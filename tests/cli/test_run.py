"""The command line as a newcomer meets it: `ingress run` on an empty folder, and every mistake answered in one line."""

import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import uuid4

import asyncpg
import pytest

from ingress import __version__
from ingress.cli.main import main
from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.settings import Settings
from ingress.storage.database import SCHEMA_VERSION
from ingress.storage.vault import Vault, generate_key

from ..gateway import unused_port

REPOSITORY = Path(__file__).parents[2]
READY_S = 5.0
NEEDS_CURL = pytest.mark.skipif(shutil.which("curl") is None, reason="the printed commands are curl's")


def environment(**settings: str) -> dict[str, str]:
    """Ours without what would configure the service, and *settings*."""
    known = ("INGRESS_", "DATABASE_", "REDIS_URL")
    ours = {name: value for name, value in os.environ.items() if not name.startswith(known)}
    return ours | {"INGRESS_METRICS_PORT": "0"} | settings  # others of these tests may run at the same time


def ingress(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ingress", *arguments],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=REPOSITORY,
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that says what is wrong."""
    [line] = refusals(done)
    return line


def refusals(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What is wrong, a line each."""
    assert (done.returncode, done.stdout) == (1, ""), done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert all(line.startswith("ingress: ") for line in lines)
    return [line.removeprefix("ingress: ") for line in lines]


KEYS = {"INGRESS_ENCRYPTION_KEYS": generate_key()}

# What a test client needs of each provider's config to sign webhooks, beside the address.
SIGNED_WITH = {
    "meta_business": ("app_secret", "verify_token", "phone_number_id"),
    "twilio_whatsapp": ("auth_token", "account_sid", "phone_number"),
    "whatsapp_web": ("hmac_key", "session"),
}


class Run:
    """`ingress run` on *data*, ready, with what it printed."""

    def __init__(self, data: Path, port: int, **settings: str) -> None:
        self.data = data
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ingress", "run"],
            env=environment(INGRESS_DATA_DIR=str(data), INGRESS_PORT=str(port), PYTHONUNBUFFERED="1", **settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=REPOSITORY,
        )
        self.printed = ""
        assert self.process.stdout
        for line in self.process.stdout:
            self.printed += line
            if line.startswith("Ctrl-C"):
                break
        self.ready_s = time.monotonic() - self.started
        assert "WhatsApp Ingress is ready." in self.printed, self.printed
        self.facts = json.loads((data / "dev.json").read_text())

    def call(self, path: str, *, key: str = "api_key", method: str = "GET") -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {self.facts[key]}"}
        try:
            with urlopen(Request(self.facts["url"] + path, headers=headers, method=method), timeout=60) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            with error:
                return error.code, json.load(error)

    def events(self, *, until: str) -> list[Any]:
        """All events, once the sandbox's phone is in the state *until*."""
        events: list[Any] = []
        states: list[Any] = []
        while until not in states:
            after = events[-1]["sequence"] if events else 0
            status, page = self.call(f"/events?after={after}&limit=1000&wait=5")
            assert status == 200
            assert page["events"], f"no phone became {until}"
            events += page["events"]
            states = [event["data"].get("account", {}).get("details", {}).get("state") for event in events]
        return events

    @property
    def lasting(self) -> dict[str, Any]:
        """What is the same in the next run; ports of the sandbox may be somebody else's by then."""
        return {name: value for name, value in self.facts.items() if name != "sandbox"}

    @property
    def commands(self) -> list[str]:
        """The printed shell commands, with their continued lines."""
        lines = [line for line in self.printed.splitlines() if not line.startswith("{")]
        return re.findall(r"^ *curl (?:.*\\\n)*.*", "\n".join(lines), re.MULTILINE)

    def interrupt(self) -> int:
        """Ctrl-C; the exit status."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.communicate(timeout=40)
        finally:
            self.process.kill()
        return self.process.returncode


@contextmanager
def running(data: Path, port: int, **settings: str) -> Iterator[Run]:
    run = Run(data, port, **settings)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.interrupt()


def processes_of(data: Path) -> list[str]:
    """The command lines of all processes that work on *data*."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode() if entry.name.isdigit() else ""
        except OSError:
            continue
        if str(data) in line:
            found.append(line)
    return found


def test_from_nothing_and_back(tmp_path: Path, free_port: int) -> None:
    """An empty folder, one command: ready, explained by a private file, stopped without a trace, and kept."""
    data = tmp_path / "data"
    with running(data, free_port) as first:
        assert stat.S_IMODE((data / "dev.json").stat().st_mode) == 0o600
        assert stat.S_IMODE((data / "secrets.json").stat().st_mode) == 0o600
        facts = first.facts
        assert facts["url"] == f"http://127.0.0.1:{free_port}"
        assert {"url", "platform_key", "organization_id", "api_key", "configs", "sandbox"} <= set(facts)
        assert [config["provider"] for config in facts["configs"]] == ["meta_business", *SIGNED_WITH]
        for config in facts["configs"]:
            assert config["webhook_url"].startswith(f"{facts['url']}/webhooks/{config['provider']}/")
            assert {"config_id", "base_url", *SIGNED_WITH[config["provider"]]} <= set(config)
        # Each can be refused alone.
        assert len({config["base_url"] for config in facts["configs"]}) == len(facts["configs"])
        [console] = re.findall(r"ready\.\n\n +Console +(\S+)", first.printed)  # first of all
        assert console == f"{facts['url']}/console"
        assert f"API key    {facts['api_key']} " in first.printed
        assert facts["platform_key"] not in first.printed
        assert str(data / "dev.json") in first.printed
        assert first.call("/readyz") == (200, {"status": "ready"})
        [metrics] = re.findall(r"Metrics +(\S+)", first.printed)
        with urlopen(metrics, timeout=60) as answer:
            assert b"whatsapp_ingress_build_info" in answer.read()
        assert "owns the schema" not in first.printed  # there is nobody else who could
        assert processes_of(data) != []

        second = ingress("run", INGRESS_DATA_DIR=str(data), INGRESS_PORT="0")
        assert str(first.process.pid) in refusal(second)
        assert str(data) in second.stderr
        before = first.events(until="working")  # the sandbox's phone starts again when its webhook is set
        assert [event["type"] for event in before] == ["provider.switched", *["account.updated"] * 3]
        assert first.interrupt() == 0
    assert processes_of(data) == []

    with running(data, free_port) as again:
        assert again.lasting == first.lasting
        # What was stored is there, and nothing was added by starting again; nor is it shown as what is tried now.
        assert again.events(until="working") == before
        assert f"after={before[-1]['sequence']}'" in again.commands[-1]
        _, organizations = again.call("/organizations", key="platform_key")
        assert [made["id"] for made in organizations["organizations"]] == [facts["organization_id"]]
        assert again.interrupt() == 0


def test_it_is_ready_in_five_seconds(tmp_path: Path, free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """With a database to be made first. Counted in CPU, its end included: other programs may want the machine, too."""
    cpu_s = cpu_of_children()
    with running(tmp_path, free_port) as run:
        pass
    cpu_s = cpu_of_children() - cpu_s
    with running(tmp_path, free_port) as again:
        pass
    with capsys.disabled():
        times = f"ready after {run.ready_s:.2f} s, again after {again.ready_s:.2f} s; {cpu_s:.2f} s of CPU"
        sys.stdout.write(f"\n  ingress run: {times}\n")
    assert 0.5 < cpu_s < READY_S


def cpu_of_children() -> float:
    """Seconds, of all that have ended and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_it_makes_its_folder_also_beside_servers_of_others(
    servers: EmbeddedServers, scratch: str, tmp_path: Path, free_port: int
) -> None:
    given = {
        "DATABASE_URL": scratch,
        "REDIS_URL": servers.redis_url or "",
        "INGRESS_PLATFORM_KEY": "platform_" + "x" * 32,
    }
    with running(tmp_path / "data", free_port, **given, **KEYS) as run:
        assert [path.name for path in run.data.iterdir()] == ["dev.json"]
        assert (stat.S_IMODE(run.data.stat().st_mode), run.interrupt()) == (0o700, 0)


@NEEDS_CURL
def test_the_printed_commands_work_as_printed(tmp_path: Path, free_port: int) -> None:
    with running(tmp_path, free_port) as run:
        webhook, send, events = run.commands
        done = [
            subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
            for command in (webhook, send)
        ]
        for answer in done:
            assert answer.returncode == 0, answer.stderr
            assert answer.stdout.startswith("HTTP/1.1 200"), answer.stdout
        assert '"status":"sent"' in done[1].stdout
        listed = subprocess.run(["sh", "-c", events], capture_output=True, text=True, timeout=60)
        shown = json.loads(listed.stdout)["events"]
        bodies = [event["data"]["message"]["content"] for event in shown if event["type"] == "message.received"]
        assert bodies == [{"type": "text", "body": "Hello from the sandbox"}]
        assert "sent" in [event["data"]["status"]["value"] for event in shown if event["type"] == "message.status"]


def test_it_starts_again_after_kill_9(tmp_path: Path, free_port: int) -> None:
    """Its servers end with it, and its folder is as good as before."""
    with running(tmp_path, free_port) as killed:
        killed.process.kill()
        killed.process.communicate()
    with running(tmp_path, free_port) as again:
        assert again.lasting == killed.lasting
        assert again.call("/readyz")[0] == 200
        assert again.interrupt() == 0
    assert processes_of(tmp_path) == []


def test_the_port_is_taken(tmp_path: Path) -> None:
    """Said before anything is started: the folder stays empty."""
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        line = refusal(ingress("run", INGRESS_DATA_DIR=str(tmp_path / "data"), INGRESS_PORT=port))
    assert port in line
    assert "INGRESS_PORT" in line
    assert not (tmp_path / "data").exists()


def test_a_host_that_is_none_of_ours(tmp_path: Path) -> None:
    """The cause in the system's own words, and the setting it is about."""
    line = refusal(ingress("run", INGRESS_DATA_DIR=str(tmp_path / "data"), INGRESS_HOST="no-such-host.invalid"))
    assert "no-such-host.invalid" in line
    assert "set INGRESS_HOST" in line
    assert "Unknown error" not in line


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize("command", ["run", "serve", "migrate", "providers"])
def test_an_unknown_setting_stops_the_start(command: str, tmp_path: Path) -> None:
    line = refusal(ingress(command, INGRESS_DATA_DIR=str(tmp_path / "x"), INGRESS_PROT="8000"))
    assert "INGRESS_PROT" in line
    assert "INGRESS_PORT" in line  # among those it knows
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("INGRESS_PORT", "http"),
        ("INGRESS_PORT", "70000"),
        ("INGRESS_SANDBOX", "perhaps"),
        ("INGRESS_LOG_LEVEL", "loud"),
        ("INGRESS_EGRESS_ALLOW", "10.0.0.0/99"),
    ],
)
def test_an_ill_typed_setting_is_named(name: str, value: str, tmp_path: Path) -> None:
    assert name in refusal(ingress("serve", INGRESS_DATA_DIR=str(tmp_path / "x"), **{name: value}))
    assert not (tmp_path / "x").exists()


def test_a_database_of_its_own_wants_keys_of_its_own(servers: EmbeddedServers, tmp_path: Path, free_port: int) -> None:
    """Generated keys would be lost with the folder, and with them what they sealed in a database that stays."""
    given = {
        "DATABASE_URL": servers.database_url or "",
        "REDIS_URL": servers.redis_url or "",
        "INGRESS_PORT": str(free_port),
        "INGRESS_DATA_DIR": str(tmp_path / "x"),
    }
    for command in ("serve", "run"):
        line = refusal(ingress(command, **given))
        assert "INGRESS_ENCRYPTION_KEYS" in line
    for keys in ("nonsense", "abcd1234:c2hvcnQ=", ","):
        assert "INGRESS_ENCRYPTION_KEYS" in refusal(ingress("serve", **given, INGRESS_ENCRYPTION_KEYS=keys))


def test_a_database_that_does_not_answer(tmp_path: Path, free_port: int) -> None:
    url = f"postgresql://nobody:geheim@127.0.0.1:{free_port}/none"
    for command, owner_url, name in (
        ("migrate", "", "DATABASE_URL"),
        ("migrate", url, "DATABASE_OWNER_URL"),
        ("serve", url, "DATABASE_URL"),
    ):
        line = refusal(
            ingress(
                command,
                DATABASE_URL=url,
                DATABASE_OWNER_URL=owner_url,
                REDIS_URL="redis://127.0.0.1:1",
                INGRESS_PORT="0",
                INGRESS_DATABASE_WAIT_S="0",
                INGRESS_ENCRYPTION_KEYS=ingress("generate-key").stdout.strip(),
                INGRESS_DATA_DIR=str(tmp_path / "x"),
            )
        )
        assert f"check {name}, and" in line
        assert "geheim" not in line


@contextmanager
def waiting(servers: EmbeddedServers, port: int, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """`ingress serve` with a database that was killed, once it has logged that it waits."""
    servers.postgres.kill()
    given = {"DATABASE_URL": servers.database_url or "", "REDIS_URL": "redis://127.0.0.1:1", "INGRESS_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "ingress", "serve"],
        env=environment(**KEYS, **given, **settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    try:
        assert process.stdout
        line = json.loads(process.stdout.readline())
        assert "the database does not answer" in line["message"]
        assert "check DATABASE_URL" in line["message"]
        yield process
    finally:
        process.kill()
        with process:
            pass


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[EmbeddedServers]:
    with EmbeddedServers(tmp_path, valkey=False) as running:
        yield running


def test_a_start_waits_for_the_database(own_postgres: EmbeddedServers, free_port: int) -> None:
    metrics_port = unused_port()
    metrics = f"http://127.0.0.1:{metrics_port}/metrics"
    with waiting(own_postgres, free_port, INGRESS_METRICS_PORT=str(metrics_port)) as process:
        own_postgres.postgres.start()
        assert process.stdout
        messages = []
        while not messages or "serves at" not in messages[-1]:
            messages.append(json.loads(process.stdout.readline()).get("message", ""))
        assert messages.count("the database answers") == 1
        assert messages[-1] == (
            f"WhatsApp Ingress {__version__} serves at http://127.0.0.1:{free_port}, metrics at {metrics}; one process"
            f" ({process.pid}), up to {Settings().database_connections} connections to PostgreSQL"
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0


def test_a_start_waits_for_the_database_no_longer_than_it_may(own_postgres: EmbeddedServers, free_port: int) -> None:
    with waiting(own_postgres, free_port, INGRESS_DATABASE_WAIT_S="1") as process:
        printed, errors = process.communicate(timeout=60)
        assert (process.returncode, printed) == (1, "")
        [line] = errors.splitlines()
        assert line.startswith("ingress: the database does not answer (")
        assert line.endswith("): check DATABASE_URL, and that it runs")


def test_a_start_that_waits_can_be_stopped(own_postgres: EmbeddedServers, free_port: int) -> None:
    """By the signal that ends containers, which the first process of one has to handle itself."""
    with waiting(own_postgres, free_port) as process:
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 128 + signal.SIGTERM


def test_a_database_that_is_not_there(servers: EmbeddedServers) -> None:
    url = (servers.database_url or "").replace("/postgres?", "/nowhere?")
    line = refusal(ingress("migrate", DATABASE_URL=url, REDIS_URL="redis://127.0.0.1:1"))
    assert "DATABASE_URL" in line
    assert '"nowhere" does not exist' in line


def test_tls_where_it_is_required() -> None:
    """Nothing is begun before: neither with a database of its own, nor with one that is reached in the open."""
    for command, url, names in (
        ("serve", "", ["DATABASE_URL", "REDIS_URL", "INGRESS_PUBLIC_URL"]),
        ("run", "postgresql://h/d?sslmode=require", ["DATABASE_URL", "REDIS_URL", "INGRESS_PUBLIC_URL"]),
        ("serve", "postgresql://h/d?sslmode=verify-full", ["REDIS_URL", "INGRESS_PUBLIC_URL"]),
        ("migrate", "postgresql://h/d", ["DATABASE_URL"]),
    ):
        done = ingress(command, DATABASE_URL=url, INGRESS_REQUIRE_TLS="true", INGRESS_PORT="0", **KEYS)
        lines = refusals(done)
        assert [line.partition(": INGRESS_REQUIRE_TLS is set")[0] for line in lines] == names


def test_all_that_is_wrong_is_named_at_once() -> None:
    wrong = {"DATABASE_URL": "postgresql://h/d", "INGRESS_REQUIRE_TLS": "true", "INGRESS_PORT": "http"}
    lines = refusals(ingress("serve", **wrong, INGRESS_PLATFORM_KEY="abc"))
    assert [line.partition(": ")[0] for line in lines] == [
        "INGRESS_PORT",
        "INGRESS_PLATFORM_KEY",
        "DATABASE_URL",
        "REDIS_URL",
        "INGRESS_PUBLIC_URL",
        "INGRESS_ENCRYPTION_KEYS",
    ]


def test_a_certificate_that_is_not_there() -> None:
    url = "postgresql://h/d?sslmode=verify-full&sslrootcert=/no/such/file"
    assert "DATABASE_URL" in refusal(ingress("migrate", DATABASE_URL=url, INGRESS_REQUIRE_TLS="true"))


# ---------------------------------------------------------------- the other commands


@pytest.fixture
async def scratch(servers: EmbeddedServers) -> Any:
    """An empty database beside the others; its URL."""
    name = f"scratch_{uuid4().hex}"
    connection = await asyncpg.connect(servers.database_url)
    await connection.execute(f"create database {name}")
    assert servers.database_url
    yield servers.database_url.replace("/postgres?", f"/{name}?")
    await connection.execute(f"drop database {name} with (force)")
    await connection.close()


async def _schema(url: str) -> tuple[list[int], list[str]]:
    connection = await asyncpg.connect(url)
    try:
        versions = await connection.fetch("select version from schema_version")
        tables = await connection.fetch(
            "select table_name from information_schema.tables where table_schema = 'public' order by 1"
        )
        return [row[0] for row in versions], [row[0] for row in tables]
    finally:
        await connection.close()


async def test_migrate_twice(scratch: str) -> None:
    for line in ("schema created", "schema is current"):
        done = ingress("migrate", DATABASE_URL=scratch, REDIS_URL="redis://127.0.0.1:1")
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, line, "")
    versions, tables = await _schema(scratch)
    assert versions == [SCHEMA_VERSION]
    assert {"organizations", "events", "messages", "attempts", "inbound_dedup", "deliveries"} <= set(tables)


async def test_migrate_from_four_processes_at_once(scratch: str) -> None:
    """One of them makes the schema, the others wait and find it."""
    with ThreadPoolExecutor(4) as pool:
        done = list(
            pool.map(lambda _: ingress("migrate", DATABASE_URL=scratch, REDIS_URL="redis://127.0.0.1:1"), range(4))
        )
    assert [(one.returncode, one.stderr) for one in done] == [(0, "")] * 4
    assert sorted(one.stdout.strip() for one in done) == ["schema created", *["schema is current"] * 3]
    assert (await _schema(scratch))[0] == [SCHEMA_VERSION]


async def test_migrate_of_several_databases_at_once_on_a_new_server(tmp_path: Path) -> None:
    """Roles belong to the whole server, and the lock to one database."""
    with EmbeddedServers(tmp_path, valkey=False) as new:
        assert new.database_url
        connection = await asyncpg.connect(new.database_url)
        urls = []
        for name in ("one", "two", "three", "four"):
            await connection.execute(f"create database {name}")
            urls.append(new.database_url.replace("/postgres?", f"/{name}?"))
        await connection.close()
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda url: ingress("migrate", DATABASE_URL=url, REDIS_URL="redis://x"), urls))
        assert [(one.returncode, one.stderr) for one in done] == [(0, "")] * 4


@pytest.mark.parametrize(("change", "what"), [(1, "a newer release has changed it"), (-2, "make the database anew")])
async def test_another_schema_is_refused(scratch: str, change: int, what: str) -> None:
    ingress("migrate", DATABASE_URL=scratch, REDIS_URL="redis://127.0.0.1:1")
    connection = await asyncpg.connect(scratch)
    await connection.execute("update schema_version set version = $1", SCHEMA_VERSION + change)
    await connection.close()
    line = refusal(ingress("migrate", DATABASE_URL=scratch, REDIS_URL="redis://127.0.0.1:1"))
    assert f"schema {SCHEMA_VERSION + change}" in line
    assert what in line


def test_providers_are_listed() -> None:
    done = ingress("providers")
    assert (done.returncode, done.stderr) == (0, "")
    [line] = [line for line in done.stdout.splitlines() if line.startswith("meta_business ")]
    assert line.split(maxsplit=3)[1:] == [
        "registered",
        "providers.meta_business",
        "WhatsApp Business (Meta Cloud API)",
    ]


def test_generated_keys_are_keys() -> None:
    keys = {ingress("generate-key").stdout.strip() for _ in range(2)}
    assert len(keys) == 2
    for key in keys:
        vault = Vault(key)
        assert vault.open(vault.seal(b"x", "o", "c", "f"), "o", "c", "f") == b"x"


def test_the_version_is_told() -> None:
    done = ingress("--version")
    assert (done.returncode, done.stdout.strip()) == (0, __version__)


@pytest.mark.parametrize(
    "arguments",
    [[], ["walk"], ["serve", "--port", "1"], ["serve", "--processes", "0"]],
    ids=["none", "unknown", "option", "value"],
)
def test_a_wrong_command_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ingress", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "usage: ingress" in capsys.readouterr().err
