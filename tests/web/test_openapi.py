"""What is published about the API and the envelope is what the code does."""

import json
from pathlib import Path

import msgspec

from ingress.envelope import Envelope, envelope_schema
from ingress.web.openapi import walk

from ..gateway import Gateway, Organization


class Nothing(msgspec.Struct):
    """No query."""


ROOT = Path(__file__).parents[2]


def test_the_published_schema_is_current() -> None:
    """`ingress schema > schema/envelope.json` after a change of the envelope."""
    assert json.loads((ROOT / "schema" / "envelope.json").read_text()) == json.loads(json.dumps(envelope_schema()))


async def test_every_route_is_described(gateway: Gateway) -> None:
    from ingress.api.routes import ROUTES

    document = (await gateway.call("GET", "/openapi.json")).json
    for path, method, route in walk(ROUTES):
        operation = document["paths"][path][method.lower()]
        assert operation["summary"], path
        assert ("requestBody" in operation) == (route.body is not None or route.file == "body"), path
        assert ("content" in operation["responses"]["2XX"]) == bool(route.answers or route.file == "answer"), path
        queried = {each["name"] for each in operation["parameters"] if each["in"] == "query"}
        assert queried == {field.encode_name for field in msgspec.structs.fields(route.query or Nothing)}, path


async def test_events_are_as_the_schema_says(organization: Organization, samples: Path) -> None:
    """Every sample body's events decode as the published envelope, unknown fields refused where it is strict."""
    number = organization.numbers[0]
    for path in samples.glob("*.expected.json"):
        raw = path.with_name(path.name.replace(".expected", "")).read_bytes()
        raw = raw.replace(b"109876543210987", number.phone_number_id.encode())
        await organization.post_webhook(raw.replace(b"210987654321098", number.waba_id.encode()))
    await organization.send()
    events = await organization.events()
    assert len(events) > 100
    for event in events:
        msgspec.convert(event, Envelope)
