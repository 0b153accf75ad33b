"""Numbers and secrets in what providers answer: read within bounds, and in the same way for each of them."""

from typing import Any

import msgspec
import pytest

from providers import MessageData, Recipient, Response, SendError, Text, WhatsAppProvider
from providers._values import UNREADABLE, decimal, mail_date, number, word

from .cloud_api.samples import ACCOUNT as META
from .flows import answered
from .twilio_whatsapp.samples import ACCOUNT as TWILIO
from .whatsapp_web.samples import ACCOUNT as WAHA

MESSAGE = MessageData(
    to=Recipient(phone="+5511987654321"), content=Text(body="Olá"), organization_id="o", correlation_id="c"
)
DATE = "Wed, 21 Oct 2026 07:28:00 GMT"
ANY = pytest.mark.parametrize("account", [META, TWILIO, WAHA], ids=lambda account: account.name)


def refused(account: WhatsAppProvider, answer: Response) -> SendError:
    """What *answer* to a send means."""
    flow = account.send_message(MESSAGE)
    next(flow)
    with pytest.raises(SendError) as caught:
        flow.send(answer)
    return caught.value


@ANY
@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ("0", 0),
        ("7", 7),
        (" 7 ", 7),
        ("86401", 86_400),
        ("999999999", 86_400),
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30),
        ("Wed, 21 Oct 2026 07:27:59 GMT", 0),
        ("Fri, 23 Oct 2026 07:28:00 GMT", 86_400),
    ],
)
def test_a_provider_may_ask_for_up_to_a_day(account: WhatsAppProvider, asked: str, seconds: float) -> None:
    """In seconds, or by a date, which is compared with the answer's own."""
    error = refused(account, answered({}, 429, {"retry-after": asked, "date": DATE}))
    assert (type(error).__name__, error.retry_after_s) == ("Throttled", seconds)


@ANY
@pytest.mark.parametrize(
    "asked",
    [
        "", "soon", "-5", "+5", "1.5", "NaN", "inf", "1e309", "٣", "9" * 10, "9" * 400, "9" * 5_000,
        "Fri, 31 Dec 9999 23:59:59 GMT", "Fri, 31 Dec 9999 23:59:59 -1200", "Wed, 21 Oct 2026 07:28:30",
        "Wed, 99 Oct 2026 07:28:30 GMT", "Wed, 21 Oct " + "9" * 400 + " 07:28:30 GMT",
    ],
)  # fmt: skip
def test_what_is_no_time_to_wait_is_as_if_it_were_not_there(account: WhatsAppProvider, asked: str) -> None:
    """Nobody waits for thirty years: such a number is a fault of whoever wrote it."""
    usual = refused(account, answered({}, 429)).retry_after_s
    assert refused(account, answered({}, 429, {"retry-after": asked, "date": DATE})).retry_after_s == usual


@ANY
def test_a_date_without_the_answers_own_says_nothing(account: WhatsAppProvider) -> None:
    """A provider reads no clock."""
    usual = refused(account, answered({}, 429)).retry_after_s
    assert refused(account, answered({}, 429, {"retry-after": DATE})).retry_after_s == usual


@pytest.mark.parametrize(
    ("minutes", "seconds"),
    [
        ("5", 300), ("2.5", 150), ("1440", 86_400), ("99999", 86_400),
        ("0", 300), ("-5", 300), ("true", 300), ('"5"', 300), ("1e308", 300), ("1e309", 300), ("NaN", 300),
        ("9" * 400, 300), ("9" * 5_000, 300), ("null", 300), ("[]", 300),
    ],
)  # fmt: skip
def test_minutes_until_access_is_back_have_bounds(minutes: str, seconds: float) -> None:
    """The longest plausible one of all businesses, else five minutes."""
    usage = f'{{"1":[{{"estimated_time_to_regain_access":{minutes}}}]}}'
    answer = answered({"error": {"code": 4}}, 400, {"x-business-use-case-usage": usage})
    assert refused(META, answer).retry_after_s == seconds


@pytest.mark.parametrize("account", [META, TWILIO], ids=lambda account: account.name)
@pytest.mark.parametrize(
    "code", ["9" * 10, "9" * 400, f'"{"9" * 4_400}"', "1e308", "4.5", '"4_29"', '"٤"', "true", "{}"]
)
def test_a_code_that_is_none_leaves_the_status_to_decide(account: WhatsAppProvider, code: str) -> None:
    body = f'{{"code":{code},"message":"no","error":{{"code":{code}}}}}'
    error = refused(account, Response(status=429, body=body.encode()))
    assert (type(error).__name__, error.code) == ("Throttled", "http_429")


SECRETS = {"meta_business": "app_secret", "twilio_whatsapp": "auth_token", "whatsapp_web": "hmac_key"}


@ANY
@pytest.mark.parametrize(
    ("secret", "message", "shown"),
    [
        ("s3cr3t", "xs3cr3tx, and s3cr3t", "x…x, and …"),
        ("-x7q-", "ax7qb -x7q- a-x7q-b", "ax7qb … a-x7q-b"),
        ("x7q", "ax7qb x7q", "ax7qb …"),
    ],
)
def test_no_error_quotes_a_secret(account: WhatsAppProvider, secret: str, message: str, shown: str) -> None:
    """A short one is hidden where it stands alone: within other words it stands by chance."""
    account = msgspec.structs.replace(account, **{SECRETS[account.name]: secret})
    error = refused(account, answered({"code": 1, "message": message, "error": {"code": 1, "message": message}}, 422))
    assert error.detail.endswith(shown)


def test_of_two_secrets_the_longer_one_is_hidden_whole() -> None:
    """Where one begins with the other, nothing of the rest is left."""
    account = msgspec.structs.replace(META, app_secret="s3cr3t", app_secret_previous="s3cr3t-and-more")
    error = refused(account, answered({"error": {"code": 1, "message": "bad: s3cr3t-and-more"}}, 400))
    assert error.detail == "bad: …"


@pytest.mark.parametrize(
    "written",
    ["", "x", None, "Fri, 31 Dec 9999 23:59:59 -1200", "Wed, 21 Oct 2026 07:28:30", "Wed, 21 Oct 2026 99:28:30 GMT"],
)
def test_a_date_that_is_none_is_absent(written: str | None) -> None:
    assert mail_date(written) is None


# Python does not write out an integer of thousands of digits, and so not in the name of a test.
SHORT: dict[str, Any] = {"ids": lambda value: type(value).__name__}


@pytest.mark.parametrize(
    "value", [True, None, "", "x", "NaN", "inf", "1e31", "1e-31", 10**400, 10**5_000, "9" * 29, "1e9999999999"], **SHORT
)
def test_a_sum_that_nobody_pays_is_none(value: object) -> None:
    """Written out in full, some of them would take gigabytes."""
    assert decimal(value) is None


@pytest.mark.parametrize(("value", "text"), [("-0.0050", "-0.0050"), (12.5, "12.5"), (3, "3"), ("1e3", "1000")])
def test_a_sum_keeps_its_digits(value: object, text: str) -> None:
    assert decimal(value) == text


@pytest.mark.parametrize("value", [10**400, -(10**400), 10**5_000, "NaN", "inf", "1e309", "1e300", True, None], **SHORT)
def test_a_number_out_of_all_bounds_is_not_readable(value: object) -> None:
    """And an integer of thousands of digits is no id."""
    with pytest.raises(UNREADABLE):
        number({"x": value}, "x")
    assert isinstance(value, str) or word({"x": value}, "x") is None


@pytest.mark.parametrize("price", ["NaN", "-1e99", "x" * 5_000, "9" * 400])
def test_a_price_that_is_none_costs_nothing_else(price: str) -> None:
    """The message was taken all the same."""
    flow = TWILIO.send_message(MESSAGE)
    next(flow)
    with pytest.raises(StopIteration) as done:
        flow.send(answered({"sid": "SM1", "price": price, "price_unit": "USD"}, 201))
    assert (done.value.value.provider_message_id, done.value.value.cost) == ("SM1", None)
