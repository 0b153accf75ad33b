"""What stands for a provider whose plug-in is not in this process: configs outlive plug-ins, and these come back."""

from typing import Any, ClassVar, Final

from providers import (
    AccountBroken,
    Event,
    Flow,
    Malformed,
    ProviderInfo,
    ProviderStatus,
    Response,
    Unverified,
    Webhook,
    WhatsAppProvider,
)

PLUGIN_MISSING: Final = "plugin_missing"
_DETAIL = "The plug-in of this provider is not installed, or it failed."

STATUS = ProviderStatus(is_connected=False, connection_quality="disconnected", detail=_DETAIL)


def _fail(*_: Any, **__: Any) -> Flow[Any]:
    yield from ()
    raise AccountBroken(_DETAIL, code=PLUGIN_MISSING)


_flow: Any = _fail


class Absent(WhatsAppProvider, frozen=True):
    """Can do nothing, and says so: its flows raise `AccountBroken`."""

    info: ClassVar[ProviderInfo] = ProviderInfo(
        name="absent",
        display_name="Absent",
        description=_DETAIL,
        pricing="free",
        stability="unstable",
        official=False,
        capabilities=frozenset(),
    )

    def challenge(self, hook: Webhook) -> Response | None:
        return None

    def verify(self, hook: Webhook) -> None:
        raise Unverified

    def parse(self, hook: Webhook) -> list[Event]:
        raise Malformed

    setup = validate_config = get_status = receive_messages = disconnect = send_message = media = _flow
