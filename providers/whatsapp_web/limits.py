"""What WhatsApp Web takes. Nobody publishes numbers for lengths and files: these go to the server as they are."""

from ..limits import Limits

_SEND = "https://waha.devlike.pro/docs/how-to/send-messages"
# On buttons, which go out as numbered text, and lists.
_TAPPED = Limits(source=_SEND, headers=("text",))

LIMITS: dict[str, Limits] = {
    "audio": Limits(source=_SEND, at_most={"caption_characters": 0}),
    "sticker": Limits(source=_SEND, at_most={"caption_characters": 0}, mime_types=("image/webp",)),
    "buttons": _TAPPED,
    "list": _TAPPED,
}
