"""The API's own description (OpenAPI 3.1) and the envelope's JSON Schema, both made from the types that do the work."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from starlette.routing import BaseRoute, Mount

from .. import __version__
from ..envelope import Envelope
from .routing import ApiRoute

Part: TypeAlias = dict[str, Any]
Schemas: TypeAlias = Mapping[type, Any]

SECURITY = {"key": {"type": "http", "scheme": "bearer"}}
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


def document(routes: list[BaseRoute]) -> Part:
    """The OpenAPI document of *routes*; a route's summary is its handler's docstring."""
    every = list(walk(routes))
    named, components = _schemas(route for *_, route in every)
    paths: Part = {}
    for path, method, route in every:
        paths.setdefault(path, {})[method.lower()] = _operation(path, route, named)
    return {
        "openapi": "3.1.0",
        "info": {"title": "WhatsApp Ingress", "version": __version__},
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": SECURITY,
        },
    }


def _schemas(routes: Iterable[ApiRoute]) -> tuple[Schemas, Part]:
    """Of every type that *routes* take or answer, and the components that those refer to."""
    types = dict.fromkeys(kind for route in routes for kind in (route.body, *route.answers) if kind is not None)
    types |= dict.fromkeys((ProblemDetails, Envelope))
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    return dict(zip(types, schemas, strict=True)), components


def _operation(path: str, route: ApiRoute, named: Schemas) -> Part:
    operation: Part = {
        "operationId": route.name,
        "summary": _summary(route),
        "parameters": list(_parameters(path, route)),
        "responses": _responses(route, named),
    }
    if body := _content([route.body] if route.body else [], named, is_file=route.file == "body"):
        operation["requestBody"] = {"required": True, **body}
    if route.needs is None:
        operation["security"] = []
    return operation


def _summary(route: ApiRoute) -> str:
    return " ".join((inspect.getdoc(route.endpoint) or "").split())


def _responses(route: ApiRoute, named: Schemas) -> Part:
    problem = {"application/problem+json": {"schema": named[ProblemDetails]}}
    return {
        "2XX": {"description": "Done"} | _content(route.answers, named, is_file=route.file == "answer"),
        "default": {"description": "What went wrong", "content": problem},
    }


def _parameters(path: str, route: ApiRoute) -> Iterator[Part]:
    for part in path.split("/"):
        if part.startswith("{"):
            yield {"name": part[1:-1], "in": "path", "required": True, "schema": {"type": "string"}}
    for field in msgspec.structs.fields(route.query) if route.query else ():
        schema = msgspec.json.schema(field.type)
        yield {"name": field.encode_name, "in": "query", "required": field.required, "schema": schema}


def _content(kinds: Sequence[type], named: Schemas, *, is_file: bool) -> Part:
    if is_file:
        return {"content": FILE}
    schemas = [named[kind] for kind in kinds]
    schema = schemas[0] if len(schemas) == 1 else {"oneOf": schemas}
    return {"content": {"application/json": {"schema": schema}}} if schemas else {}


def walk(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str, ApiRoute]]:
    """(path, method, route) of every route, mounts included."""
    for route in routes:
        if isinstance(route, Mount):
            yield from walk(list(route.routes), prefix + route.path)
        elif isinstance(route, ApiRoute):
            for method in sorted((route.methods or set()) - {"HEAD"}):
                yield prefix + route.path, method, route
