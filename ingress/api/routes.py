"""The API's table of routes, and that of the port that the public does not reach."""

from functools import cache

import msgspec
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Router

from ..web.openapi import document
from ..web.routing import ApiRoute
from . import (
    ApiRequest,
    apps,
    audit,
    callback,
    configs,
    events,
    figures,
    media,
    operations,
    organizations,
    pairing,
    providers,
    quarantine,
    send,
    status,
    switching,
)
from .history import inbound_messages, messages, retention, timelines
from .people import contacts, erasure


async def openapi(_: ApiRequest) -> Response:
    """GET /openapi.json: this description."""
    return Response(_description(), media_type="application/json")


@cache
def _description() -> bytes:
    return msgspec.json.encode(document(ROUTES))


INTEGRATIONS: list[BaseRoute] = [
    ApiRoute("GET", "/providers", providers.list_providers, "read"),
    ApiRoute("POST", "/providers/reload", providers.reload_providers, "platform"),
    ApiRoute("GET", "/provider/current", providers.current, "read"),
    ApiRoute("POST", "/provider/configure", providers.configure, "configure"),
    ApiRoute("GET", "/provider/fallback", switching.get_fallback, "read"),
    ApiRoute("PUT, POST", "/provider/fallback", switching.put_fallback, "configure"),
    ApiRoute("POST", "/provider/switch", switching.switch, "configure"),
    ApiRoute("POST", "/provider/rollback", switching.rollback, "configure"),
    ApiRoute("GET", "/provider/pairing", pairing.show_pairing, "configure"),
    ApiRoute("POST", "/provider/pairing", pairing.start_pairing, "configure"),
    ApiRoute("DELETE", "/provider/pairing", pairing.end_pairing, "configure"),
    ApiRoute("POST", "/provider/test", providers.test_connection, "configure", changes=False),
    ApiRoute("GET", "/provider/figures", figures.show_figures, "read"),
    ApiRoute("GET", "/provider/usage", figures.show_usage, "read"),
    ApiRoute("POST", "/provider/repair", providers.repair, "configure"),
    ApiRoute("GET", "/provider/configs", configs.list_configs, "read"),
    ApiRoute("PATCH", "/provider/configs/{config_id}", configs.edit_config, "configure"),
    ApiRoute("DELETE", "/provider/configs/{config_id}", configs.delete_config, "configure"),
    ApiRoute("GET", "/templates", configs.list_templates, "read"),
    ApiRoute("GET", "/status", status.stream_status, "read"),
    ApiRoute("GET", "/audit", audit.list_audit, "admin"),
    ApiRoute("GET", "/audit/verify", audit.verify_audit, "admin"),
]
ROUTES: list[BaseRoute] = [
    ApiRoute("POST", "/send", send.send, "send", any_text=True),
    ApiRoute("GET", "/messages", messages.list_messages, "read"),
    ApiRoute("GET", "/messages/{message_id}", messages.get_message, "read"),
    ApiRoute("GET", "/messages/{message_id}/timeline", timelines.get_message_timeline, "read"),
    ApiRoute("POST", "/messages/{event_id}/read", inbound_messages.mark_read, "send"),
    ApiRoute("POST", "/messages/{event_id}/typing", inbound_messages.show_typing, "send"),
    ApiRoute("DELETE", "/messages/{event_id}/typing", inbound_messages.stop_typing, "send"),
    ApiRoute("GET", "/messages/{event_id}/phone", inbound_messages.find_phone, "read"),
    ApiRoute("GET", "/contacts/lookup", contacts.look_up, "send"),
    ApiRoute("POST", "/media", media.upload_media, "send", status=201, file="body"),
    ApiRoute("DELETE", "/media", media.delete_media, "send"),
    ApiRoute("GET", "/media/{event_id}", media.get_media, "read", file="answer"),
    ApiRoute("GET", "/contacts", contacts.list_contacts, "read"),
    ApiRoute("GET", "/contacts/{contact_id}", contacts.get_contact, "read"),
    ApiRoute("GET", "/contacts/{contact_id}/messages", contacts.list_said, "read"),
    ApiRoute("GET", "/contacts/{contact_id}/export", erasure.export_contact, "admin"),
    ApiRoute("POST", "/contacts/{contact_id}/erasure", erasure.erase_contact, "admin", status=202),
    ApiRoute("GET", "/erasures/{erasure_id}", erasure.show_erasure, "admin"),
    ApiRoute("GET", "/events", events.list_events, "read"),
    ApiRoute("GET", "/events/stream", events.stream_events, "read"),
    ApiRoute("GET", "/events/{event_id}/timeline", timelines.get_event_timeline, "read"),
    Mount("/integrations/whatsapp", Router(INTEGRATIONS, redirect_slashes=False)),
    ApiRoute("GET", "/callback", callback.get_callback, "read"),
    ApiRoute("PUT", "/callback", callback.put_callback, "configure"),
    ApiRoute("DELETE", "/callback", callback.delete_callback, "configure"),
    ApiRoute("POST", "/callback/test", callback.test_callback, "configure"),
    ApiRoute("POST", "/callback/enable", callback.enable_callback, "configure"),
    ApiRoute("GET", "/callback/deliveries", callback.list_deliveries, "read"),
    ApiRoute("GET", "/callback/parked", callback.list_parked, "read"),
    ApiRoute("GET", "/callback/parked/count", callback.count_parked, "read"),
    ApiRoute("POST", "/callback/replay", callback.replay_parked, "configure"),
    ApiRoute("GET", "/quarantine", quarantine.list_quarantine, "read"),
    ApiRoute("GET", "/quarantine/{quarantine_id}", quarantine.show_quarantine, "read"),
    ApiRoute("POST", "/quarantine/{quarantine_id}/replay", quarantine.replay_quarantine, "configure"),
    ApiRoute("POST", "/quarantine/{quarantine_id}/discard", quarantine.discard_quarantine, "configure"),
    ApiRoute("GET", "/organizations", organizations.list_organizations, "platform"),
    ApiRoute("POST", "/organizations", organizations.create_organization, "platform", status=201),
    ApiRoute("GET", "/organization", organizations.show_organization, "read"),
    ApiRoute("PATCH", "/organization", organizations.rename_organization, "configure"),
    ApiRoute("GET", "/retention", retention.show_retention, "read"),
    ApiRoute("PUT", "/retention", retention.put_retention, "admin"),
    ApiRoute("GET", "/keys", organizations.list_keys, "admin"),
    ApiRoute("POST", "/keys", organizations.create_key, "admin", status=201),
    ApiRoute("DELETE", "/keys/{key_id}", organizations.revoke_key, "admin"),
    ApiRoute("GET", "/apps", apps.list_apps, "platform"),
    ApiRoute("POST", "/apps", apps.create_app, "platform", status=201),
    ApiRoute("PATCH", "/apps/{app_id}", apps.edit_app, "platform"),
    ApiRoute("DELETE", "/apps/{app_id}", apps.delete_app, "platform"),
    ApiRoute("GET", "/healthz", operations.healthz, None),
    ApiRoute("GET", "/readyz", operations.readyz, None),
    ApiRoute("GET", "/openapi.json", openapi, None),
]
OPERATIONS: list[BaseRoute] = [
    ApiRoute("GET", "/healthz", operations.healthz, None),
    ApiRoute("GET", "/readyz", operations.readyz, None),
    ApiRoute("GET", "/metrics", operations.show_metrics, None),
]
