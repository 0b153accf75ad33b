"""``python -m ingress.dev.sandbox``: the simulators in the foreground, until SIGTERM or Ctrl-C.

Prints one line of JSON once they listen: {"meta": {"url", "control_url"}, "twilio": {…}, "waha": {…}, "crm": {…}}.
"""

import argparse
import asyncio
import json
import signal
import sys

import uvloop

from .crm.simulator import CrmSimulator
from .meta.simulator import MetaSimulator
from .twilio.simulator import TwilioSimulator
from .waha.simulator import WahaSimulator
from .webhook_post import RetryPolicy


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ingress.dev.sandbox", description=__doc__)
    for name in ("meta", "twilio", "waha", "crm"):
        for port in (f"--{name}-port", f"--{name}-control-port"):
            parser.add_argument(port, type=int, default=0, help="0: the system chooses one")
    parser.add_argument("--seed", type=int, help="of the ids that the provider gives out; random without")
    parser.add_argument("--webhook-tries", type=int, default=RetryPolicy().tries)
    parser.add_argument("--forget-bodies", action="store_true", help="keep only digests of what the CRM got")
    return parser.parse_args()


async def run(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    retry = RetryPolicy(tries=options.webhook_tries)
    meta = MetaSimulator(port=options.meta_port, control_port=options.meta_control_port, seed=options.seed, retry=retry)
    twilio = TwilioSimulator(port=options.twilio_port, control_port=options.twilio_control_port, seed=options.seed)
    waha = WahaSimulator(port=options.waha_port, control_port=options.waha_control_port, seed=options.seed, retry=retry)
    crm = CrmSimulator(
        port=options.crm_port, control_port=options.crm_control_port, keep_bodies=not options.forget_bodies
    )
    async with meta, twilio, waha, crm:
        urls = {
            "meta": {"url": meta.url, "control_url": meta.control_url},
            "twilio": {"url": twilio.url, "control_url": twilio.control_url},
            "waha": {"url": waha.url, "control_url": waha.control_url},
            "crm": {"url": crm.url, "control_url": crm.control_url},
        }
        sys.stdout.write(json.dumps(urls) + "\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(arguments()))
