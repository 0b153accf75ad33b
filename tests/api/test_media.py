"""Media that people sent, from hosts that behave and hosts that do not; uploads; read receipts and typing."""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from ingress import metrics, protocol
from ingress.calls import transfers
from ingress.dev.sandbox import ErrorCode, Refuse, Slow, Throttle429

from ..gateway import Answer, Gateway, Organization, elsewhere, eventually, limit

SAMPLES = Path(__file__).parents[1] / "samples" / "meta_business"
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 40
PNG = b"\x89PNG\r\n\x1a\n" + b"p" * 1000


def counted(direction: str, outcome: str, provider: str = "meta_business") -> float:
    return (
        metrics.REGISTRY.get_sample_value(
            "whatsapp_ingress_media_transfers_total", {"provider": provider, "kind": direction, "outcome": outcome}
        )
        or 0.0
    )


async def arrived(organization: Organization, gateway: Gateway, kind: str = "image", **more: Any) -> tuple[str, str]:
    """A medium comes in: the id of its event, and the provider's."""
    before = len(await organization.events(kind="message.received"))
    body = getattr(gateway.meta.inbound(organization.numbers[0]), kind)(**more)
    assert (await organization.post_webhook(body)).status == 200
    found = await eventually(lambda: organization.events(kind="message.received"), lambda events: len(events) > before)
    return found[-1]["id"], found[-1]["data"]["message"]["content"]["id"]


@pytest.fixture
def host(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Put another answer in place of the bytes of media; the headers of the requests are kept. Without a digest."""

    describe = gateway.meta.media.describe

    def replace(answer: Callable[[web.BaseRequest], Any], *, digest: bytes | None = None) -> list[Any]:
        asked: list[Any] = []

        def described(media_id: str, token: str) -> Any:
            shown = describe(media_id, token)
            if shown is not None:
                shown |= {"sha256": None if digest is None else hashlib.sha256(digest).hexdigest(), "file_size": None}
            return shown

        def download(request: web.BaseRequest, token: str) -> Any:
            asked.append(request.headers)
            return answer(request)

        monkeypatch.setattr(gateway.meta.media, "describe", described)
        monkeypatch.setattr(gateway.meta.media, "download", download)
        return asked

    return replace


def streamed(chunks: AsyncIterator[bytes], **headers: str) -> web.Response:
    return web.Response(body=chunks, headers={name.replace("_", "-"): value for name, value in headers.items()})


# ---------------------------------------------------------------- what a CRM gets


async def test_a_medium_is_fetched_by_the_id_of_its_event(organization: Organization, gateway: Gateway) -> None:
    """The bytes, as what they are, to be saved and not shown; no store on the way keeps them."""
    event_id, _ = await arrived(organization, gateway, data=JPEG)
    plain = event_id.removeprefix("evt_")
    for name in (event_id, plain):
        answer = await organization.call("GET", f"/media/{name}")
        assert (answer.status, answer.raw) == (200, JPEG)
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.headers["content-length"] == str(len(JPEG))
        assert re.fullmatch(
            r"attachment; filename\*=UTF-8''media-[0-9a-f]+\.jpg", answer.headers["content-disposition"]
        )
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert ", ".join(answer.headers.getall("cache-control")) == "private, no-store"
    head = await organization.call("HEAD", f"/media/{event_id}")
    assert (head.status, head.raw, head.headers["content-length"]) == (200, b"", str(len(JPEG)))
    assert organization.numbers[0].access_token not in str(answer.headers)


@pytest.mark.parametrize(
    ("filename", "shown"),
    [
        ("nota fiscal.pdf", "nota%20fiscal.pdf"),
        ("../../a\r\nSet-Cookie: x=y;.pdf", "aSet-Cookie_%20x%3Dy%3B.pdf"),
        ("conta\u202efdp.exe", "contafdp.exe"),
        ("発票.pdf", "%E7%99%BA%E7%A5%A8.pdf"),
    ],
    ids=["spaces", "line-break", "turned-round", "japanese"],
)
async def test_the_senders_name_of_a_file_is_told_and_harmless(
    organization: Organization, gateway: Gateway, filename: str, shown: str
) -> None:
    event_id, _ = await arrived(organization, gateway, "document", filename=filename, data=b"%PDF-1.7 ...")
    answer = await organization.call("GET", f"/media/{event_id}")
    assert answer.headers["content-disposition"] == f"attachment; filename*=UTF-8''{shown}"
    assert "set-cookie" not in answer.headers
    assert answer.headers["content-type"] == "application/pdf"


@pytest.mark.parametrize(
    "data", [b"<html><script>alert(1)</script>", b"<svg xmlns='x' onload='alert(1)'/>", b"\n<?xml version='1.0'?><x/>"]
)
async def test_a_page_disguised_as_an_image(organization: Organization, gateway: Gateway, data: bytes) -> None:
    event_id, _ = await arrived(organization, gateway, data=data)
    answer = await organization.call("GET", f"/media/{event_id}")
    assert (answer.status, answer.raw) == (200, data)
    assert answer.headers["content-type"] == "application/octet-stream"


async def test_events_without_a_file(organization: Organization, gateway: Gateway) -> None:
    """A text has none; of a change of provider, or an id that names nothing, there is nothing to tell."""
    assert (await organization.post_webhook(gateway.meta.inbound(organization.numbers[0]).text("x"))).status == 200
    events = await organization.events()
    text = next(event for event in events if event["type"] == "message.received")
    answer = await organization.call("GET", f"/media/{text['id']}")
    assert (answer.status, answer.json["code"]) == (404, "no_media")
    switched = next(event for event in events if event["type"] == "provider.switched")
    for event_id in (switched["id"], "evt_", "evt_x", "701000000000004"):
        answer = await organization.call("GET", f"/media/{event_id}")
        assert answer.status == 404
    for method in ("read", "typing"):
        answer = await organization.call("POST", f"/messages/{switched['id']}/{method}")
        assert (answer.status, answer.json["code"]) == (404, "not_found")


async def test_media_of_a_config_that_is_not_active_any_more(organization: Organization, gateway: Gateway) -> None:
    """It goes on through the account that received it."""
    event_id, _ = await arrived(organization, gateway, data=JPEG)
    await organization.configure()
    assert (await organization.call("GET", f"/media/{event_id}")).raw == JPEG
    assert (await organization.call("POST", f"/messages/{event_id}/read")).status == 204


# ---------------------------------------------------------------- what a provider does not have, or not now


async def test_a_medium_that_is_gone(organization: Organization, gateway: Gateway) -> None:
    event_id, media_id = await arrived(organization, gateway)
    gateway.meta.media.remove(media_id)
    answer = await organization.call("GET", f"/media/{event_id}")
    assert (answer.status, answer.json["code"]) == (404, "media_gone")
    assert answer.headers["content-type"] == "application/problem+json"


async def test_an_address_that_ran_out_is_asked_for_again_once(
    organization: Organization, gateway: Gateway, host: Any
) -> None:
    event_id, _ = await arrived(organization, gateway)
    answers = [web.Response(status=404), web.Response(body=JPEG)]
    host(lambda _: answers.pop(0))
    assert (await organization.call("GET", f"/media/{event_id}")).raw == JPEG
    asked = host(lambda _: web.Response(status=404))
    answer = await organization.call("GET", f"/media/{event_id}")
    assert (answer.status, answer.json["code"]) == (404, "media_gone")
    assert len(asked) == 2


async def test_metas_own_samples_of_a_download(organization: Organization, gateway: Gateway, host: Any) -> None:
    """Asked for with the token and a User-Agent; refused once, the address is asked for anew, and the digest holds."""
    expired, sample = (
        json.loads((SAMPLES / f"{name}.json").read_text())
        for name in ("api_media_download_expired", "api_media_download")
    )
    shown, outcome = sample["http_response"], sample["outcome"]
    body = base64.b64decode(shown["body_base64"])
    assert (len(body), hashlib.sha256(body).hexdigest()) == (outcome["size"], outcome["sha256_hex"])
    event_id, _ = await arrived(organization, gateway, "audio", data=body)
    answers = [
        web.Response(status=expired["http_response"]["status"], headers=expired["http_response"]["headers"]),
        web.Response(body=body, status=shown["status"], headers=shown["headers"]),
    ]
    before = gateway.meta.call_count("GET node")
    asked = host(lambda _: answers.pop(0), digest=body)
    answer = await organization.call("GET", f"/media/{event_id}")
    assert (answer.status, answer.raw, answers) == (200, body, [])
    assert gateway.meta.call_count("GET node") == before + 2
    for headers in asked:
        assert headers["authorization"] == f"Bearer {organization.numbers[0].access_token}"
        assert re.fullmatch(r"[\w-]+/[\w.+]+", headers["user-agent"])


@pytest.mark.parametrize(
    ("status", "shown", "code"),
    [
        (401, 502, "account_broken"),
        (429, 503, "throttled"),
        (500, 502, "provider_unreachable"),
        (206, 502, "provider_unreachable"),
        (302, 502, "provider_unreachable"),
    ],
)
async def test_what_the_host_of_a_medium_may_answer(
    organization: Organization, gateway: Gateway, host: Any, status: int, shown: int, code: str
) -> None:
    event_id, _ = await arrived(organization, gateway)
    host(lambda _: web.Response(status=status, body=b"<html>internal"))
    answer = await organization.call("GET", f"/media/{event_id}")
    assert (answer.status, answer.json["code"]) == (shown, code)
    assert b"internal" not in answer.raw


async def test_a_provider_that_is_down(gateway: Gateway) -> None:
    organization = await gateway.organization()
    await organization.configure(own_port=True)
    event_id, _ = await arrived(organization, gateway)
    await gateway.meta.set_default(organization.numbers[0], Refuse())
    for method, path in (("GET", f"/media/{event_id}"), ("POST", f"/messages/{event_id}/read")):
        answer = await organization.call(method, path)
        assert (answer.status, answer.json["code"]) == (502, "provider_unreachable")
    await gateway.meta.clear_faults(organization.numbers[0])
    assert (await organization.call("GET", f"/media/{event_id}")).status == 200


# ---------------------------------------------------------------- hosts that do not behave


async def test_credentials_go_to_no_host_that_is_redirected_to(
    organization: Organization, gateway: Gateway, host: Any
) -> None:
    """100 redirects of each kind: followed without the token, which is seen elsewhere 0 times."""
    event_id, _ = await arrived(organization, gateway)
    token = organization.numbers[0].access_token
    async with elsewhere(lambda: web.Response(body=PNG)) as (url, seen):
        for status in (301, 302, 303, 307, 308):
            asked = host(lambda _, status=status: web.Response(status=status, headers={"location": url}))
            for _ in range(20):
                answer = await organization.call("GET", f"/media/{event_id}")
                assert (answer.status, answer.raw, answer.headers["content-type"]) == (200, PNG, "image/png")
            assert all(headers["authorization"] == f"Bearer {token}" for headers in asked)
    assert len(seen) == 100
    assert [headers for headers in seen if "authorization" in headers or token in str(headers)] == []


async def test_a_redirect_back_brings_no_credentials_either(
    organization: Organization, gateway: Gateway, host: Any
) -> None:
    """Who was sent away comes back as a stranger: the other host chose what is asked for."""
    event_id, _ = await arrived(organization, gateway)
    home = gateway.meta.url_for(organization.numbers[0])
    back: list[str] = []
    async with elsewhere(lambda: web.Response(status=302, headers={"location": back[0]})) as (url, _):
        back.append(f"{home}/whatsapp_business/attachments/?stolen=1")
        answers = [web.Response(status=302, headers={"location": url}), web.Response(body=JPEG)]
        asked = host(lambda _: answers.pop(0))
        assert (await organization.call("GET", f"/media/{event_id}")).status == 200
    assert ["authorization" in headers for headers in asked] == [True, False]


@pytest.mark.parametrize(
    "location",
    [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "https://user:pw@8.8.8.8/",
        "ftp://x/",
        "//",
    ],
)
async def test_a_redirect_to_where_nothing_may_be_called(
    organization: Organization, gateway: Gateway, host: Any, location: str
) -> None:
    event_id, _ = await arrived(organization, gateway)
    host(lambda _: web.Response(status=302, headers={"location": location}))
    answer = await organization.call("GET", f"/media/{event_id}")
    assert (answer.status, answer.json["code"]) == (502, "media_unusable")


async def test_redirects_without_end(organization: Organization, gateway: Gateway, host: Any) -> None:
    event_id, _ = await arrived(organization, gateway)
    asked = host(lambda request: web.Response(status=302, headers={"location": str(request.rel_url)}))
    answer = await organization.call("GET", f"/media/{event_id}")
    assert (answer.status, answer.json["code"], answer.json["reason"]) == (502, "media_unusable", "redirect")
    assert len(asked) == 4


async def read_off(organization: Organization, event_id: str) -> bytes:
    """What a client gets until the connection breaks off, which it must."""
    got = b""
    url, headers = f"{organization.gateway.url}/media/{event_id}", {"authorization": f"Bearer {organization.key}"}
    async with organization.gateway.session.get(url, headers=headers) as answer:
        assert answer.status == 200
        try:
            async for chunk in answer.content.iter_any():
                got += chunk
        except aiohttp.ClientPayloadError:
            return got
    raise AssertionError("the answer ended well")


@pytest.mark.parametrize("data", [JPEG[:100], JPEG * 30], ids=["one-piece", "many-pieces"])
async def test_bytes_that_are_not_those_of_the_digest(
    organization: Organization, gateway: Gateway, host: Any, data: bytes
) -> None:
    """The connection is broken off before the last of them: nobody takes the file for whole."""
    event_id, _ = await arrived(organization, gateway)
    before = counted("download", "corrupt")
    host(lambda _: web.Response(body=data), digest=b"something else")
    got = await read_off(organization, event_id)
    assert len(got) < len(data)
    assert counted("download", "corrupt") == before + 1
    host(lambda _: web.Response(body=data), digest=data)
    assert (await organization.call("GET", f"/media/{event_id}")).raw == data


async def test_a_medium_that_breaks_off(organization: Organization, gateway: Gateway, host: Any) -> None:
    event_id, _ = await arrived(organization, gateway)

    async def half() -> AsyncIterator[bytes]:
        yield JPEG * 10
        raise ConnectionResetError

    before = counted("download", "broken")
    host(lambda _: streamed(half()))
    await read_off(organization, event_id)
    assert counted("download", "broken") == before + 1


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def test_a_large_medium_is_never_held(organization: Organization, gateway: Gateway, host: Any) -> None:
    """64 MiB go through, provider, service and client in this one process: its memory does not grow with them."""
    piece, pieces = JPEG * 6, 1000

    async def large() -> AsyncIterator[bytes]:
        for _ in range(pieces):
            yield piece

    event_id, _ = await arrived(organization, gateway)
    host(lambda _: streamed(large()))
    url, headers = f"{gateway.url}/media/{event_id}", {"authorization": f"Bearer {organization.key}"}
    size, grown, at_first = 0, 0, resident_bytes()
    async with gateway.session.get(url, headers=headers) as answer:
        async for chunk in answer.content.iter_any():
            size += len(chunk)
            grown = max(grown, resident_bytes() - at_first)
    assert size == len(piece) * pieces > 60_000_000
    assert grown < 32 * 1024**2


async def test_a_medium_without_end(
    organization: Organization, gateway: Gateway, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off at the limit, whatever its host goes on sending; refused at once where it says its length."""
    monkeypatch.setattr(transfers, "MAX_MEDIUM_BYTES", 2_000_000)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 200_000_000:
            sent += len(JPEG)
            yield JPEG

    event_id, _ = await arrived(organization, gateway)
    before = counted("download", "too_large")
    host(lambda _: streamed(endless()))
    at_first = resident_bytes()
    assert len(await read_off(organization, event_id)) <= 2_000_000
    assert resident_bytes() - at_first < 32 * 1024**2
    assert counted("download", "too_large") == before + 1
    await eventually(lambda: sent, lambda now: now < 20_000_000)
    host(lambda _: web.Response(body=bytes(2_000_001)))
    answer = await organization.call("GET", f"/media/{event_id}")
    assert (answer.status, answer.json["code"], answer.json["reason"]) == (502, "media_unusable", "too_large")


async def test_a_medium_that_comes_compressed(organization: Organization, gateway: Gateway, host: Any) -> None:
    """Nobody asked for it, and what it would unpack to nobody knows."""
    event_id, _ = await arrived(organization, gateway)
    host(lambda _: web.Response(body=b"\x1f\x8b" + bytes(100), headers={"content-encoding": "gzip"}))
    answer = await organization.call("GET", f"/media/{event_id}")
    assert (answer.status, answer.json["reason"]) == (502, "encoded")


async def test_a_host_that_stops_sending(
    organization: Organization, gateway: Gateway, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its first byte: 502. In the middle: broken off."""
    monkeypatch.setattr(transfers, "_TIMEOUT", aiohttp.ClientTimeout(total=5, sock_read=0.1))

    async def stopping(start: bytes) -> AsyncIterator[bytes]:
        yield start
        await asyncio.Event().wait()

    event_id, _ = await arrived(organization, gateway)
    host(lambda _: streamed(stopping(b"")))
    answer = await organization.call("GET", f"/media/{event_id}")
    assert (answer.status, answer.json["code"]) == (502, "provider_unreachable")
    host(lambda _: streamed(stopping(JPEG * 20)))
    await read_off(organization, event_id)


class Endless:
    """A medium without end; whether it is being read still."""

    def __init__(self) -> None:
        self.open = False

    async def chunks(self) -> AsyncIterator[bytes]:
        self.open = True
        try:
            while True:
                yield JPEG
        finally:
            self.open = False


async def test_a_client_that_hangs_up(organization: Organization, gateway: Gateway, host: Any) -> None:
    """The provider is not read any further, and the place is free for another."""
    event_id, _ = await arrived(organization, gateway)
    medium, before = Endless(), counted("download", "client_gone")
    host(lambda _: streamed(medium.chunks()))
    url, headers = f"{gateway.url}/media/{event_id}", {"authorization": f"Bearer {organization.key}"}
    async with gateway.session.get(url, headers=headers) as answer:
        await answer.content.readany()
        assert medium.open
        answer.close()
    await eventually(lambda: counted("download", "client_gone"), lambda now: now == before + 1)
    await eventually(lambda: not medium.open)


async def test_a_client_that_does_not_read(
    organization: Organization, gateway: Gateway, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its time; then the provider's connection is worth more."""
    monkeypatch.setattr("ingress.api.media.TRANSFER_TIMEOUT_S", 0.3)
    event_id, _ = await arrived(organization, gateway)
    medium, before = Endless(), counted("download", "slow")
    host(lambda _: streamed(medium.chunks()))
    url, headers = f"{gateway.url}/media/{event_id}", {"authorization": f"Bearer {organization.key}"}
    async with gateway.session.get(url, headers=headers) as answer:
        await eventually(lambda: counted("download", "slow"), lambda now: now == before + 1)
        await eventually(lambda: not medium.open)
        answer.close()


async def test_one_organization_has_some_of_the_connections(
    organization: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id, media_id = await arrived(organization, gateway)
    others = transfers.TRANSFERS_PER_ORGANIZATION
    monkeypatch.setattr(transfers.Shares, "take", lambda shares, *_: shares._each != others)
    for method, path, raw in (
        ("GET", f"/media/{event_id}", None),
        ("POST", f"/messages/{event_id}/read", None),
        ("POST", "/media", JPEG),
        ("DELETE", f"/media?id={media_id}", None),
    ):
        answer = await organization.call(method, path, raw=raw, content_type="image/jpeg")
        assert (answer.status, answer.json["code"]) == (503, "unavailable"), path
        assert answer.headers["retry-after"]
    assert (await organization.send()).status == 200


# ---------------------------------------------------------------- uploads


async def upload(organization: Organization, data: bytes = JPEG, query: str = "", kind: str = "image/jpeg") -> Answer:
    return await organization.call("POST", f"/media{query}", raw=data, content_type=kind)


async def test_a_file_is_uploaded_and_sent_by_its_id(organization: Organization, gateway: Gateway) -> None:
    answer = await upload(organization, query="?filename=foto.jpg")
    assert answer.status == 201
    shown = answer.json
    assert shown == {
        "id": shown["id"],
        "config_id": organization.configs[0]["config_id"],
        "mime_type": "image/jpeg",
        "size_bytes": len(JPEG),
        "sha256": hashlib.sha256(JPEG).hexdigest(),
    }
    kept = gateway.meta.media.medium(shown["id"])
    assert kept is not None
    assert (kept.data, kept.mime_type) == (JPEG, "image/jpeg")
    sent = await organization.send({"to": "+5511987654321", "content": {"type": "image", "id": shown["id"]}})
    accepted = gateway.meta.by_wamid(sent.json["provider_message_id"])
    assert accepted is not None
    assert accepted.body["image"] == {"id": shown["id"]}
    assert (await organization.call("DELETE", f"/media?id={shown['id']}")).status == 204
    assert gateway.meta.media.medium(shown["id"]) is None
    key = (await organization.call("POST", "/keys", {"scopes": ["admin"]})).json["key"]
    entries = (await gateway.call("GET", "/integrations/whatsapp/audit?limit=2", key=key)).json["entries"]
    deleted = entries[1]
    assert (deleted["action"], deleted["after"]) == ("media_deleted", {"id": shown["id"]})
    assert (deleted["config_id"], deleted["actor"]) == (shown["config_id"], organization.key.split("_")[2])
    again = await organization.call("DELETE", f"/media?id={shown['id']}")
    assert (again.status, again.json["code"]) == (404, "media_gone")


async def test_an_upload_to_another_config(organization: Organization, gateway: Gateway) -> None:
    other = await organization.configure(active=False)
    answer = (await upload(organization, query=f"?config_id={other['config_id']}")).json
    kept = gateway.meta.media.medium(answer["id"])
    assert kept is not None
    assert (answer["config_id"], kept.owner) == (other["config_id"], organization.numbers[1].phone_number_id)


async def test_any_bytes_arrive_as_they_are(organization: Organization, gateway: Gateway) -> None:
    """Line breaks, dashes, what looks like the end of a form, and more than one piece."""
    data = b"%PDF-\r\n--ingress-0--\r\n" + bytes(range(256)) * 30_000
    answer = (await upload(organization, data, kind="application/pdf")).json
    kept = gateway.meta.media.medium(answer["id"])
    assert kept is not None
    assert kept.data == data


@pytest.mark.parametrize(
    ("data", "kind", "status", "code"),
    [
        (JPEG, "", 415, "unsupported_media_type"),
        (JPEG, "image", 415, "unsupported_media_type"),
        (JPEG, "multipart/form-data; boundary=x", 415, "unsupported_media_type"),
        (b"", "image/jpeg", 422, "invalid_request"),
        (bytes(5 * 1024**2 + 1), "image/jpeg", 413, "too_large"),
        (bytes(500 * 1024 + 1), "image/webp", 413, "too_large"),
        (b"x", "application/x-foo", 422, "rejected"),
    ],
)
async def test_files_that_are_refused(
    organization: Organization, data: bytes, kind: str, status: int, code: str
) -> None:
    answer = await upload(organization, data, kind=kind)
    assert (answer.status, answer.json["code"]) == (status, code)


async def test_lengths(organization: Organization, gateway: Gateway) -> None:
    """Declared too long it is refused unread; not declared at all, it cannot be handed on."""
    headers = {"authorization": f"Bearer {organization.key}", "content-type": "application/pdf"}

    async def pieces() -> AsyncIterator[bytes]:
        yield b"%PDF-"

    async with gateway.session.post(f"{gateway.url}/media", data=pieces(), headers=headers) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (411, "length_required")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    sent = "\r\n".join(f"{name}: {value}" for name, value in headers.items())
    writer.write(f"POST /media HTTP/1.1\r\nHost: x\r\n{sent}\r\nContent-Length: 104857601\r\n\r\n".encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    assert head.split()[1] == b"413"
    writer.close()


async def test_a_client_that_hangs_up_while_it_uploads(organization: Organization, gateway: Gateway) -> None:
    """The provider gets no file."""
    before, number = counted("upload", "client_gone"), organization.numbers[0].phone_number_id
    _, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    writer.write(
        f"POST /media HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {organization.key}\r\n"
        "Content-Type: image/jpeg\r\nContent-Length: 500000\r\n\r\n".encode()
        + JPEG
    )
    await writer.drain()
    await eventually(lambda: gateway.meta.call_count("POST media", number) == 1)
    writer.close()
    await eventually(lambda: counted("upload", "client_gone"), lambda now: now == before + 1)


async def test_an_upload_may_take_longer_than_other_bodies(
    organization: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But only for who has said who they are: others are cut off as ever."""
    monkeypatch.setattr(protocol, "BODY_DEADLINE_S", 0.2)
    loop = asyncio.get_running_loop()

    async def over(seconds: float) -> AsyncIterator[bytes]:
        ends = loop.time() + seconds
        yield JPEG[:5000]
        await eventually(lambda: loop.time() > ends)
        yield JPEG[5000:]

    for key, status in ((organization.key, 201), ("ingress_live_x", 401)):
        headers = {"authorization": f"Bearer {key}", "content-type": "image/jpeg", "content-length": str(len(JPEG))}
        async with gateway.session.post(f"{gateway.url}/media", data=over(0.4), headers=headers) as answer:
            assert answer.status == status


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (ErrorCode(code=190), 502, "account_broken"),
        (Throttle429(retry_after=7), 503, "throttled"),
        (ErrorCode(code=131031), 422, "restricted"),
        (ErrorCode(code=131000), 502, "provider_unreachable"),
    ],
    ids=["account", "throttled", "restricted", "unknown"],
)
async def test_what_a_provider_says_to_an_upload_and_to_a_receipt(
    organization: Organization, gateway: Gateway, fault: Any, status: int, code: str
) -> None:
    """By its class, in its own words; and sends are untouched by it."""
    event_id, _ = await arrived(organization, gateway)
    await gateway.meta.set_default(organization.numbers[0], fault, everything=True)
    for answer in (await upload(organization), await organization.call("POST", f"/messages/{event_id}/typing")):
        assert (answer.status, answer.json["code"]) == (status, code)
        assert answer.json["error"]["class"]
        assert answer.headers.get("retry-after") == ("7" if status == 503 else None)
    await gateway.meta.clear_faults(organization.numbers[0])
    assert (await organization.send()).status == 200


async def test_without_a_provider_there_is_nowhere_to_upload_to(gateway: Gateway) -> None:
    organization = await gateway.organization()
    answer = await upload(organization)
    assert (answer.status, answer.json["code"]) == (409, "provider_not_configured")
    for query in ("", "?id=", f"?id={'x' * 257}"):
        assert (await organization.call("DELETE", f"/media{query}")).status == 422


# ---------------------------------------------------------------- read receipts and typing


async def test_a_message_is_shown_as_read_and_as_being_answered(organization: Organization, gateway: Gateway) -> None:
    assert (await organization.post_webhook(gateway.meta.inbound(organization.numbers[0]).text("x"))).status == 200
    [event] = await organization.events(kind="message.received")
    wamid = event["data"]["message"]["provider_message_id"]
    before = len(gateway.meta.receipts)
    for name in (event["id"], event["id"].removeprefix("evt_")):
        for act in ("read", "typing"):
            answer = await organization.call("POST", f"/messages/{name}/{act}")
            assert (answer.status, answer.raw) == (204, b"")
    ours = gateway.meta.receipts[before:]
    assert [(receipt.message_id, receipt.typing) for receipt in ours] == [(wamid, False), (wamid, True)] * 2


async def test_what_a_provider_cannot_do_besides_is_said(organization: Organization, gateway: Gateway) -> None:
    """Meta's typing ends by itself; it knows no hidden numbers, and shows those that are not hidden."""
    body = gateway.meta.inbound(organization.numbers[0]).text("x")
    assert (await organization.post_webhook(body)).status == 200
    [event] = await organization.events(kind="message.received")
    answer = await organization.call("DELETE", f"/messages/{event['id']}/typing")
    assert (answer.status, answer.json["code"]) == (422, "unsupported")
    answer = await organization.call("GET", f"/messages/{event['id']}/phone")
    assert (answer.status, answer.json) == (200, {"phone": event["data"]["conversation"]["contact"]["phone"]})


async def test_what_was_sent_cannot_be_read_by_us(organization: Organization) -> None:
    """Neither by our id of a message nor by the id of its statuses' events."""
    sent = (await organization.send()).json
    await organization.settled(sent["id"], "read")
    status = (await organization.events(kind="message.status"))[0]
    for name in (sent["id"], status["id"], sent["provider_message_id"]):
        answer = await organization.call("POST", f"/messages/{name}/read")
        assert (answer.status, answer.json["code"]) == (404, "not_found")


async def test_a_receipt_that_hangs_holds_up_no_send(
    organization: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receipts have connections of their own."""
    limit(monkeypatch, call_s=0.5)
    event_id, _ = await arrived(organization, gateway)
    await gateway.meta.set_default(organization.numbers[0], Slow(seconds=5), everything=True)
    waiting = [asyncio.create_task(organization.call("POST", f"/messages/{event_id}/read")) for _ in range(19)]
    other = await gateway.organization()
    await other.configure()
    assert (await other.send()).status == 200
    answers = await asyncio.gather(*waiting)
    assert {(answer.status, answer.json["code"]) for answer in answers} == {(502, "provider_unreachable")}
    await gateway.meta.clear_faults(organization.numbers[0])
