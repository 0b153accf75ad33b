"""WhatsApp Web, through a WAHA server of one's own."""

from .provider import WhatsAppWeb

__all__ = ["PROVIDER", "WhatsAppWeb"]

PROVIDER = WhatsAppWeb
