"""What can go wrong with a provider, split by what the caller does about it.

    ProviderError
    ├── WebhookError         whoever called us is at fault
    │   ├── Unverified       the signature or token does not match
    │   └── Malformed        not the provider's outer envelope
    └── SendError            the message is not known to be out
        ├── Unsupported      this provider cannot say it; nothing was sent
        ├── Rejected         refused for good: recipient, policy, consent, content
        ├── Restricted       the account is being punished; moving the traffic spreads the punishment
        ├── AccountBroken    credentials, payment, permission, session lost
        ├── Throttled        refused for now; retry_after_s says how long
        ├── Unavailable      surely not taken: refused, DNS, TLS, connect timeout
        └── Uncertain        may have been taken: read timeout, reset, bare 5xx; nobody repeats it

An HTTP status for each of them is the service's business, not theirs.
"""

import re

MAX_DETAIL = 1_000
MAX_RETRY_AFTER_S = 24 * 3600.0
# What is no code of this kind is not repeated: it goes into tables, logs and metrics.
_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


class ProviderError(Exception):
    """Anything a provider plug-in reports."""


class WebhookError(ProviderError):
    """A webhook request that yields no events."""


class Unverified(WebhookError):
    """The signature or token does not match. Says nothing about what would have matched."""


class Malformed(WebhookError):
    """The body is not the provider's outer envelope."""


class SendError(ProviderError):
    """A call to a provider that did not end in acceptance.

    ``code`` is the provider's own (or ours, a short snake_case word, where none was given), ``detail`` a
    sentence for people, ``retry_after_s`` the seconds the provider asked for, ``scope`` what the trouble is
    limited to (``token``, ``number``, ``template``, ``recipient``, ``message``, …), None where not known.
    All of them are bounded here, for providers answer what they like.
    """

    def __init__(
        self, detail: str = "", *, code: str | None = None, retry_after_s: float | None = None, scope: str | None = None
    ) -> None:
        self.detail = detail[:MAX_DETAIL].replace("\0", "\ufffd")
        super().__init__(self.detail)
        self.code = code if code is None or _CODE.fullmatch(code) else "unreadable"
        # The comparison is false for what is no number, too.
        bounded = retry_after_s is None or 0 <= retry_after_s <= MAX_RETRY_AFTER_S
        self.retry_after_s = retry_after_s if bounded else MAX_RETRY_AFTER_S
        self.scope = scope

    def __repr__(self) -> str:
        # The detail may quote what a person wrote; a repr ends up in logs.
        return f"{type(self).__name__}(code={self.code!r})"


class Unsupported(SendError):
    """This provider cannot express the message. Raised before anything is called, or by an answer that says so."""


class Rejected(SendError):
    """Refused for good, and another try would be refused as well."""


class Restricted(SendError):
    """The provider is punishing the account: stop, and notify a person."""


class AccountBroken(SendError):
    """The account cannot send at all until somebody repairs it."""


class Throttled(SendError):
    """Refused for now."""


class Unavailable(SendError):
    """Surely not taken, and not the message's fault."""


class Uncertain(SendError):
    """May have been taken. Only a status, or the provider itself, can settle it."""


# What these say is about the account and its configuration. All others say that the provider could not be asked.
CONFIGURATION_ERRORS = (AccountBroken, Restricted, Rejected)
