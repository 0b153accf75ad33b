"""The data folder: who uses it, and what is kept in it for whom."""

import errno
import fcntl
import hashlib
import os
import re
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

HANDOVER_S = 10.0  # for the servers of a launcher that was killed to shut down


class ServersError(RuntimeError):
    """A server cannot be had; the message says why and what to do."""


class ServersBusy(ServersError):
    """Another process uses the data folder."""

    def __init__(self, folder: Path, pid: int) -> None:
        super().__init__(f"{folder} is already in use by process {pid}")
        self.pid = pid


class Lock:
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
                if is_alive(holder) or time.monotonic() > deadline:
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


def socket_folder(data: Path) -> Path:
    """Where a server's socket is, the same at each start: with its data, or in /tmp if that path does not do.

    A socket's path has at most 107 bytes (103 on macOS), and PostgreSQL's clients split a host at a comma.
    """
    name = f"ingress-{hashlib.sha256(os.fsencode(data)).hexdigest()[:16]}"
    for folder in (data, Path(tempfile.gettempdir()).resolve() / name):
        if re.fullmatch(r"[A-Za-z0-9/._-]{1,88}", str(folder)):
            return folder
    return Path("/tmp", name)  # noqa: S108 -- make_private() refuses one that is not ours


def make_private(folder: Path, owner: int) -> None:
    """Make a folder for its owner alone. One found there must be such a one: anybody writes to /tmp."""
    try:
        folder.mkdir(0o700)
        if owner != os.geteuid():
            os.chown(folder, owner, -1)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
            raise ServersError(f"{folder} must be a folder of user {owner} with mode 700") from None


def write_private(path: Path, text: str) -> None:
    """Write *text* for this user alone, whole or not at all; its folder is made where there is none."""
    path.parent.mkdir(0o700, parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    part.replace(path)


def _locked(fd: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def is_alive(pid: int) -> bool:
    """Whether there is such a process. 0, what a file that is being written holds, is none."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return pid > 0


def lines_of(path: Path) -> list[str]:
    """The lines of a file; none if there is no such file."""
    try:
        return path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def end_of(log: Path) -> str:
    """The end of a log, for an error message."""
    return "\n".join([f"The end of {log}:", *lines_of(log)[-8:]])
