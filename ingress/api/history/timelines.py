"""One message or event as one timeline: from the request or the webhook to each delivery to the CRM."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TypeAlias, cast
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from providers.messages import ErrorInfo

from ...accounts.config import Config
from ...envelope import Envelope, EventData, render
from ...identifiers import event_id, parse_event_id
from ...storage.statements.reports import search, timelines
from ...storage.statements.reports.timelines import DeliveryState, LinkedEvent
from ...storage.statements.sending import messages
from ...storage.statements.sending.messages import Attempt, StoredMessage
from ...web.bodies import Shown
from .. import AnyRequest, ApiRequest
from .gone import missing_event, missing_message
from .messages import MessageShown, shown
from .what_happened import Narrator

_ABOUT_OURS = ["message.status", "message.echo", "message.edited", "message.deleted", "message.unknown"]
_ABOUT_THEIRS = ["message.edited", "message.deleted"]


class TimelineStep(Shown, frozen=True, kw_only=True, omit_defaults=True, tag_field="step"):
    """``at``: when it happened. Absent: not known."""

    at: datetime | None = None


class RequestStep(TimelineStep, frozen=True, kw_only=True, tag="request"):
    """POST /send was accepted."""

    request_id: str | None = None
    idempotency_key: str | None = None


class AttemptStep(TimelineStep, frozen=True, kw_only=True, tag="attempt", rename={"class_": "class"}):
    """A provider was called. ``class_``: of its error, or `ok`; absent: it has no outcome yet, or lost it."""

    number: int
    config_id: UUID
    provider: str
    class_: str | None = None
    code: str | None = None
    detail: str | None = None
    duration_ms: int | None = None
    provider_message_id: str | None = None


class FallbackStep(TimelineStep, frozen=True, kw_only=True, tag="fallback"):
    """Another account took over. ``reason``: the class of the error, or why the former one was not called."""

    from_config_id: UUID
    config_id: UUID
    reason: str | None = None


class HoldStep(TimelineStep, frozen=True, kw_only=True, tag="hold"):
    """It may have been taken, so it is not repeated: a status settles it, or it is reported as unknown then."""

    until: datetime


class WebhookStep(TimelineStep, frozen=True, kw_only=True, tag="webhook"):
    """A provider reported it; ``occurred_at`` is its own time."""

    config_id: UUID
    provider: str
    occurred_at: datetime | None = None


class EventStep(TimelineStep, frozen=True, kw_only=True, tag="event"):
    """An event of it. ``is_reported``: by a provider; else it is ours, as is the end of a send."""

    event_id: str
    sequence: int
    type: str
    is_reported: bool = False
    status: str | None = None
    error: ErrorInfo | None = None
    occurred_at: datetime | None = None


class DeliveryStep(TimelineStep, frozen=True, kw_only=True, tag="delivery"):
    """How an event stands with the CRM: ``answer`` is the HTTP status of the last of so many attempts."""

    event_id: str
    state: str
    attempts: int
    answer: int | None = None
    error: str | None = None
    due_at: datetime | None = None


AnyStep: TypeAlias = RequestStep | AttemptStep | FallbackStep | HoldStep | WebhookStep | EventStep | DeliveryStep


class Timeline(Shown, frozen=True, kw_only=True):
    """``summary``: what happened, in a sentence. It is of a ``message`` that was sent here, or else of an ``event``."""

    summary: str
    steps: list[AnyStep]
    message: MessageShown | UnsetType = UNSET
    event: Envelope | UnsetType = UNSET


async def get_message_timeline(request: ApiRequest) -> Timeline:
    """GET /messages/{message_id}/timeline: request, attempts, fallbacks, statuses, events and their deliveries."""
    return await message_timeline(request, await narrator(request))


async def get_event_timeline(request: ApiRequest) -> Timeline:
    """GET /events/{event_id}/timeline: webhook, event, deliveries; and how its message was changed later."""
    return await event_timeline(request, await narrator(request))


async def narrator(request: AnyRequest, gettext: Callable[[str], str] = str) -> Narrator:
    """It calls providers as people do, and speaks their language."""
    manager = request.state["manager"]
    shown = {entry.name: entry.info.display_name for entry in manager.list_providers() if entry.info}
    configs: list[Config] = await manager.configs(request.organization_id)
    return Narrator(shown, {config.id: config.provider_type for config in configs}, gettext)


async def message_timeline(request: AnyRequest, narrator: Narrator) -> Timeline:
    """Of the message in the path. Raises `Problem` 404 or 410."""
    organization_id, message_id = request.organization_id, request.id_in_path("message_id")
    async with request.connection() as connection:
        message = await messages.by_id(connection, organization_id, message_id)
        if message is None:
            raise await missing_message(connection, organization_id, message_id)
        attempts = await messages.attempts(connection, organization_id, message_id)
        since = await search.sequence_at(connection, organization_id, message.created_at)
        named = ["message", "id"], str(message_id)
        of = message.conversation_id
        events = await timelines.events_about(connection, organization_id, of, _ABOUT_OURS, since, named)
        deliveries = await timelines.deliveries(connection, organization_id, [event.sequence for event in events])
    steps = [*_sent(message, attempts), *_events(events, deliveries)]
    return Timeline(
        summary=narrator.of_message(message, attempts), steps=_in_order(steps), message=shown(message, attempts)
    )


async def event_timeline(request: AnyRequest, narrator: Narrator) -> Timeline:
    """Of the event in the path. Raises `Problem` 404 or 410."""
    organization_id = request.organization_id
    sequence = parse_event_id(request.path_params["event_id"], organization_id)
    async with request.connection() as connection:
        event = await timelines.event(connection, organization_id, sequence) if sequence is not None else None
        if event is None:
            raise await missing_event(connection, organization_id, sequence)
        data = msgspec.json.decode(event.data, type=EventData)
        events = [event]
        if event.type == "message.received" and data.conversation and data.message and data.message.provider_message_id:
            named = ["message", "original_message_id"], data.message.provider_message_id
            of = data.conversation.id
            events += await timelines.events_about(
                connection, organization_id, of, _ABOUT_THEIRS, event.sequence, named
            )
        deliveries = await timelines.deliveries(connection, organization_id, [each.sequence for each in events])
    steps: list[AnyStep] = [*_events(events, deliveries)]
    if event.is_reported:
        webhook = WebhookStep(
            at=event.created_at, config_id=event.config_id, provider=data.provider, occurred_at=data.occurred_at
        )
        steps.insert(0, webhook)
    summary = narrator.of_event(event, data, deliveries.get(event.sequence))
    envelope = cast(Envelope, msgspec.Raw(render(event)))  # as it is stored, whatever release wrote it
    return Timeline(summary=summary, steps=_in_order(steps), event=envelope)


def _in_order(steps: list[AnyStep]) -> list[AnyStep]:
    """By their times; what has none stays behind what it follows from."""
    times = [step.at for step in steps]
    for place, at in enumerate(times):
        times[place] = at or times[place - 1]
    return [step for _, step in sorted(zip(times, steps, strict=True), key=lambda pair: cast(datetime, pair[0]))]


def _sent(message: StoredMessage, attempts: Sequence[Attempt]) -> Iterator[AnyStep]:
    yield RequestStep(at=message.created_at, request_id=message.request_id, idempotency_key=message.idempotency_key)
    former, why = message.fallback_from, message.fallback_reason
    if attempts and former in [attempt.config_id for attempt in attempts]:
        former, why = attempts[0].config_id, None
    for attempt in attempts:
        if former not in (None, attempt.config_id):
            yield FallbackStep(
                at=attempt.started_at,
                from_config_id=former,
                config_id=attempt.config_id,
                reason=why or message.fallback_reason,
            )
        former, why = attempt.config_id, attempt.class_
        yield AttemptStep(
            at=attempt.started_at,
            **{name: getattr(attempt, name) for name in AttemptStep.__struct_fields__ if name != "at"},
        )
    if message.state == "uncertain" and message.leased_until is not None:
        yield HoldStep(at=message.updated_at, until=message.leased_until)


def _events(events: Sequence[LinkedEvent], deliveries: dict[int, DeliveryState]) -> Iterator[AnyStep]:
    for event in events:
        data = msgspec.json.decode(event.data, type=EventData)
        name, status = event_id(event.organization_id, event.sequence), data.status
        yield EventStep(
            at=event.created_at,
            event_id=name,
            sequence=event.sequence,
            type=event.type,
            is_reported=event.is_reported,
            status=(status.value or status.raw_value) if status else None,
            error=status.error if status else None,
            occurred_at=data.occurred_at,
        )
        if delivery := deliveries.get(event.sequence):
            yield DeliveryStep(
                at=delivery.finished_at or delivery.failed_at,
                event_id=name,
                state=delivery.state,
                attempts=delivery.attempts,
                answer=delivery.answer,
                error=delivery.last_error,
                due_at=delivery.due_at,
            )
