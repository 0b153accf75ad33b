"""What is wrong with an account, and what to do about it."""

from typing import Literal

from .unusable import MissingPlugin, UnreadableConfig

Reason = Literal[
    "unreachable",
    "credentials",
    "account_restricted",
    "session_lost",
    "not_paired",
    "webhook_missing",
    "webhooks_refused",
    "sends_refused",
    "silent",
    "degraded",
    "plugin_missing",
    "cannot_be_opened",
]

WHAT_TO_DO: dict[Reason, str] = {
    "unreachable": "See whether the provider has an outage, and whether its address is right and reached from here.",
    "credentials": "Renew the credentials at the provider, and save them in the config.",
    "account_restricted": "See the account at the provider for what it demands; send through another one meanwhile.",
    "session_lost": "Set the account up again: switch to it, or start provider/pairing where it is a linked phone.",
    "not_paired": "Link a phone: provider/pairing shows the QR code.",
    "webhook_missing": "Repair the account (provider/repair): what people write to it does not arrive here.",
    "webhooks_refused": "Put the secret the provider signs with into the config; a server that signs none is too old.",
    "sends_refused": "See the errors of the last messages: payment, permissions, or a block of the account.",
    "silent": "Test the connection with provider/test: its webhooks seem not to arrive here.",
    "degraded": "See the account at the provider, and send less through it until it has recovered.",
    "plugin_missing": MissingPlugin.fix,
    "cannot_be_opened": UnreadableConfig.fix,
}
