"""A server as a child of this process: its folder, its log, its start and its end."""

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, NamedTuple

from .folder import Lock, ServersError, end_of, lines_of, socket_folder

START_S = 60.0  # a crash recovery or a long append-only file comes before the first answer
STOP_S = 20.0  # for the last checkpoint; then SIGKILL, which costs a recovery and no data
LOG_BYTES = 8_000_000  # a longer log is put aside at the next start, in the place of the one before

LINUX = sys.platform == "linux"
_LIBC = ctypes.CDLL(None, use_errno=True)  # here, because nothing may be loaded between fork and exec
_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000


class ServerUser(NamedTuple):
    """Whom a server runs as. PostgreSQL refuses to be root."""

    owner: int  # of its files, as seen from here
    ids: tuple[int, int] | None = None  # uid and gid to take on; None stays who we are
    namespace: bool = False  # take them on in a user namespace: seen from outside, it stays who we are


class Server(ABC):
    """One server: its process, its folder, its log."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]

    def __init__(self, lock: Lock, binaries: Path | None) -> None:
        self.data = lock.folder / self.name
        self.log = lock.folder / f"{self.name}.log"
        self.sockets = socket_folder(self.data)
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
            os.kill(pid, signal.SIGCONT)  # a paused process would not notice
            if self._ended(STOP_S):
                return
        self.kill()

    def kill(self) -> None:
        """SIGKILL for the server and its children; return when they have ended. What a crash is like."""
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGSTOP)  # or it would fork on while its children are counted
            for child in "".join(lines_of(Path(f"/proc/{pid}/task/{pid}/children"))).split():
                with suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
        self._ended(STOP_S)

    @abstractmethod
    def _command(self) -> tuple[ServerUser, list[str], dict[str, str]]:
        """Make the folders ready; return who runs what, and what to add to the environment."""

    @abstractmethod
    def _ready(self, pid: int) -> bool:
        """Whether the server with this process id answers."""

    def _spawn(
        self, argv: list[str], account: ServerUser, death: signal.Signals, *keep: int, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """A child that holds the lock and writes to the log."""
        if self._lock.fd < 0:
            raise RuntimeError("the data folder is not locked: start EmbeddedServers first")
        with suppress(FileNotFoundError):
            if self.log.stat().st_size > LOG_BYTES:
                self.log.replace(self.log.with_suffix(".log.old"))
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return spawn(argv, account, death, log, self._lock.fd, *keep, env=env)
        finally:
            os.close(log)

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_S
        while not self._ready(process.pid):
            if process.poll() is not None:
                raise ServersError(f"{self.name} ended at its start. {end_of(self.log)}")
            if time.monotonic() > deadline:
                raise ServersError(f"{self.name} gave no answer in {START_S:.0f} s. {end_of(self.log)}")
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


def find_binaries(given: Path | None, package: str, program: str, variable: str) -> Path:
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
    raise ServersError(f'{name} is not installed: pip install "whatsapp-ingress[dev]" or set {variable}')


def spawn(
    argv: list[str], account: ServerUser, death: signal.Signals, output: int, *keep: int, env: Mapping[str, str]
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
        if LINUX:
            _LIBC.prctl(_PR_SET_PDEATHSIG, death, 0, 0, 0)  # last, because a change of account undoes it
            if os.getppid() != launcher:  # it ended before this took effect
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
