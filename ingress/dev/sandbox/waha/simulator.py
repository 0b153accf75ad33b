"""A WAHA server with phones behind it, and the only one who knows what really went out.

Strict where WAHA is and where it is not (`waha/api.py`, `waha/validation.py`), scriptable where networks fail
(`faults.py`), and talking back: states of sessions, acks of what was sent, messages of people on demand
(`waha/world.py`), each in the form of the session's engine (`waha/messages.py`). The same can be done from another
process, over HTTP and JSON: `waha/control.py` has the table.
"""

from aiohttp import web

from ..listener import Listener
from ..webhook_post import RetryPolicy
from .api import WahaApi
from .bodies import Engine
from .control import waha_control
from .server import WahaServer
from .world import WahaWorld

# What a server without a configured address takes for its own.
USUAL_URL = "http://localhost:3000"


class WahaSimulator(WahaWorld):
    """Start with ``async with``. Ports given as 0 are chosen by the system.

    *engine* is that of sessions which the API creates; *api_key* opens all sessions, as a server's own does. A *seed*
    makes the ids the same in each run, so only where nothing remembers those of the last one. *server* says the version
    and the tier, and what share of the time it takes that a real one does.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        control_port: int = 0,
        seed: int | None = None,
        retry: RetryPolicy | None = None,
        engine: Engine = "GOWS",
        api_key: str = "waha-sandbox-key",
        public_url: str = USUAL_URL,
        server: WahaServer | None = None,
    ) -> None:
        super().__init__(
            port=port,
            seed=seed,
            retry=retry or RetryPolicy(),
            engine=engine,
            api_key=api_key,
            public_url=public_url,
            server=server or WahaServer(),
        )
        self._api = WahaApi(self)
        self._control = Listener(waha_control(self), control_port)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._api(request)
