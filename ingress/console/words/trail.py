"""What the codes of the trail, the quarantine and notifications are called."""

from ..languages import N_

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
    "contact_erased": N_("Person erased"),
    "contact_exported": N_("All about a person exported to a file"),
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
    "retention_changed": N_("How long data is kept changed"),
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
    "erase_contact": N_("Erase a person"),
    "edit_app": N_("Edit an app of several organizations"),
    "edit_config": N_("Edit a configuration"),
    "enable_callback": N_("Enable the callback again"),
    "end_pairing": N_("Unlink a phone"),
    "put_callback": N_("Set the callback"),
    "put_fallback": N_("Set the fallback order"),
    "put_retention": N_("Set how long data is kept"),
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
