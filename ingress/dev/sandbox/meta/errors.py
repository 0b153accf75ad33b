"""Meta's error answers: the documented codes with the HTTP status and the words Meta uses.

Source: https://developers.facebook.com/documentation/business-messaging/whatsapp/support/error-codes
"""

import secrets
from typing import Any

# Every code that a send, or a `failed` status, may carry: (HTTP status, words).
DOCUMENTED: dict[int, tuple[int, str]] = {
    0: (401, "AuthException"),
    1: (400, "An unknown error occurred"),
    2: (503, "An unexpected error has occurred. Please retry your request later."),
    3: (500, "API Method"),
    4: (400, "Application request limit reached"),
    10: (403, "Application does not have permission for this action"),
    17: (400, "User request limit reached"),
    33: (400, "This object does not exist or does not support this action"),
    100: (400, "Invalid parameter"),
    102: (401, "Session key invalid or no longer valid"),
    190: (401, "Invalid OAuth access token"),
    200: (
        403,
        "You do not have the necessary permissions required to send messages on behalf of this "
        "WhatsApp Business Account",
    ),
    341: (400, "Application limit reached"),
    368: (403, "Temporarily blocked for policies violations"),
    506: (400, "Duplicate post"),
    613: (400, "Calls to this api have exceeded the rate limit."),
    803: (404, "Some of the aliases you requested do not exist"),
    2500: (400, "An active access token must be used to query information about the current user."),
    80007: (400, "There have been too many calls to this WhatsApp Business account"),
    130429: (400, "Rate limit hit"),
    130472: (400, "User's number is part of an experiment"),
    130497: (403, "Business account is restricted from messaging users in this country"),
    131000: (500, "Something went wrong"),
    131005: (403, "Access denied"),
    131008: (400, "Required parameter is missing"),
    131009: (400, "Parameter value is not valid"),
    131014: (400, "Request for url failed"),
    131016: (500, "Service unavailable"),
    131020: (400, "Group cannot be messaged"),
    131021: (400, "Recipient cannot be sender"),
    131026: (400, "Message undeliverable"),
    131030: (400, "Recipient phone number not in allowed list"),
    131031: (403, "Business Account locked"),
    131037: (400, "Display name approval is needed before a message can be sent"),
    131041: (400, "Group does not exist"),
    131042: (400, "Business eligibility payment issue"),
    131045: (500, "Incorrect certificate"),
    131047: (400, "Re-engagement message"),
    131048: (400, "Spam rate limit hit"),
    131049: (400, "Meta chose not to deliver the message"),
    131050: (400, "User stopped marketing messages"),
    131051: (400, "Unsupported message type"),
    131052: (400, "Media download error"),
    131053: (400, "Media upload error"),
    131055: (400, "Only marketing templates are allowed on this endpoint"),
    131056: (400, "(Business Account, Consumer Account) pair rate limit hit"),
    131057: (500, "Account in maintenance mode"),
    131062: (400, "Business-scoped User ID (BSUID) recipients are not supported for this message"),
    131063: (400, "Marketing templates are not allowed on this endpoint"),
    131064: (400, "Messaging limit reached because of template classification violations"),
    131207: (403, "Group suspended"),
    131208: (429, "Too many group operations"),
    131215: (400, "Phone number is not eligible for groups"),
    132000: (400, "Number of parameters does not match the expected number of params"),
    132001: (404, "Template name does not exist in the translation"),
    132005: (400, "Template hydrated text too long"),
    132007: (400, "Template format character policy violated"),
    132008: (400, "Parameter value format is not valid"),
    132012: (400, "Parameter format does not match format in the created template"),
    132015: (400, "Template is paused"),
    132016: (400, "Template is disabled"),
    132018: (400, "Template parameters are not valid"),
    132068: (400, "Flow is blocked"),
    132069: (400, "Flow is throttled"),
    133004: (503, "Server is temporarily unavailable"),
    133010: (400, "The account is not registered"),
    134011: (400, "Payments terms of service have not been accepted"),
    134100: (400, "Only marketing messages are supported on this endpoint"),
    134101: (400, "Template is still syncing"),
    134102: (500, "Template is unavailable on this endpoint"),
    135000: (400, "Generic user error"),
    137000: (400, "Recipient identity key hash mismatch"),
    138000: (401, "Calling is not enabled on this phone number"),
    138009: (400, "Too many call permission requests"),
}
SAYS_TRANSIENT = {2, 4, 17, 80007}  # Source: https://github.com/facebook/openapi (its examples of 429 and 500)
# Meta writes the code before the words of those that WhatsApp itself refuses, not of what the Graph API does.
# Source: https://github.com/facebook/openapi (its examples of 401 and 404)
_WITHOUT_CODE = {190, 803}


class GraphError(Exception):
    """An error answer of the Graph API. What is None is as documented for *code*."""

    def __init__(
        self,
        code: int,
        details: str | None = None,
        *,
        http_status: int | None = None,
        subcode: int | None = None,
        message: str | None = None,
        is_transient: bool | None = None,
    ) -> None:
        documented_status, words = DOCUMENTED.get(code, (400, "Error"))
        self.code = code
        self.details = details
        self.http_status = http_status or documented_status
        self.subcode = subcode
        self.message = message or (words if code in _WITHOUT_CODE else f"(#{code}) {words}")
        self.is_transient = code in SAYS_TRANSIENT if is_transient is None else is_transient
        super().__init__(self.message)

    def json(self) -> dict[str, Any]:
        error: dict[str, Any] = {
            "message": self.message,
            # Meta calls nearly everything an OAuthException, but not what it cannot find.
            "type": "GraphMethodException" if self.subcode == 33 or self.code == 803 else "OAuthException",
            "code": self.code,
        }
        if self.subcode is not None:
            error["error_subcode"] = self.subcode
        if self.details is not None:
            error["error_data"] = {"messaging_product": "whatsapp", "details": self.details}
        if self.is_transient:
            error["is_transient"] = True
        return {"error": {**error, "fbtrace_id": "A" + secrets.token_urlsafe(16)}}


def not_found(object_id: str, method: str) -> GraphError:
    """An id that does not exist, or that the token cannot see: Meta answers both alike.

    Source: https://github.com/aws-samples/amazon-connect-whatsapp-chat/issues/3. Its OpenAPI file has 404 with 803.
    """
    return GraphError(
        100,
        subcode=33,
        message=f"Unsupported {method.lower()} request. Object with ID '{object_id}' does not exist, cannot be loaded "
        "due to missing permissions, or does not support this operation. Please read the Graph API documentation at "
        "https://developers.facebook.com/docs/graph-api",
    )


def status_error(code: int) -> dict[str, Any]:
    """The same trouble as a `failed` status words it."""
    words = DOCUMENTED.get(code, (400, "Error"))[1]
    return {
        "code": code,
        "title": words,
        "message": words,
        "error_data": {"details": f"{words}."},
        "href": "/documentation/business-messaging/whatsapp/support/error-codes",
    }
