"""`python -m bench.without NAMES …`: `ingress …` without one of its fast paths, or several (comma-separated).

Each takes the place of the short way with what everybody else would do there.
"""

import sys
from collections.abc import Callable
from typing import Any

from ingress import protocol
from ingress.cli.main import main
from ingress.sending.pacing import Pacer
from providers.cloud_api import inbound


def _replace(owner: Any, name: str, value: Any) -> None:
    if not hasattr(owner, name):
        raise AttributeError(f"{owner} has no {name}: its fast path is gone, or has moved")
    setattr(owner, name, value)


def asgi() -> None:
    """Webhooks as any ASGI application gets them, within the same bounds."""
    _replace(protocol, "WebhookProtocol", protocol.BoundedProtocol)


def text_reader() -> None:
    """Texts by the reader of everything."""
    _replace(inbound, "texts", lambda body: None)


def pacing_shares() -> None:
    """Each send asks Redis for its turn."""
    limit = Pacer._limit

    def shared(*arguments: Any) -> Any:
        return limit(*arguments)._replace(own=0, own_patience_s=0.0)

    _replace(Pacer, "_limit", shared)


# By name, with the part of the benchmark that shows it.
PATHS: dict[str, tuple[Callable[[], None], tuple[str, ...]]] = {
    "asgi": (asgi, ("ingest",)),
    "text_reader": (text_reader, ("ingest",)),
    "pacing_shares": (pacing_shares, ("send",)),
}

if __name__ == "__main__":
    for name in sys.argv.pop(1).split(","):
        PATHS[name][0]()
    main()
