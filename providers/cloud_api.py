"""The dialect of Meta's Cloud API, for providers that speak it too: gateways with a host and a key of their own.

What they share is how webhooks read and how messages are written; where these go, and who may send them, is each
provider's business. `examples/threesixty` is one of them.
"""

from ._cloud_errors import answered, is_missing_object
from ._cloud_health import number_check, number_status
from ._cloud_inbound import events
from ._cloud_media import media_of
from ._cloud_outbound import KINDS, message_request, message_result, read_receipt

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
