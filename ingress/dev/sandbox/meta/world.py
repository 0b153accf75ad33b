"""The WhatsApp Business Platform behind the Graph API: numbers, accounts, their webhooks."""

import abc
from functools import partial
from typing import Annotated, Any

import msgspec

from ..accounts import ScriptedAccount
from ..listener import Listener
from ..webhook_post import PostResult, RetryPolicy
from ..world import Statuses, World
from . import bodies
from .bodies import Body, MetaNumber
from .inbound import MetaInbound
from .media import MetaMedia
from .records import AcceptedMessage, GroundTruth, SendCall
from .templates import example_template


class StatusPolicy(Statuses, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The status webhooks that follow an accepted message."""

    batch: Annotated[int, msgspec.Meta(ge=1)] = 1  # statuses in one POST
    failed_code: int = 131026  # what a status `failed` says


class NumberState(ScriptedAccount):
    """A number as it is now: what was configured over the API, and what is scripted."""

    def __init__(self, number: MetaNumber, listener: Listener) -> None:
        super().__init__(listener)
        self.number = number
        self.policy = StatusPolicy()
        self.fields: dict[str, Any] = {}  # laid over what GET /{phone_number_id} answers
        self.override_url: str | None = None
        self.registered = number.registered
        self.pin = number.pin
        self.registrations = 0  # tried so far


class MetaWorld(World[MetaNumber, NumberState, AcceptedMessage, SendCall], GroundTruth, abc.ABC):
    """Everything but the API's own answers, which a subclass gives."""

    def __init__(self, *, port: int, seed: int | None, retry: RetryPolicy) -> None:
        super().__init__(port=port, seed=seed, retry=retry)
        # Account -> app -> override URL. Meta delivers only to apps that are subscribed to the account.
        self.subscriptions: dict[str, dict[str, str | None]] = {}
        self.templates: dict[str, list[Body]] = {}  # by account
        self.media = MetaMedia(url_for=self.url_for, token_of=lambda number: self.state_of(number).number.access_token)

    def key(self, number: MetaNumber) -> str:
        return number.phone_number_id

    # ---------------------------------------------------------------- numbers

    async def add_number(self, number: MetaNumber, *, own_port: bool = False, port: int = 0) -> str:
        """Add *number*, or replace what is known of it; returns its base URL.

        With *own_port* its connections can be refused while other numbers live; *port* is that one, 0: the system
        chooses. A number that brings a ``webhook_url`` is subscribed already; one without waits for the gateway to
        subscribe.
        """
        state = self.numbers.get(number.phone_number_id)
        if state is None:
            state = NumberState(number, await self._listener(own_port=own_port, port=port))
            self.numbers[number.phone_number_id] = state
        state.number = number
        self.templates.setdefault(number.waba_id, [example_template()])
        apps = self.subscriptions.setdefault(number.waba_id, {})
        if number.webhook_url is not None:
            apps.setdefault(number.app_id, None)
        return state.listener.url

    def set_fields(self, number: MetaNumber | str, **fields: Any) -> None:
        """Change what GET /{phone_number_id} answers, as ``status="BANNED"``. None takes the change back."""
        state = self.state_of(number)
        state.fields = {name: value for name, value in {**state.fields, **fields}.items() if value is not None}

    def set_templates(self, number: MetaNumber | str, templates: list[Body]) -> None:
        """Those of the account that *number* belongs to, in the order in which they are listed."""
        self.templates[self.state_of(number).number.waba_id] = templates

    def set_statuses(self, number: MetaNumber | str, policy: StatusPolicy) -> None:
        self.state_of(number).policy = policy

    # ---------------------------------------------------------------- webhooks

    def inbound(self, number: MetaNumber | str, *, seed: int | None = None, people: int = 20) -> MetaInbound:
        """Makes inbound bodies for *number*; their media can be downloaded here."""
        known = self.state_of(number).number
        return MetaInbound(known, seed=seed, people=people, store=lambda data, mime: self.media.add(known, data, mime))

    def webhook_url(self, number: MetaNumber | str) -> str | None:
        """Where Meta posts messages of *number*: number override, account override, app; None: nowhere."""
        state = self.state_of(number)
        apps = self.subscriptions[state.number.waba_id]
        if state.number.app_id not in apps:
            return None
        return state.override_url or apps[state.number.app_id] or state.number.webhook_url

    async def post(self, number: MetaNumber | str, body: Body) -> PostResult | None:
        """Sign *body* and post it to the number's webhook URL, with retries. None where there is no URL."""
        url = self.webhook_url(number)
        if url is None:
            self.undeliverable += 1
            return None
        raw = bodies.encode(body)
        result = await self.webhooks.post(url, raw, bodies.signed_headers(self.state_of(number).number.app_secret, raw))
        self.changed()
        return result

    def wa_id(self, phone: str) -> str:
        return self.wa_ids.get(phone, phone[1:])

    async def post_statuses(self, state: NumberState, message: AcceptedMessage) -> None:
        """All status webhooks of *message*, as the number's policy has them."""
        policy, body = state.policy, message.body
        if body["recipient_type"] != "group" and "to" in body:
            body = body | {"to": f"+{self.wa_id(body['to'])}"}
        items = [
            bodies.status_item(message.wamid, status, body, failed_code=policy.failed_code)
            for status in policy.in_order
        ]
        values = [
            bodies.statuses_value(items[start : start + policy.batch]) for start in range(0, len(items), policy.batch)
        ]
        posts = [partial(self.post, state.number, bodies.envelope((state.number, value))) for value in values]
        await self.post_paced(policy, posts)

    async def reset(self) -> None:
        await super().reset()
        self.subscriptions.clear()
        self.templates.clear()
        self.media.clear()
