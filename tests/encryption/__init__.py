"""Encryption keys: what they have sealed, and how another one takes the place of one."""
