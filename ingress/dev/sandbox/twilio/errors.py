"""Twilio's error answers: the documented codes with the HTTP status and the words Twilio uses.

Source: https://www.twilio.com/docs/api/errors, https://www.twilio.com/docs/usage/twilios-response
"""

from typing import Any

# Codes that an answer may carry: (HTTP status, words).
TWILIO_DOCUMENTED: dict[int, tuple[int, str]] = {
    20001: (400, "Unknown parameters"),
    20003: (401, "Authenticate"),
    20004: (405, "Method not allowed"),
    20005: (403, "Account not active"),
    20006: (403, "Access Denied"),
    20008: (403, "Test Account Credentials"),
    20404: (404, "The requested resource was not found"),
    20409: (409, "Conflict"),
    20422: (400, "Invalid Parameter"),
    20429: (429, "Too Many Requests"),
    20500: (500, "Internal Server Error"),
    20503: (503, "Service unavailable"),
    14107: (429, "SMS send rate limit exceeded"),
    21211: (400, "Invalid 'To' Phone Number"),
    21212: (400, "Invalid From Number (caller ID)"),
    21408: (400, "Permission to send has not been enabled for the region"),
    21601: (400, "Phone number is not a valid SMS-capable inbound phone number"),
    21602: (400, "Message body is required."),
    21603: (400, "A 'From' phone number is required."),
    21604: (400, "A 'To' phone number is required."),
    21606: (400, "The From number is not valid for this destination"),
    21608: (400, "The number is unverified"),
    21609: (400, "The 'StatusCallback' URL is not a valid URL."),
    21610: (400, "Attempt to send to unsubscribed recipient"),
    21611: (429, "From has exceeded the maximum number of queued messages"),
    21612: (400, "The 'To' phone number is not currently reachable using the 'From' phone number"),
    21614: (400, "'To' number is not a valid mobile number"),
    21617: (400, "The concatenated message body exceeds the 1600 character limit"),
    21618: (400, "The message body cannot be sent"),
    21619: (400, "A text message body, media URL or content SID must be specified"),
    21620: (400, "Invalid media URL(s)"),
    21623: (400, "Number of media files exceeds allowed limit"),
    21624: (400, "The ValidityPeriod is invalid"),
    21654: (400, "ContentSid Required"),
    21655: (400, "The ContentSid is Invalid"),
    21656: (400, "The ContentVariables Parameter is invalid"),
    21701: (404, "The Messaging Service does not exist"),
    21703: (400, "The Messaging Service does not contain a usable sender"),
    63007: (400, "Twilio could not find a Channel with the specified From address"),
    63031: (400, "Channels message cannot have same From and To"),
    63038: (429, "Account exceeded the daily messages limit"),
}
# Codes that only a status carries, or more often than an answer.
_IN_STATUSES: dict[int, str] = {
    30001: "Queue overflow",
    30002: "Account suspended",
    30003: "Unreachable destination handset",
    30008: "Unknown error",
    63003: "Channel could not find To address",
    63010: "Internal Twilio error",
    63013: "Channel policy violation",
    63016: "Outside messaging window",
    63018: "Rate limit exceeded for Channel",
    63019: "Media failed to download",
    63024: "Invalid message recipient",
    63026: "Sender flagged as spam",
    63028: "Number of parameters provided does not match the expected number of parameters",
    63049: "Meta chose not to deliver this WhatsApp marketing message",
    63051: "WhatsApp Business Account is locked",
}

_NOT_FOUND = 20404


class TwilioError(Exception):
    """An error answer. What is None is as documented for *code*."""

    def __init__(self, code: int, message: str | None = None, *, http_status: int | None = None) -> None:
        documented_status, words = TWILIO_DOCUMENTED.get(code, (400, words_of(code)))
        self.code = code
        self.http_status = http_status or documented_status
        self.message = message or words
        super().__init__(self.message)

    def json(self, path: str = "") -> dict[str, Any]:
        """The same on every host; RFC 9457, which newer APIs are said to use, is recorded of none of these calls.

        Source: https://github.com/twilio/twilio-csharp/issues/790, https://github.com/freescout-help-desk/freescout/issues/3595
        """
        message = f"The requested resource {path} was not found" if self.code == _NOT_FOUND and path else self.message
        url = f"https://www.twilio.com/docs/errors/{self.code}"
        return {"code": self.code, "message": message, "more_info": url, "status": self.http_status}


def words_of(code: int) -> str:
    """What an `ErrorMessage`, or a title, says of *code*."""
    return TWILIO_DOCUMENTED[code][1] if code in TWILIO_DOCUMENTED else _IN_STATUSES.get(code, "Error")
