"""The WhatsApp Business Platform behind the Graph API: numbers, accounts, scripts and webhooks."""

import abc
import asyncio
import random
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from aiohttp import web

from . import meta_bodies as bodies
from .listener import Listener
from .meta_bodies import Body, MetaNumber
from .meta_inbound import MetaInbound
from .meta_media import MetaMedia
from .meta_records import AcceptedMessage, GroundTruth
from .scripted import ScriptedAccount, ScriptedWorld
from .webhook_post import PostResult, RetryPolicy, WebhookPoster


class StatusPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The status webhooks that follow an accepted message."""

    statuses: tuple[str, ...] = ("sent", "delivered", "read")
    delay_s: float = 0.0  # before the first
    gap_s: float = 0.0  # between two posts
    batch: Annotated[int, msgspec.Meta(ge=1)] = 1  # statuses in one POST
    duplicates: int = 0  # further copies of each POST, all at once
    reorder: bool = False  # the last status first
    before_answer: bool = False  # all of them before the send is answered
    failed_code: int = 131026  # what a status `failed` says


class NumberState(ScriptedAccount):
    """A number as it is now: what was configured over the API, and what is scripted."""

    def __init__(self, number: MetaNumber, listener: Listener) -> None:
        super().__init__(listener)
        self.number = number
        self.policy = StatusPolicy()
        self.fields: dict[str, Any] = {}  # laid over what GET /{phone_number_id} answers
        self.override_url: str | None = None


class MetaWorld(GroundTruth, ScriptedWorld[NumberState]):
    """Everything but the API's own answers, which a subclass gives."""

    def __init__(self, *, port: int, seed: int | None, retry: RetryPolicy) -> None:
        super().__init__()
        self.numbers: dict[str, NumberState] = {}
        # Account -> app -> override URL. Meta delivers only to apps that are subscribed to the account.
        self.subscriptions: dict[str, dict[str, str | None]] = {}
        self.webhooks = WebhookPoster(retry)
        self.undeliverable = 0  # webhooks Meta had no URL or no subscription for
        self.media = MetaMedia(url_for=self.url_for, token_of=lambda number: self.state_of(number).number.access_token)
        self.rng = random.Random(seed)  # noqa: S311  it makes ids, not keys
        self._shared = Listener(self.answer, port)

    @abc.abstractmethod
    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The Graph API."""

    async def start(self) -> None:
        await self.webhooks.open()
        await self._shared.open()

    async def close(self) -> None:
        for listener in self._listeners():
            await listener.close()
        await self.cancel_tasks()
        await self.webhooks.close()

    @property
    def url(self) -> str:
        """The base URL of the API, for numbers without a port of their own."""
        return self._shared.url

    # ---------------------------------------------------------------- numbers

    async def add_number(self, number: MetaNumber, *, own_port: bool = False) -> str:
        """Add *number*, or replace what is known of it; returns its base URL.

        With *own_port* its connections can be refused while other numbers live. A number that brings a
        ``webhook_url`` is subscribed already; one without waits for the gateway to subscribe.
        """
        state = self.numbers.get(number.phone_number_id)
        if state is None:
            listener = Listener(self.answer) if own_port else self._shared
            await listener.open()
            state = self.numbers[number.phone_number_id] = NumberState(number, listener)
        state.number = number
        apps = self.subscriptions.setdefault(number.waba_id, {})
        if number.webhook_url is not None:
            apps.setdefault(number.app_id, None)
        return state.listener.url

    def url_for(self, number: MetaNumber | str) -> str:
        """The base URL for *number*: its own port's, or the shared one."""
        return self.state_of(number).listener.url

    def states(self) -> Iterable[NumberState]:
        return self.numbers.values()

    def state_of(self, account: MetaNumber | str) -> NumberState:
        return self.numbers[account if isinstance(account, str) else account.phone_number_id]

    def set_fields(self, number: MetaNumber | str, **fields: Any) -> None:
        """Change what GET /{phone_number_id} answers, as ``status="BANNED"``. None takes the change back."""
        state = self.state_of(number)
        state.fields = {name: value for name, value in {**state.fields, **fields}.items() if value is not None}

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

    async def post_statuses(self, state: NumberState, message: AcceptedMessage) -> None:
        """All status webhooks of *message*, as the number's policy has them."""
        policy = state.policy
        await asyncio.sleep(policy.delay_s)
        items = [
            bodies.status_item(message.wamid, status, message.body, failed_code=policy.failed_code)
            for status in (reversed(policy.statuses) if policy.reorder else policy.statuses)
        ]
        for start in range(0, len(items), policy.batch):
            if start:
                await asyncio.sleep(policy.gap_s)
            value = bodies.statuses_value(items[start : start + policy.batch])
            body = bodies.envelope((state.number, value))
            await asyncio.gather(*(self.post(state.number, body) for _ in range(1 + policy.duplicates)))

    async def reset(self) -> None:
        """Forget all numbers, scripts and history; the shared ports stay."""
        await self.cancel_tasks()
        for listener in self._listeners():
            if listener is not self._shared:
                await listener.close()
        self.numbers.clear()
        self.subscriptions.clear()
        self.media.clear()
        self.forget()
        self.undeliverable = 0
        self.webhooks.reset_counts()
        await self._shared.open()
        self.changed()

    def _listeners(self) -> set[Listener]:
        return {self._shared, *(state.listener for state in self.numbers.values())}
