"""The control API of the CRM simulator: what a test in another process can do and see. All JSON.

    GET    /_control            {"url", "attempts", "received", "unverified", …}, all counts
    PUT    /_control/secrets    {"secrets": ["whsec_…"], "endpoint": "default"}
    POST   /_control/answers    {"queue": [answer], "default": answer | null, "endpoint", "conversation"}
                                the queue is appended to; "default" is left alone where absent
    DELETE /_control/answers    back to 200 for all
    POST   /_control/refuse     {"refuse": true | false}: stop listening, or listen again
    GET    /_control/attempts   [Delivered], without bodies; ?after=<arrival> ?event_id=
    GET    /_control/received   [event id] in the order of their first successful receipt; ?after=<index>
    GET    /_control/bodies     ?event_id= -> [text of each attempt's body]
    POST   /_control/check      {"ids": [event id]} -> {"duplicates", "changed_bytes", "inversions",
                                "overlaps", "missing", "unverified"}: all empty where all is well
    GET    /_control/wait       ?received=N ?attempts=N ?timeout_s=5 -> the counts once they hold, else 408
    POST   /_control/reset      forget deliveries and answers; secrets stay

An answer is {"answer": "crm_status", "status": 503, "retry_after": 1}, …: `crm/answers.py` has the list.
"""

from typing import Any

import msgspec
from aiohttp import web

from ..routes import Routes, decoded
from .answers import AnyAnswer
from .records import Delivered
from .world import DEFAULT, CrmWorld


class Secrets(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    secrets: list[str]
    endpoint: str = DEFAULT


class Answers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    queue: list[AnyAnswer] = []
    default: AnyAnswer | msgspec.UnsetType | None = msgspec.UNSET  # UNSET: leave it as it is
    endpoint: str = DEFAULT
    conversation: str | None = None  # None: all of the endpoint's


class Refusal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    refuse: bool


class Ids(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    ids: list[str] = []


def crm_control(world: CrmWorld) -> Routes:
    control = CrmControl(world)
    return Routes(
        {
            "GET /_control": control.summary,
            "PUT /_control/secrets": control.set_secrets,
            "POST /_control/answers": control.script,
            "DELETE /_control/answers": control.clear_answers,
            "POST /_control/refuse": control.refuse,
            "GET /_control/attempts": control.attempts,
            "GET /_control/received": control.received,
            "GET /_control/bodies": control.bodies,
            "POST /_control/check": control.check,
            "GET /_control/wait": control.wait,
            "POST /_control/reset": control.reset,
        }
    )


class CrmControl:
    def __init__(self, world: CrmWorld) -> None:
        self._world = world

    async def summary(self, request: web.BaseRequest) -> dict[str, Any]:
        world = self._world
        return {
            "url": world.url,
            "attempts": len(world.attempts),
            "received": len(world.received),
            "unverified": len(world.unverified()),
            "duplicates": len(world.duplicates()),
            "changed_bytes": len(world.changed_bytes()),
            "inversions": len(world.inversions()),
            "overlaps": len(world.overlaps()),
        }

    async def set_secrets(self, request: web.BaseRequest) -> dict[str, Any]:
        given = await decoded(request, Secrets)
        self._world.set_secret(*given.secrets, endpoint=given.endpoint)
        return {"url": self._world.url_for(given.endpoint)}

    async def script(self, request: web.BaseRequest) -> dict[str, Any]:
        given = await decoded(request, Answers)
        where = {"endpoint": given.endpoint, "conversation": given.conversation}
        if not isinstance(given.default, msgspec.UnsetType):
            self._world.set_default(given.default, endpoint=given.endpoint, conversation=given.conversation)
        self._world.script(*given.queue, endpoint=given.endpoint, conversation=given.conversation)
        return where

    async def clear_answers(self, request: web.BaseRequest) -> dict[str, Any]:
        self._world.clear_answers()
        return {}

    async def refuse(self, request: web.BaseRequest) -> dict[str, Any]:
        refusal = await decoded(request, Refusal)
        await (self._world.refuse() if refusal.refuse else self._world.resume())
        return {}

    async def attempts(self, request: web.BaseRequest) -> list[Delivered]:
        event_id = request.query.get("event_id")
        attempts = self._world.attempts[int(request.query.get("after", 0)) :]
        return [
            msgspec.structs.replace(attempt, body=None) for attempt in attempts if event_id in (None, attempt.event_id)
        ]

    async def received(self, request: web.BaseRequest) -> list[str]:
        return list(self._world.received)[int(request.query.get("after", 0)) :]

    async def bodies(self, request: web.BaseRequest) -> list[str]:
        event_id = request.query.get("event_id")
        attempts = [attempt for attempt in self._world.attempts if attempt.event_id == event_id]
        return [attempt.body.decode("utf-8", "replace") for attempt in attempts if attempt.body is not None]

    async def check(self, request: web.BaseRequest) -> dict[str, Any]:
        world = self._world
        ids = (await decoded(request, Ids)).ids
        return {
            "duplicates": world.duplicates(),
            "changed_bytes": world.changed_bytes(),
            "inversions": world.inversions(),
            "overlaps": world.overlaps(),
            "missing": world.missing(ids),
            "unverified": [
                {"event_id": attempt.event_id, "problem": attempt.problem} for attempt in world.unverified()
            ],
        }

    async def wait(self, request: web.BaseRequest) -> dict[str, Any]:
        world, query = self._world, request.query
        received, attempts = int(query.get("received", 0)), int(query.get("attempts", 0))
        await world.wait_for(
            lambda: len(world.received) >= received and len(world.attempts) >= attempts,
            float(query.get("timeout_s", 5)),
        )
        return await self.summary(request)

    async def reset(self, request: web.BaseRequest) -> dict[str, Any]:
        await self._world.reset()
        return {}
