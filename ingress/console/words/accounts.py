"""What the codes of providers, their accounts, and switches between them are called."""

from ..languages import N_

# Of a config.
STATES = {
    "configured": N_("Configured"),
    "switching": N_("Switching"),
    "active": N_("Active"),
    "inactive": N_("Inactive"),
    "error": N_("Error"),
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
