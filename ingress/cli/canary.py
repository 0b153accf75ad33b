"""`ingress canary`: webhooks of its own, all day long, each of which must come out at the events of its organization.

One thing after the other: a webhook is posted to the public address, as a provider does, and then events are read at
the cursor until it is time for the next one. What is acknowledged and not out after a minute is lost.
"""

import argparse
import contextlib
import http.client
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from math import ceil
from typing import Any, NoReturn
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
from prometheus_client import start_http_server

from providers.canary import Canary
from providers.signing import hmac_hex

from .. import log, metrics
from ..settings import Settings, load, variable
from .client import UNAVAILABLE, Client, Failed, Row, connect

logger = logging.getLogger("ingress.cli.canary")

PROVIDER = "/integrations/whatsapp/provider"
EVERY_S, LOST_AFTER_S = 10.0, 60.0
# A provider does not wait longer either.
POST_TIMEOUT_S = 10.0
# Beyond the seconds that a reader asks to wait for.
READ_TIMEOUT_S = 10.0
MAX_WAIT_S = 20
AGAIN_S = 1.0
# What comes out after that is nobody's any more.
FORGOTTEN_S = 3600.0


def add_command(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """*command* makes a parser with what every command has that speaks to a service."""
    about = "post webhooks all day long, and count those that are acknowledged and do not come out"
    parser = command(commands, "canary", about, run)
    parser.add_argument("--every", type=float, default=EVERY_S, metavar="SECONDS", help="10, unless given")
    about = "60, unless given: so long after it was acknowledged a webhook is lost"
    parser.add_argument("--lost-after", type=float, default=LOST_AFTER_S, metavar="SECONDS", help=about)


def run(client: Client, options: argparse.Namespace) -> NoReturn:
    """Until SIGTERM. Raises `Failed` where it cannot begin."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = load(os.environ)
    log.setup(settings.log_level)
    client.timeout_s = MAX_WAIT_S + READ_TIMEOUT_S
    canary = _prepared(client, options.lost_after)
    metrics_port = _serve_metrics(settings)
    logger.info("a canary each %g s for %s; metrics at port %d", options.every, canary.config_id, metrics_port)
    while True:
        next_at = time.monotonic() + options.every
        canary.post()
        while (left := next_at - time.monotonic()) > 0:
            canary.read(left)


def _serve_metrics(settings: Settings) -> int:
    try:
        server, _ = start_http_server(settings.metrics_port, settings.host, metrics.OF_CANARY)
    except OSError as error:
        raise Failed(f"{variable('metrics_port')}: {error.strerror}") from None
    return int(server.server_port)


def _prepared(client: Client, lost_after_s: float) -> "Sink":
    """With the organization's config, whose secret is ours from now on: of the key, so that two of one key agree."""
    account = Canary(signing_secret=hmac_hex(client.key, b"canary", "sha256"))
    data = {"config_data": msgspec.to_builtins(account)}
    configs = client.call("GET", f"{PROVIDER}/configs")["configs"]
    found = [config["config_id"] for config in configs if config["provider"] == account.name]
    if found:
        config = client.call("PATCH", f"{PROVIDER}/configs/{found[0]}", data)
    else:
        new = {"provider_type": account.name, "name": account.info.display_name, "is_active": False}
        config = client.call("POST", f"{PROVIDER}/configure", {**new, "as_fallback": False, **data})
    return Sink(client, account, config, lost_after_s)


class Acknowledged(msgspec.Struct):
    """A webhook that was answered with 200, and is not out yet."""

    at: float
    request_id: str
    is_lost: bool = False


class Sink:
    """What was acknowledged, until it comes out at the organization's events."""

    def __init__(self, client: Client, account: Canary, config: Row, lost_after_s: float) -> None:
        self._client = client
        self._account = account
        self._webhook_url = config["webhook_url"]
        self.config_id = config["config_id"]
        self._lost_after_s = lost_after_s
        self._waiting: dict[str, Acknowledged] = {}
        self._after = self._now()

    def post(self) -> None:
        """Post one, as a provider does."""
        canary_id = uuid4().hex
        try:
            status, request_id = self._posted(canary_id)
        except TimeoutError:
            self._refused("timeout", "")
        except (OSError, http.client.HTTPException):
            self._refused("connection", "")
        else:
            if status != 200:
                self._refused(f"{status // 100}xx", request_id)
                return
            metrics.canary_sent.inc()
            self._waiting[canary_id] = Acknowledged(time.monotonic(), request_id)

    def _posted(self, canary_id: str) -> tuple[int, str]:
        """The status of the answer, and the id of the request."""
        request = self._account.message(self._webhook_url, canary_id, int(time.time()))
        url = urlsplit(request.url)
        connection = connect(url, POST_TIMEOUT_S)
        try:
            connection.request(request.method, url.path, request.body, request.headers)
            response = connection.getresponse()
            return response.status, response.headers.get("x-request-id", "")
        finally:
            connection.close()

    def _refused(self, outcome: str, request_id: str) -> None:
        metrics.canary_refused.labels(outcome).inc()
        logger.warning("a canary for %s was not acknowledged: %s %s", self.config_id, outcome, request_id)

    def read(self, left_s: float) -> None:
        """Read events for *left_s* seconds, and count what is out, or lost. Raises `Failed` where it may not read."""
        wait = min(ceil(left_s), MAX_WAIT_S)
        try:
            page = self._client.call("GET", "/events", after=self._after, limit=1000, wait=wait)
        except Failed as failed:
            if failed.status != UNAVAILABLE:  # who is started again begins with a cursor and a config that are right
                raise
            logger.warning("the canary cannot read events: %s", failed)
            time.sleep(min(left_s, AGAIN_S))
        else:
            self._after = page["next"]
            for event in page["events"]:
                self._out(event)
        self._count_lost()

    def _now(self) -> int:
        """The cursor behind all events that there are: a stream begins with it."""
        with contextlib.closing(self._client.lines("GET", "/events/stream")) as lines:
            return next(int(line.removeprefix(b"id:")) for line in lines if line.startswith(b"id:"))

    def _out(self, event: Row) -> None:
        canary_id = event["data"].get("message", {}).get("provider_message_id", "")
        if (one := self._waiting.pop(canary_id, None)) is None:  # another process's, or a former one's
            return
        seconds = time.monotonic() - one.at
        if one.is_lost:
            logger.error("the canary %s was late, not lost: %.0f s, %s", canary_id, seconds, event["id"])
        else:
            metrics.canary_seconds.observe(seconds)

    def _count_lost(self) -> None:
        now = time.monotonic()
        for canary_id, one in list(self._waiting.items()):
            if not one.is_lost and now - one.at > self._lost_after_s:
                one.is_lost = True
                metrics.canary_lost.inc()
                named = (canary_id, one.request_id, self.config_id)
                logger.error("the canary %s was acknowledged (%s) for %s, and did not come out", *named)
            elif now - one.at > FORGOTTEN_S:
                del self._waiting[canary_id]
