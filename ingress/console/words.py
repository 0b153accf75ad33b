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
    "replayed": N_("The events are being delivered again."),
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

# What happened, by the code of a problem; what is not here is said by the problem's own detail.
PROBLEMS = {
    "forbidden": N_("This key may not do that."),
    "foreign_form": N_("This was not sent by a page of this console, or its session is over. Nothing was changed."),
    "internal": N_("An unexpected error occurred. Nothing is known to be changed; try again."),
    "invalid_request": N_("Something in the form is not valid. Nothing was changed."),
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
    "problem": PROBLEMS,
    "fix": FIXES,
}
