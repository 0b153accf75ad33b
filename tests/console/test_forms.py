"""Templates as fields, and what is filled in as what is sent."""

from typing import Any

import pytest

from ingress.console.forms.templates import components_of, fields_of, rendered
from providers.messages import TemplateDefinition

BODY = {"type": "BODY", "text": "Hi {{2}}, {{1}}", "example": {"body_text": [["one", "two"]]}}


def template(*components: dict[str, Any]) -> TemplateDefinition:
    return TemplateDefinition(name="t", language="en", components=list(components))


def filled(*components: dict[str, Any]) -> list[dict[str, Any]]:
    """Every field with its own name in it."""
    return components_of({one.field: one.field for one in fields_of(template(*components)).variables})


def test_the_variables_of_each_part_are_fields_in_their_order() -> None:
    """Numbered ones by number: so the provider reads them. A variable that stands twice is one."""
    header = {"type": "HEADER", "format": "TEXT", "text": "{{1}} {{1}}", "example": {"header_text": ["head"]}}
    found = fields_of(template(header, BODY, {"type": "FOOTER", "text": "bye"}))
    assert [(one.field, one.example) for one in found.variables] == [
        ("header.text.1", "head"),
        ("body.text.1", "one"),
        ("body.text.2", "two"),
    ]
    assert found.is_whole
    values = {"header.text.1": "H", "body.text.1": "1", "body.text.2": "Ana"}
    assert rendered(found.words, values) == "H H\n\nHi Ana, 1\n\nbye"
    assert components_of(values) == [
        {"type": "header", "parameters": [{"type": "text", "text": "H"}]},
        {"type": "body", "parameters": [{"type": "text", "text": "1"}, {"type": "text", "text": "Ana"}]},
    ]


def test_named_variables_keep_their_names() -> None:
    example = {"body_text_named_params": [{"param_name": "name", "example": "Ana"}]}
    found = fields_of(template({"type": "BODY", "text": "Hi {{name}}", "example": example}))
    assert found.variables[0].example == "Ana"
    assert components_of({"body.text.name": "Bia"}) == [
        {"type": "body", "parameters": [{"type": "text", "parameter_name": "name", "text": "Bia"}]}
    ]


@pytest.mark.parametrize("kind", ["image", "video", "document"])
def test_a_header_can_be_a_medium(kind: str) -> None:
    assert filled({"type": "HEADER", "format": kind.upper()}) == [
        {"type": "header", "parameters": [{"type": kind, kind: {"link": f"header.{kind}"}}]}
    ]


def test_buttons_are_filled_by_their_places() -> None:
    """Those that want nothing have no field."""
    buttons = [
        {"type": "QUICK_REPLY", "text": "Yes"},
        {"type": "URL", "text": "Fixed", "url": "https://x.example/"},
        {"type": "URL", "text": "Track", "url": "https://x.example/{{1}}", "example": ["https://x.example/9"]},
        {"type": "COPY_CODE", "text": "Copy", "example": "CODE"},
        {"type": "PHONE_NUMBER", "text": "Call", "phone_number": "+1"},
    ]
    assert filled({"type": "BUTTONS", "buttons": buttons}) == [
        {"type": "button", "sub_type": "url", "index": "2", "parameters": [{"type": "text", "text": "button.2.url"}]},
        {
            "type": "button",
            "sub_type": "copy_code",
            "index": "3",
            "parameters": [{"type": "coupon_code", "coupon_code": "button.3.copy_code"}],
        },
    ]
    assert fields_of(template({"type": "BUTTONS", "buttons": buttons})).is_whole


@pytest.mark.parametrize(
    "component",
    [
        {"type": "CAROUSEL", "cards": []},
        {"type": "LIMITED_TIME_OFFER"},
        {"type": "HEADER", "format": "LOCATION"},
        {"type": "BUTTONS", "buttons": [{"type": "FLOW", "text": "Open"}]},
        {"type": "BUTTONS", "buttons": None},
        {"type": "BUTTONS", "buttons": {"type": "URL"}},
        {"type": "BUTTONS", "buttons": [1]},
        {},
    ],
)
def test_what_there_is_no_field_for_is_said(component: dict[str, Any]) -> None:
    assert not fields_of(template(BODY, component)).is_whole


@pytest.mark.parametrize(
    "example", [None, 1, [], {"body_text": []}, {"body_text": [[]]}, {"body_text_named_params": [1]}]
)
def test_examples_may_be_anything(example: object) -> None:
    assert [one.example for one in fields_of(template({**BODY, "example": example})).variables] == ["", ""]


def test_a_placeholder_may_be_any_number() -> None:
    fields = fields_of(template({"type": "BODY", "text": "{{" + "9" * 5000 + "}} {{2}} {{1}} {{name}}"}))
    assert [one.key for one in fields.variables] == ["name", "1", "2", "9" * 5000]


def test_other_fields_are_no_components() -> None:
    """Whatever somebody puts into the form."""
    made_up = {"x": "1", "header.file": "x", "button.x.url": "1", "body.text.": "x", "footer.text.1": "x", "": ""}
    assert components_of(made_up) == []
