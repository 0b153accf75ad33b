"""What a WAHA server has by its version and tier, and how long it takes: where WAHA itself, not a phone, decides.

Source: recorded on 2024.10.8 Core and 2026.2.1 Core, both under NOWEB (tests/samples/whatsapp_web/recorded has the
    answers), and read in the OpenAPI description and the source of 2026.7.1, https://github.com/devlikeapro/waha;
    stickers: https://github.com/devlikeapro/waha/pull/2240
"""

from typing import Literal

import msgspec

Tier = Literal["CORE", "PLUS"]

NEWEST = "2026.8.2"
# The version that brought it. Where it came is not known of the first one: it was not there on 2024.10.8.
SINCE = {
    "answers_to_cards": "2024.11.1",
    "signatures": "2024.11.6",  # of webhooks, in Core
    "group_ids_of_four_parts": "2024.11.7",  # of messages, by NOWEB
    "message_ids_seen": "2025.4.1",  # sendSeen wanted one `messageId`
    "lids": "2025.5.4",
    "status_501": "2025.6.1",  # what an engine lacks was 422
    "message.edited": "2025.6.3",
    "sendList": "2025.8.2",
    "places": "2025.11.1",  # and cards, beside `_data.message`, by NOWEB
    "message.ack.group": "2025.12.2",
    "chosen_ids": "2026.4.3",
    "one_edition": "2026.6.1",  # files, lists, any session and stored configurations were Plus only
    "sendSticker": "2026.8.2",
}
# Seconds before the answer. Recorded: a call that needs a session which works, about one that is missing or stopped,
# and about one in another state; PUT and restart of a session, and its logout.
WAIT_NOT_RUNNING_S, WAIT_NOT_WORKING_S = 5.0, 10.0
RESTART_S, LOGOUT_S = 3.0, 4.0


class WahaServer(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``waits`` is a share of the seconds that a real server takes: 1 is as it is, 0 at once."""

    version: str = NEWEST
    tier: Tier = "CORE"
    waits: float = 0.01

    def has(self, feature: str) -> bool:
        """Whether the version has what SINCE lists; all else every version has."""
        return feature not in SINCE or _numbers(self.version) >= _numbers(SINCE[feature])

    @property
    def is_limited(self) -> bool:
        """Whether it is a Core of before the editions were merged."""
        return self.tier == "CORE" and not self.has("one_edition")

    @property
    def signs(self) -> bool:
        return self.tier == "PLUS" or self.has("signatures")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
