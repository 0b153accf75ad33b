"""Programs to copy, with the organization's own addresses: whole ones, with nothing but the language's own library.

Secrets they take from the environment.
"""

import json
import shlex
from textwrap import indent
from typing import Any

from yarl import URL

SECRET, KEY = "INGRESS_WEBHOOK_SECRET", "INGRESS_API_KEY"

_PYTHON = """\
# INGRESS_WEBHOOK_SECRET=whsec_... python hooks.py
import base64, hashlib, hmac, json, os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = base64.b64decode(os.environ["INGRESS_WEBHOOK_SECRET"].removeprefix("whsec_"))


def is_ours(headers, body: bytes) -> bool:
    \"\"\"Whether the gateway signed this body, within the last five minutes.\"\"\"
    timestamp = headers.get("webhook-timestamp", "")
    if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > 300:
        return False
    content = f"{headers.get('webhook-id', '')}.{timestamp}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.digest(SECRET, content, hashlib.sha256))
    # Several while a secret is being replaced.
    given = headers.get("webhook-signature", "").encode().split()
    return any(hmac.compare_digest(expected, each) for each in given)


class Hooks(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path != __PATH__ or not is_ours(self.headers, body):
            return self.send_error(401)
        event = json.loads(body)
        print(event["id"], event["type"])  # an id may come again: it is the same event
        self.send_response(204)
        self.end_headers()


ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8000"))), Hooks).serve_forever()
"""

_TYPESCRIPT = """\
// INGRESS_WEBHOOK_SECRET=whsec_... npx tsx hooks.ts
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer, type IncomingHttpHeaders } from "node:http";

const secret = Buffer.from(process.env["INGRESS_WEBHOOK_SECRET"]!.replace(/^whsec_/, ""), "base64");

/** Whether the gateway signed this body, within the last five minutes. */
function isOurs(headers: IncomingHttpHeaders, body: Buffer): boolean {
  const timestamp = String(headers["webhook-timestamp"]);
  if (!/^\\d+$/.test(timestamp) || Math.abs(Date.now() / 1000 - Number(timestamp)) > 300) return false;
  const content = Buffer.concat([Buffer.from(`${headers["webhook-id"]}.${timestamp}.`), body]);
  const expected = Buffer.from("v1," + createHmac("sha256", secret).update(content).digest("base64"));
  // Several while a secret is being replaced.
  const given = String(headers["webhook-signature"]).split(" ").map((each) => Buffer.from(each));
  return given.some((each) => each.length === expected.length && timingSafeEqual(each, expected));
}

createServer(async (request, response) => {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  if (request.url !== __PATH__ || !isOurs(request.headers, body)) {
    response.writeHead(401).end();
    return;
  }
  const event = JSON.parse(body.toString());
  console.log(event.id, event.type); // an id may come again: it is the same event
  response.writeHead(204).end();
}).listen(Number(process.env["PORT"] ?? 8000), "127.0.0.1");
"""

_PHP = """\
<?php
// INGRESS_WEBHOOK_SECRET=whsec_... php -S 127.0.0.1:8000 hooks.php
$secret = base64_decode(preg_replace('/^whsec_/', '', getenv('INGRESS_WEBHOOK_SECRET')));
$body = file_get_contents('php://input');

/** Whether the gateway signed this body, within the last five minutes. */
function is_ours(string $secret, string $body): bool {
    $timestamp = $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '';
    if (!ctype_digit($timestamp) || abs(time() - (int) $timestamp) > 300) {
        return false;
    }
    $content = ($_SERVER['HTTP_WEBHOOK_ID'] ?? '') . '.' . $timestamp . '.' . $body;
    $expected = 'v1,' . base64_encode(hash_hmac('sha256', $content, $secret, true));
    // Several while a secret is being replaced.
    foreach (explode(' ', $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '') as $given) {
        if (hash_equals($expected, $given)) {
            return true;
        }
    }
    return false;
}

if ($_SERVER['REQUEST_URI'] !== __PATH__ || !is_ours($secret, $body)) {
    http_response_code(401);
    exit;
}
$event = json_decode($body, true);
error_log($event['id'] . ' ' . $event['type']); // an id may come again: it is the same event
http_response_code(204);
"""

_CURL = """\
# Posts an event to your endpoint, signed as the gateway does: 2xx is right, and 401 with another secret.
id=evt_example timestamp=$(date +%s)
body='{"id":"evt_example","type":"callback.test","data":{}}'
key=$(printf %s "${INGRESS_WEBHOOK_SECRET#whsec_}" | base64 -d | od -An -tx1 | tr -d ' \\n')
signature=$(printf %s "$id.$timestamp.$body" | openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | base64)
curl -sS -i __URL__ -H 'content-type: application/json' \\
  -H "webhook-id: $id" -H "webhook-timestamp: $timestamp" -H "webhook-signature: v1,$signature" -d "$body"
"""

_SEND_CURL = """\
curl -sS __URL__ -H "authorization: Bearer $INGRESS_API_KEY" -H 'content-type: application/json' \\
  -H "idempotency-key: $(openssl rand -hex 16)" -d __BODY__
"""

_SEND_PYTHON = """\
import json, os, urllib.error, urllib.request, uuid

request = urllib.request.Request(
    __URL__,
    json.dumps(__BODY__).encode(),
    {
        "authorization": f"Bearer {os.environ['INGRESS_API_KEY']}",
        "content-type": "application/json",
        "idempotency-key": str(uuid.uuid4()),  # the same one again sends nothing twice
    },
)
try:
    with urllib.request.urlopen(request, timeout=30) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as refused:
    print(refused.code, refused.read().decode())
"""

_READ_PYTHON = """\
import os, urllib.request

request = urllib.request.Request(
    __URL__, headers={"authorization": f"Bearer {os.environ['INGRESS_API_KEY']}"}
)
with urllib.request.urlopen(request, timeout=30) as answer:
    print(answer.status, answer.read().decode())
"""


def verification(url: str) -> dict[str, str]:
    """Programs that take events at *url* and verify them, by language; curl's posts one there."""
    path = URL(url).raw_path_qs  # as events are posted there
    return {
        "Python": _PYTHON.replace("__PATH__", json.dumps(path)),
        "TypeScript": _TYPESCRIPT.replace("__PATH__", json.dumps(path)),
        "PHP": _PHP.replace("__PATH__", _in_php(path)),
        "curl": _CURL.replace("__URL__", shlex.quote(url)),
    }


def sending(origin: str, body: dict[str, Any]) -> dict[str, str]:
    """POST /send of the service at *origin*, by language."""
    # Of texts, lists and objects alone JSON is Python, too.
    url, literal = f"{origin}/send", json.dumps(body, indent=4, ensure_ascii=False)
    return {
        "curl": _filled(_SEND_CURL, shlex.quote(url), shlex.quote(json.dumps(body, ensure_ascii=False))),
        "Python": _filled(_SEND_PYTHON, json.dumps(url), indent(literal, " " * 4).lstrip()),
    }


def reading(origin: str, path: str) -> str:
    """GET *path* of the service at *origin*, with curl."""
    return f'curl -sS {shlex.quote(origin + path)} -H "authorization: Bearer ${KEY}"\n'


def calling(origin: str, key: str) -> dict[str, str]:
    """What *key* is used with, for who keeps it now: it is shown once."""
    url = f"{origin}/organization"
    return {
        "env": f"INGRESS_URL={origin}\n{KEY}={key}\n",
        "curl": f"curl -sS {shlex.quote(url)} -H {shlex.quote(f'authorization: Bearer {key}')}\n",
        "Python": f"# {KEY}={key}\n" + _READ_PYTHON.replace("__URL__", json.dumps(url)),
    }


def _filled(program: str, url: str, body: str) -> str:
    return program.replace("__URL__", url, 1).replace("__BODY__", body, 1)


def _in_php(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
