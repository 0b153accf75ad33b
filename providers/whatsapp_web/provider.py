"""WhatsApp Web, through a WAHA server of one's own.

WAHA runs a WhatsApp Web client as a linked device of a phone, with one of several libraries, its *engines*:
whatsapp-web.js (WEBJS), WPPConnect (WPP), Baileys (NOWEB), whatsmeow (GOWS). Each webhook says which; no configuration
does.

Source: https://waha.devlike.pro/docs (July 2026, WAHA 2026.7)
        https://github.com/devlikeapro/waha
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar
from urllib.parse import quote, urlsplit

from msgspec import Meta

from .._calls import JsonApi
from .._fields import E164, NOT_EMPTY, Secret, about, secret
from .._values import Object
from .._verdicts import unexpected_answer
from ..base import Check, ChecksFlow, Flow, Request, Webhook, WhatsAppProvider, refused_status, reported
from ..description import Pacing, ProviderInfo, TimeLimits
from ..errors import CONFIGURATION_ERRORS, Rejected, Unavailable, Unverified
from ..messages import (
    Contact,
    Event,
    Media,
    Message,
    MessageData,
    MessageResult,
    Pairing,
    ProviderStatus,
    Recipient,
)
from ..signing import hmac_hex, verify_hmac_hex
from . import echoes, inbound, outbound
from .account import pairing, sessions
from .account.server import Server, health_check, server_of
from .addresses import bare_id, chat_of, chosen_id, id_in, jid, person, phone_in, serialized_id
from .errors import answered, answered_object, is_conflict, is_missing_session, is_unresolved
from .limits import LIMITS
from .media import media_of

_Url = Annotated[str, Meta(max_length=1024, pattern=r"^https?://[^\s?#@]+(?!\s)$")]
_Session = Annotated[str, Meta(max_length=54, pattern=r"^[A-Za-z0-9_-]{1,54}(?!\s)$")]

# Where people find the values.
_GUIDES = "https://waha.devlike.pro/docs/how-to"

_ALGORITHM = "sha512"
# How many of the last messages of a chat are looked through for one whose answer was lost.
_RECENT = 10


class WhatsAppWeb(WhatsAppProvider, frozen=True, kw_only=True):
    """One session of one WAHA server, which is one phone.

    The pacing follows "How to avoid blocking" of https://waha.devlike.pro/docs/overview: pauses of random length, as of
    a person who answers, and no bursts. Nobody publishes a number; 20 a minute with up to three seconds more is for
    answers. Who writes to strangers leaves half a minute between them, or loses the number.
    """

    info: ClassVar[ProviderInfo] = ProviderInfo(
        name="whatsapp_web",
        display_name="WhatsApp Web",
        description=(
            "A phone linked by QR code, through a WAHA server of your own with the engine whatsapp-web.js, WPPConnect, "
            "Baileys or whatsmeow. Free and unofficial: WhatsApp may restrict or ban the number at any time. Buttons "
            "go out as numbered text, templates as the text that is given for them."
        ),
        pricing="free",
        stability="unstable",
        official=False,
        max_webhook_bytes=2 * 1024 * 1024,
        capabilities=frozenset(
            {"text", "image", "audio", "video", "document", "location", "contacts", "reaction", "interactive"}
            | {"sticker", "buttons", "list"}
            | {"template", "templates"}
            | {"pairing", "media", "receipts", "typing", "stop_typing", "groups", "find_message"}
            | {"find_phone", "find_contact"}
        ),
        limits=LIMITS,
        pacing=Pacing(messages_per_minute=20, jitter_s=3.0),
        # A session that is not linked is waited for: the answer comes after 10 s, to which the way there is added. A
        # file is fetched and passed on before there is one, and a session restarts when it is configured.
        time_limits=TimeLimits(call_s=15, set_up_s=15, mib_per_s=1),
    )

    webhook_first: ClassVar[bool] = True

    base_url: Annotated[
        _Url,
        about(
            "WAHA address",
            "Of your WAHA server, as it is reached from here.",
            "https://waha.example.com",
            link=f"{_GUIDES}/install/",
        ),
    ]
    api_key: Annotated[
        Secret,
        NOT_EMPTY,
        secret(
            "API key",
            "Of the server, or better one for this session alone with the scopes read, send, control and setting; then "
            "the session must exist, as only a key of the server creates one.",
            link=f"{_GUIDES}/security/",
        ),
    ]
    hmac_key: Annotated[
        Secret,
        NOT_EMPTY,
        secret(
            "HMAC key",
            "A long random text of your own: WAHA signs the webhooks with it.",
            link=f"{_GUIDES}/events/",
            own=True,
            signs=True,
        ),
    ]
    session: Annotated[
        _Session,
        about(
            "Session",
            "The name of the session at the server; it is created where it is missing. A Core of before 2026.6.1 has "
            "only “default”.",
            "default",
            link=f"{_GUIDES}/sessions/",
            usual=True,
        ),
    ] = "default"
    phone_number: Annotated[
        E164 | None,
        about(
            "Phone number",
            "The number of the linked phone in E.164; a session that is linked to another one is reported.",
            "+15550001111",
        ),
    ] = None
    hmac_key_previous: Annotated[
        Secret | None, secret("Previous HMAC key", "Accepted as well while the HMAC key is being replaced.", signs=True)
    ] = None

    @property
    def sender(self) -> str | None:
        return self.phone_number

    @property
    def accounts(self) -> tuple[str, ...]:
        return (self._account(self.session),)

    def proven(self, checks: Sequence[Check]) -> tuple[str, ...]:
        """The key opens the session; a server of somebody's own proves nothing to others, unless it is trusted."""
        return self.accounts

    # ------------------------------------------------------------ inbound

    def challenge(self, hook: Webhook) -> None:
        """There is no handshake."""
        return None

    def verify(self, hook: Webhook) -> None:
        """HMAC-SHA512 over the bytes as received. A header that names another hash is not followed."""
        algorithm = hook.headers.get("x-webhook-hmac-algorithm", _ALGORITHM)
        if algorithm != _ALGORITHM:
            raise Unverified
        verify_hmac_hex(self._hmac_keys, hook.body, hook.headers.get("x-webhook-hmac", "").lower(), _ALGORITHM)

    def parse(self, hook: Webhook) -> list[Event]:
        return inbound.events(hook.body, self.phone_number)

    def owns(self, event: Event) -> bool:
        """All sessions of a server may sign with one key, so each event must be of this one."""
        return event.sender_id == self.session

    def account_of(self, event: Event) -> str | None:
        """A webhook names no server: it counts as from this one, whose key signed it."""
        return self._account(event.sender_id) if event.sender_id else None

    def event_key(self, event: Event, message_id: str) -> str | None:
        """The id of what a person wrote holds the chat, which has a phone or a hidden number. Ours are bare ones."""
        return inbound.event_key(event, message_id)

    def probe(self, callback_url: str) -> Request:
        """Under a name of ours: every webhook of WAHA says that something happened."""
        body = f'{{"event":"{inbound.PROBE}","session":"{self.session}"}}'.encode()
        headers = {
            "content-type": "application/json",
            "x-webhook-hmac-algorithm": _ALGORITHM,
            "x-webhook-hmac": hmac_hex(self.hmac_key, body, _ALGORITHM),
        }
        return Request(method="POST", url=callback_url, headers=headers, body=body)

    # ------------------------------------------------------------ sending

    def send_message(self, message: MessageData) -> Flow[MessageResult]:
        self.check_limits(message.content)
        method, path, body = outbound.message_request(message, session=self.session, own_phone=self.phone_number)
        response = yield self._server.request(method, path, body)
        if message.to.phone is not None and "chatId" in body and is_unresolved(response):
            # Nothing was sent. The number may live under an older form of it.
            chat = yield from self._known_chat(message.to.phone)
            response = yield self._server.request(method, path, {**body, "chatId": chat})
        return outbound.message_result(message, response, secrets=self._secrets)

    def find_message(self, message: MessageData) -> Flow[MessageResult | None]:
        """By the id that it was given; where the engine took none, by what it says.

        Not found is not unsent: an engine that reconnects may send later.
        """
        chat, chosen = chat_of(message.to), None
        messages = f"api/{self.session}/chats/{_quoted(chat)}/messages"
        if outbound.has_chosen_id(message):
            chosen = chosen_id(message.correlation_id)
            response = yield self._server.get(f"{messages}/{_quoted(serialized_id(chosen, chat, self.phone_number))}")
            found = answered_object(response)
            if 200 <= response.status < 300 and _is(found, chosen):
                return outbound.result_of(found)
        elif not echoes.is_recognisable(message):
            return None
        # The engine may keep the chat under the hidden number, and so the message under another whole id.
        query = {"limit": str(_RECENT), "downloadMedia": "false", "filter.fromMe": "true"}
        recent = yield from self._get(messages, query)
        if not isinstance(recent, list):
            return None
        ours = [one for one in recent if chosen is not None and _is(one, chosen)]
        return outbound.result_of(ours[0]) if ours else echoes.found_in(recent, message)

    def is_echo(self, echo: Message, sent: MessageData) -> bool:
        return echoes.is_echo(echo.content, sent)

    def mark_read(self, message_id: str, chat: Recipient, *, typing: bool = False) -> Flow[None]:
        """Show the message as read, and, if *typing*, that an answer is being written.

        May be repeated freely; a failure must not fail a send.
        """
        receipt = outbound.read_receipt(message_id, chat_of(chat))
        yield from self._post("api/sendSeen", {"session": self.session, **receipt})
        if typing:
            yield from self._typing("startTyping", chat)

    def stop_typing(self, chat: Recipient) -> Flow[None]:
        yield from self._typing("stopTyping", chat)

    def find_phone(self, lid: str) -> Flow[str | None]:
        """Out of what the session has seen; WhatsApp may keep a number from it for good."""
        chat = chat_of(Recipient(lid=lid))
        known = yield from self._get(f"api/{self.session}/lids/{chat.removesuffix('@lid')}")
        return phone_in(jid(known.get("pn"))) if isinstance(known, dict) else None

    def find_contact(self, phone: str) -> Flow[Contact | None]:
        """As the server of WhatsApp has it. A sign of spam where it is asked for each message; 429 where too often."""
        query = {"phone": phone[1:], "session": self.session}
        answer = yield from self._get("api/contacts/check-exists", query)
        known = answer if isinstance(answer, dict) else {}
        if known.get("numberExists") is False:
            return None
        if known.get("numberExists") is not True:
            raise unexpected_answer()
        # GOWS has `pn` beside what may be a hidden number.
        return person(jid(known.get("chatId")), jid(known.get("pn"))) or Contact(phone=phone)

    def media(self, media_id: str) -> Flow[Media]:
        """*media_id* is the address in the webhook. The file is kept for three minutes by default."""
        yield from ()  # nothing is asked
        return media_of(media_id, base_url=self.base_url, session=self.session, api_key=self.api_key)

    # ------------------------------------------------------------ account

    def setup(self) -> Flow[None]:
        """Have the session exist and run. A session that failed is restarted, which asks for a new QR code."""
        session = yield from sessions.find(self._server, self.session)
        if session is None:
            response = yield self._server.post("api/sessions", sessions.new_session(self.session, []))
            if not is_conflict(response):
                self._server.answered(response)
            return
        steps = {"stopped": "start", "failed": "restart"}
        if step := steps.get(sessions.state_of(session).word):
            yield from self._post(f"{self._path}/{step}")

    def validate_config(self, callback_url: str | None = None) -> ChecksFlow[list[Check]]:
        """A session that is not linked yet is no reason to refuse the configuration."""
        try:
            session = yield from sessions.find(self._server, self.session)
        except CONFIGURATION_ERRORS as error:
            return sessions.refused_checks(error)
        found = [(yield from reported(Check.ok("credentials")))]
        found.append((yield from reported((yield from health_check(self._server)))))
        found.append((yield from server_of(self._server)).check())
        if session is None:
            return [*found, sessions.missing_check()]
        checks = sessions.checks(session, key=self.hmac_key, own_phone=self.phone_number, callback_url=callback_url)
        return [*found, *checks]

    def get_status(self) -> Flow[ProviderStatus]:
        try:
            session = yield from sessions.find(self._server, self.session)
        except CONFIGURATION_ERRORS as error:
            return refused_status(error)
        server = Server() if session is None else (yield from server_of(self._server))
        return sessions.session_status(session, server, self._hmac_keys)

    def receive_messages(self, callback_url: str) -> Flow[None]:
        """Write the webhook into the session, in the place of an older one of ours; those of others stay.

        Only where something changes: a session restarts when it is configured.
        """
        yield from sessions.write_webhook(self._server, self.session, callback_url, self._hmac_keys, repair=False)

    def repair(self, callback_url: str) -> Flow[None]:
        """Switch on, too, what the engine of an existing session needs for what we promise. The session restarts."""
        yield from sessions.write_webhook(self._server, self.session, callback_url, self._hmac_keys, repair=True)
        yield from self.setup()

    def disconnect(self) -> Flow[None]:
        """Stop the session and take our webhook out. The phone stays linked: to start again needs no QR code."""
        session = yield from sessions.find(self._server, self.session)
        if session is None:
            return
        yield from self._post(f"{self._path}/stop")
        others = sessions.foreign(session, self._hmac_keys, None)
        if len(others) < len(sessions.webhooks_of(session)):
            body = sessions.with_webhooks(session, others)
            yield from self._server.call(self._server.request("PUT", self._path, body))

    # ------------------------------------------------------------ linking a phone

    def pairing(self) -> Flow[Pairing]:
        """The first code lives for a minute, each next one for 20 seconds, and there are six."""
        return pairing.current(self._server, self.session)

    def pairing_code(self, phone: str) -> Flow[str]:
        """Not reliable, so the QR code is always offered too. Only while a QR code is shown."""
        return pairing.code(self._server, self.session, phone)

    def unpair(self) -> Flow[None]:
        """The session stays, and shows a QR code again."""
        response = yield self._server.post(f"{self._path}/logout")
        if not is_missing_session(response):
            self._server.answered(response)

    # ------------------------------------------------------------ steps of the flows

    def _typing(self, call: str, chat: Recipient) -> Flow[None]:
        body = {"session": self.session, "chatId": chat_of(chat)}
        yield from self._post(f"api/{call}", body)

    def _known_chat(self, phone: str) -> Flow[str]:
        """The chat under which WhatsApp knows *phone*, another than its digits say."""
        contact = yield from self.find_contact(phone)
        if contact is None:
            raise Rejected("the number is not on WhatsApp", code="not_on_whatsapp", scope="recipient")
        chat = chat_of(Recipient(phone=contact.phone, lid=contact.lid))
        if chat == f"{phone[1:]}@c.us":
            raise Unavailable("the session does not know the recipient yet", code="recipient_unresolved")
        return chat

    # ------------------------------------------------------------ requests and answers

    def _get(self, path: str, query: dict[str, str] | None = None) -> Flow[Any]:
        return self._server.call(self._server.get(path, query))

    def _post(self, path: str, body: Object | None = None) -> Flow[Any]:
        return self._server.call(self._server.post(path, body))

    def _account(self, session: str) -> str:
        server = urlsplit(self.base_url)
        port = server.port or (443 if server.scheme == "https" else 80)
        return f"{server.hostname}:{port}{server.path.rstrip('/')}/{session}"

    @property
    def _path(self) -> str:
        return sessions.path_of(self.session)

    @property
    def _hmac_keys(self) -> tuple[str, ...]:
        return (self.hmac_key, self.hmac_key_previous) if self.hmac_key_previous else (self.hmac_key,)

    @property
    def _secrets(self) -> tuple[str, ...]:
        return (self.api_key, *self._hmac_keys)

    @property
    def _server(self) -> JsonApi:
        headers = {"x-api-key": self.api_key, "accept": "application/json"}
        root = self.base_url.rstrip("/")
        return JsonApi(root=root, headers=headers, secrets=self._secrets, read=answered)


def _quoted(part: str) -> str:
    return quote(part, safe="")


def _is(message: Any, bare: str) -> bool:
    """Whether *message*, of an engine, is the one with the id *bare*."""
    identity = id_in(message) if isinstance(message, dict) else None
    return identity is not None and bare_id(identity) == bare
