"""Send a test message: a text, or a template of the active provider with its variables as fields."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple
from uuid import uuid4

import msgspec
from starlette.responses import Response

from providers.messages import TemplateDefinition

from ...accounts.config import Config
from ...api.configs import templates_of
from ...api.refusals import refused_as_problems
from ...api.send import SendRequest, SendResult, accept, checked_key, refusals_counted
from ...web.bodies import RequestQuery
from ...web.limits import LOOK_WEIGHT
from ...web.problems import Problem, problem_of
from .. import snippets
from ..forms.bodies import decoded
from ..forms.templates import Variable, components_of, fields_of, rendered
from ..rendering import by_field, form_page, redirect
from ..requests import AnyConsoleRequest, ConsoleRequest, Form

EXAMPLE_TO = "+5511987654321"
# Which fields say themselves what is wrong with them, by the paths of the API's body.
OWN_FIELDS = {"to": "to", "body": "body", "content.name": "name", "content.language": "language"}
_result = msgspec.json.Decoder(SendResult)
_FORMATTING = re.compile(r"[\s().-]")


class SendTestQuery(RequestQuery, frozen=True):
    """``template``: its name and language, as `name|language`; ``after``: which page of the account's templates."""

    kind: Literal["text", "template"] = "text"
    template: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    after: Annotated[str, msgspec.Meta(max_length=512)] | None = None


class Templates(NamedTuple):
    """What of an account's templates can be sent. ``held``: others of the page; ``problem``: why none is known."""

    offered: Sequence[TemplateDefinition] = ()
    held: int = 0
    next: str | None = None
    problem: Problem | None = None


async def show(request: ConsoleRequest[SendTestQuery]) -> Response:
    """The form, and the same as programs."""
    return await _shown(request, request.query)


async def _shown(
    request: AnyConsoleRequest, query: SendTestQuery, wrong: Problem | None = None, form: Form | None = None
) -> Response:
    """The page, with what is *wrong* in a *form*."""
    config = await request.state["manager"].provider_for(request.organization_id)
    can_list = config is not None and request.can("read") and "list_templates" in config.provider.info.capabilities
    is_listed = config is not None and can_list and query.kind == "template"
    templates = await _templates(request, config, query.after) if config and is_listed else Templates()
    chosen = next((one for one in templates.offered if key_of(one) == query.template), None)
    fields = fields_of(chosen) if chosen else None
    errors = {OWN_FIELDS[path]: text for path, text in by_field(request, wrong).items() if path in OWN_FIELDS}
    if "to" in errors:
        errors["to"] = request.gettext("Write a phone number with its country code, like +5511987654321")
    return form_page(
        request,
        "send_test.html",
        wrong,
        active=config.provider.info if config else None,
        kind=query.kind,
        can_list=can_list,
        templates=templates,
        options=[(key_of(one), f"{one.name} ({one.language})") for one in templates.offered],
        chosen=chosen,
        fields=fields,
        programs=snippets.sending(
            request.state["manager"].origin, _example(query.kind, chosen, fields and fields.variables)
        ),
        key=_key_again(form, wrong),
        after=query.after,
        form=form,
        errors=errors,
    )


def _key_again(form: Form | None, wrong: Problem | None) -> str:
    """The idempotency key of a form: its own again, unless that has been used for something else."""
    if form is not None and wrong is not None and wrong.code != "idempotency_mismatch" and "key" in form:
        return form.get("key")
    return f"console-{uuid4().hex}"


def key_of(template: TemplateDefinition) -> str:
    """What a template is chosen by."""
    return f"{template.name}|{template.language}"


async def _templates(request: AnyConsoleRequest, config: Config, after: str | None) -> Templates:
    try:
        request.check_calls_out(LOOK_WEIGHT)
        with refused_as_problems():
            found = await templates_of(request, config.usable(), after)
    except Exception as error:
        problem = problem_of(error)
        if problem is None:
            raise
        return Templates(problem=problem)
    offered = [one for one in found.templates if one.status in (None, "APPROVED")]
    return Templates(offered, len(found.templates) - len(offered), found.next)


def _examples(variables: list[Variable]) -> dict[str, str]:
    return {one.field: one.example or one.key for one in variables}


def _example(kind: str, chosen: TemplateDefinition | None, variables: list[Variable] | None) -> dict[str, Any]:
    """A body of POST /send like that which the form makes."""
    if kind == "text":
        return {"to": EXAMPLE_TO, "body": "Hello"}
    values = _examples(variables or []) or {"body.text.1": "Ana"}
    name, language = (chosen.name, chosen.language) if chosen else ("order_update", "en")
    content = {"type": "template", "name": name, "language": language, "components": components_of(values)}
    return {"to": EXAMPLE_TO, "content": content}


async def send(request: ConsoleRequest) -> Response:
    """Send it, once for each key, and show the way that it takes."""
    form = await request.posted()
    kind: Literal["text", "template"] = "template" if form.get("kind") == "template" else "text"
    try:
        with refusals_counted():
            body = decoded(_body(form, kind), SendRequest, any_text=True)
            answer = await accept(request, body, checked_key(form["key"]), 0.0)
        message_id = str(_result.decode(answer.body).id)
    except Problem as problem:
        if "id" not in problem.extra:  # there is no message
            query = SendTestQuery(kind, form.get("template") or None, form.get("after") or None)
            return await _shown(request, query, problem, form)
        message_id = str(problem.extra["id"])
    if not request.can("read"):
        return redirect("/console/send-test", done="test_accepted")
    return redirect(f"/console/messages/{message_id}")


def _body(form: Form, kind: str) -> dict[str, Any]:
    """The body of POST /send."""
    body: dict[str, Any] = {"to": _FORMATTING.sub("", form.get("to")), "fallback": "fallback" in form}
    if kind == "text":
        return {**body, "body": form.get("body")}
    name, language = form.get("name"), form.get("language")
    if "template" in form:
        name, _, language = form["template"].rpartition("|")
    values = form.below("v") or {f"body.text.{n}": line for n, line in enumerate(form.get("lines").splitlines(), 1)}
    text = rendered(form.below("words"), values)
    content = {"type": "template", "name": name, "language": language, "components": components_of(values)}
    return {**body, "content": {**content, "rendered": text} if text else content}
