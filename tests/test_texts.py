"""Nothing that strangers write is of any length, takes seconds to look at, or steers whoever looks at it."""

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Annotated, Any

import msgspec
import pytest

import ingress
import providers
from ingress.dev.sandbox import example_number
from ingress.validation import DETAIL
from providers import MessageData, Registry
from providers.description import config_fields
from providers.testing.bounds import patterns_of, slow, unbounded

from .gateway import BODIES, Gateway, Organization

# The former pattern of a phone number as people write it: two repetitions meet at a space.
QUADRATIC = r"^\s*\+?[\s\(\)\.\-]*[1-9](?:[\s\(\)\.\-]*[0-9]){6,14}[\s\(\)\.\-]*$"


def patterns_in(value: Any, depth: int = 0) -> Iterator["re.Pattern[Any]"]:
    """The patterns that a module has under a name, also in its tables."""
    if isinstance(value, re.Pattern):
        yield value
    elif depth < 5 and isinstance(value, dict | list | tuple | set | frozenset):
        for part in value.values() if isinstance(value, dict) else value:
            yield from patterns_in(part, depth + 1)


def patterns_within(module: ModuleType) -> Iterator["re.Pattern[Any]"]:
    """Those that its functions give to `re` as they stand, or under a name of the module."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re.") and node.args:
            first = node.args[0]
            text = first.value if isinstance(first, ast.Constant) else vars(module).get(ast.unparse(first))
            if isinstance(text, str | bytes) and ast.unparse(node.func) != "re.escape":
                yield re.compile(text)


def every_pattern() -> dict[str, "re.Pattern[Any]"]:
    """By where they are: of every module, of every field of a configuration and of every body of a request."""
    found: dict[str, re.Pattern[Any]] = {}
    for package in (providers, ingress):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                loaded = importlib.import_module(module.name)
                for number, pattern in enumerate([*patterns_in(vars(loaded), 1), *patterns_within(loaded)]):
                    found[f"{module.name}[{number}]"] = pattern
    for entry in Registry().entries():
        for field in config_fields(Registry().get(entry.name)) if entry.state == "registered" else []:
            if field.pattern:
                found[f"{entry.name}.{field.name}"] = re.compile(field.pattern)
    for kind in (*BODIES.values(), MessageData):
        for number, text in enumerate(patterns_of(kind)):
            found[f"{kind.__name__}[{number}]"] = re.compile(text)
    return found


def test_no_pattern_takes_seconds() -> None:
    """Whatever it is held against: the time grows as the text does, not as its square."""
    found = every_pattern()
    assert {
        "ingress.log[0]",
        "providers.twilio_whatsapp.api[0]",
        "twilio_whatsapp.phone_number",
        "PairingRequest[0]",
    } <= set(found)
    assert len(found) > 60
    takes_long = {where: evil for where, pattern in found.items() if (evil := slow(pattern))}
    assert takes_long == {}


@pytest.mark.parametrize("pattern", [QUADRATIC, r"^( | {2})+$", r"^(\s*\s)*!$", rb"\s*<x>", r"[0-9]+\."])
def test_a_pattern_that_takes_seconds_is_found(pattern: str | bytes) -> None:
    assert slow(re.compile(pattern)) is not None


@pytest.mark.parametrize("name", sorted(set(BODIES) - {"send"}))
def test_every_text_list_and_object_of_a_body_has_an_end(name: str) -> None:
    assert unbounded(BODIES[name]) == []


@pytest.mark.parametrize("name", [entry.name for entry in Registry().entries() if entry.state == "registered"])
def test_every_text_of_a_configuration_has_an_end(name: str) -> None:
    assert unbounded(Registry().get(name)) == []


def test_what_has_no_end_is_found() -> None:
    class Held(msgspec.Struct):
        texts: Annotated[list[str], msgspec.Meta(max_length=2)]
        more: list[Annotated[str, msgspec.Meta(max_length=2)]]
        named: Annotated[dict[str, int], msgspec.Meta(max_length=2)]
        maybe: bytes | None = None

    assert unbounded(Held) == ["texts[]", "more", "named{}", "maybe"]


# ---------------------------------------------------------------- what cannot be seen

UNSEEN = ["\0", "\t", "\n", "\x1b", "\x7f", "\x85", "\x9f", "\u061c", "\u200e", "\u2028", "\u2029", "\u202e", "\u2066"]
CONFIG = "/integrations/whatsapp/provider"


@pytest.fixture(scope="module")
async def owner(gateway: Gateway) -> Organization:
    return await gateway.organization()


@pytest.mark.parametrize("character", UNSEEN, ids=ascii)
async def test_no_name_or_secret_holds_what_nobody_can_see(owner: Organization, character: str) -> None:
    """It would steer a terminal, break a header, or look like another name: and which field it is."""
    text = f"a{character}b"
    new = {"provider_type": "meta_business", "config_data": example_number(903).config_data("http://127.0.0.1:9")}
    cases: list[tuple[str, str, Any, int, str]] = [
        ("POST", "/keys", {"scopes": ["read"], "name": text}, 422, "name"),
        ("PUT", "/callback", {"url": f"https://crm.example/{text}"}, 422, "url"),
        ("POST", f"{CONFIG}/configure", new | {"name": text}, 422, "name"),
        ("POST", f"{CONFIG}/switch", new | {"name": text}, 422, "name"),
        ("POST", f"{CONFIG}/test", new | {"name": text}, 422, "name"),
        ("POST", f"{CONFIG}/rollback", {"reason": text}, 422, "reason"),
    ]
    for field in ("access_token", "verify_token", "app_secret", "base_url"):
        body = new | {"config_data": new["config_data"] | {field: text}}
        cases += [
            ("POST", f"{CONFIG}/{path}", body, 400, f"config_data.{field}") for path in ("configure", "switch", "test")
        ]
    for method, path, body, status, field in cases:
        answer = await owner.call(method, path, body)
        code = "invalid_request" if status == 422 else "invalid_configuration"
        if character == "\0":  # which no body may hold anywhere
            assert (answer.status, [error["path"] for error in answer.json["errors"]]) == (422, [field]), path
            continue
        assert (answer.status, answer.json["code"]) == (status, code), path
        assert [(error["path"], error["detail"]) for error in answer.json["errors"]] == [(field, DETAIL)]
    answer = await owner.gateway.call("POST", "/organizations", {"name": text}, key=owner.gateway.platform_key)
    assert [error["path"] for error in answer.json["errors"]] == ["name"]


async def test_half_a_surrogate_pair_is_no_text(owner: Organization) -> None:
    raw = b'{"scopes": ["read"], "name": "a\\ud800b"}'
    answer = await owner.call("POST", "/keys", raw=raw, content_type="application/json")
    assert answer.status == 422


async def test_names_of_every_language_are_names(owner: Organization) -> None:
    for name in ("Ação & Cia.", "株式会社", "مؤسسة", "👩‍👩‍👧 Família", "O'Neill <b>"):
        answer = await owner.call("POST", "/keys", {"scopes": ["read"], "name": name})
        assert (answer.status, answer.json.get("name")) == (201, name)


async def test_long_values_are_refused_at_once(owner: Organization) -> None:
    """By their length, before a pattern is held against them."""
    spaces = {"account_sid": f"AC{'0' * 32}", "auth_token": "x", "phone_number": " " * 200_000}
    cases: list[tuple[Any, int, str]] = [
        ({"provider_type": "twilio_whatsapp", "config_data": spaces}, 400, "config_data.phone_number"),
        ({"provider_type": "x" * 65, "config_data": {}}, 422, "provider_type"),
        ({"provider_type": "meta_business", "config_data": {"x" * 65: 1}}, 422, "config_data"),
        ({"provider_type": "meta_business", "config_data": {str(n): 1 for n in range(65)}}, 422, "config_data"),
    ]
    for body, status, path in cases:
        answer = await owner.call("POST", f"{CONFIG}/configure", body)
        assert (answer.status, [error["path"] for error in answer.json["errors"]]) == (status, [path])
    answer = await owner.call("POST", "/callback/replay", {"sequences": list(range(1, 1002))})
    assert [error["path"] for error in answer.json["errors"]] == ["sequences"]
