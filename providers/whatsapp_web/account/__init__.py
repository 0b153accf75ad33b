"""The account behind a configuration: the session, and the WAHA server that runs it."""
