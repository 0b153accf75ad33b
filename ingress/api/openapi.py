"""The API's own description (OpenAPI 3.1) and the envelope's JSON Schema, both made from the types that do the work."""

import inspect
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Literal

import msgspec
from starlette.routing import BaseRoute, Mount, Route

from .. import __version__
from ..envelope import EventData
from .apps import EditApp, NewApp
from .callback import NewCallback, Replay
from .configs import EditRequest
from .organizations import NewKey, NewOrganization
from .pairing import PairingRequest
from .providers import ConfigureRequest, TestRequest
from .send import SendRequest
from .switching import FallbackRequest, RollbackRequest, SwitchRequest

# What each route's body is decoded as.
BODIES: dict[str, type] = {
    "send": SendRequest,
    "configure": ConfigureRequest,
    "put_fallback": FallbackRequest,
    "switch": SwitchRequest,
    "rollback": RollbackRequest,
    "test_connection": TestRequest,
    "edit_config": EditRequest,
    "start_pairing": PairingRequest,
    "put_callback": NewCallback,
    "replay_parked": Replay,
    "create_organization": NewOrganization,
    "create_key": NewKey,
    "create_app": NewApp,
    "edit_app": EditApp,
}
FILE = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
# Whose body, or answer, is a file.
TAKES_FILE, GIVES_FILE = ("upload_media",), ("get_media",)
UNAUTHENTICATED = ("healthz", "readyz", "openapi")


class ProblemDetails(msgspec.Struct):
    """RFC 9457. ``code`` is stable; ``errors`` name the fields of the request that are wrong."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[dict[str, str]] = []
    request_id: str = ""


class Envelope(msgspec.Struct, frozen=True):
    """One event as the CRM gets it, by every way of delivery. Adding a field is not a break."""

    type: Literal[
        "message.received",
        "message.echo",
        "message.edited",
        "message.deleted",
        "message.status",
        "message.unknown",
        "account.updated",
        "provider.switched",
        "provider.unhealthy",
        "provider.recovered",
        "provider.rolled_back",
    ]
    timestamp: datetime
    id: str
    sequence: int
    data: EventData


def envelope_schema() -> dict[str, Any]:
    """The JSON Schema of an event; published as schema/envelope.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "WhatsApp Ingress event",
        "version": 1,
        **_unbounded(msgspec.json.schema(Envelope)),
    }


def _unbounded(schema: Any) -> Any:
    """*schema* without bounds on length: they are of what is sent, and nobody asked people to keep to them."""
    if isinstance(schema, list):
        return [_unbounded(part) for part in schema]
    if isinstance(schema, dict):
        bounds = ("maxLength", "maxItems", "maxProperties", "propertyNames")
        return {name: _unbounded(part) for name, part in schema.items() if name not in bounds}
    return schema


def document(routes: list[BaseRoute]) -> dict[str, Any]:
    """The OpenAPI document of *routes*; a route's summary is its handler's docstring."""
    types = [*BODIES.values(), ProblemDetails, Envelope]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    named = dict(zip(types, schemas, strict=True))
    paths: dict[str, Any] = {}
    for path, method, handler in walk(routes):
        operation: dict[str, Any] = {
            "operationId": handler.__name__,
            "summary": " ".join((inspect.getdoc(handler) or "").split()),
            "parameters": [
                {"name": part[1:-1], "in": "path", "required": True, "schema": {"type": "string"}}
                for part in path.split("/")
                if part.startswith("{")
            ],
            "responses": {
                "2XX": {"description": "Done"},
                "default": {
                    "description": "What went wrong",
                    "content": {"application/problem+json": {"schema": named[ProblemDetails]}},
                },
            },
        }
        if handler.__name__ in BODIES:
            body = named[BODIES[handler.__name__]]
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
        if handler.__name__ in TAKES_FILE:
            operation["requestBody"] = {"required": True, "content": FILE}
        if handler.__name__ in GIVES_FILE:
            operation["responses"]["2XX"]["content"] = FILE
        if handler.__name__ in UNAUTHENTICATED:
            operation["security"] = []
        paths.setdefault(path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "WhatsApp Ingress", "version": __version__},
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def walk(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str, Callable[..., Any]]]:
    """(path, method, handler) of every route, mounts included."""
    for route in routes:
        if isinstance(route, Mount):
            yield from walk(list(route.routes), prefix + route.path)
        elif isinstance(route, Route):
            for method in sorted((route.methods or set()) - {"HEAD"}):
                yield prefix + route.path, method, route.endpoint
