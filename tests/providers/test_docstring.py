"""The example of the package's docstring runs as it is written."""

import textwrap
from typing import Any

import httpx
import respx

import providers


def test_the_example_sends_a_message() -> None:
    """It is cut out of the docstring and run against a stand-in for Meta."""
    assert providers.__doc__ is not None
    example = textwrap.dedent(providers.__doc__.split("::\n", 1)[1])
    scope: dict[str, Any] = {}
    with respx.mock:
        route = respx.post("https://graph.facebook.com/v25.0/109876543210987/messages")
        route.mock(return_value=httpx.Response(200, json={"messages": [{"id": "wamid.x"}]}))
        exec(compile(example, "providers.__doc__", "exec"), scope)
    assert scope["result"].provider_message_id == "wamid.x"
    assert route.calls.last.request.headers["authorization"] == "Bearer EAAG-example"
