"""The service's own canary (`ingress canary`): a provider of which everything is known, in no organization's list.

A webhook is one message. It is signed over the time at which it is posted, and its body.
"""

from .provider import Canary

__all__ = ["PROVIDER", "Canary"]

PROVIDER = Canary
