"""Twilio behind its API: senders, accounts, messages and webhooks."""

import abc
import re
import time
from functools import partial
from typing import Any

from ..accounts import ScriptedAccount
from ..listener import Listener
from ..webhook_post import PostResult, RetryPolicy
from ..world import Statuses, World
from .bodies import (
    CHANNEL,
    Body,
    Form,
    TwilioSender,
    encode_form,
    message_resource,
    message_sid_of,
    new_sid,
    rfc2822,
    status_form,
    twilio_headers,
)
from .contents import TwilioContent, checked_content
from .errors import words_of
from .inbound import TwilioInbound
from .media import TwilioMedia
from .records import Alert, Spoken, TwilioMessage, TwilioSend, TwilioTruth
from .retries import Pace, policy_of

# How far a message is. What it got to it keeps, whatever is posted later; a failure ends it.
_RANKS = {"accepted": 0, "queued": 1, "sending": 2, "sent": 3, "delivered": 4, "read": 5}
_FAILED = ("failed", "undelivered")
_EMPTY_TWIML = re.compile(rb"(<\?xml[^<>]*>\s*)?<Response\s*(/>|>\s*</Response>)")
_SPOKEN = re.compile(rb"<Message[^<>]*>([^<]*)</Message>")


class TwilioStatusPolicy(Statuses, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The status callbacks that follow an accepted message."""

    statuses: tuple[str, ...] = ("queued", "sent", "delivered", "read")
    failed_code: int = 63016  # what `failed` and `undelivered` say


class SenderState(ScriptedAccount):
    """A sender as it is now: what was configured over the API, and what is scripted."""

    def __init__(self, sender: TwilioSender, listener: Listener) -> None:
        super().__init__(listener)
        self.sender = sender
        self.policy = TwilioStatusPolicy()
        self.fields: dict[str, Any] = {}  # laid over the sender as the API shows it
        self.webhook: Body = {
            "callback_url": sender.webhook_url,
            "callback_method": "POST",
            "fallback_url": None,
            "fallback_method": "POST",
            "status_callback_url": sender.status_callback_url,
            "status_callback_method": "POST",
        }


class TwilioWorld(World[TwilioSender, SenderState, TwilioMessage, TwilioSend], TwilioTruth, abc.ABC):
    """Everything but the API's own answers, which a subclass gives. A sender is known by its phone number."""

    def __init__(self, *, port: int, store_port: int, seed: int | None, pace: Pace) -> None:
        super().__init__(port=port, seed=seed, retry=RetryPolicy())
        self.pace = pace
        self.account_fields: dict[str, dict[str, Any]] = {}  # account SID -> what is laid over its resource
        self.contents: dict[str, dict[str, TwilioContent]] = {}  # account SID -> content SID
        self.services: dict[str, Body] = {}  # Messaging Service SID -> what was set of it
        self.messages: dict[str, Body] = {}  # as the API shows them, both directions, by SID
        self.media = TwilioMedia(store_url=lambda: self._store.url, leaked=lambda leak: self.leaks.append(leak))
        self._store = Listener(self.media.serve, store_port)

    def key(self, number: TwilioSender) -> str:
        return number.phone_number

    async def start(self) -> None:
        await super().start()
        await self._store.open()

    async def close(self) -> None:
        await self._store.close()
        await super().close()

    async def reset(self) -> None:
        await super().reset()
        self.account_fields.clear()
        self.contents.clear()
        self.services.clear()
        self.messages.clear()
        self.media.clear()

    # ---------------------------------------------------------------- senders and accounts

    async def add_number(self, sender: TwilioSender, *, own_port: bool = False) -> str:
        """Add *sender*, or replace what is known of it; returns its base URL.

        With *own_port* its connections can be refused while others live. A sender that brings a ``webhook_url``
        has it set already; one without waits for the gateway to set it.
        """
        state = self.numbers.get(sender.phone_number)
        if state is None:
            state = SenderState(sender, await self._listener(own_port=own_port))
            self.numbers[sender.phone_number] = state
        state.sender = sender
        return state.listener.url

    def senders_of(self, account_sid: str) -> list[SenderState]:
        return [state for state in self.numbers.values() if state.sender.account_sid == account_sid]

    def set_fields(self, number: TwilioSender | str, **fields: Any) -> None:
        """Change what the API shows of a sender, as ``status="OFFLINE"``. None takes the change back."""
        state = self.state_of(number)
        state.fields = {name: value for name, value in {**state.fields, **fields}.items() if value is not None}

    def set_account(self, account_sid: str, **fields: Any) -> None:
        """Change what the API shows of an account, as ``status="suspended"``: it sends nothing then."""
        self.account_fields[account_sid] = {**self.account_fields.get(account_sid, {}), **fields}

    def set_statuses(self, number: TwilioSender | str, policy: TwilioStatusPolicy) -> None:
        self.state_of(number).policy = policy

    def contents_of(self, account_sid: str) -> dict[str, TwilioContent]:
        return self.contents.setdefault(account_sid, {})

    def add_content(self, account_sid: str, body: Any) -> TwilioContent:
        """Make the content resource of *body*, as the API does."""
        content = checked_content(body, new_sid(self.rng, "HX"))
        self.contents_of(account_sid)[content.sid] = content
        return content

    # ---------------------------------------------------------------- webhooks

    def inbound(self, number: TwilioSender | str, *, seed: int | None = None, people: int = 20) -> TwilioInbound:
        """Makes inbound forms for a sender; their media can be downloaded here."""
        state = self.state_of(number)

        def keep(sids: tuple[str, str], data: bytes, mime_type: str) -> str:
            return self.media.add(state.sender, state.listener.url, sids, data, mime_type)

        return TwilioInbound(state.sender, seed=seed, people=people, keep=keep)

    def webhook_url(self, number: TwilioSender | str) -> str | None:
        """Where messages of a sender are posted, by itself or by its service; None: nowhere."""
        state = self.state_of(number)
        service = self.services.get(state.sender.messaging_service_sid or "", {})
        if service.get("use_inbound_webhook_on_number") is False:
            return service.get("inbound_request_url")
        return state.webhook["callback_url"] or None

    async def post(self, number: TwilioSender | str, form: Form) -> PostResult | None:
        """Sign the inbound message *form* and post it to the sender's webhook. None where there is none."""
        state = self.state_of(number)
        self._remember(state, form)
        url = self.webhook_url(number)
        if url is None:
            self.undeliverable += 1
            return None
        result = await self._post(state, url, form)
        if result is not None and result.delivered:
            self._listen_to(url, form, result)
        self.changed()
        return result

    async def post_status(
        self, message: TwilioMessage, status: str, *, error_code: int | None = None
    ) -> PostResult | None:
        """One status callback: to the message's own address, else the sender's. None where there is none."""
        state = self.state_of(message.phone_number)
        self._advance(message, status, error_code)
        url = message.status_callback or state.webhook["status_callback_url"] or None
        if url is None:
            return None
        has_service = message.parameter("MessagingServiceSid") is not None
        form = status_form(
            state.sender, message.sid, message.to, status, error_code=error_code, has_service=has_service
        )
        result = await self._post(state, url, form)
        self.changed()
        return result

    async def post_statuses(self, state: SenderState, message: TwilioMessage, fails_with: int | None) -> None:
        """All status callbacks of *message*: as the sender's policy has them, or its failure alone."""
        policy = state.policy
        statuses = policy.in_order if fails_with is None else ("failed",)
        code = fails_with or policy.failed_code
        posts = [
            partial(self.post_status, message, status, error_code=code if status in _FAILED else None)
            for status in statuses
        ]
        await self.post_paced(policy, posts)

    async def _post(self, state: SenderState, url: str, form: Form) -> PostResult | None:
        """Post *form* as the address itself asks for; None where its fragment is wrong and nobody is called."""
        try:
            retry = policy_of(url, self.pace)
        except ValueError:
            self.alerts.append(Alert(11243, url))
            return None
        headers = twilio_headers(state.sender, url, form)
        result = await self.webhooks.post(url.partition("#")[0], encode_form(form), headers, retry)
        if not result.delivered:
            self.alerts.append(Alert(11205 if result.status is None else 11200, url))
        return result

    def _listen_to(self, url: str, form: Form, result: PostResult) -> None:
        """Do what the answer to an inbound message says: anything but the empty TwiML says something."""
        if not result.body or (result.content_type.endswith("/xml") and _EMPTY_TWIML.fullmatch(result.body.strip())):
            return
        fields = dict(form)
        words: list[bytes] = []
        if result.content_type == "text/plain":
            words = [result.body]
        elif result.content_type.endswith("/xml"):
            words = _SPOKEN.findall(result.body)
        if not words:
            self.alerts.append(Alert(12100 if result.content_type.endswith("/xml") else 12300, url))
        sender, person = fields["To"].removeprefix(CHANNEL), fields["From"].removeprefix(CHANNEL)
        self.spoken += [Spoken(sender, person, body.decode("utf-8", "replace")) for body in words]

    def _remember(self, state: SenderState, form: Form) -> None:
        """What a person wrote is a resource, too."""
        fields, sid = dict(form), message_sid_of(form)
        known = message_resource(
            state.sender, sid, form, status="received", body=fields.get("Body", ""), at=time.time()
        )
        turned = {"from": fields["From"], "direction": "inbound", "num_media": fields.get("NumMedia", "0")}
        self.messages[sid] = {**known, **turned}

    def _advance(self, message: TwilioMessage, status: str, error_code: int | None) -> None:
        known = self.messages[message.sid]
        now = rfc2822(time.time())
        known["from"] = f"{CHANNEL}{message.phone_number}"
        if status in _FAILED:
            known |= {"status": status, "error_code": error_code, "error_message": words_of(error_code or 0)}
        elif _RANKS.get(status, -1) > _RANKS.get(known["status"], len(_RANKS)):
            known["status"] = status
        known["date_updated"] = now
        if status == "sent":
            known["date_sent"] = now
