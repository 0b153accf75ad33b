"""WAHA servers: their versions, and what does not work below which.

Source: https://waha.devlike.pro/docs/how-to/observability/#server-version, and servers of 2024.10.8 and 2026.2.1 that
    were run (tests/samples/whatsapp_web/recorded).
"""

import re

import msgspec

from ..._calls import JsonApi
from ..._values import text
from ...base import Check, Flow
from ...errors import SendError

_VERSION = re.compile(r"([0-9]{4})\.([0-9]{1,2})(?:\.([0-9]{1,3}))?")
# Below it the names of events are refused that we ask for, and more fails the older it is.
_OLDEST, _OLDEST_NAME = (2025, 12, 2), "2025.12.2"
# The editions were merged: what was Plus only is everybody's.
_MERGED = (2026, 6, 1)
_STICKERS = (2026, 8, 2)
_TAKES_IDS = (2026, 4, 3)
_SIGNS = (2024, 11, 6)
_UPDATE = "Update the WAHA server, to 2026.6.1 or newer."


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says of itself. None of it is known where the key may not see it."""

    version: str | None = None
    tier: str | None = None

    @property
    def signs(self) -> bool:
        """Whether its webhooks are signed."""
        return not self._is_core_below(_SIGNS)

    def check(self) -> Check:
        numbers = self._numbers
        if numbers is None:
            detail = "the server does not say its version"
            return Check(name="version", passed=True, detail=detail, fatal=False, checkable=False)
        if numbers < _OLDEST:
            detail = f"WAHA {self.version} is too old: {_OLDEST_NAME} is needed"
            return Check.failed("version", detail, _UPDATE, fatal=True)
        named = f"WAHA {self.version}" + (" (no stickers)" if numbers < _STICKERS else "")
        if losses := "; ".join(self._losses(numbers)):
            return Check.failed("version", f"{named}: {losses}", _UPDATE)
        return Check.ok("version", named)

    def _losses(self, numbers: tuple[int, ...]) -> list[str]:
        losses = []
        if self._is_core_below(_MERGED):
            losses.append("files and lists are refused (Plus only), only the session `default` is run")
            losses.append("a restart of the server forgets the webhook, which is written again within a minute")
        if numbers < _TAKES_IDS:
            losses.append("a message whose answer was lost is not found by its id")
        return losses

    def _is_core_below(self, version: tuple[int, ...]) -> bool:
        return self.tier == "CORE" and self._numbers is not None and self._numbers < version

    @property
    def _numbers(self) -> tuple[int, ...] | None:
        found = _VERSION.match(self.version or "")
        return tuple(int(number or 0) for number in found.groups()) if found else None


def server_of(api: JsonApi) -> Flow[Server]:
    """A key may be too narrow to see it: nothing is wrong with the account for that."""
    try:
        answer = yield from api.call(api.get("api/server/version"))
    except SendError:
        return Server()
    known = answer if isinstance(answer, dict) else {}
    return Server(version=text(known, "version"), tier=text(known, "tier"))


def health_check(api: JsonApi) -> Flow[Check]:
    """Old servers have no such call; a server that is short of space still sends text."""
    response = yield api.get("health")
    passed = response.status != 503
    fix = "See the health of the WAHA server: it may be short of space for media."
    return Check(name="server", passed=passed, detail=None if passed else "unhealthy", fix=fix, fatal=False)
