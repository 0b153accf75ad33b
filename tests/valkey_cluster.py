"""Three embedded Valkeys that are one cluster."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis

from ingress.dev.embedded.folder import Lock
from ingress.dev.embedded.server import ServerUser
from ingress.dev.embedded.valkey import Valkey

from .gateway import until, unused_port

NODES, SLOTS = 3, 16384


class ValkeyNode(Valkey):
    """One of them, on ports of this machine: nodes speak over TCP alone."""

    def __init__(self, folder: Path, full_coverage: bool) -> None:
        self.lock = Lock(folder)
        super().__init__(self.lock, None)
        self.port, self.bus = unused_port(), unused_port()
        self._cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", "500", "--cluster-port", str(self.bus)]
        self._cluster += ["--cluster-require-full-coverage", "yes" if full_coverage else "no"]

    def _command(self) -> tuple[ServerUser, list[str], dict[str, str]]:
        user, argv, env = super()._command()
        return user, [*argv, "--bind", "127.0.0.1", "--port", str(self.port), *self._cluster], env

    def run(self, *command: str) -> str:
        """What it answers to one command."""
        with redis.Redis(port=self.port) as client:
            answer = client.execute_command(*command)
        return answer.decode() if isinstance(answer, bytes) else str(answer)


class ValkeyCluster:
    def __init__(self, nodes: list[ValkeyNode]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def owner(self, key: str) -> ValkeyNode:
        """The node that has the slot of *key*."""
        slot = int(self.nodes[0].run("CLUSTER", "KEYSLOT", key))
        return self.nodes[slot * NODES // SLOTS]

    def wait(self) -> None:
        """Until every node knows that all are there."""
        for node in self.nodes:
            until(lambda node=node: _is_whole(node))


def _is_whole(node: ValkeyNode) -> bool:
    """Whether it knows of all, and that they have every slot."""
    with redis.Redis(port=node.port) as client:
        info = client.execute_command("CLUSTER INFO")
    wanted = {"cluster_state": "ok", "cluster_known_nodes": str(NODES), "cluster_size": str(NODES)}
    return wanted.items() <= info.items()


@contextmanager
def valkey_cluster(folder: Path, *, full_coverage: bool = True) -> Iterator[ValkeyCluster]:
    with ExitStack() as stack:
        nodes = [ValkeyNode(folder / str(number), full_coverage) for number in range(NODES)]
        for node in nodes:
            node.lock.take()
            stack.callback(node.lock.release)
            stack.callback(node.stop)
            node.start()
        for number, node in enumerate(nodes):
            first, last = -(-SLOTS * number // NODES), -(-SLOTS * (number + 1) // NODES) - 1
            node.run("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
            node.run("CLUSTER", "MEET", "127.0.0.1", str(nodes[0].port), str(nodes[0].bus))
        cluster = ValkeyCluster(nodes)
        cluster.wait()
        yield cluster
