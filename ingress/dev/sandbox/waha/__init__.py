"""A WAHA server with WhatsApp behind it."""
