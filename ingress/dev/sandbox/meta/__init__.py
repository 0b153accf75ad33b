"""A Graph API with the WhatsApp Business Platform behind it."""
