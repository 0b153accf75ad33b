"""The API's own description (OpenAPI 3.1) and the envelope's JSON Schema, both made from the types that do the work."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from starlette.routing import BaseRoute, Mount

from .. import __version__
from ..envelope import Envelope
from ..web.routing import ApiRoute

FILE = {"*/*": {"schema": {"type": "string", "format": "binary"}}}


class ProblemDetails(msgspec.Struct):
    """RFC 9457. ``code`` is stable; ``errors`` name the fields of the request that are wrong."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[dict[str, str]] = []
    request_id: str = ""


def document(routes: list[BaseRoute]) -> dict[str, Any]:
    """The OpenAPI document of *routes*; a route's summary is its handler's docstring."""
    every = list(walk(routes))
    types = dict.fromkeys(kind for *_, route in every for kind in (route.body, *route.answers) if kind is not None)
    types |= dict.fromkeys((ProblemDetails, Envelope))
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    named = dict(zip(types, schemas, strict=True))
    paths: dict[str, Any] = {}
    for path, method, route in every:
        paths.setdefault(path, {})[method.lower()] = _operation(path, route, named)
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


def _operation(path: str, route: ApiRoute, named: Mapping[type, Any]) -> dict[str, Any]:
    done: dict[str, Any] = {"description": "Done"}
    if route.answers:
        schemas = [named[kind] for kind in route.answers]
        done["content"] = {"application/json": {"schema": schemas[0] if len(schemas) == 1 else {"oneOf": schemas}}}
    elif route.file == "answer":
        done["content"] = FILE
    problem = {"application/problem+json": {"schema": named[ProblemDetails]}}
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": " ".join((inspect.getdoc(route.endpoint) or "").split()),
        "parameters": [
            {"name": part[1:-1], "in": "path", "required": True, "schema": {"type": "string"}}
            for part in path.split("/")
            if part.startswith("{")
        ],
        "responses": {"2XX": done, "default": {"description": "What went wrong", "content": problem}},
    }
    for field in msgspec.structs.fields(route.query) if route.query else ():
        schema = msgspec.json.schema(field.type)
        operation["parameters"].append(
            {"name": field.encode_name, "in": "query", "required": field.required, "schema": schema}
        )
    if route.body:
        content = {"application/json": {"schema": named[route.body]}}
        operation["requestBody"] = {"required": True, "content": content}
    elif route.file == "body":
        operation["requestBody"] = {"required": True, "content": FILE}
    if route.needs is None:
        operation["security"] = []
    return operation


def walk(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str, ApiRoute]]:
    """(path, method, route) of every route, mounts included."""
    for route in routes:
        if isinstance(route, Mount):
            yield from walk(list(route.routes), prefix + route.path)
        elif isinstance(route, ApiRoute):
            for method in sorted((route.methods or set()) - {"HEAD"}):
                yield prefix + route.path, method, route
