"""Twilio's Programmable Messaging with WhatsApp senders."""

from .provider import TwilioWhatsApp

__all__ = ["PROVIDER", "TwilioWhatsApp"]

PROVIDER = TwilioWhatsApp
