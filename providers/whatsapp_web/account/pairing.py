"""Linking a phone to a WAHA session: the QR code as it stands, or a code to type.

Source: https://waha.devlike.pro/docs/how-to/sessions.
"""

import base64
import binascii
from typing import Any

from ..._calls import JsonApi
from ..._values import text
from ..._verdicts import unexpected_answer
from ...base import Flow
from ...errors import AccountBroken, Rejected, Unavailable
from ...messages import Pairing
from . import sessions

# The first code of a session lives longer; which one it is nobody says.
_LIVES_S = 20


def current(api: JsonApi, name: str) -> Flow[Pairing]:
    """How to link a phone to the session now."""
    session = yield from sessions.find(api, name)
    state = sessions.MISSING if session is None else sessions.state_of(session)
    if state.word != "scan_qr":
        return Pairing(state=state.pairing, detail=state.advice)
    try:
        return (yield from _scan(api, name, state.advice))
    except (Rejected, Unavailable, AccountBroken) as error:
        if error.scope not in ("message", "session"):
            raise
        # It was scanned, or ran out, just now.
        return Pairing(state="starting", detail="The session is changing: ask again.")


def _scan(api: JsonApi, name: str, advice: str | None) -> Flow[Pairing]:
    path = f"api/{name}/auth/qr"
    written = yield from api.call(api.get(path, {"format": "raw"}))
    drawn = yield from api.call(api.get(path))
    return Pairing(state="scan", qr=_text_in(written, "value"), qr_png=_png(drawn), qr_lives_s=_LIVES_S, detail=advice)


def code(api: JsonApi, name: str, phone: str) -> Flow[str]:
    """The code to type on the phone with this number."""
    body = {"phoneNumber": phone.removeprefix("+")}
    answer = yield from api.call(api.post(f"api/{name}/auth/request-code", body))
    found = _text_in(answer, "code")
    if found is None:
        raise unexpected_answer()
    return found


def _text_in(answer: Any, key: str) -> str | None:
    return text(answer, key) if isinstance(answer, dict) else None


def _png(drawn: Any) -> bytes | None:
    try:
        return base64.b64decode(_text_in(drawn, "data") or "", validate=True) or None
    except (binascii.Error, ValueError):
        return None
