"""A stand-in for Meta's API that answers at once: nginx where it is installed, else a bare ASGI app.

Only what setting up a config and sending need, and always the healthy answer. Faults are the sandbox's trade.
"""

import json
import re
import shutil
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .processes import ServerProcess, free_port, python_server, start

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")

UNIQUE = "UNIQUE"  # stands for what makes each wamid another
ASKED = "$1"  # and for what a path names
SENT = json.dumps(
    {
        "messaging_product": "whatsapp",
        "contacts": [{"input": "+5511987654321", "wa_id": "5511987654321"}],
        "messages": [{"id": f"wamid.HBgN{UNIQUE}"}],
    }
)
SUCCESS = json.dumps({"success": True})
NUMBER = json.dumps(
    {
        "id": ASKED,
        "display_phone_number": "+1 555-000-1111",
        "verified_name": "Bench",
        "quality_rating": "GREEN",
        "name_status": "APPROVED",
        "code_verification_status": "VERIFIED",
        "throughput": {"level": "HIGH"},
        "platform_type": "CLOUD_API",
        "status": "CONNECTED",
        "account_mode": "LIVE",
        "is_official_business_account": False,
        "whatsapp_business_manager_messaging_limit": "TIER_UNLIMITED",
        "health_status": {"can_send_message": "AVAILABLE", "entities": []},
    }
)
NUMBERS = json.dumps({"data": [{"id": f"1{ASKED}", "display_phone_number": "+1 555-000-1111"}]})
APPS = json.dumps({"data": [{"whatsapp_business_api_data": {"id": "550987654321098", "name": "Bench"}}]})

# Path, answer to GET, answer to POST; the first that matches.
ROUTES = [
    (r"^/v[0-9.]+/[0-9]+/messages$", SENT, SENT),
    (r"^/v[0-9.]+/2([0-9]+)/phone_numbers$", NUMBERS, SUCCESS),
    (r"^/v[0-9.]+/[0-9]+/subscribed_apps$", APPS, SUCCESS),
    (r"^/v[0-9.]+/(2[0-9]+)$", json.dumps({"id": ASKED, "name": "Bench"}), SUCCESS),
    (r"^/v[0-9.]+/([0-9]+)$", NUMBER, SUCCESS),
    (r"^/crm$", SUCCESS, SUCCESS),  # a CRM that takes every event
]


def nginx_conf(folder: Path, port: int) -> str:
    """One process, nothing logged, connections kept for as long as the bench runs."""
    locations = "".join(
        f"location ~ {path} {{\n  if ($request_method = POST) {{ return 200 '{post}'; }}\n  return 200 '{get}';\n}}\n"
        for path, get, post in ROUTES
    ).replace(UNIQUE, "$request_id")
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 1024; }}
http {{
access_log off; default_type application/json; keepalive_requests 1000000000; keepalive_timeout 1h;
{temporary}server {{ listen 127.0.0.1:{port};
{locations}}} }}
"""


@contextmanager
def provider(folder: Path) -> Iterator[ServerProcess]:
    """Run the stand-in until the block ends."""
    if not NGINX:
        with python_server("provider", "bench.provider:app", folder, {}) as server:
            yield server
        return
    port, conf = free_port(), folder / "nginx.conf"
    conf.write_text(nginx_conf(folder, port))
    command = [NGINX, "-p", str(folder), "-e", str(folder / "nginx.log"), "-c", str(conf)]
    with start("provider", command, port, folder, {}) as server:
        yield server


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """The same routes as an ASGI app."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    for path, get, post in ROUTES:
        if found := re.match(path, scope["path"]):
            status, text = 200, post if scope["method"] == "POST" else get
            text = text.replace(ASKED, found[1] if found.re.groups else "")
            break
    else:
        status, text = 404, "{}"
    body = text.replace(UNIQUE, uuid.uuid4().hex).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
