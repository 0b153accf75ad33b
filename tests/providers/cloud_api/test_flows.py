"""Setting up, testing and watching a WhatsApp Cloud API account."""

import base64
import json
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

import msgspec
import pytest

from providers import (
    AccountBroken,
    Check,
    Flow,
    Recipient,
    Rejected,
    Response,
    SendError,
    Throttled,
    Unavailable,
    Uncertain,
    Unsupported,
    Upload,
    UploadRequest,
    config_fields,
)
from providers.meta_business import MetaBusiness

from ..flows import answered, drive, first, recorded
from .samples import ACCOUNT, sample

ROOT = "https://graph.facebook.com"


def answer_of(name: str) -> Response:
    return recorded(sample(name)["http_response"])


def requested(name: str) -> tuple[str, str]:
    request = sample(name)["http_request"]
    return request["method"], f"{ROOT}{request['path']}"


def with_pin(pin: str) -> MetaBusiness:
    return msgspec.structs.replace(ACCOUNT, pin=pin)


def number_with(**fields: Any) -> Response:
    """The number as it is, but for *fields*."""
    return answered({**sample("api_number_ok")["http_response"]["json"], **fields})


OK = answered({"success": True})
ACCOUNT_WIDE = msgspec.structs.replace(ACCOUNT, account_webhook=True)
UPLOAD = Upload(mime_type="image/jpeg", filename="a.jpg", size_bytes=12, boundary="b0undary")
SCOPES = ["whatsapp_business_messaging", "whatsapp_business_management"]
SUBSCRIBED = answer_of("api_subscribed_apps_get")
FLOWS: dict[str, Any] = {
    "setup": lambda: ACCOUNT.setup(),
    "validate_config": lambda: ACCOUNT.validate_config(),
    "get_status": lambda: ACCOUNT.get_status(),
    "receive_messages": lambda: ACCOUNT.receive_messages("https://gw.example.org/webhooks/meta/1"),
    "setup with a PIN": lambda: with_pin("123456").setup(),
    "disconnect": lambda: ACCOUNT.disconnect(),
    "disconnect the account": lambda: ACCOUNT_WIDE.disconnect(),
    "list_templates": lambda: ACCOUNT.list_templates(),
    "media": lambda: ACCOUNT.media("701000000000004"),
    "upload": lambda: ACCOUNT.upload(UPLOAD),
    "delete_media": lambda: ACCOUNT.delete_media("801000000000001"),
    "mark_read": lambda: ACCOUNT.mark_read("wamid.x", Recipient(phone="+5511987654321")),
}


@pytest.mark.parametrize("name", FLOWS)
def test_a_transport_error_passes_through(name: str) -> None:
    """No flow takes a dead line for bad credentials, or for anything."""
    flow: Flow[Any] = FLOWS[name]()
    first(flow)
    thrown = Unavailable("refused")
    with pytest.raises(Unavailable) as caught:
        flow.throw(thrown)
    assert caught.value is thrown


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Response(status=502, body=b"<html>"), Unavailable),
        (Response(status=200, body=b"<html>"), Unavailable),
        (answered({"error": {"code": 4}}, 400), Throttled),
    ],
)
def test_an_answer_about_the_moment_is_not_about_the_account(
    name: str, answer: Response, error: type[SendError]
) -> None:
    """A provider that is down or throttled is reported as such, never as bad configuration."""
    with pytest.raises(error):
        drive(FLOWS[name](), [answer])


# ---------------------------------------------------------------- setup


def test_setup_leaves_a_subscription_alone() -> None:
    """Subscribing again would remove an override address."""
    _, (asked,) = drive(ACCOUNT.setup(), [SUBSCRIBED])
    assert (asked.method, asked.url) == requested("api_subscribed_apps_get")


def test_setup_subscribes_where_nobody_is() -> None:
    """A POST without a body."""
    _, requests = drive(ACCOUNT.setup(), [answer_of("api_subscribed_apps_none"), OK])
    assert (requests[1].method, requests[1].url) == requested("api_subscribed_apps_post")
    assert requests[1].body == b""


@pytest.mark.parametrize(("app_id", "calls"), [("550987654321098", 1), ("660000000000000", 2)])
def test_setup_tells_its_own_app_from_others(app_id: str, calls: int) -> None:
    """With the app's id, a foreign subscription does not count as ours."""
    account = msgspec.structs.replace(ACCOUNT, app_id=app_id)
    _, requests = drive(account.setup(), [SUBSCRIBED, OK][:calls])
    assert len(requests) == calls


@pytest.mark.parametrize("name", ["api_register", "api_register_wrong_pin"])
def test_a_number_with_a_pin_is_registered(name: str) -> None:
    """As in the sample, once the app is subscribed; a wrong PIN is Rejected, and not quoted."""
    pin = sample(name)["http_request"]["json"]["pin"]
    account, error_code = with_pin(pin), sample(name)["outcome"].get("error_code")
    answers = [SUBSCRIBED, number_with(platform_type="NOT_APPLICABLE", status="PENDING"), answer_of(name)]
    flow = account.setup()
    first(flow)
    flow.send(answers[0])
    asked = flow.send(answers[1])
    assert (asked.method, asked.url) == requested(name)
    assert json.loads(asked.body) == sample(name)["http_request"]["json"]
    if sample(name)["outcome"]["ok"]:
        drive(account.setup(), answers)
        return
    with pytest.raises(Rejected, match="PIN mismatch") as caught:
        flow.send(answers[2])
    assert caught.value.code == str(error_code)
    assert pin not in f"{caught.value}{caught.value.detail}"


@pytest.mark.parametrize(
    ("fields", "registers"),
    [
        ({}, False),
        ({"status": "FLAGGED"}, False),
        ({"status": "BANNED"}, False),
        ({"status": "PENDING"}, True),
        ({"status": "DISCONNECTED"}, True),
        ({"platform_type": "NOT_APPLICABLE"}, True),
        ({"platform_type": None}, True),
    ],
    ids=str,
)
def test_only_a_number_that_is_not_registered_is_registered(fields: Any, registers: bool) -> None:
    """Meta takes ten tries in 72 hours, and set-up may be run at any time."""
    answers = [SUBSCRIBED, number_with(**fields), *([OK] if registers else [])]
    _, requests = drive(with_pin("123456").setup(), answers)
    assert [request.url.endswith("/register") for request in requests].count(True) == registers


def test_without_a_pin_the_number_is_not_looked_at() -> None:
    _, (asked,) = drive(ACCOUNT.setup(), [SUBSCRIBED])
    assert asked.url.endswith("/subscribed_apps")


def test_the_check_of_a_number_that_is_not_registered_advises_a_pin() -> None:
    answers = [number_with(platform_type="NOT_APPLICABLE", status="PENDING", health_status={})]
    found = checks(*answers, answer_of("api_phone_numbers_list"), SUBSCRIBED)
    assert not found["number"].passed
    assert "PIN" in (found["number"].fix or "")


def test_a_short_secret_in_an_error_is_hidden() -> None:
    """A PIN has six digits."""
    quoting = answered({"error": {"code": 133005, "message": "the PIN 481516 is wrong"}}, 400)
    with pytest.raises(Rejected) as caught:
        drive(with_pin("481516").setup(), [SUBSCRIBED, number_with(status="PENDING"), quoting])
    assert "481516" not in f"{caught.value}{caught.value.detail}"


def test_the_address_is_set_for_the_number() -> None:
    """As in the sample, with our verify token."""
    expected = sample("api_number_override")["http_request"]
    address = expected["json"]["webhook_configuration"]["override_callback_uri"]
    _, (asked,) = drive(ACCOUNT.receive_messages(address), [answer_of("api_number_override")])
    assert (asked.method, asked.url) == requested("api_number_override")
    assert json.loads(asked.body) == expected["json"]


def test_the_address_is_set_for_the_account_where_that_is_wanted() -> None:
    """As in the sample; it is removed by subscribing without one."""
    name = "api_subscribed_apps_override"
    expected = sample(name)["http_request"]["json"]
    _, (asked,) = drive(ACCOUNT_WIDE.receive_messages(expected["override_callback_uri"]), [answer_of(name)])
    assert (asked.method, asked.url) == requested(name)
    assert json.loads(asked.body) == expected
    _, (asked,) = drive(ACCOUNT_WIDE.disconnect(), [OK])
    assert (asked.method, asked.url, asked.body) == (*requested("api_subscribed_apps_post"), b"")


def test_a_refused_address_is_rejected() -> None:
    """Meta could not make its handshake; its reason is passed on."""
    with pytest.raises(Rejected, match="challenge"):
        drive(ACCOUNT.receive_messages("https://gw.example.org/x"), [answer_of("api_number_override_refused")])


def test_a_long_address_is_refused_before_any_call() -> None:
    """Two hundred characters are taken, one more is not."""
    base = "https://gw.example.org/"
    first(ACCOUNT.receive_messages(base + "x" * (200 - len(base))))
    with pytest.raises(Rejected) as caught:
        first(ACCOUNT.receive_messages(base + "x" * (201 - len(base))))
    assert caught.value.code == "callback_url_too_long"


def test_disconnecting_empties_the_address() -> None:
    """An empty address removes the override."""
    _, (asked,) = drive(ACCOUNT.disconnect(), [OK])
    assert json.loads(asked.body) == {"webhook_configuration": {"override_callback_uri": ""}}


# ---------------------------------------------------------------- test connection


def checks(*answers: Response, account: MetaBusiness = ACCOUNT) -> dict[str, Check]:
    found, _ = drive(account.validate_config(), answers)
    return {check.name: check for check in found}


def test_a_good_account_passes_all_checks() -> None:
    """Three calls, as in the samples; nothing is changed and nobody messaged."""
    answers = [answer_of(name) for name in ("api_number_ok", "api_phone_numbers_list")]
    found, requests = drive(ACCOUNT.validate_config(), [*answers, SUBSCRIBED])
    assert [check.name for check in found] == ["credentials", "number", "account", "subscription"]
    assert all(check.passed for check in found)
    assert [(request.method, request.url) for request in requests] == [
        requested("api_number_ok"),
        requested("api_phone_numbers_list"),
        requested("api_subscribed_apps_get"),
    ]


def test_a_bad_token_is_fatal() -> None:
    """The first check fails and nothing else is asked."""
    found = checks(answer_of("api_number_bad_token"))
    assert list(found) == ["credentials"]
    assert (found["credentials"].passed, found["credentials"].fatal) == (False, True)
    assert found["credentials"].fix


def test_a_missing_subscription_is_reported_with_its_cure() -> None:
    """The classic reason why real messages do not arrive. Sending works without."""
    found = checks(
        answer_of("api_number_ok"), answer_of("api_phone_numbers_list"), answer_of("api_subscribed_apps_none")
    )
    assert (found["subscription"].passed, found["subscription"].fatal) == (False, False)
    assert f"POST {ROOT}/v25.0/210987654321098/subscribed_apps" in (found["subscription"].fix or "")


def test_a_number_of_another_account_is_reported() -> None:
    """The fix names the number whose account is wanted."""
    found = checks(answer_of("api_number_ok"), answered({"data": [{"id": "1"}]}), SUBSCRIBED)
    assert (found["account"].passed, found["account"].fatal) == (False, False)
    assert "109876543210987" in (found["account"].fix or "")


def test_all_pages_of_numbers_are_looked_through() -> None:
    """The next page is asked for by its cursor, not by the address Meta gives."""
    paging = {"cursors": {"after": "QVFJ"}, "next": "https://elsewhere.example/?access_token=x"}
    page = answered({"data": [{"id": "1"}], "paging": paging})
    answers = [answer_of("api_number_ok"), page, answer_of("api_phone_numbers_list"), SUBSCRIBED]
    found, requests = drive(ACCOUNT.validate_config(), answers)
    assert all(check.passed for check in found)
    assert requests[2].url == f"{requested('api_phone_numbers_list')[1]}&after=QVFJ"


def test_no_access_to_the_account_is_not_fatal() -> None:
    """A token that may send but not manage."""
    refused = answered({"error": {"code": 200, "message": "no permission"}}, 403)
    found = checks(answer_of("api_number_ok"), refused, refused)
    assert [check.passed for check in found.values()] == [True, True, False, False]
    assert not any(check.fatal for check in found.values() if not check.passed)


# Meta's OpenAPI file has the second and the third of these, with 400 and 422; the first is what people report.
UNKNOWN_FIELDS = {
    "Tried accessing nonexisting field (account_mode) on node type (WhatsAppBusinessPhoneNumber)": 400,
    "Invalid field requested. Available fields: name_status, code_verification_status": 400,
    "The requested fields are not available for this account": 422,
}


@pytest.mark.parametrize(("message", "http_status"), UNKNOWN_FIELDS.items())
def test_an_unknown_field_is_asked_around(message: str, http_status: int) -> None:
    """One field that an account does not have fails the whole call; the short list always works."""
    refused = answered({"error": {"message": message, "code": 100}}, http_status)
    basic = answered({"id": "109876543210987", "verified_name": "L", "quality_rating": "GREEN"})
    status, requests = drive(ACCOUNT.get_status(), [refused, basic])
    assert status.is_connected
    assert requests[1].url.endswith("?fields=id,display_phone_number,verified_name,quality_rating")


@pytest.mark.parametrize(
    ("token", "passed", "detail"),
    [
        ({"is_valid": True, "expires_at": 0, "scopes": SCOPES}, True, "the token does not expire"),
        ({"is_valid": True, "expires_at": 1793801400, "scopes": SCOPES}, True, "2026-11-04T14:10:00Z"),
        ({"is_valid": False, "expires_at": 1, "scopes": SCOPES}, False, "not valid"),
        ({"is_valid": True, "scopes": SCOPES[:1]}, False, "lacks whatsapp_business_management"),
        ({}, False, "not valid"),
    ],
    ids=["for-ever", "for-a-while", "dead", "too-little", "empty"],
)
def test_the_token_is_looked_at_where_the_app_is_known(token: Any, passed: bool, detail: str) -> None:
    """Validity, expiry and scopes; with the app's own token, which stands in no address."""
    account = msgspec.structs.replace(ACCOUNT, app_id="550987654321098")
    answers = [answer_of("api_number_ok"), answer_of("api_phone_numbers_list"), SUBSCRIBED, answered({"data": token})]
    found, requests = drive(account.validate_config(), answers)
    check = found[-1]
    assert (check.name, check.passed, check.fatal) == ("token", passed, False)
    assert detail in (check.detail or "")
    assert bool(check.fix) is not passed
    assert requests[-1].url == f"{ROOT}/v25.0/debug_token?input_token=TEST_ACCESS_TOKEN"
    assert requests[-1].headers == {"authorization": f"Bearer 550987654321098|{ACCOUNT.app_secret}"}


OURS, THEIRS = "https://gw.example.org/w/1", "https://old.example.org/w"


@pytest.mark.parametrize(
    ("addresses", "passed"),
    [
        ({"phone_number": OURS, "application": THEIRS}, True),
        ({"whatsapp_business_account": OURS, "application": THEIRS}, True),
        ({"application": OURS}, True),
        ({"phone_number": THEIRS, "application": OURS}, False),
        ({}, False),
    ],
    ids=["number", "account", "app", "overridden", "nowhere"],
)
def test_the_address_of_messages_is_ours_or_not(addresses: Any, passed: bool) -> None:
    """The number's own address wins over the account's, and that over the app's. None is shown: they are secrets."""
    number = answered({**sample("api_number_ok")["http_response"]["json"], "webhook_configuration": addresses})
    answers = [number, answer_of("api_phone_numbers_list"), SUBSCRIBED]
    found, _ = drive(ACCOUNT.validate_config(OURS), answers)
    assert (found[-1].name, found[-1].passed, found[-1].fatal) == ("webhook", passed, False)
    assert THEIRS not in repr(msgspec.to_builtins(found[-1]))


def test_an_error_in_the_middle_passes_through() -> None:
    """A line that dies after the first answer is no finding about the account."""
    flow = ACCOUNT.validate_config()
    next(flow)
    flow.send(answer_of("api_number_ok"))
    with pytest.raises(Uncertain):
        flow.throw(Uncertain("reset"))


# ---------------------------------------------------------------- status


@pytest.mark.parametrize(
    ("name", "quality"),
    [("api_number_ok", "excellent"), ("api_number_limited", "poor"), ("api_number_blocked", "disconnected")],
)
def test_the_state_of_a_number(name: str, quality: str) -> None:
    """Connected or not, how well, why, and what Meta says about it."""
    outcome = sample(name)["outcome"]
    status, _ = drive(ACCOUNT.get_status(), [answer_of(name)])
    assert status.connection_quality == quality
    assert status.is_connected == (outcome["connection"] != "down")
    assert status.session_info.get("reasons", []) == outcome.get("reasons", [])
    named = {"display_phone_number": "sender", "quality": "quality", "throughput_mps": "throughput_mps"}
    for key, ours in named.items():
        if key in outcome:
            assert status.session_info[ours] == outcome[key]


def test_advice_is_passed_on() -> None:
    """The operator sees what to do."""
    status, _ = drive(ACCOUNT.get_status(), [answer_of("api_number_blocked")])
    assert status.detail == "There is an error with your payment method. Add a payment method."
    assert status.trouble == "account_restricted"


def test_a_bad_token_is_a_state() -> None:
    """The account is down, and why."""
    status, _ = drive(ACCOUNT.get_status(), [answer_of("api_number_bad_token")])
    assert (status.is_connected, status.session_info) == (False, {"error_code": "190"})
    assert status.trouble == "credentials"


def test_what_cannot_be_said_for_a_while_is_no_state() -> None:
    """Meta's OpenAPI file has this under the code of a bad parameter."""
    later = "Phone number information is temporarily unavailable. Please try again later."
    with pytest.raises(Unavailable):
        drive(ACCOUNT.get_status(), [answered({"error": {"message": later, "code": 100}}, 422)])


def test_a_number_that_is_linked_can_send() -> None:
    """CONNECTED, in the words of Meta's OpenAPI file."""
    status, _ = drive(ACCOUNT.get_status(), [number_with(status="LINKED")])
    assert status.is_connected


# ---------------------------------------------------------------- templates


def test_templates_are_listed_page_by_page() -> None:
    """Asked for as in the sample, then by the cursor, and not by the address Meta gives."""
    name = "api_templates_page"
    case = sample(name)
    page, (asked,) = drive(ACCOUNT.list_templates(), [answer_of(name)])
    assert (asked.method, asked.url) == requested(name)
    assert asked.headers == {"authorization": case["http_request"]["headers"]["Authorization"]}
    assert (len(page.templates), page.next) == (case["outcome"]["templates"], case["outcome"]["next_after"])
    [listed], [template] = case["http_response"]["json"]["data"], page.templates
    assert msgspec.to_builtins(template) == {
        **{name: listed[name] for name in ("id", "name", "language", "status", "category", "parameter_format")},
        "quality": "GREEN",
        "components": listed["components"],
    }
    last = answered({"data": [], "paging": {"cursors": {"after": "MjQZD"}}})
    page, (asked,) = drive(ACCOUNT.list_templates(page.next), [last])
    assert asked.url == f"{requested(name)[1]}&after=MjQZD"
    assert (page.templates, page.next) == ([], None)


def test_a_template_that_cannot_be_named_is_left_out() -> None:
    """The others are there; none shows its text in a repr."""
    body = sample("api_templates_page")["http_response"]["json"]
    odd = [None, {}, {"name": "x"}, {"language": "en"}, {"name": "x", "language": "en", "components": "x"}]
    page, _ = drive(ACCOUNT.list_templates(), [answered({**body, "data": [*odd, *body["data"]]})])
    assert [template.name for template in page.templates] == ["x", "order_update"]
    assert "pedido" not in f"{page!r}"


# ---------------------------------------------------------------- media


def test_where_a_medium_is() -> None:
    """The address with the headers for it, the digest as hex, the size as a number."""
    name = "api_media_get_url"
    outcome = sample(name)["outcome"]
    medium, (asked,) = drive(ACCOUNT.media("701000000000004"), [answer_of(name)])
    assert (asked.method, asked.url) == requested(name)
    assert (medium.url, medium.mime_type) == (outcome["url"], outcome["mime_type"])
    assert (medium.size_bytes, medium.sha256) == (outcome["size"], outcome["sha256_hex"])
    assert medium.headers == {"authorization": "Bearer TEST_ACCESS_TOKEN"}
    assert "TEST" not in repr(medium)
    # Which is how the bytes are asked for.
    download = sample("api_media_download")["http_request"]
    assert (download["method"], download["path"]) == ("GET", medium.url)
    assert download["headers"]["Authorization"] == medium.headers["authorization"]


def test_a_digest_may_be_base64() -> None:
    """As in webhooks: the length decides which it is."""
    body = sample("api_media_get_url")["http_response"]["json"]
    body["sha256"] = "xTNFAYbqwdX+JxPjR0QFCx4C8rss7NonQPyFwu5kEa4="
    medium, _ = drive(ACCOUNT.media("1"), [answered(body)])
    assert medium.sha256 == sample("api_media_get_url")["outcome"]["sha256_hex"]


# Meta's OpenAPI file has this for an id that does not exist; what people report is code 100 with subcode 33.
NOT_FOUND = answered({"error": {"message": "Phone number not found", "type": "GraphMethodException", "code": 803}}, 404)


@pytest.mark.parametrize("refused", [answer_of("api_media_get_url_expired_id"), NOT_FOUND], ids=["100", "803"])
def test_an_expired_medium_is_no_trouble_of_the_account(refused: Response) -> None:
    """That the object in the path is missing is about the medium here."""
    with pytest.raises(Rejected) as caught:
        drive(ACCOUNT.media("701000000000099"), [refused])
    assert (caught.value.code, caught.value.scope) == ("100", "media")


@pytest.mark.parametrize(
    "url",
    [
        "http://lookaside.fbsbx.com/x",
        "https://lookaside.fbsbx.com.evil.example/x",
        "https://evilfbsbx.com/x",
        "https://[broken/x",
        "file:///etc/passwd",
        "",
    ],
)
def test_the_token_goes_to_no_other_host(url: str) -> None:
    """The address comes out of a body: only Meta's hosts, over TLS, get the token."""
    with pytest.raises(Rejected):
        drive(ACCOUNT.media("1"), [answered({"url": url})])


def test_a_media_id_is_no_path() -> None:
    """It may come from a caller of ours."""
    assert first(ACCOUNT.media("../me?x=1")).url.startswith(f"{ROOT}/v25.0/..%2Fme%3Fx%3D1?")


def parts_of(request: UploadRequest, file: bytes) -> list[dict[str, Any]]:
    """The form as the samples have it, read by the standard library."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    form = BytesParser(policy=HTTP).parsebytes(head + request.body + file + request.tail)
    parts = []
    for part in form.iter_parts():
        part_name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if (filename := part.get_filename()) is None:
            parts.append({"name": part_name, "value": content.decode()})
        else:
            part_of = {"name": part_name, "filename": filename, "content_type": part["content-type"]}
            parts.append({**part_of, "body_base64": base64.b64encode(content).decode()})
    return parts


@pytest.mark.parametrize("name", ["api_media_upload", "api_media_upload_bad_type"])
def test_a_file_is_sent_in_a_form(name: str) -> None:
    """As in the samples, part by part; what Meta will not take is Rejected."""
    expected = sample(name)["http_request"]["multipart"]
    file = base64.b64decode(expected[-1]["body_base64"])
    upload = Upload(
        mime_type=expected[-1]["content_type"],
        filename=expected[-1]["filename"],
        size_bytes=len(file),
        boundary="b0undary",
    )
    asked = first(ACCOUNT.upload(upload))
    assert isinstance(asked, UploadRequest)
    assert (asked.method, asked.url) == requested(name)
    assert parts_of(asked, file) == expected
    outcome = sample(name)["outcome"]
    if "media_id" in outcome:
        media_id, _ = drive(ACCOUNT.upload(upload), [answer_of(name)])
        assert media_id == outcome["media_id"]
    else:
        with pytest.raises(Rejected) as caught:
            drive(ACCOUNT.upload(upload), [answer_of(name)])
        assert caught.value.code == str(outcome["error_code"])


def test_a_file_name_stays_in_its_quotes() -> None:
    upload = msgspec.structs.replace(UPLOAD, filename='a"\r\nX-Evil: 1\r\n\r\n.jpg')
    asked = first(ACCOUNT.upload(upload))
    assert isinstance(asked, UploadRequest)
    assert asked.body.count(b"\r\n\r\n") == 3
    assert b'filename="a%22%0D%0AX-Evil: 1%0D%0A%0D%0A.jpg"\r\n' in asked.body


@pytest.mark.parametrize(
    ("mime_type", "limit"),
    [
        ("image/png", 5 * 1024**2),
        ("image/webp", 500 * 1024),
        ("video/mp4", 16 * 1024**2),
        ("audio/ogg; codecs=opus", 16 * 1024**2),
        ("application/pdf", 100 * 1024**2),
        ("text/plain", 100 * 1024**2),
    ],
)
def test_a_file_that_is_too_large_is_refused_before_any_call(mime_type: str, limit: int) -> None:
    """Each by the limit of what it would be sent as; up to it, it is."""
    first(ACCOUNT.upload(msgspec.structs.replace(UPLOAD, mime_type=mime_type, size_bytes=limit)))
    with pytest.raises(Unsupported) as caught:
        first(ACCOUNT.upload(msgspec.structs.replace(UPLOAD, mime_type=mime_type, size_bytes=limit + 1)))
    assert caught.value.code == "media_too_large"


@pytest.mark.parametrize("mime_type", ["audio/ogg", "audio/opus", "application/ogg", "audio/ogg; codecs=opus"])
def test_a_voice_note_is_uploaded_by_the_name_that_meta_takes(mime_type: str) -> None:
    """Of the file itself nothing changes: its length is that of what is sent."""
    asked = first(ACCOUNT.upload(msgspec.structs.replace(UPLOAD, mime_type=mime_type)))
    assert asked.body.count(b"audio/ogg; codecs=opus\r\n") == 2


def test_a_medium_is_deleted() -> None:
    _, (asked,) = drive(ACCOUNT.delete_media("801000000000001"), [answer_of("api_media_delete")])
    assert (asked.method, asked.url) == requested("api_media_delete")
    with pytest.raises(Rejected) as caught:
        drive(ACCOUNT.delete_media("701000000000099"), [answer_of("api_media_get_url_expired_id")])
    assert caught.value.scope == "media"


# ---------------------------------------------------------------- configuration


CONFIG = {
    "access_token": "t",
    "phone_number_id": "1",
    "waba_id": "2",
    "app_secret": "s",
    "verify_token": "v",
}


def test_the_smallest_configuration() -> None:
    """Five fields; the rest has defaults."""
    account = msgspec.convert(CONFIG, MetaBusiness)
    assert (account.api_version, account.base_url) == ("v25.0", ROOT)


@pytest.mark.parametrize("field", CONFIG)
def test_no_required_field_may_be_missing_or_empty(field: str) -> None:
    """The error names the field."""
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert({**CONFIG, field: ""}, MetaBusiness)
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert({name: value for name, value in CONFIG.items() if name != field}, MetaBusiness)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("access_token", "t\n"),
        ("access_token", "t t"),
        ("phone_number_id", "+15550001111"),
        ("phone_number_id", "1\n"),
        ("waba_id", "../1"),
        ("api_version", "25"),
        ("api_version", "v25.0/x"),
        ("base_url", "ftp://x"),
        ("base_url", "https://x?y"),
        ("display_phone_number", "15550001111"),
        ("pin", "12345"),
        ("pin", "123456\n"),
    ],
)
def test_what_would_break_a_request_is_refused_in_the_configuration(field: str, value: str) -> None:
    """Line breaks in headers, other paths, other schemes."""
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert({**CONFIG, field: value}, MetaBusiness)


def test_fields_describe_themselves() -> None:
    """Title, secret or not, and the pattern, also of optional fields: forms are made of them."""
    fields = {field.name: field for field in config_fields(MetaBusiness)}
    assert fields["access_token"].secret
    assert not fields["phone_number_id"].secret
    assert not fields["app_secret_previous"].required
    assert fields["display_phone_number"].pattern
    assert all(field.title[0].isupper() for field in fields.values())


def test_an_account_error_of_a_call_is_raised() -> None:
    """Outside a connection test, a bad token is an error of the flow."""
    with pytest.raises(AccountBroken):
        drive(ACCOUNT.setup(), [answer_of("api_number_bad_token")])
