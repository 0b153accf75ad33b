"""Twilio's Messaging API with WhatsApp senders behind it, and the only one who knows what really went out.

Strict where Twilio is strict (`twilio/rest.py`, `twilio/rules.py`), scriptable where networks fail
(`faults.py`), and talking back: signed status callbacks for what was sent, inbound webhooks on demand
(`twilio/world.py`). The same can be done from another process, over HTTP and JSON:
`twilio/control.py` has the table.
"""

from aiohttp import web

from ..listener import Listener
from .control import twilio_control
from .rest import TwilioRest
from .retries import Pace
from .world import TwilioWorld


class TwilioSimulator(TwilioWorld):
    """Start with ``async with``. Ports given as 0 are chosen by the system.

    A *seed* makes the SIDs the same in each run, so only where nothing remembers those of the last one.
    *pace* says how much faster than Twilio the tries of a webhook pass.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        control_port: int = 0,
        store_port: int = 0,
        seed: int | None = None,
        pace: Pace | None = None,
    ) -> None:
        super().__init__(port=port, store_port=store_port, seed=seed, pace=pace or Pace())
        self._rest = TwilioRest(self)
        self._control = Listener(twilio_control(self), control_port)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._rest(request)
