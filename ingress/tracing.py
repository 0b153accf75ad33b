"""W3C Trace Context: the trace that a request says it is part of, logged and passed on as it came.

We record no spans, so we are a service that forwards `traceparent` and is no parent of its own.
Source: https://www.w3.org/TR/trace-context/
"""

import re

HEADER = "traceparent"
_TRACEPARENT = re.compile("00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def trace_of(traceparent: str | None) -> str | None:
    """The trace's id, 32 hex digits; None where there is none, or it is not of version 00."""
    parsed = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    return parsed[1] if parsed else None
