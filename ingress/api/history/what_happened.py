"""What happened to a message, in one sentence, for people: in the API's English, or in a reader's own language."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

from providers.messages import ErrorInfo

from ...envelope import EventData
from ...storage.statements.events import StoredEvent
from ...storage.statements.reports.timelines import DeliveryState
from ...storage.statements.sending.messages import Attempt, StoredMessage
from ...validation import Unlogged


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%H:%M} UTC"


class Narrator(Unlogged, frozen=True):
    """Says it. ``names``: what people call providers; ``providers``: by account; then a language, its times, and
    what it calls the errors of deliveries.
    """

    names: Mapping[str, str]
    providers: Mapping[UUID, str]
    gettext: Callable[[str], str] = str
    time: Callable[[datetime], str] = _utc
    errors: Mapping[str, str] = {}

    def name(self, provider: str | None) -> str:
        return self.names.get(provider or "", provider or "?")

    def of_message(self, message: StoredMessage, attempts: Sequence[Attempt]) -> str:
        _ = self.gettext
        by = {"provider": self.name(message.provider or (attempts[-1].provider if attempts else None))}
        if message.state == "sending":
            if message.attempts == 0:
                return _("It waits for an earlier message of its conversation.")
            return _("Under way: attempt %(number)s, with %(provider)s.") % {**by, "number": message.attempts}
        if message.state == "uncertain":
            until = {"time": self.time(message.leased_until) if message.leased_until else "?"}
            return _(
                "%(provider)s may have taken it; not repeated. Settled by a status, or reported as unknown at %(time)s."
            ) % {**by, **until}
        if message.status == "unknown":
            return _("%(provider)s may have taken it. Nothing settled that, so it was reported as unknown.") % by
        if message.status == "failed":
            return self._failed(message, attempts, by)
        return self._taken(message, attempts, by)

    def _failed(self, message: StoredMessage, attempts: Sequence[Attempt], by: dict[str, str]) -> str:
        _ = self.gettext
        error = message.error or ErrorInfo()
        words = _words(error.code, error.detail or error.title)
        if message.sent_at is not None:
            return _because(_("%(provider)s took it, and could not deliver it") % by, words)
        why = self._why(by["provider"], error.class_)
        return _("Not sent: %(why)s") % {"why": _because(why, words)}

    def _taken(self, message: StoredMessage, attempts: Sequence[Attempt], by: dict[str, str]) -> str:
        _ = self.gettext
        what = {
            "delivered": _("Delivered by %(provider)s"),
            "read": _("Read; delivered by %(provider)s"),
            "played": _("Played; delivered by %(provider)s"),
        }.get(message.status, _("Taken by %(provider)s")) % by
        former = message.fallback_from
        failed = [each for each in attempts if each.class_ not in (None, "ok")]
        if former is not None:
            last = next((each for each in reversed(failed) if each.config_id == former), None)
            provider = self.name(last.provider if last else self.providers.get(former))
            why = self._why(provider, last.class_ if last else message.fallback_reason)
        elif failed:
            last = failed[-1]
            why = self._why(by["provider"], last.class_)
        else:
            return f"{what}."
        words = _words(last.code, last.detail) if last else ""
        return _("%(what)s after %(why)s") % {"what": what, "why": _because(why, words)}

    def _why(self, provider: str, reason: str | None) -> str:
        """A clause about an error's class, or about why an account was not called."""
        _ = self.gettext
        return {
            "Unsupported": _("%(provider)s cannot express it"),
            "Restricted": _("%(provider)s restricted the account"),
            "AccountBroken": _("the account at %(provider)s could not send"),
            "Throttled": _("%(provider)s asked for fewer messages"),
            "Unavailable": _("%(provider)s could not be reached"),
            "Uncertain": _("%(provider)s gave no clear answer"),
            "breaker_open": _("%(provider)s failed so often that it was not called"),
            "plugin_missing": _("the plug-in of %(provider)s is missing"),
            "cannot_be_opened": _("the account at %(provider)s cannot be opened"),
        }.get(reason or "", _("%(provider)s refused it")) % {"provider": provider}

    def of_event(self, event: StoredEvent, data: EventData, delivery: DeliveryState | None) -> str:
        _ = self.gettext
        by = {"provider": self.name(data.provider)}
        what = {
            "message.received": _("Received by %(provider)s"),
            "message.echo": _("Written on another device, reported by %(provider)s"),
            "message.edited": _("A message was edited, reported by %(provider)s"),
            "message.deleted": _("A message was deleted, reported by %(provider)s"),
            "message.status": _("A status of a message, by %(provider)s"),
        }.get(event.type, _("An event of %(provider)s")) % by
        return _("%(what)s; %(then)s") % {"what": what, "then": _ended(self._delivered(delivery))}

    def _facts(self, delivery: DeliveryState) -> dict[str, object]:
        error = delivery.last_error or "?"
        return {
            "attempts": delivery.attempts,
            "answer": delivery.answer,
            "error": self.gettext(self.errors.get(error, error)),
            "time": self.time(delivery.due_at) if delivery.due_at else "?",
        }

    def _delivered(self, delivery: DeliveryState | None) -> str:
        _ = self.gettext
        if delivery is None:
            return _("not posted, as no callback was set: the CRM reads it among the events")
        facts = self._facts(delivery)
        if delivery.state == "delivered":
            text = _("the CRM took it") if delivery.attempts == 1 else _("the CRM took it at attempt %(attempts)s")
            return f"{text % facts} (HTTP {delivery.answer})" if delivery.answer else text % facts
        if delivery.state == "parked":
            return _("given up: %(error)s") % facts
        if delivery.attempts == 0:
            return _("not posted to the CRM yet")
        return _("the CRM did not take it (%(error)s), next try at %(time)s") % facts


def _words(code: str | None, detail: str | None) -> str:
    return ", ".join(filter(None, [code, detail]))


def _because(what: str, words: str) -> str:
    return _ended(f"{what}: {words}" if words else what)


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
