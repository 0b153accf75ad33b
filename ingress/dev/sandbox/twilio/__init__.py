"""Twilio's API of messages, and the platform behind it."""
