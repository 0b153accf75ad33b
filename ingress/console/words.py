"""What the codes of the service are called on a page, and their sentences: translated where they are shown."""

from .languages import N_

# What was just done, by the code in the address of the page that says so.
DONE = {
    "signed_out": N_("You are signed out."),
    "signed_out_everywhere": N_("All sessions of this key are ended."),
    "language": N_("The language is changed."),
    "theme": N_("The appearance is changed."),
    "renamed": N_("The organization is renamed."),
    "callback_enabled": N_("The callback is enabled, and what failed is tried now."),
    "callback_removed": N_("The callback is removed."),
    "key_revoked": N_("The key is revoked: within five seconds it is refused everywhere."),
    "replayed": N_("The events are being delivered again."),
    "quarantine_replayed": N_("It was read again: what is in it is events now."),
    "quarantine_kept": N_("It was read again. Part of it is about accounts of others, so it stays here."),
    "quarantine_discarded": N_("Discarded."),
    "notifications_read": N_("All notifications are marked as read."),
    "organization_chosen": N_("You act for this organization now."),
    "organization_created": N_("The organization is created. You act for it now."),
    "config_saved": N_("The configuration is saved."),
    "config_active": N_("The configuration is saved and active: messages go out through it now."),
    "config_incomplete": N_(
        "The configuration is saved. Something is left to be done at the provider: see the webhook."
    ),
    "config_renamed": N_("The account has its new name."),
    "config_deleted": N_("The account is deleted here, with its credentials and its webhook address."),
    "fallback_order": N_("The fallback order is changed."),
    "unpaired": N_("The phone is unlinked."),
}

SCOPES = {
    "send": N_("Send messages, and mark received ones as read."),
    "read": N_("See messages, events, contacts and how the providers are doing."),
    "configure": N_("Configure, switch and repair providers, and set where events are delivered."),
    "admin": N_("Make and revoke API keys, and read the audit trail."),
}

# Of a config.
STATES = {
    "configured": N_("Configured"),
    "switching": N_("Switching"),
    "active": N_("Active"),
    "inactive": N_("Inactive"),
    "error": N_("Error"),
}

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

# What an entry of the audit trail says was done.
ACTIONS = {
    "activated": N_("Made active"),
    "callback_enabled": N_("Callback enabled again"),
    "callback_removed": N_("Callback removed"),
    "callback_set": N_("Callback set"),
    "callback_tested": N_("Callback tested"),
    "configured": N_("Configuration saved"),
    "deactivated": N_("Not active any more"),
    "edited": N_("Configuration edited"),
    "event_raw_shown": N_("What a provider posted looked at"),
    "fallback_changed": N_("Fallback order changed"),
    "key_created": N_("API key made"),
    "key_revoked": N_("API key revoked"),
    "media_deleted": N_("Media deleted"),
    "messages_exported": N_("Messages exported to a file"),
    "more_refused": N_("More changes refused"),
    "organization_created": N_("Organization created"),
    "organization_renamed": N_("Organization renamed"),
    "pairing_started": N_("Linking of a phone begun"),
    "parked_replayed": N_("Parked deliveries sent again"),
    "quarantine_discarded": N_("Quarantined content discarded"),
    "quarantine_replayed": N_("Quarantined content read again"),
    "quarantine_shown": N_("Quarantined content looked at"),
    "recovered": N_("Account healthy again"),
    "removed": N_("Configuration deleted"),
    "repaired": N_("Account repaired"),
    "rolled_back": N_("Switch taken back"),
    "switching": N_("Switch begun"),
    "unhealthy": N_("Account unhealthy"),
    "unpaired": N_("Phone unlinked"),
}

# What was asked for by a request that was refused, as the description of the API names it.
OPERATIONS = {
    "configure": N_("Save a configuration"),
    "create_app": N_("Add an app of several organizations"),
    "create_key": N_("Make an API key"),
    "create_organization": N_("Create an organization"),
    "delete_app": N_("Delete an app of several organizations"),
    "delete_callback": N_("Remove the callback"),
    "delete_config": N_("Delete a configuration"),
    "discard_quarantine": N_("Discard quarantined content"),
    "edit_app": N_("Edit an app of several organizations"),
    "edit_config": N_("Edit a configuration"),
    "enable_callback": N_("Enable the callback again"),
    "end_pairing": N_("Unlink a phone"),
    "put_callback": N_("Set the callback"),
    "put_fallback": N_("Set the fallback order"),
    "reload_providers": N_("Load the plug-ins again"),
    "rename_organization": N_("Rename the organization"),
    "repair": N_("Repair a configuration"),
    "replay_parked": N_("Send parked deliveries again"),
    "replay_quarantine": N_("Read quarantined content again"),
    "revoke_key": N_("Revoke an API key"),
    "rollback": N_("Roll back to the former provider"),
    "start_pairing": N_("Link a phone"),
    "switch": N_("Switch to another provider"),
    "test_callback": N_("Test the callback"),
}

OUTCOMES = {"done": N_("Done"), "refused": N_("Refused"), "undone": N_("Taken back")}
DIFFERENCES = {"added": N_("Added"), "removed": N_("Removed"), "changed": N_("Changed")}

# Why something that came in was put aside.
QUARANTINE_REASONS = {
    "malformed": N_("Not in the provider's format"),
    "parser_failed": N_("This release could not read it"),
    "refused_by_store": N_("The database did not take it"),
    "foreign": N_("Of an account of somebody else"),
    "stale": N_("Too old, or ahead of the clock"),
}

# The same as a sentence, with what to do.
QUARANTINE_FIXES = {
    "malformed": N_(
        "Its signature is right, but its content is not in the provider's format. Look whether something else posts to"
        " the webhook's address, then discard it."
    ),
    "parser_failed": N_("New at the provider, or a mistake of this gateway. Read it again after the next update."),
    "refused_by_store": N_("It holds a value that cannot be stored. Read it again after the next update."),
    "foreign": N_(
        "It is about an account that no configuration here has. Add the account, then read it again, or discard it."
    ),
    "stale": N_(
        "So old that nobody knows any more whether it was taken before. Read it again if these messages are missing."
    ),
}
QUARANTINE_STATES = {"open": N_("Open"), "replayed": N_("Read again"), "discarded": N_("Discarded")}

# What the bell calls attention to.
NOTIFICATIONS = {
    "provider.switched": N_("Switched to another provider"),
    "provider.rolled_back": N_("A switch was taken back"),
    "provider.unhealthy": N_("An account is unhealthy"),
    "provider.recovered": N_("An account is healthy again"),
    "account.updated": N_("News of an account"),
    "deliveries_parked": N_("Deliveries to your system were given up"),
    "quarantine_open": N_("Content waits in the quarantine"),
    "audit_broken": N_("The audit trail was changed by somebody"),
}

# How an account is doing.
HEALTH = {
    "unknown": N_("Not known yet"),
    "healthy": N_("Healthy"),
    "degraded": N_("Degraded"),
    "unhealthy": N_("Unhealthy"),
}

# Why it is not healthy.
REASONS = {
    "unreachable": N_("The provider does not answer."),
    "credentials": N_("The provider refuses the credentials."),
    "account_restricted": N_("The provider restricts the account."),
    "session_lost": N_("The session with the provider is lost."),
    "not_paired": N_("No phone is linked."),
    "webhook_missing": N_("What people write does not arrive here: the webhook is missing."),
    "webhooks_refused": N_("Webhooks are refused: they are signed with another secret."),
    "sends_refused": N_("The provider refuses most messages."),
    "silent": N_("Messages are taken, but nothing is heard of them: webhooks seem not to arrive."),
    "degraded": N_("The provider says that the account is doing badly."),
    "plugin_missing": N_("The plug-in of the provider is not installed."),
    "cannot_be_opened": N_("The configuration cannot be opened: its encryption key is missing."),
}

# What to do about an account that is not healthy.
REMEDIES = {
    "unreachable": N_("See whether the provider has an outage, and whether its address is right."),
    "credentials": N_("Renew the credentials at the provider, and save them here."),
    "account_restricted": N_("See at the provider what it demands; switch to another account meanwhile."),
    "session_lost": N_("Repair the account, or link the phone again."),
    "not_paired": N_("Link a phone: its code is shown here."),
    "webhook_missing": N_("Repair the webhook: until then what people write is lost."),
    "webhooks_refused": N_("Save the secret that the provider signs with now."),
    "sends_refused": N_("See the last messages for the errors: payment, permissions, or a block of the account."),
    "silent": N_("Check the webhook: it may lead elsewhere."),
    "degraded": N_("See the account at the provider, and send less through it until it has recovered."),
    "plugin_missing": N_("Ask the people who run this service to install it."),
    "cannot_be_opened": N_("Ask the people who run this service for its encryption key, or save the account anew."),
}

# What a provider says of an account as a whole.
QUALITIES = {
    "excellent": N_("Excellent"),
    "good": N_("Good"),
    "poor": N_("Poor"),
    "disconnected": N_("Disconnected"),
}

# What there is to know of a provider before it is chosen.
KINDS_OF_PROVIDER = {
    "free": N_("Free"),
    "paid": N_("Paid"),
    "stable": N_("Stable"),
    "unstable": N_("Unstable"),
}

# What one provider can do, and another may not: what people know best first. The rest is no business of a message.
CAPABILITIES = {
    "text": N_("texts"),
    "image": N_("pictures"),
    "video": N_("videos"),
    "audio": N_("audio and voice messages"),
    "document": N_("documents"),
    "template": N_("templates"),
    "interactive": N_("interactive messages"),
    "buttons": N_("buttons"),
    "list": N_("lists"),
    "groups": N_("groups"),
    "reaction": N_("reactions"),
    "receipts": N_("read receipts"),
    "typing": N_("showing that somebody types"),
    "location": N_("locations"),
    "contacts": N_("contact cards"),
    "sticker": N_("stickers"),
    "media": N_("received files"),
    "uploads": N_("uploaded files"),
    "cta_url": N_("links as buttons"),
    "voice_call": N_("buttons to call"),
    "flow": N_("flows"),
    "catalog": N_("catalogs"),
    "product": N_("products"),
    "product_list": N_("lists of products"),
    "product_carousel": N_("carousels of products"),
    "carousel": N_("carousels"),
    "order_details": N_("orders to be paid"),
    "order_status": N_("the state of an order"),
    "address_request": N_("asking for an address"),
    "contact_request": N_("asking for a contact"),
    "location_request": N_("asking for a location"),
    "call_permission_request": N_("asking whether one may call"),
    "pin": N_("pinned messages"),
}

# What a config is to its organization.
ROLES = {
    "active": N_("Active"),
    "fallback": N_("Fallback"),
    "primary": N_("Primary, another one stands in"),
}

# Of a circuit breaker.
BREAKERS = {
    "closed": N_("Closed: calls are made"),
    "open": N_("Open: calls are skipped for a while"),
    "half_open": N_("Half open: one call at a time"),
}

# Of attempts that failed, in few words: they are counted.
FAILURES = {
    "Unsupported": N_("The provider cannot say it"),
    "Rejected": N_("Refused for good"),
    "Restricted": N_("The account is being punished"),
    "AccountBroken": N_("The account cannot send"),
    "Throttled": N_("Refused for now: too many"),
    "Unavailable": N_("The provider could not be reached"),
    "Uncertain": N_("May have been taken"),
    "breaker_open": N_("Not tried: the provider failed lately"),
    "other": N_("Another error"),
}

# What happened, by the code of a problem; what is not here is said by the problem's own detail.
PROBLEMS = {
    "forbidden": N_("This key may not do that."),
    "foreign_form": N_("This was not sent by a page of this console, or its session is over. Nothing was changed."),
    "internal": N_("An unexpected error occurred. Nothing is known to be changed; try again."),
    "quota_reached": N_("The organization has as many of these as it may."),
    "invalid_request": N_("Something in the form is not valid. Nothing was changed."),
    "no_former_config": N_("There is no config to return to: this organization has had one active config only."),
    "not_open": N_("Somebody was faster: it is not open any more."),
    "still_unreadable": N_("This release cannot read it either. It stays here."),
    "too_old": N_("Part of it was taken when it came, too long ago to recognise it now. It stays here."),
    "not_found": N_("There is nothing here, or it belongs to another organization."),
    "signed_out": N_("The session is over: sign in again."),
    "too_large": N_("That is too large."),
    "too_many_requests": N_("That was too often. Wait a moment, then try again."),
    "too_many_waiting": N_("Too many pages of this organization are waiting already. Close some, then try again."),
    "unauthorized": N_("This is no valid API key."),
    "unavailable": N_("Something that the service depends on does not answer. Try again in a moment."),
    "unsupported_media_type": N_("A form of this console was expected."),
}

# What to do about it, by the same codes.
FIXES = {
    "forbidden": N_("Sign in with a key that has the permission, or ask who administers this organization."),
    "foreign_form": N_("Open the page again and repeat what you did."),
    "not_found": N_("Check the address, or go back to the list that you came from."),
    "signed_out": N_("Sign in again: you come back to this page."),
    "internal": N_("If it happens again, give the request id below to who runs this service."),
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

# The checks of a connection test.
CHECKS = {
    "credentials": N_("Credentials"),
    "account": N_("Account"),
    "number": N_("Number"),
    "sender": N_("Sender"),
    "messaging_service": N_("Messaging service"),
    "restrictions": N_("Restrictions"),
    "subscription": N_("Subscription to webhooks"),
    "permissions": N_("Permissions"),
    "token": N_("Token"),
    "settings": N_("Settings"),
    "server": N_("Server"),
    "version": N_("Version of the server"),
    "session": N_("Session"),
    "setup": N_("Set-up"),
    "webhook": N_("Webhook"),
    "repair": N_("Repair"),
    "probe": N_("A webhook posted to ourselves"),
    "ownership": N_("Whose account it is"),
    "provider": N_("The provider answers"),
    "test": N_("Test after the set-up"),
}

# The parts of a switch.
PHASES = {
    "lock": N_("Lock: nobody else changes the provider meanwhile"),
    "test": N_("Test: the account can send"),
    "set_up": N_("Set up: what people write arrives here"),
    "commit": N_("Commit: messages go the new way"),
    "processes": N_("Every process uses it"),
}

# Why a switch was not made, by the code of the error or of the entry in the trail.
REFUSALS = {
    "test_failed": N_("The connection test failed."),
    "webhook_not_set": N_("What people write would not arrive here."),
    "provider_unreachable": N_("The provider did not answer the connection test."),
    "test_timed_out": N_("The provider did not answer the connection test in time."),
    "too_slow": N_("The test and the set-up took too long."),
    "version_conflict": N_("Somebody has changed the provider since this page was opened."),
    "account_in_use": N_("Another organization of this service uses the account."),
    "account_exists": N_("The account is saved already, as another config."),
    "invalid_configuration": N_("The configuration cannot be used as it is."),
    "secrets_needed": N_("A secret has to be given again."),
    "no_former_config": N_("There is no config to return to."),
    "not_paired": N_("No phone is linked to the account."),
    "pairing_timed_out": N_("No phone was linked in time."),
    "superseded": N_("Another switch took its place while it waited for a phone."),
    "process_died": N_("The process that made it ended in the middle, and it was taken back."),
    "lock_lost": N_("The database ended the connection that made it, and it was taken back."),
    "error": N_("An unexpected error occurred, and it was taken back."),
}

# How a phone is linked.
PAIRINGS = {
    "starting": N_("The session is starting: the code comes in a moment."),
    "scan": N_("Scan the code with the phone."),
    "linked": N_("A phone is linked."),
    "failed": N_("The session has failed."),
}

# Of a template at another account.
TEMPLATES = {
    "missing": N_("missing"),
    "unknown": N_("not known"),
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

WORDS = {
    "done": DONE,
    "callback": CALLBACKS,
    "delivery": DELIVERIES,
    "delivery_error": DELIVERY_ERRORS,
    "test_outcome": TEST_OUTCOMES,
    "test_fix": TEST_FIXES,
    "scope": SCOPES,
    "state": STATES,
    "status": STATUSES,
    "action": OPERATIONS | ACTIONS,
    "outcome": OUTCOMES,
    "difference": DIFFERENCES,
    "quarantine_reason": QUARANTINE_REASONS,
    "quarantine_fix": QUARANTINE_FIXES,
    "quarantine_state": QUARANTINE_STATES,
    "notification": NOTIFICATIONS,
    "direction": DIRECTIONS,
    "searched": SEARCHED,
    "period": PERIODS,
    "content": CONTENTS,
    "event": EVENTS,
    "address": ADDRESSES,
    "health": HEALTH,
    "reason": REASONS,
    "role": ROLES,
    "breaker": BREAKERS,
    "failure": FAILURES,
    "error_class": ERROR_CLASSES,
    "remedy": REMEDIES,
    "quality": QUALITIES,
    "provider": KINDS_OF_PROVIDER,
    "capability": CAPABILITIES,
    "problem": PROBLEMS,
    "fix": FIXES,
    "check": CHECKS,
    "phase": PHASES,
    "refusal": REFUSALS,
    "pairing": PAIRINGS,
    "template": TEMPLATES,
}
