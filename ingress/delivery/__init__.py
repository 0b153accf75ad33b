"""Events to the CRM: signed, in order, again until they are taken."""
