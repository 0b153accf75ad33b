"""One gateway between a CRM and any WhatsApp provider."""

from importlib.metadata import version

__version__ = version("whatsapp-ingress")
