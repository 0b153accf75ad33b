"""What the codes of messages, events and deliveries are called."""

from ..languages import N_

# Of a message that was sent.
STATUSES = {
    "accepted": N_("Accepted"),
    "sent": N_("Sent"),
    "delivered": N_("Delivered"),
    "read": N_("Read"),
    "played": N_("Played"),
    "failed": N_("Failed"),
    "unknown": N_("Unknown"),
}

# Of the CRM's callback, and of a delivery there.
CALLBACKS = {
    "healthy": N_("Healthy"),
    "failing": N_("Failing"),
    "disabled": N_("Disabled"),
}

DELIVERIES = {
    "pending": N_("Waiting"),
    "delivered": N_("Delivered"),
    "parked": N_("Given up"),
}

# What is no HTTP status.
DELIVERY_ERRORS = {
    "no answer in time": N_("No answer within 15 seconds"),
    "no callback": N_("No callback was set"),
    "callback disabled": N_("The callback was disabled"),
    "failing for days": N_("It took nothing for five days"),
    "ClientConnectorError": N_("No connection could be made"),
    "ServerDisconnectedError": N_("The connection was closed without an answer"),
}

TEST_OUTCOMES = {
    "ok": N_("Your CRM took the event."),
    "3xx": N_("Your CRM answered with a redirect, which is not followed."),
    "4xx": N_("Your CRM refused the event."),
    "5xx": N_("Your CRM failed on the event."),
    "gone": N_("Your CRM says that the address is gone."),
    "timeout": N_("Your CRM did not answer within 15 seconds."),
    "connection": N_("No connection could be made."),
}

TEST_FIXES = {
    "3xx": N_("Set the address that it leads to."),
    "4xx": N_("Check the path, and that it verifies the signature over the very bytes with the newest secret."),
    "5xx": N_("Look into its log: what it answered is below."),
    "gone": N_("A real event would have disabled the callback. Set the address that is served now."),
    "timeout": N_("Answer first, and work on the event afterwards."),
    "connection": N_("Check the address, its certificate, and that a firewall lets this service in."),
}

DIRECTIONS = {
    "inbound": N_("Received"),
    "outbound": N_("Sent"),
}

# What was typed in the search field for messages.
SEARCHED = {
    "phone": N_("Everything with this phone number"),
    "conversation": N_("Everything of this conversation"),
    "request": N_("Sent by this request"),
    "lead": N_("Sent for this lead"),
    "provider_message_id": N_("The message with this id of its provider"),
    "error": N_("Sent with this error, or an attempt of it"),
}

PERIODS = {
    "1h": N_("Last hour"),
    "24h": N_("24 hours"),
    "7d": N_("7 days"),
    "30d": N_("30 days"),
}

# Types of contents, and of events.
CONTENTS = {
    "text": N_("Text"),
    "image": N_("Image"),
    "video": N_("Video"),
    "audio": N_("Audio"),
    "document": N_("Document"),
    "sticker": N_("Sticker"),
    "location": N_("Location"),
    "contacts": N_("Contact card"),
    "reaction": N_("Reaction"),
    "template": N_("Template"),
    "interactive": N_("Interactive message"),
    "buttons": N_("Buttons"),
    "list": N_("List"),
    "button_reply": N_("Answer by a button"),
    "list_reply": N_("Answer from a list"),
    "poll": N_("Poll"),
    "order": N_("Order"),
    "unsupported": N_("Something that the provider does not pass on"),
    "unknown": N_("Something of an unknown type"),
}

EVENTS = {
    "message.received": N_("Message received"),
    "message.echo": N_("Written on another device"),
    "message.edited": N_("Message edited"),
    "message.deleted": N_("Message deleted"),
    "message.status": N_("Status of a message"),
    "message.unknown": N_("Something of an unknown type"),
    "account.updated": N_("News of the account"),
    "contact.merged": N_("Two contacts turned out to be one"),
    "contact.updated": N_("Contact changed"),
    "provider.switched": N_("Provider switched"),
    "provider.unhealthy": N_("Provider unhealthy"),
    "provider.recovered": N_("Provider recovered"),
    "provider.rolled_back": N_("Provider rolled back"),
}

# What a contact is known by.
ADDRESSES = {
    "phone": N_("Phone"),
    "lid": N_("Hidden number"),
    "user": N_("User id"),
    "parent": N_("Parent user id"),
}

# Of an attempt to send, or why an account was not called.
ERROR_CLASSES = {
    "ok": N_("The provider took it."),
    "Unsupported": N_("This provider cannot express the message; nothing was sent."),
    "Rejected": N_("Refused for good: the recipient, the content or a policy."),
    "Restricted": N_("The provider restricts the account; nothing else was tried."),
    "AccountBroken": N_("The account cannot send until somebody repairs it."),
    "Throttled": N_("Refused for now: too many messages."),
    "Unavailable": N_("The provider could not be reached; nothing was sent."),
    "Uncertain": N_("The answer was lost: it may have been taken."),
    "breaker_open": N_("It failed so often lately that it was not called."),
    "plugin_missing": N_("Its plug-in is not installed."),
    "cannot_be_opened": N_("What is stored of it cannot be opened."),
}
