"""A CRM that receives our deliveries: verifies them, remembers everything, and fails on demand.

Deliveries go to ``url``, or to ``url_for(endpoint)`` where it plays the CRMs of several organizations. Each
endpoint has its own secrets; a delivery whose signature is wrong is answered 401 and uses up no answer.
`crm/world.py` is what it does, `crm/control.py` the same for another process.
"""

from ..listener import Listener
from .control import crm_control
from .world import CrmWorld


class CrmSimulator(CrmWorld):
    """Start with ``async with``. Ports given as 0 are chosen by the system."""

    def __init__(self, *, port: int = 0, control_port: int = 0, keep_bodies: bool = True) -> None:
        super().__init__(port=port, keep_bodies=keep_bodies)
        self._control = Listener(crm_control(self), control_port)

    @property
    def control_url(self) -> str:
        """The base URL of the control API. It stays open whatever is scripted."""
        return self._control.url

    async def start(self) -> None:
        await super().start()
        await self._control.open()

    async def close(self) -> None:
        await self._control.close()
        await super().close()
