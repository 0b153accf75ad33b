"""Servers as child processes: started, awaited, weighed, stopped."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 30


@dataclass(frozen=True)
class ServerProcess:
    pid: int
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        """User and system time until now, its own processes' included; NaN where there is no /proc."""
        return tree_cpu_s(self.pid)

    def rss_mb(self) -> float | None:
        """Resident memory now; None where there is no /proc."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return None
        (kilobytes,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
        return round(int(kilobytes) / 1024, 1)


def tree_cpu_s(pid: int) -> float:
    """User and system time of a process and its children, also of those that ended; NaN where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = [line.split() for line in _each(Path(f"/proc/{pid}/task"), "children")]
    except OSError:
        return float("nan")
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    of_children = (tree_cpu_s(int(child)) for line in children for child in line)
    return own + sum(spent for spent in of_children if spent == spent)  # one that ended meanwhile has none


def _each(folder: Path, name: str) -> Iterator[str]:
    for thread in folder.iterdir():
        yield (thread / name).read_text()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def start(name: str, command: list[str], port: int, folder: Path, env: Mapping[str, str]) -> Iterator[ServerProcess]:
    """Run *command* until the block ends; the block begins when *port* takes connections."""
    with (folder / f"{name}.log").open("ab") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **env}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} does not start:\n{log(folder, name)}")
            time.sleep(0.05)
        yield ServerProcess(process.pid, port)
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended by itself:\n{log(folder, name)}")
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def python_server(name: str, app: str, folder: Path, env: Mapping[str, str]) -> Iterator[ServerProcess]:
    """Run an ASGI app the way the service runs: one uvicorn process, uvloop, httptools, no access log."""
    port = free_port()
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    command = [sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port), *options]
    with start(name, command, port, folder, env) as server:
        yield server


def log(folder: Path, name: str) -> str:
    """The end of what a server wrote."""
    return (folder / f"{name}.log").read_text()[-4000:]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
