"""The dialect of Meta's Cloud API, for providers that speak it too: gateways with a host and a key of their own.

What they share is how webhooks read and how messages are written; where these go, and who may send them, is each
provider's business. `examples/threesixty` is one of them.
"""

from .errors import answered, is_missing_object
from .health import number_check, number_status
from .inbound import events
from .media import media_of
from .outbound import KINDS, message_request, message_result, read_receipt

__all__ = [
    "KINDS",
    "answered",
    "events",
    "is_missing_object",
    "media_of",
    "message_request",
    "message_result",
    "number_check",
    "number_status",
    "read_receipt",
]
