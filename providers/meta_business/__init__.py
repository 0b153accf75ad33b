"""Meta's own WhatsApp Business Platform, by its Cloud API."""

from .provider import MetaBusiness

__all__ = ["PROVIDER", "MetaBusiness"]

PROVIDER = MetaBusiness
