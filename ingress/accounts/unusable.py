"""What stands for a provider that cannot be used here: configs outlive plug-ins and keys, and these come back."""

from typing import Any, ClassVar

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


def _fail(self: "MissingPlugin", *_: Any, **__: Any) -> Flow[Any]:
    yield from ()
    raise AccountBroken(self.detail, code=self.code)


_flow: Any = _fail


class MissingPlugin(WhatsAppProvider, frozen=True):
    """Its plug-in is not there. Can do nothing, and says so: its flows raise `AccountBroken` with ``code``."""

    code: ClassVar[str] = "plugin_missing"
    detail: ClassVar[str] = "The plug-in of this provider is not installed, or it failed."
    fix: ClassVar[str] = "Install the provider's plug-in and run `ingress providers reload`: it says what failed."

    info: ClassVar[ProviderInfo] = ProviderInfo(
        name="missing_plugin",
        display_name="Missing plug-in",
        description=detail,
        pricing="free",
        stability="unstable",
        official=False,
        capabilities=frozenset(),
    )

    @property
    def why(self) -> str:
        """For people: what is wrong, and what to do."""
        return f"{self.detail} {self.fix}"

    @property
    def status(self) -> ProviderStatus:
        return ProviderStatus(is_connected=False, connection_quality="disconnected", detail=self.detail)

    def challenge(self, hook: Webhook) -> Response | None:
        return None

    def verify(self, hook: Webhook) -> None:
        raise Unverified

    def parse(self, hook: Webhook) -> list[Event]:
        raise Malformed

    setup = validate_config = get_status = receive_messages = disconnect = send_message = media = _flow


class UnreadableConfig(MissingPlugin, frozen=True):
    """What is stored of the config cannot be opened: its key is gone, or it is damaged."""

    code: ClassVar[str] = "cannot_be_opened"
    detail: ClassVar[str] = (
        "What is stored of this config cannot be opened: its key is missing, or the record is damaged."
    )
    fix: ClassVar[str] = (
        "Put its key back into INGRESS_ENCRYPTION_KEYS, or the record from a backup; or save the configuration anew"
        " with provider/configure."
    )


# Why the health of a config is what it is, where nothing can be done with it.
UNUSABLE = frozenset({MissingPlugin.code, UnreadableConfig.code})
