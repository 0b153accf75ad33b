"""The raw object of a WAHA engine, ``_data``: the protocol's message of NOWEB and GOWS, or WhatsApp Web's own of WEBJS
and WPP. What kind of message it is, and whether it is one at all.

Source: https://github.com/WhiskeySockets/Baileys/blob/master/WAProto/WAProto.proto (message Message),
    https://docs.wwebjs.dev/global.html#MessageTypes, and the webhooks in tests/samples/whatsapp_web.
"""

from typing import Literal

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
# What cannot be decrypted yet: the message may follow.
_WAITING = {"ciphertext", "placeholderMessage"}
_CIPHERTEXT_STUBS = ("2", "CIPHERTEXT")
_DEEPEST = 5


def proto(payload: Object) -> Object:
    """The protocol's message of NOWEB and GOWS, out of what it is wrapped in; empty for WEBJS."""
    data = mapping(payload, "_data")
    return unwrapped(mapping(data, "message") or mapping(data, "Message"))


def unwrapped(message: Object) -> Object:
    """*message* out of what it is wrapped in, as it disappears, may be seen once, was sent by another device, …"""
    for _ in range(_DEEPEST):
        inner = next(filter(None, (mapping(mapping(message, key), "message") for key in message)), None)
        if inner is None:
            break
        message = inner
    return message


def spelled(holder: Object, key: str) -> str | None:
    """The word under *key*, which GOWS may spell in Go's way: ``stanzaID``, ``sourceURL``."""
    for ending in ("Id", "Url", "Jid"):
        if key.endswith(ending):
            return word(holder, key) or word(holder, key.removesuffix(ending) + ending.upper())
    return word(holder, key)


def raw_type(payload: Object) -> str | None:
    """The engine's own word for the kind of *payload*."""
    data = mapping(payload, "_data")
    keys = [key for key, value in proto(payload).items() if value is not None]
    # What nobody wrote may stand beside what somebody did.
    ranked = sorted(keys, key=lambda key: (key in _BESIDE, key in _PROTOCOL))
    return ranked[0] if ranked else text(data, "type") or word(data, "messageStubType")


def is_protocol(payload: Object) -> bool:
    """Whether nobody wrote this: keys, receipts, notices of the clients among themselves."""
    return raw_type(payload) in _PROTOCOL or _is_stub(payload)


def _is_stub(payload: Object) -> bool:
    """A notice of NOWEB, which has no message: somebody joined, a call was missed."""
    return not proto(payload) and word(mapping(payload, "_data"), "messageStubType") not in (None, "0", "UNKNOWN")


def is_waiting(payload: Object) -> bool:
    stub = word(mapping(payload, "_data"), "messageStubType")
    return raw_type(payload) in _WAITING or (not proto(payload) and stub in _CIPHERTEXT_STUBS)


def is_written(kind: str | None) -> bool:
    return kind in _WRITTEN


# ---------------------------------------------------------------- what a message does to another one

_REVOKED, _EDITED = (0, "REVOKE"), (14, "MESSAGE_EDIT")
_ENCRYPTED_EDIT = (2, "MESSAGE_EDIT")


def change_in(payload: Object) -> tuple[Literal["edited", "deleted"], Object] | None:
    """Whether *payload* edits or deletes a message, and the key of that one."""
    message, data = proto(payload), mapping(payload, "_data")
    protocol, secret = mapping(message, "protocolMessage"), mapping(message, "secretEncryptedMessage")
    if protocol.get("type") in _EDITED:
        return "edited", mapping(protocol, "key")
    if protocol and protocol.get("type") in _REVOKED:
        return "deleted", mapping(protocol, "key")
    if secret.get("secretEncType") in _ENCRYPTED_EDIT:
        return "edited", mapping(secret, "targetMessageKey")
    if data.get("type") == "revoked":
        return "deleted", mapping(data, "protocolMessageKey")
    return None
