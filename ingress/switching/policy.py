"""What an organization lets a failed attempt lead to: repeat it, go on to the next config, or stop."""

from typing import Annotated, Literal

import msgspec

from providers import AccountBroken, SendError, Throttled, Unavailable, Unsupported

Move = Literal["retry_then_fallback", "retry", "fallback", "stop"]
OnUncertain = Literal["hold", "retry", "fallback"]
_MoveOn = Literal["fallback", "stop"]


class OnError(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="pascal"):
    """By class of error. A class that is not here always stops: another try would be refused, or punished, as well."""

    unsupported: _MoveOn = "fallback"
    account_broken: _MoveOn = "fallback"
    throttled: Move = "retry_then_fallback"
    unavailable: Move = "retry_then_fallback"


class FallbackPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An organization's rules; the defaults are those of an organization that never set any."""

    on_error: OnError = OnError()
    on_uncertain: OnUncertain = "hold"  # where a send does not decide it
    # Seconds an organization stays with a provider it was switched to automatically. None: five minutes.
    min_stay_s: Annotated[int, msgspec.Meta(ge=1, le=7 * 86400)] | None = None
    # Seconds the active provider may be unhealthy before the next one takes its place. None: never by itself.
    auto_switch_after_s: Annotated[int, msgspec.Meta(ge=10, le=86400)] | None = None
    # Whether to return to the provider that was left so, once it is healthy again and `min_stay_s` is over.
    return_to_primary: bool = False
    # Whether a switch after which most sends fail, for the provider's fault, is undone.
    auto_rollback: bool = False

    @property
    def acts_alone(self) -> bool:
        """Whether the service may change the provider by itself."""
        return self.auto_switch_after_s is not None or self.return_to_primary or self.auto_rollback

    def move(self, error: SendError) -> Move:
        """What *error* leads to, if it is known that the message was not taken: see `Dispatch` for `Uncertain`."""
        match error:
            case Throttled(scope="pair"):
                # The person got too many from this number: those of another number are as many.
                return "retry" if self.on_error.throttled != "stop" else "stop"
            case Throttled():
                return self.on_error.throttled
            case Unavailable():
                return self.on_error.unavailable
            case AccountBroken():
                return self.on_error.account_broken
            case Unsupported():
                return self.on_error.unsupported
        return "stop"


DEFAULT_POLICY = FallbackPolicy()


def stored_policy(stored: bytes | None) -> FallbackPolicy:
    """An organization's policy out of its row, where None is the default."""
    return msgspec.json.decode(stored, type=FallbackPolicy) if stored else DEFAULT_POLICY
