"""The raw object of a WAHA engine, ``_data``: the protocol's message of NOWEB and GOWS, or WhatsApp Web's own of WEBJS
and WPP. What kind of message it is, and whether it is one at all.

Source: https://github.com/WhiskeySockets/Baileys/blob/master/WAProto/WAProto.proto (message Message),
    https://docs.wwebjs.dev/global.html#MessageTypes, and the webhooks in tests/samples/whatsapp_web.
"""

from typing import Literal

import msgspec

from .._values import Object, mapping, text, word

# Keys beside a message that are no content.
_BESIDE = {"messageContextInfo", "senderKeyDistributionMessage", "fastRatchetKeySenderKeyDistributionMessage"}
# What a person wrote, where nothing can be read of it. The list is closed: what is neither on this one nor on the next
# is unknown, and no message until somebody has looked at it.
_WRITTEN = {
    *("buttonsMessage", "contactMessage", "contactsArrayMessage", "encCommentMessage", "eventMessage"),
    *("groupInviteMessage", "highlyStructuredMessage", "interactiveMessage", "interactiveResponseMessage"),
    *("invoiceMessage", "listMessage", "liveLocationMessage", "locationMessage", "newsletterAdminInviteMessage"),
    *("orderMessage", "paymentInviteMessage", "productMessage", "requestPaymentMessage"),
    *("requestPhoneNumberMessage", "scheduledCallCreationMessage", "sendPaymentMessage", "stickerPackMessage"),
    *("templateMessage", "viewOnceMessage", "viewOnceMessageV2", "viewOnceMessageV2Extension"),
    *("event_creation", "groups_v4_invite", "hsm", "interactive", "interactive_response", "list", "location"),
    *("multi_vcard", "order", "payment", "product", "request_phone_number", "scheduled_call", "sticker_pack", "vcard"),
}
# What clients exchange among themselves, which nobody wrote.
_PROTOCOL = {
    *("albumMessage", "bcallMessage", "call", "callLogMesssage", "callLogMessage", "cancelPaymentRequestMessage"),
    *("declinePaymentRequestMessage", "encEventResponseMessage", "encReactionMessage", "keepInChatMessage"),
    *("messageHistoryBundle", "messageHistoryNotice", "pinInChatMessage", "pollResultSnapshotMessage"),
    *("pollUpdateMessage", "protocolMessage", "scheduledCallEditMessage", "secretEncryptedMessage"),
    *("statusNotificationMessage", "stickerSyncRmrMessage", *_BESIDE),
    *("album", "broadcast_notification", "call_log", "debug", "e2e_notification", "gp2", "keep_in_chat"),
    *("newsletter_notification", "notification", "notification_template", "pinned_message", "poll_update"),
    *("protocol", "reaction_enc"),
}
_WAITING = {"ciphertext", "placeholderMessage"}
_CIPHERTEXT_STUBS = ("2", "CIPHERTEXT")
_DEEPEST = 5


class Raw(msgspec.Struct, frozen=True, gc=False):
    """A message as WAHA posts it, *payload*, and what its engine has of it.

    The protocol's *message* of NOWEB and GOWS is out of what it is wrapped in; *said* is the same, and of an edit what
    the message says now. Both are empty for WEBJS and WPP. *kind* is the engine's own word.
    """

    payload: Object
    data: Object
    message: Object
    said: Object
    kind: str | None

    @property
    def contexts(self) -> list[Object]:
        """What stands around the content, in NOWEB and GOWS."""
        return [
            found for part in self.said.values() if isinstance(part, dict) and (found := mapping(part, "contextInfo"))
        ]

    def __repr__(self) -> str:
        return f"Raw(kind={self.kind!r})"


def raw_of(payload: Object) -> Raw:
    data = mapping(payload, "_data")
    message = _unwrapped(mapping(data, "message") or mapping(data, "Message"))
    said = message
    if protocol := mapping(message, "protocolMessage"):
        said = _unwrapped(mapping(protocol, "editedMessage")) or message
    return Raw(payload, data, message, said, _kind(data, message))


def _unwrapped(message: Object) -> Object:
    """*message* out of what it is wrapped in, as it disappears, may be seen once, was sent by another device, …"""
    for _ in range(_DEEPEST):
        inner = next(
            (found for part in message.values() if isinstance(part, dict) and (found := mapping(part, "message"))), None
        )
        if inner is None:
            break
        message = inner
    return message


def _kind(data: Object, message: Object) -> str | None:
    keys = [key for key, value in message.items() if value is not None]
    if len(keys) > 1:
        # What nobody wrote may stand beside what somebody did.
        keys.sort(key=lambda key: (key in _BESIDE, key in _PROTOCOL))
    return keys[0] if keys else text(data, "type") or word(data, "messageStubType")


def spelled(holder: Object, key: str) -> str | None:
    """The word under *key*, which GOWS may spell in Go's way: ``stanzaID``, ``sourceURL``."""
    for ending in ("Id", "Url", "Jid"):
        if key.endswith(ending):
            return word(holder, key) or word(holder, key.removesuffix(ending) + ending.upper())
    return word(holder, key)


def is_protocol(raw: Raw) -> bool:
    """Whether nobody wrote this: keys, receipts, notices of the clients among themselves.

    Stubs are NOWEB's notices, which have no message: somebody joined, a call was missed.
    """
    return raw.kind in _PROTOCOL or (not raw.message and _stub(raw) not in (None, "0", "UNKNOWN"))


def is_waiting(raw: Raw) -> bool:
    """Whether this cannot be decrypted yet: the message may follow."""
    return raw.kind in _WAITING or (not raw.message and _stub(raw) in _CIPHERTEXT_STUBS)


def _stub(raw: Raw) -> str | None:
    return word(raw.data, "messageStubType")


def is_written(kind: str | None) -> bool:
    return kind in _WRITTEN


# ---------------------------------------------------------------- what a message does to another one

_REVOKED, _EDITED = (0, "REVOKE"), (14, "MESSAGE_EDIT")
_ENCRYPTED_EDIT = (2, "MESSAGE_EDIT")


def _protocol_change(protocol: Object) -> tuple[Literal["edited", "deleted"], Object] | None:
    kind, key = protocol.get("type"), mapping(protocol, "key")
    if kind in _EDITED:
        return "edited", key
    return ("deleted", key) if kind in _REVOKED else None


def change_in(raw: Raw) -> tuple[Literal["edited", "deleted"], Object] | None:
    """Whether *raw* edits or deletes a message, and the key of that one."""
    if protocol := mapping(raw.message, "protocolMessage"):
        return _protocol_change(protocol)
    secret = mapping(raw.message, "secretEncryptedMessage")
    if secret.get("secretEncType") in _ENCRYPTED_EDIT:
        return "edited", mapping(secret, "targetMessageKey")
    return ("deleted", mapping(raw.data, "protocolMessageKey")) if raw.kind == "revoked" else None
