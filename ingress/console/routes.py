"""The console's table of routes."""

from starlette.routing import BaseRoute

from . import live
from .pages import audit, components, contacts, general, messages, quarantine, sign_in, switch, team
from .routing import ConsoleRoute, nothing_here

ROUTES: list[BaseRoute] = [
    ConsoleRoute("GET", "", sign_in.home, None),
    ConsoleRoute("GET", "/", sign_in.home, None),
    ConsoleRoute("GET", "/static/{version}/{name}", sign_in.static, None),
    ConsoleRoute("GET", "/sign-in", sign_in.show, None),
    ConsoleRoute("POST", "/sign-in", sign_in.sign_in, None),
    ConsoleRoute("POST", "/sign-out", sign_in.sign_out, "any", organization=False),
    ConsoleRoute("POST", "/preferences", sign_in.prefer, None),
    ConsoleRoute("GET", "/live", live.follow, "any"),
    ConsoleRoute("GET", "/general", general.show, "read"),
    ConsoleRoute("POST", "/general/name", general.name, "configure"),
    ConsoleRoute("POST", "/general/callback", general.put_callback, "configure"),
    ConsoleRoute("POST", "/general/test", general.test, "configure"),
    ConsoleRoute("POST", "/general/enable", general.enable, "configure"),
    ConsoleRoute("GET", "/general/secret", general.confirm_secret, "configure"),
    ConsoleRoute("POST", "/general/secret", general.rotate, "configure"),
    ConsoleRoute("GET", "/general/remove", general.confirm_removal, "configure"),
    ConsoleRoute("POST", "/general/remove", general.remove, "configure"),
    ConsoleRoute("GET", "/general/replay", general.confirm_replay, "configure"),
    ConsoleRoute("POST", "/general/replay", general.replay, "configure"),
    ConsoleRoute("GET", "/general/{form}", general.back, "any"),
    ConsoleRoute("GET", "/switch", switch.show, "read"),
    ConsoleRoute("POST", "/switch", switch.switch, "configure"),
    ConsoleRoute("POST", "/switch/check", switch.check_switch, "configure"),
    ConsoleRoute("GET", "/rollback", switch.show_rollback, "read"),
    ConsoleRoute("POST", "/rollback", switch.rollback, "configure"),
    ConsoleRoute("POST", "/rollback/check", switch.check_rollback, "configure"),
    ConsoleRoute("GET", "/switches/{entry}", switch.show_result, "read"),
    ConsoleRoute("GET", "/team", team.show, "any"),
    ConsoleRoute("POST", "/team", team.make, "admin"),
    ConsoleRoute("GET", "/team/{key_id}/revoke", team.confirm_revoke, "admin"),
    ConsoleRoute("POST", "/team/{key_id}/revoke", team.revoke, "admin"),
    ConsoleRoute("GET", "/audit", audit.show, "admin"),
    ConsoleRoute("GET", "/audit.csv", audit.export, "admin"),
    ConsoleRoute("GET", "/audit/verify", audit.verify, "admin"),
    ConsoleRoute("GET", "/audit/{entry_id:int}", audit.show_entry, "admin"),
    ConsoleRoute("GET", "/messages", messages.show, "read"),
    ConsoleRoute("GET", "/messages/export", messages.export, "read", is_file=True),
    ConsoleRoute("GET", "/messages/{message_id}", messages.show_message, "read"),
    ConsoleRoute("GET", "/events/{event_id}", messages.show_event, "read"),
    ConsoleRoute("GET", "/events/{event_id}/raw", messages.show_raw, "read"),
    ConsoleRoute("GET", "/contacts/{contact_id}", contacts.show, "read"),
    ConsoleRoute("GET", "/quarantine", quarantine.show, "read"),
    ConsoleRoute("GET", "/quarantine/discard", quarantine.confirm_discard, "configure"),
    ConsoleRoute("POST", "/quarantine/discard", quarantine.discard, "configure"),
    ConsoleRoute("GET", "/quarantine/{quarantine_id}", quarantine.show_item, "read"),
    ConsoleRoute("POST", "/quarantine/{quarantine_id}/replay", quarantine.replay, "configure"),
    ConsoleRoute("GET", "/_components", components.show, "any"),
]
# Behind all others.
ROUTES += [ConsoleRoute("GET", "/{rest:path}", nothing_here, "any", organization=False)]
