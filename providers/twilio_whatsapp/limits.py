"""What Twilio takes at most for WhatsApp.

Messages with something to tap are made within a session, without an approval: of what is approved it takes more. What
stands beside a file is the body of a message, and so is the name of a place.
"""

from ..limits import OPUS, Limits

_MB = 1024 * 1024
_BODY = "https://www.twilio.com/docs/api/errors/21617"
_MEDIA = "https://www.twilio.com/docs/whatsapp/guidance-whatsapp-media-messages"
_CONTENT = "https://www.twilio.com/docs/content"

_CAPTION = {"caption_characters": 1600}
# There is neither header nor footer.
_TAPPED = {"text_characters": 1024, "footer_characters": 0}

LIMITS: dict[str, Limits] = {
    "text": Limits(source=_BODY, at_most={"text_characters": 1600}),
    "image": Limits(source=_MEDIA, at_most={**_CAPTION, "file_bytes": 5 * _MB}, mime_types=("image/jpeg", "image/png")),
    "video": Limits(source=_MEDIA, at_most={**_CAPTION, "file_bytes": 16 * _MB}, mime_types=("video/mp4",)),
    "audio": Limits(
        source=_MEDIA,
        at_most={"file_bytes": 16 * _MB},
        mime_types=(OPUS, "audio/amr", "audio/3gpp", "audio/aac", "audio/mpeg"),
    ),
    "document": Limits(source=_MEDIA, at_most={**_CAPTION, "file_bytes": 16 * _MB}),
    "sticker": Limits(source=_MEDIA, at_most={"file_bytes": 16 * _MB}, mime_types=("image/webp",)),
    "location": Limits(source=_BODY, at_most={"name_characters": 1600, "address_characters": 1600}),
    "contacts": Limits(source=_MEDIA, at_most={"contacts": 1}),
    "template": Limits(
        source="https://www.twilio.com/docs/api/errors/21658",
        at_most={
            "header_text_characters": 1600,
            "body_text_characters": 1600,
            "button_text_characters": 1600,
            "button_payload_characters": 1600,
        },
        headers=("text", "currency", "date_time"),
    ),
    "buttons": Limits(
        source=f"{_CONTENT}/twilio-quick-reply",
        at_most=_TAPPED | {"buttons": 3, "button_title_characters": 20, "button_id_characters": 200},
        headers=(),
    ),
    "list": Limits(
        source=f"{_CONTENT}/twiliolist-picker",
        at_most=_TAPPED
        | {"button_title_characters": 20, "sections": 1, "section_title_characters": 0, "rows": 10}
        | {"row_id_characters": 200, "row_title_characters": 24, "row_description_characters": 72},
        headers=(),
    ),
    "cta_url": Limits(
        source=f"{_CONTENT}/twilio-call-to-action", at_most=_TAPPED | {"button_title_characters": 25}, headers=()
    ),
}
