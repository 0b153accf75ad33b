"""The contract every provider implements: a value whose fields are one configuration, whose methods are pure.

Nothing here, and nothing in a provider, opens a socket, reads a clock, a file or the environment. An
operation that needs the network is a *flow*: a generator that yields requests, is sent responses, and
returns its result. Whoever drives it (``ingress/calls/driver.py``, or three lines in a script) does the I/O. Where
there is no response, the driver throws `Unavailable` or `Uncertain` into the flow, which lets it pass.
"""

import abc
from collections.abc import Generator, Sequence
from typing import Any, ClassVar, Literal, TypeVar
from urllib.parse import parse_qsl, urlsplit

import msgspec

from . import limits
from .content import OutboundContent
from .description import Pacing, ProviderInfo, TimeLimits
from .errors import AccountBroken, Rejected, Restricted, Unsupported
from .messages import (
    Contact,
    Event,
    Media,
    Message,
    MessageData,
    MessageResult,
    Pairing,
    ProviderStatus,
    Recipient,
    TemplatePage,
    Trouble,
)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP call for the driver to make. Header names are lower case."""

    method: Literal["GET", "POST", "PUT", "DELETE"]
    url: str
    headers: dict[str, str] = {}
    body: bytes = b""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.method} {urlsplit(self.url).hostname})"


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """A file to give to a provider. The driver keeps its bytes."""

    mime_type: str
    filename: str
    size_bytes: int
    boundary: str  # random and in no file: for a provider that takes a form: it has no random numbers of its own

    def __repr__(self) -> str:
        return f"Upload({self.mime_type}, {self.size_bytes} bytes)"


class UploadRequest(Request, frozen=True, kw_only=True):
    """A call whose body is ``body``, then the file, then ``tail``. The driver sends the file once, and the length."""

    tail: bytes = b""


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """What came back, or what a webhook is answered with. Header names are lower case."""

    status: int
    headers: dict[str, str] = {}
    body: bytes = b""

    def __repr__(self) -> str:
        return f"Response({self.status})"


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """One request a provider made to us.

    ``url`` is the public one from our settings, never from the request's headers.
    """

    method: str
    url: str
    headers: dict[str, str]  # names in lower case
    body: bytes = b""

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.url).query, keep_blank_values=True))

    def __repr__(self) -> str:
        return f"Webhook({self.method}, {len(self.body)} bytes)"


Result = TypeVar("Result")
Flow = Generator[Request, Response, Result]


class Check(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of a connection test. A failed check that is not ``fatal`` leaves sending possible."""

    name: str
    passed: bool
    detail: str | None = None
    fix: str | None = None  # what a person does about it
    fatal: bool = True
    checkable: bool = True  # False: it cannot be seen from here, and is taken as ``passed``

    @classmethod
    def ok(cls, name: str, detail: str | None = None) -> "Check":
        return cls(name=name, passed=True, detail=detail, fatal=False)

    @classmethod
    def failed(cls, name: str, detail: str, fix: str, *, fatal: bool = False) -> "Check":
        return cls(name=name, passed=False, detail=detail, fix=fix, fatal=fatal)


# It may also yield each check as soon as that is done, for the person who waits; what is sent for one says nothing.
ChecksFlow = Generator[Request | Check, Response, Result]


def reported(check: Check) -> ChecksFlow[Check]:
    """*check*, which is shown before the test goes on."""
    yield check
    return check


class _ProviderMeta(msgspec.StructMeta, abc.ABCMeta):
    """msgspec's structs do not know abstract methods by themselves."""


class WhatsAppProvider(msgspec.Struct, frozen=True, kw_only=True, metaclass=_ProviderMeta):
    """One account at one provider.

    Fields are its ``config_data``. Each carries a ``msgspec.Meta`` with a title, and in ``extra`` what a form
    needs besides: ``{"secret": True, "placeholder": "…", "link": "https://…"}``, the link being the provider's page on
    which the value is found; ``"own": True`` where people make it up, ``"usual": True`` where it may be left out and
    mostly is not, ``"signs": True`` where webhooks are signed with it, and ``"app": True`` where it is the same for all
    accounts behind one app.
    A subclass sets ``info`` and implements every abstract method; `providers.Registry` refuses one that does not.
    """

    info: ClassVar[ProviderInfo]
    # What a webhook is answered with once its events are stored.
    acknowledgement: ClassVar[Response] = Response(status=200)
    # Whether writing the webhook also starts the account anew, so that it comes before `setup`, which then finds it so.
    webhook_first: ClassVar[bool] = False
    # What stands for an account's own fields where there is none, only the app behind it. Empty: there are no apps.
    no_account: ClassVar[dict[str, Any]] = {}

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def sender(self) -> str | None:
        """The business number in E.164, where the configuration says it."""
        return None

    @property
    def accounts(self) -> tuple[str, ...]:
        """What this account is called in webhooks: first the number's name, then those that it shares with others.

        They are unique at the provider, or hold the address of its host. Empty: webhooks name none.
        """
        return ()

    @property
    def people_scope(self) -> str:
        """Within what this account's ``user_id`` of a person is theirs alone, as far as the configuration says it.

        Accounts with the same one see the same ids; empty: all of the provider's do.
        """
        return ""

    def proven(self, checks: Sequence[Check]) -> tuple[str, ...]:
        """Those of `accounts` that a passed connection test has proven, by its *checks*, to be this one's."""
        return ()

    @property
    def pacing(self) -> Pacing | None:
        """How fast this account may send; None: as fast as the provider takes it."""
        return self.info.pacing

    @property
    def time_limits(self) -> TimeLimits:
        return self.info.time_limits

    # -- inbound, pure

    @abc.abstractmethod
    def challenge(self, hook: Webhook) -> Response | None:
        """The answer to a verification handshake, or None where *hook* is none."""

    @abc.abstractmethod
    def verify(self, hook: Webhook) -> None:
        """Return if *hook* came from the provider, else raise `Unverified`. Looks at bytes, not content."""

    @abc.abstractmethod
    def parse(self, hook: Webhook) -> list[Event]:
        """Every item of *hook* as an event, in order; raises nothing but `Malformed`."""

    def callback_url(self, webhook_url: str) -> str:
        """*webhook_url* as it is set at the provider: some take instructions in it, as for retries."""
        return webhook_url

    def owns(self, event: Event) -> bool:
        """Whether *event* is about this very account: a signature may be shared by the tenants of one app."""
        return True

    def account_of(self, event: Event) -> str | None:
        """The account that *event* names, as it is called in `accounts`, this one or another. None: it names none.

        Where it is one of `accounts`, this account owns the event. Needs no field but those of the app.
        """
        return None

    def probe(self, callback_url: str) -> Request:
        """A webhook to *callback_url*, signed as the provider signs, that gives no event: for us to post to ourselves.

        Raises `Unsupported` where none is to be had.
        """
        raise Unsupported("this provider has no webhook for testing the address", code="probe")

    def check_limits(self, content: OutboundContent) -> None:
        """Return where *content* is within `info.limits`, else raise `Unsupported`, which names the limit.

        For `send_message` to begin with: then another provider, which may take it, is asked.
        """
        limits.check(content, self.info.limits, self.info.display_name)

    # -- operations: flows. Each may raise any SendError.

    @abc.abstractmethod
    def setup(self) -> Flow[None]:
        """Prepare the account for use. May be run again at any time."""

    @abc.abstractmethod
    def validate_config(self, callback_url: str | None = None) -> ChecksFlow[list[Check]]:
        """Test the configuration against the provider without changing anything or messaging anybody.

        With *callback_url*, also that its webhooks are posted there: the check `webhook`. Those that are done before
        the next call may be `reported`; all of them are in the result.
        """

    @abc.abstractmethod
    def get_status(self) -> Flow[ProviderStatus]:
        """How the account is doing now."""

    @abc.abstractmethod
    def receive_messages(self, callback_url: str) -> Flow[None]:
        """Have the provider post its webhooks to *callback_url*. `Unsupported` where only people can."""

    def repair(self, callback_url: str) -> Flow[None]:
        """Set at the provider what a test finds missing there, also where `receive_messages` leaves it to people."""
        yield from self.receive_messages(callback_url)
        yield from self.setup()

    @abc.abstractmethod
    def disconnect(self) -> Flow[None]:
        """Undo `receive_messages`."""

    @abc.abstractmethod
    def send_message(self, message: MessageData) -> Flow[MessageResult]:
        """Send. `Unsupported` and local `Rejected` are raised before the first request is yielded."""

    @abc.abstractmethod
    def media(self, media_id: str) -> Flow[Media]:
        """Where the bytes of an inbound medium are."""

    # -- one message with several ids

    def message_key(self, message_id: str) -> str:
        """What all ids of one message have in common, where the provider has several for it; else *message_id* itself.

        Equal keys of an account are one message.
        """
        return message_id

    def event_key(self, event: Event, message_id: str) -> str | None:
        """The ``key`` of the event that the message came in with which *event*, about it, calls *message_id*.

        For the CRM to get the id that it knows. None where the provider has only one for it.
        """
        return None

    # -- what not every provider can: `info.capabilities` says so beforehand

    def mark_read(self, message_id: str, chat: Recipient, *, typing: bool = False) -> Flow[None]:
        """Show an inbound message of *chat* as read, and, if *typing*, that an answer is being written."""
        raise Unsupported("this provider sends no read receipts", code="receipts")

    def stop_typing(self, chat: Recipient) -> Flow[None]:
        """Stop showing in *chat* that an answer is being written. May be repeated freely."""
        raise Unsupported("typing ends by itself here, with the answer or after a while", code="stop_typing")

    def upload(self, upload: Upload) -> Flow[str]:
        """Give the provider a file to send later: returns its id. May be repeated: a lost answer costs a stray file."""
        raise Unsupported("this provider takes files only by their URL", code="uploads")

    def delete_media(self, media_id: str) -> Flow[None]:
        """Have the provider forget a medium."""
        raise Unsupported("this provider stores no files", code="uploads")

    def list_templates(self, after: str | None = None) -> Flow[TemplatePage]:
        """A page of the account's message templates: the first, or the one after *after*, its ``next``."""
        raise Unsupported("this provider lists no templates", code="list_templates")

    def find_message(self, message: MessageData) -> Flow[MessageResult | None]:
        """*message* as the provider has it, where its answer was lost; None where nobody can know."""
        raise Unsupported("this provider cannot look a message up", code="find_message")

    def is_echo(self, echo: Message, sent: MessageData) -> bool:
        """Whether *echo*, which a program sent through the account, says what *sent* does, as far as it can be seen.

        Asked where the answer to *sent* was lost, of messages in its chat that no other answer has named.
        """
        return False

    def find_phone(self, lid: str) -> Flow[str | None]:
        """The number (E.164) behind the hidden one *lid*; None where the provider does not know it either."""
        raise Unsupported("this provider knows no hidden numbers", code="find_phone")

    def find_contact(self, phone: str) -> Flow[Contact | None]:
        """Who has the number *phone* (E.164), spelled as WhatsApp spells it; None: it is not on WhatsApp."""
        raise Unsupported("this provider does not say whether a number is on WhatsApp", code="find_contact")

    def pairing(self) -> Flow[Pairing]:
        """How to link a phone to the account now."""
        raise Unsupported("this provider is not linked to a phone", code="pairing")

    def pairing_code(self, phone: str) -> Flow[str]:
        """A code to type into WhatsApp on the phone with the number *phone* (E.164), in place of a QR code."""
        raise Unsupported("this provider is not linked to a phone", code="pairing")

    def unpair(self) -> Flow[None]:
        """Unlink the phone: another one, or the same, may then be linked. May be repeated freely."""
        raise Unsupported("this provider is not linked to a phone", code="pairing")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"

    # msgspec gives a struct with its own __rich_repr__; fields hold credentials, so it shows none either.
    def __rich_repr__(self) -> Any:
        yield "name", self.info.name


def refused_status(error: AccountBroken | Restricted | Rejected) -> ProviderStatus:
    """The status of an account that is refused even when it asks for its own."""
    trouble: Trouble = "credentials"
    if isinstance(error, Restricted):
        trouble = "account_restricted"
    elif error.scope == "session":
        trouble = "session_lost"
    return ProviderStatus(
        is_connected=False,
        connection_quality="disconnected",
        session_info={"error_code": error.code},
        detail=error.detail,
        trouble=trouble,
    )
