"""The dialect of Meta's Cloud API, for providers that speak it too: gateways with a host and a key of their own.

What they share is how webhooks read and how messages are written; where these go, and who may send them, is each
provider's business. `examples/threesixty` is one of them. What is not named here is the dialect's own business.
"""

from .errors import answered, is_missing_object, is_unknown_field
from .health import number_check, number_status
from .ids import message_key
from .inbound import event_key, events
from .limits import LIMITS, content_of, pacing
from .media import media_of, upload_form
from .outbound import KINDS, message_request, message_result, read_receipt

__all__ = [
    "KINDS",
    "LIMITS",
    "answered",
    "content_of",
    "event_key",
    "events",
    "is_missing_object",
    "is_unknown_field",
    "media_of",
    "message_key",
    "message_request",
    "message_result",
    "number_check",
    "number_status",
    "pacing",
    "read_receipt",
    "upload_form",
]
