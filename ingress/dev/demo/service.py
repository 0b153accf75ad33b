"""`ingress serve` as a process of its own, to be killed and started again on the same port."""

import asyncio
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp

from ...settings import PLAIN_NAMES, PREFIX
from ...storage.vault import generate_key
from ..embedded.launcher import EmbeddedServers

HOST = "127.0.0.1"
READY_S = 30.0
STOP_S = 10.0
TAIL_LINES = 12
_PR_SET_PDEATHSIG = 1
# Here, because nothing may be loaded between fork and exec.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class ServiceEnded(Exception):
    """The service ended, or never answered, where it should serve."""


class Service:
    """Runs within ``with``. Its log goes to a file, so that it never mixes with what the demo shows."""

    def __init__(self, servers: EmbeddedServers, log: Path) -> None:
        self.platform_key = f"platform_{secrets.token_urlsafe(32)}"
        self._log = log
        # Bound but not listening: keeps the port ours while the service is down.
        self._guard = socket.socket()
        self._guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._guard.bind((HOST, 0))
        port = self._guard.getsockname()[1]
        self.url = f"http://{HOST}:{port}"
        self._environment = _foreign_environment() | {
            "DATABASE_URL": servers.database_url or "",
            "REDIS_URL": servers.redis_url or "",
            "INGRESS_HOST": HOST,
            "INGRESS_PORT": str(port),
            "INGRESS_METRICS_PORT": "0",
            "INGRESS_PUBLIC_URL": self.url,
            "INGRESS_PLATFORM_KEY": self.platform_key,
            "INGRESS_ENCRYPTION_KEYS": generate_key(),
            "INGRESS_EGRESS_ALLOW": "127.0.0.0/8",
            "INGRESS_CONNECTIONS_PER_ADDRESS": "0",
            "INGRESS_REQUESTS_PER_KEY": "0",
        }
        self._process: subprocess.Popen[bytes] | None = None  # None: not started

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._guard.close()

    def start(self) -> None:
        """Start the process; `ready` returns once it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ingress", "serve"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal is for the demo, which ends it in its own time
                preexec_fn=_end_with_parent,
            )

    async def ready(self, session: aiohttp.ClientSession) -> None:
        """Return once it answers. Raises `ServiceEnded`."""
        deadline = time.monotonic() + READY_S
        while not await self._answers(session):
            self.check_alive()
            if time.monotonic() > deadline:
                raise ServiceEnded(f"the service gave no answer in {READY_S:.0f} s")
            await asyncio.sleep(0.05)

    def check_alive(self) -> None:
        """Raises `ServiceEnded` where the process is gone."""
        status = self._process.poll() if self._process else None
        if status is not None:
            raise ServiceEnded(f"the service ended with status {status}")

    def kill(self) -> None:
        """SIGKILL, and reap: nothing of it is left to finish anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """SIGTERM and an orderly end; SIGKILL where that takes too long."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def log_tail(self) -> list[str]:
        """The last lines it logged that are more than a note of ordinary work."""
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        return [line for line in lines if '"event":' not in line][-TAIL_LINES:]

    async def _answers(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"{self.url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False


def _foreign_environment() -> dict[str, str]:
    """Our environment without settings of the service: the scene must not touch anybody's database."""
    ours = set(PLAIN_NAMES.values())
    return {name: value for name, value in os.environ.items() if name not in ours and not name.startswith(PREFIX)}


def _end_with_parent() -> None:
    """In the child: SIGTERM when the demo ends, even by SIGKILL. Only Linux knows this."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
