"""A Graph API with the WhatsApp Business Platform behind it, and the only one who knows what really went out.

Strict where Meta is strict (`meta/graph.py`, `meta/validation.py`), scriptable where networks fail
(`faults.py`), and talking back: status webhooks for what was sent, inbound webhooks on demand
(`meta/world.py`). The same can be done from another process, over HTTP and JSON:
`meta/control.py` has the table.
"""

from aiohttp import web

from ..listener import Listener
from ..webhook_post import RetryPolicy
from .control import meta_control
from .graph import GraphApi
from .world import MetaWorld


class MetaSimulator(MetaWorld):
    """Start with ``async with``. Ports given as 0 are chosen by the system.

    A *seed* makes the wamids the same in each run, so only where nothing remembers those of the last one.
    """

    def __init__(
        self, *, port: int = 0, control_port: int = 0, seed: int | None = None, retry: RetryPolicy | None = None
    ) -> None:
        super().__init__(port=port, seed=seed, retry=retry or RetryPolicy())
        self._graph = GraphApi(self)
        self._control = Listener(meta_control(self), control_port)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._graph(request)
