"""What every provider promises, as checks that say what is wrong and what to do. They need no test runner."""

import itertools
from collections.abc import Mapping
from functools import cached_property, partial
from random import Random
from typing import Any, ClassVar

import msgspec

from ..base import Request, Response, Upload, Webhook, WhatsAppProvider
from ..content import Document, Image, Interactive, MediaContent, PollVote, Reaction, Video
from ..description import ProviderInfo, config_fields
from ..errors import Malformed, Rejected, SendError, Unsupported, Unverified
from ..limits import VARIANTS, kind_of
from ..messages import Event, MessageData, MessageResult, Recipient
from ..registry import ENTRY_POINT_GROUP, Registry, UnknownProvider
from . import mutations
from .bounds import slow, unbounded
from .comparing import ContractBroken, ask, ask_error, ask_request, ask_same, difference, ending, shown
from .driving import Start, Unanswered, run
from .messages import ACTIONS, KINDS, PHONE, example, sized
from .samples import DocumentedError, FlowCase, Samples, WebhookCase

# What can be asked for besides sending; `templates` says the same as the content type.
FEATURES = (
    "find_contact",
    "find_message",
    "find_phone",
    "groups",
    "list_templates",
    "media",
    "pairing",
    "receipts",
    "stop_typing",
    "typing",
    "uploads",
)
_WORDS = {*FEATURES, *KINDS, "interactive", "templates"}

_URL = "https://gw.example.org/webhooks/provider/token"
_LID = "98765432101234@lid"
_MAX_KEY = 512  # it goes into an index
_FILE = Upload(mime_type="image/png", filename="a.png", size_bytes=3, boundary="b0")
_FILE_URL = "https://files.example.com/file"
_HEADERS: dict[str, str | MediaContent] = {
    "text": "Hello",
    "image": Image(url=_FILE_URL),
    "video": Video(url=_FILE_URL),
    "document": Document(url=_FILE_URL),
}
# Content that nobody quotes or edits: its key may be made in another way.
_ABOUT_OTHERS = (Reaction, PollVote)
# Events about messages that were sent. The service finds which one by its id.
_OF_OURS = ("message.status", "message.echo")
# Headers that say how to read a request, and prove nothing.
_DESCRIBING = {"content-type", "content-length", "host", "user-agent"}


class Contract:
    """One account of a provider, its samples, and the checks.

    A subclass sets ``provider``, and what else there is.
    """

    provider: WhatsAppProvider
    samples: Samples = Samples()
    # Messages of kinds that have no sample, where this provider refuses those of `messages.example`.
    messages: ClassVar[Mapping[str, MessageData]] = {}
    # Ids as this provider gives them. None: those of the samples.
    media_id: str | None = None
    message_id: str | None = None
    group_id: str = "120363000000000042@g.us"
    # False: the provider proves itself by a token alone, and whoever has that may say anything.
    signs_body: bool = True

    def sign(self, hook: Webhook) -> Webhook:
        """*hook* signed as the provider signs. As it stands here, samples were captured with their signatures."""
        return hook

    def seen(self, event: Event) -> Any:
        """*event* in the form in which the samples write what they expect."""
        return msgspec.json.decode(msgspec.json.encode(event))

    # ------------------------------------------------------------ the class

    def check_registered(self) -> None:
        """The registry finds the provider under its name and takes it for whole."""
        kind, name = type(self.provider), self.provider.info.name
        try:
            found = Registry().get(name)
        except UnknownProvider as error:
            raise ContractBroken(
                f"{error}. Name it in the pyproject.toml of its distribution, and install that (pip install -e .):\n"
                f'    [project.entry-points."{ENTRY_POINT_GROUP}"]\n    {name} = "{kind.__module__}:{kind.__name__}"'
            ) from None
        ask(found is kind, f"the registry has another class under {name!r}: {found.__module__}.{found.__name__}")

    def check_description(self) -> None:
        """What people choose by is there, and each capability is one that means something."""
        info, fields = self.provider.info, config_fields(type(self.provider))
        ask(isinstance(info, ProviderInfo), "info is no ProviderInfo")
        ask(info.name.isidentifier() and info.name.islower(), f"info.name {info.name!r} is no lower-case identifier")
        ask(bool(info.display_name and info.description), "info has no display_name, or no description")
        unknown = sorted(info.capabilities - _WORDS)
        ask(not unknown, f"info.capabilities has words that mean nothing: {unknown}; there are {sorted(_WORDS)}")
        taps = bool(info.capabilities & set(ACTIONS))
        ask(taps == ("interactive" in info.capabilities), "capabilities: 'interactive' and an action come together")
        sends = "template" in info.capabilities
        ask(sends == ("templates" in info.capabilities), "capabilities: 'template' and 'templates' come together")
        beyond = sorted({VARIANTS.get(kind, kind) for kind in info.limits} - info.capabilities)
        ask(not beyond, f"info.limits has kinds that are not among the capabilities: {beyond}")
        untitled = [field.name for field in fields if field.title == field.name]
        ask(not untitled, f"fields without a title, which forms need, as in msgspec.Meta(title=...): {untitled}")
        endless = unbounded(type(self.provider))
        ask(not endless, f"fields that may be of any length, and need a msgspec.Meta(max_length=...): {endless}")
        patterns = [field.name for field in fields if field.pattern and slow(field.pattern)]
        ask(not patterns, f"patterns that take seconds where two repetitions meet at the same characters: {patterns}")
        secret = any(field.secret and field.required for field in fields)
        ask(secret, 'no required field is marked extra={"secret": True}: by what are webhooks verified?')

    # ------------------------------------------------------------ webhooks

    def check_webhook(self, case: WebhookCase) -> None:
        """A sample is verified and read, and gives what it is expected to give."""
        hook = case.hook if case.error == "Unverified" else self.sign(case.hook)
        if case.answer is not None:
            self._check_challenge(case.answer, hook)
            return
        verified = self.verifies(hook)
        if case.error == "Unverified":
            ask(not verified, "verify accepts it, and it is forged")
            return
        ask(verified, "verify raises Unverified: does `sign` sign as the provider does, for its account?")
        ask(self.provider.challenge(hook) is None, "challenge takes this webhook for a handshake")
        self.check_reading(case)

    def _check_challenge(self, expected: dict[str, Any], hook: Webhook) -> None:
        answer = self.provider.challenge(hook)
        if answer is None:
            raise ContractBroken("challenge gives no answer to this handshake")
        body = answer.body.decode("utf-8", "backslashreplace")
        ask_same(expected, {**msgspec.to_builtins(answer), "body": body}, "the answer to the handshake")

    def check_reading(self, case: WebhookCase) -> None:
        """The events of a sample, whoever sent it."""
        try:
            events = self.read(case.hook)
        except Malformed as error:
            ask(case.error == "Malformed", f"parse raises Malformed: {error}")
            return
        ask(case.error != "Malformed", f"parse gives {len(events)} events, and was to raise Malformed")
        if case.events is not None:
            ask_same(case.events, [self.seen(event) for event in events], "what parse gives")
        if case.owned is not None:
            owned = [self.provider.owns(event) for event in events]
            ask(owned == [case.owned] * len(events), f"owns() says {owned} of the events, not {case.owned}")
        if case.about is not None:
            self._check_about(case.about, events)

    def _check_about(self, name: str, events: list[Event]) -> None:
        """What *events* report, or show, is the message that the sample *name* sends."""
        flows = [flow for flow in self.samples.flows if flow.name == name]
        ends = [run(partial(one.start, self.provider), [each.answer for each in one.exchanges]).end for one in flows]
        sent = [end.provider_message_id for end in ends if isinstance(end, MessageResult) and end.provider_message_id]
        if not sent:
            raise ContractBroken(f"it is about {name!r}, and no sample of that name sends a message and gets an id")
        named = [identity for event in events if event.type in _OF_OURS and (identity := _identity(event))]
        ask(
            {self.provider.message_key(one) for one in named} == {self.provider.message_key(sent[0])},
            f"its statuses and echoes name {named}, and {name!r} sent {sent[0]!r}: the service finds a message by its "
            f"message_key, which all its ids have in common",
        )

    def read(self, hook: Webhook) -> list[Event]:
        """The events of *hook*, or Malformed. What else is raised, or cannot be stored, breaks the contract."""
        try:
            events = self.provider.parse(hook)
        except Malformed:
            raise
        except Exception as error:
            flaw = f"parse raises {type(error).__name__} ({error}), and may raise nothing but Malformed"
            raise ContractBroken(f"{flaw}, on {shown(hook)}") from error
        keys = [event.key for event in events]
        repeated = sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else []
        ask(not repeated, f"two events of one webhook have the same key {repeated}, on {shown(hook)}")
        for event in events:
            self._check_event(event, hook)
        return events

    def _check_event(self, event: Event, hook: Webhook) -> None:
        ask(0 < len(event.key) <= _MAX_KEY, f"a key has {len(event.key)} characters, on {shown(hook)}")
        about = sum(one is not None for one in (event.message, event.status, event.account))
        ask(about == 1, f"an event has {about} of message, status and account, not one, on {shown(hook)}")
        changes = event.type in ("message.edited", "message.deleted")
        by = event.message.by if event.message else None
        ask(
            changes == (by is not None) or (event.type, by) == ("message.unknown", "business"),
            f"message.edited and message.deleted say who did it, by='contact' or by='business', and nothing else "
            f"does but a message.unknown of the business: a {event.type} has {by!r}, on {shown(hook)}",
        )
        self._check_ids(event, hook)
        try:
            stored = msgspec.json.encode(event)
            msgspec.json.decode(stored)
        except (msgspec.MsgspecError, UnicodeError, TypeError, ValueError) as error:
            raise ContractBroken(f"an event cannot be written as JSON: {error}, on {shown(hook)}") from error
        # A backslash of the text itself is written as two.
        nul = b"\\u0000" in stored.replace(b"\\\\", b"")
        ask(not nul, f"an event has U+0000, which PostgreSQL does not store, on {shown(hook)}")
        self.provider.owns(event)

    def _check_ids(self, event: Event, hook: Webhook) -> None:
        """By them events find the message that they are about, and the one that it came in with."""
        identity = _identity(event)
        if not identity:
            ask(event.type not in _OF_OURS, f"a {event.type} names no message (provider_message_id), on {shown(hook)}")
            return
        key = self.provider.message_key(identity)
        ask(isinstance(key, str) and key != "", f"message_key gives {key!r} for the id of a message, on {shown(hook)}")
        if event.type == "message.received" and event.message and not isinstance(event.message.content, _ABOUT_OTHERS):
            came_in = self.provider.event_key(event, identity)
            ask(
                came_in in (None, event.key),
                f"event_key of the id that a message came in with is not the key of its event, on {shown(hook)}",
            )

    def check_stable(self, case: WebhookCase) -> None:
        """The same webhook again gives the same events under the same keys."""
        events = self._events(case.hook)
        ask(events == self._events(case.hook), "the second time, parse gives other events, or other keys")

    def check_ownership(self, case: WebhookCase) -> None:
        """An event about another number is not ours: one secret may sign for all numbers of an app or a server."""
        for event in self._events(case.hook):
            named = self.provider.account_of(event) in self.provider.accounts
            ask(
                not named or self.provider.owns(event),
                "account_of() names this account, and owns() says it is not ours",
            )
            if event.sender is None and event.sender_id is None:
                continue
            foreign = msgspec.structs.replace(
                event,
                sender=event.sender and "+19995550000",
                sender_id=event.sender_id and "foreign",
                account_id=event.account_id and "foreign",
            )
            ask(
                not self.provider.owns(foreign),
                "owns() takes an event about another number (another sender, sender_id and account_id) for ours",
            )

    def check_private(self, case: WebhookCase) -> None:
        """No repr of an event shows what a person wrote."""
        for event in self._events(case.hook):
            content = event.message.content if event.message else None
            written = getattr(content, "body", None) or getattr(content, "caption", None)
            if isinstance(written, str) and len(written) > 3:
                ask(written not in f"{event!r}{event.message!r}{content!r}", "a repr shows what a person wrote")

    def check_forged(self, case: WebhookCase, random: Random) -> None:
        """One byte of the body or of the signature another, and it is Unverified."""
        hook = self.sign(case.hook)
        other = mutations.forged(hook, self._signed_by(hook), random, body=self.signs_body)
        if self.verifies(other):
            # Another spelling of the very same, as %3a for %3A in a form, is no forgery.
            same = other.headers == hook.headers and self._events(other) == self._events(hook)
            ask(same, f"{case}: verify accepts it with a byte changed: {difference(hook, other)}")

    def check_probe(self) -> None:
        """What we post to ourselves is verified and gives no event, where there is such a thing."""
        try:
            probe = self.provider.probe(_URL)
        except Unsupported:
            return
        hook = Webhook(method=probe.method, url=probe.url, headers=probe.headers, body=probe.body)
        ask(self.verifies(hook), "verify raises Unverified for probe")
        ask(not self.verifies(msgspec.structs.replace(hook, headers={})), "verify accepts probe without its headers")
        ask(self.provider.challenge(hook) is None, "challenge takes probe for a handshake")
        ask(not self.read(hook), "probe gives events, and people would see them")

    def verifies(self, hook: Webhook) -> bool:
        """Whether verify accepts *hook*; it raises Unverified and nothing else, whatever comes."""
        try:
            self.provider.verify(hook)
        except Unverified:
            return False
        except Exception as error:
            flaw = f"verify raises {type(error).__name__} ({error}), and may raise nothing but Unverified"
            raise ContractBroken(f"{flaw}, on {shown(hook)} at {hook.url!r} with the headers {hook.headers}") from error
        return True

    # ------------------------------------------------------------ operations

    def check_flow(self, case: FlowCase) -> None:
        """A sample asks for what it is expected to ask for, and ends as expected."""
        done = run(lambda: case.start(self.provider), [exchange.answer for exchange in case.exchanges])
        for number, (request, exchange) in enumerate(zip(done.asked, case.exchanges, strict=False), 1):
            if exchange.request is not None:
                ask_request(exchange.request, request, f"request {number}")
        count, wanted = len(done.asked), len(case.exchanges)
        ask(count == wanted, f"it makes {count} requests, not {wanted}, and ends with {ending(done.end)}")
        if isinstance(done.end, Unanswered):
            raise ContractBroken(f"after {wanted} requests it makes another one: {ending(done.end.request)}")
        if case.error is not None:
            ask_error(case.error, done.end, "this flow")
            return
        ask(not isinstance(done.end, SendError), f"it ends with {ending(done.end)}")
        if case.result is not msgspec.UNSET:
            ask_same(case.result, msgspec.to_builtins(done.end), "the result")

    def check_repeatable(self, case: FlowCase) -> None:
        """The same call makes the same requests, byte for byte: nothing random, no order by chance, no clock."""
        answers = [exchange.answer for exchange in case.exchanges]
        once, again = (run(lambda: case.start(self.provider), answers).requests for _ in range(2))
        ask(once == again, "the second time, its requests are not the same, byte for byte")

    def check_documented_error(self, row: DocumentedError) -> None:
        """An answer to a send that the provider documents is the error it is expected to be."""
        done = run(lambda: self.provider.send_message(self.message("text")), [row.answer] * 5)
        ask_error(row.error, done.end, "this answer")

    def check_kind(self, kind: str) -> None:
        """A kind of content among the capabilities gives a request; any other is Unsupported before there is one."""
        first = run(lambda: self.provider.send_message(self.message(kind))).first
        self._ask_agreement(kind, first, "Where this example of it is refused, add a sample that is not.")

    def limits(self) -> list[tuple[str, str]]:
        """The kinds of message, and their parts, that have a number in `info.limits`."""
        return [(kind, part) for kind, limits in self.provider.info.limits.items() for part in limits.at_most]

    def check_limit(self, kind: str, part: str) -> None:
        """A message one above a limit is Unsupported before any request, and says so; one at the limit is not."""
        most = self.provider.info.limits[kind].at_most[part]
        above, within = (self._sent_sized(kind, part, size) for size in (most + 1, most))
        where = f"info.limits[{kind!r}].at_most[{part!r}] is {most}"
        ask(
            isinstance(above, Unsupported) and (not most or f"{most:,}" in above.detail),
            f"{where}; one more must raise Unsupported before any request, and name the limit; it gives "
            f"{ending(above)}. `send_message` begins with self.check_limits(message.content).",
        )
        same = isinstance(within, SendError) and within.code == above.code
        ask(not same, f"{where}; a message of just that size ends with {ending(within)}")

    def check_headers_and_types(self, kind: str) -> None:
        """What is no header and no type of file in `info.limits` is Unsupported before any request."""
        limits, message = self.provider.info.limits[kind], self._of(kind)
        others: list[dict[str, Any]] = [] if limits.mime_types is None else [{"mime_type": "application/x-unknown"}]
        beyond = [tag for tag in _HEADERS if tag not in limits.headers] if limits.headers is not None else []
        if isinstance(message.content, Interactive):
            others += [{"header": _HEADERS[tag]} for tag in beyond]
        elif kind == "template":
            others += [{"components": [{"type": "header", "parameters": [{"type": tag, tag: {}}]}]} for tag in beyond]
        for other in others:
            changed = msgspec.structs.replace(message, content=msgspec.structs.replace(message.content, **other))
            first = run(partial(self.provider.send_message, changed)).first
            ask(isinstance(first, Unsupported), f"{kind} with {[*other]} beyond info.limits gives {ending(first)}")

    def _sent_sized(self, kind: str, part: str, size: int) -> Any:
        """The first request of a message of *kind* whose *part* has that *size*, or how it ends without one."""
        message = sized(self._of(kind), part, size)
        if message is None:
            raise ContractBroken(f"info.limits[{kind!r}] has a part that no message of this kind has: {part!r}")
        return run(lambda: self.provider.send_message(message)).first

    def _of(self, kind: str) -> MessageData:
        message = self.message(VARIANTS.get(kind, kind))
        if kind not in VARIANTS:
            return message
        variant = {"voice": True} if kind == "voice" else {"animated": False}
        return msgspec.structs.replace(message, content=msgspec.structs.replace(message.content, **variant))

    def check_feature(self, feature: str) -> None:
        """What is among the capabilities can be asked for; what is not raises Unsupported before there is a request."""
        for name, start in self._starts_of(feature).items():
            first = run(start).first
            # An id that the kit made up may be refused: then it could be asked for.
            known = not isinstance(first, Rejected)
            self._ask_agreement(feature, first if known else None, f"The operation is {name}.")

    def check_ending(self, operation: str, random: Random) -> None:
        """Whatever is answered, and wherever the line dies, an operation ends: with a result or a SendError."""
        # Again and again, unless the line dies: what ends only then would never end.
        answers: list[Response | SendError] = mutations.answers(self.answers(), random)
        try:
            run(self.operations()[operation], itertools.cycle(answers))
        except ContractBroken as error:
            told_it = [(one.status, one.body[:300]) if isinstance(one, Response) else repr(one) for one in answers]
            raise ContractBroken(
                f"{operation}: {error}. It was answered, again and again, {told_it}"
            ) from error.__cause__

    def check_secrets(self) -> None:
        """No secret is in a repr, in an address, or in an error that quotes the provider's answer."""
        account, hidden = self._with_secrets("a")
        twins = self.operations(self._with_secrets("b")[0])
        shown_account = f"{account!r}{account}{[account]}{dict(account.__rich_repr__())}"
        ask(not _found(hidden, shown_account), "a repr of the account shows a secret: WhatsAppProvider's own does not")
        for name, start in self.operations(account).items():
            asked = run(start, self.answers()[:3]).requests
            credentials = hidden + _credentials(asked, run(twins[name], self.answers()[:3]).requests)
            for request in asked:
                ask(not _found(credentials, request.url), f"{name}: a secret is in an address, which lands in logs")
                ask(not _found(credentials, f"{request!r}{request}"), f"{name}: a request shows a secret")
            self._check_quotation(name, start, credentials)

    def _check_quotation(self, name: str, start: Start, credentials: list[str]) -> None:
        quoting = f"refused: {' '.join(credentials)}"
        bodies = dict.fromkeys([quoting.encode(), *(mutations.with_texts(one.body, quoting) for one in self.answers())])
        for body in list(bodies)[:25]:
            for status in (200, 400, 401, 403, 429, 500):
                end = run(start, [Response(status=status, body=body)] * 5).end
                if isinstance(end, SendError):
                    text = f"{end}{end!r}{end.detail}{end.code}{end.scope}{end.args}{end.__cause__}"
                    ask(not _found(credentials, text), f"{name}: an error quotes a secret that was in an answer")

    # ------------------------------------------------------------ what the checks are made of

    def message(self, kind: str) -> MessageData:
        """One of *kind*: the author's, else that of a sample which is sent, else the kit's."""
        return self.messages.get(kind) or self._sampled.get(kind) or example(kind)

    @cached_property
    def _sampled(self) -> dict[str, MessageData]:
        sent = [
            case.arguments["message"] for case in self.samples.flows if case.exchanges and "message" in case.arguments
        ]
        return {kind_of(message.content): message for message in reversed(sent)}

    def genuine(self) -> list[WebhookCase]:
        """The samples that the provider may really have sent."""
        return [case for case in self.samples.webhooks if case.answer is None and case.error is None]

    def answers(self) -> list[Response]:
        """All answers in the samples; one, where there is none."""
        every = [exchange.answer for case in self.samples.flows for exchange in case.exchanges]
        every += [row.answer for row in self.samples.errors]
        return [one for one in every if isinstance(one, Response)] or [Response(status=200, body=b'{"id":"1"}')]

    def operations(self, account: WhatsAppProvider | None = None) -> dict[str, Start]:
        """Every operation of the contract, ready to be started."""
        one, chat = account or self.provider, Recipient(phone=PHONE)
        medium, read = self._ids
        return {
            "setup": one.setup,
            "validate_config": lambda: one.validate_config(_URL),
            "get_status": one.get_status,
            "receive_messages": lambda: one.receive_messages(_URL),
            "disconnect": one.disconnect,
            "send_message": lambda: one.send_message(self.message("text")),
            "send_message(buttons)": lambda: one.send_message(self.message("buttons")),
            "media": lambda: one.media(medium),
            "mark_read": lambda: one.mark_read(read, chat),
            "mark_read(typing)": lambda: one.mark_read(read, chat, typing=True),
            "stop_typing": lambda: one.stop_typing(chat),
            "find_message": lambda: one.find_message(self.message("text")),
            "find_phone": lambda: one.find_phone(_LID),
            "find_contact": lambda: one.find_contact(PHONE),
            "list_templates": lambda: one.list_templates("cursor"),
            "upload": lambda: one.upload(_FILE),
            "delete_media": lambda: one.delete_media(medium),
            "pairing": one.pairing,
            "pairing_code": lambda: one.pairing_code(PHONE),
            "unpair": one.unpair,
        }

    def _starts_of(self, feature: str) -> dict[str, Start]:
        if feature == "groups":
            message = msgspec.structs.replace(self.message("text"), to=Recipient(group_id=self.group_id))
            return {"send_message to a group": lambda: self.provider.send_message(message)}
        names = {
            "receipts": ["mark_read"],
            "typing": ["mark_read(typing)"],
            "pairing": ["pairing", "pairing_code", "unpair"],
            "uploads": ["upload", "delete_media"],
        }
        return {name: self.operations()[name] for name in names.get(feature, [feature])}

    def _ask_agreement(self, word: str, first: Any, hint: str) -> None:
        """*first* is a request, or how the operation ended without one."""
        if word in self.provider.info.capabilities:
            ask(
                not isinstance(first, SendError),
                f"{word!r} is among the capabilities, and ends with {ending(first)} before any request. {hint}",
            )
        else:
            ask(
                isinstance(first, Unsupported),
                f"{word!r} is not among the capabilities, and must raise Unsupported before any request; "
                f"it gives {ending(first)}. {hint}",
            )

    def _events(self, hook: Webhook) -> list[Event]:
        try:
            return self.provider.parse(hook)
        except Malformed:
            return []

    def _signed_by(self, hook: Webhook) -> list[str]:
        """The headers without which *hook* is not verified."""
        ask(self.verifies(hook), "a sample is not verified as it is: does `sign` sign as the provider does?")
        names = hook.headers.keys() - _DESCRIBING
        without = {name: {key: value for key, value in hook.headers.items() if key != name} for name in names}
        needed = [
            name for name in sorted(names) if not self.verifies(msgspec.structs.replace(hook, headers=without[name]))
        ]
        ask(bool(needed), "a webhook is verified without any of its headers: what in it proves who sent it?")
        return needed

    @cached_property
    def _ids(self) -> tuple[str, str]:
        """Of a medium and of an inbound message."""
        media, messages = [self.media_id], [self.message_id]
        for event in [event for case in self.genuine() for event in self._events(case.hook)]:
            if event.message is not None and event.type == "message.received":
                content = event.message.content
                media.append(content.id if isinstance(content, MediaContent) else None)
                messages.append(event.message.provider_message_id)
        return next(filter(None, media), "1"), next(filter(None, messages), "m1")

    def _with_secrets(self, mark: str) -> tuple[WhatsAppProvider, list[str]]:
        """The account with texts that nobody takes for another in its secret fields, and these texts."""
        names = [field.name for field in config_fields(type(self.provider)) if field.secret]
        known = {name: value for name in names if isinstance(value := getattr(self.provider, name, None), str)}
        made = {name: f"hidden-{mark}-{name}-7f3a9c" for name in known}
        try:
            return msgspec.structs.replace(self.provider, **made), list(made.values())
        except ValueError:
            # Secrets that have a form of their own, as keys: then these very ones are looked for.
            return self.provider, list(known.values())


def _identity(event: Event) -> str | None:
    """The provider's id of the message that came in *event*, or that it reports."""
    holder = event.message or event.status
    return holder.provider_message_id if holder else None


def _found(hidden: list[str], text: str) -> bool:
    return any(one in text for one in hidden)


def _credentials(asked: list[Request], twins: list[Request]) -> list[str]:
    """The words that the headers of *asked* have only because of its secrets: *twins* are the same with others."""
    found: list[str] = []
    for request, twin in zip(asked, twins, strict=False):
        for name, value in request.headers.items():
            found += [word for word in value.split() if word not in twin.headers.get(name, "").split()]
    return list(dict.fromkeys(found))
