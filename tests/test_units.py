"""Small pure parts: identifiers, correlation, envelope, signatures, the retry budget, the body reader."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.delivery.standard_webhooks import SigningSecret, new_secret, rotated, sign
from ingress.envelope import render, timestamp
from ingress.identifiers import (
    conversation_id,
    correlation,
    event_id,
    key_hash,
    new_id,
    parse_correlation,
    parse_event_id,
    parse_id,
)
from ingress.sending.budget import RetryBudget
from ingress.storage.statements.events import StoredEvent
from ingress.web.bodies import Disconnected, LargeBodies, TooLarge, read_body
from providers import phone_key

ORGANIZATION = UUID(int=7)
ACCOUNT = "15550001111"
# A PostgreSQL column holds no NUL, JSON no lone surrogate: neither comes out of the parsers.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))


# ---------------------------------------------------------------- identifiers


def test_ids_are_uuid7_and_rise() -> None:
    """Version and variant as RFC 9562 has them; ids of a later millisecond are greater."""
    made = [new_id() for _ in range(1000)]
    assert {(one.version, one.variant) for one in made} == {(7, "specified in RFC 4122")}
    assert len(set(made)) == 1000
    milliseconds = [one.int >> 80 for one in made]
    assert milliseconds == sorted(milliseconds)
    assert abs(milliseconds[0] / 1000 - datetime.now(UTC).timestamp()) < 60


@given(st.one_of(st.text(), st.uuids().map(str)))
def test_what_is_no_id_names_nothing(text: str) -> None:
    """Hostile text never raises."""
    found = parse_id(text)
    assert found is None or isinstance(found, UUID)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("+5511987654321", "+551187654321"),
        ("+5511987654321", "+55 11 98765-4321"),
        ("+5511987654321", "5511987654321"),
        ("+5215512345678", "+525512345678"),
        ("+5491123456789", "+541123456789"),
        ("+2250707123456", "+22507123456"),
    ],
    ids=["brazil", "punctuation", "no-plus", "mexico", "argentina", "ivory-coast"],
)
def test_one_number_has_one_key_however_it_is_written(one: str, other: str) -> None:
    assert len({phone_key(phone) for phone in (one, other, f"+{phone_key(one)}", phone_key(other))}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("+5511987654321", "+5511987654322"),
        ("+5511987654321", "+5521987654321"),
        ("+15550001111", "+5550001111"),
        ("+551137654321", "+551147654321"),
        ("+2252507123456", "+22507123456"),
    ],
)
def test_other_numbers_are_other_conversations(one: str, other: str) -> None:
    assert phone_key(one) != phone_key(other)


def test_a_conversation_is_of_one_organization_account_and_person_or_group() -> None:
    ana, others = UUID(int=1), UUID(int=2)
    conversations = {
        conversation_id(ORGANIZATION, ACCOUNT, ana, None),
        conversation_id(UUID(int=8), ACCOUNT, ana, None),
        conversation_id(ORGANIZATION, "15550002222", ana, None),
        conversation_id(ORGANIZATION, ACCOUNT, others, None),
        conversation_id(ORGANIZATION, ACCOUNT, None, "group-1"),
        conversation_id(ORGANIZATION, ACCOUNT, None, str(ana)),
        conversation_id(ORGANIZATION, ACCOUNT, None, None),
    }
    assert len(conversations) == 7
    # Whoever writes in a group.
    assert conversation_id(ORGANIZATION, ACCOUNT, ana, "group-1") in conversations


def test_conversation_ids_never_change() -> None:
    """They are stored, and a CRM keeps them: this very value must stay."""
    assert str(conversation_id(ORGANIZATION, ACCOUNT, UUID(int=1), None)) == STORED_CONVERSATION


STORED_CONVERSATION = "7ed48d80-8056-3707-7c3f-9600a953d2f3"


@given(st.text())
def test_key_hashes(key: str) -> None:
    """Any text at all has one, of 16 bytes, always the same."""
    assert len(key_hash(key, ORGANIZATION)) == 16
    assert key_hash(key, ORGANIZATION) == key_hash(key, ORGANIZATION)
    assert key_hash(key, ORGANIZATION) != key_hash(key, UUID(int=8))


# ---------------------------------------------------------------- correlation


@given(st.uuids(), st.integers(1, 999_999))
def test_correlation_round_trip(message_id: UUID, attempt: int) -> None:
    assert parse_correlation(correlation(message_id, attempt)) == (message_id, attempt)
    assert len(correlation(message_id, attempt)) <= 512


HOSTILE = st.one_of(
    st.none(),
    st.text(),
    st.builds("gw1:{}:{}".format, st.text(), st.text()),
    st.builds("gw1:{}:{}".format, st.uuids().map(lambda one: one.hex), st.text(st.characters(categories=["N"]))),
)


@given(HOSTILE)
def test_foreign_correlation_is_nobodys(text: str | None) -> None:
    """A number may be shared with another system: what comes back is anything, and never an error."""
    message_id, attempt = parse_correlation(text)
    assert (message_id is None) == (attempt is None)
    assert attempt is None or 0 <= attempt <= 999_999


@pytest.mark.parametrize("digits", ["²", "①", "٣", "۴", "-1", "+1", "1_0", " 1", "1e3", "", "1234567", "\u0bf0"])
def test_odd_digits(digits: str) -> None:
    """`str.isdigit` takes more than `int` does."""
    assert parse_correlation(f"gw1:{uuid4().hex}:{digits}") == (None, None)


# ---------------------------------------------------------------- envelope


@given(
    st.dictionaries(texts, texts, max_size=3),
    st.one_of(st.none(), st.recursive(st.one_of(st.none(), texts, st.integers()), st.lists, max_leaves=5)),
    st.datetimes(timezones=st.just(UTC), min_value=datetime(2000, 1, 1)),
)
def test_rendering(data: dict[str, str], raw: Any, created_at: datetime) -> None:
    """The same bytes each time; valid JSON, with the provider's item where it was asked for."""
    stored = {"organization_id": str(ORGANIZATION), **data}
    row = StoredEvent(
        organization_id=UUID(int=5),
        sequence=9,
        type="message.received",
        config_id=UUID(int=6),
        created_at=created_at,
        data=json.dumps(stored).encode(),
    )
    raw_bytes = None if raw is None else json.dumps(raw).encode()
    rendered = render(row, raw_bytes)
    assert rendered == render(row, raw_bytes)
    expected = stored if raw is None else stored | {"raw": raw}
    assert json.loads(rendered) == {
        "type": "message.received",
        "timestamp": timestamp(created_at),
        "id": f"evt_{9:016x}{5:016x}",
        "sequence": 9,
        "data": expected,
    }
    # Delivered and signed without it, so the raw item never changes what stands before it.
    assert rendered.startswith(render(row)[:-2])


def test_event_ids() -> None:
    """They name an event of one organization, and nothing else."""
    own, other = new_id(), new_id()
    for sequence in (0, 65537, (1 << 63) - 1):
        name = event_id(own, sequence)
        assert len(name) == 36
        assert parse_event_id(name, own) == parse_event_id(name.removeprefix("evt_"), own) == sequence
        assert parse_event_id(name, other) is None
    assert event_id(own, 1) < event_id(own, 2)
    half = event_id(own, 0)[20:]
    wrong = (
        "",
        "evt_",
        "x",
        half,
        f"evt_{1 << 63:016x}{half}",
        f"evt_ {1:015x}{half}",
        f"evt_{'0' * 15}_{half}",
        "\ud800",
    )
    assert [parse_event_id(text, own) for text in wrong] == [None] * len(wrong)


def test_timestamps() -> None:
    moment = datetime(2026, 11, 22, 12, 0, 0, 123_999, timezone(timedelta(hours=2)))
    assert timestamp(moment) == "2026-11-22T10:00:00.123Z"


# ---------------------------------------------------------------- signatures of deliveries


signing_keys = st.lists(st.binary(min_size=24, max_size=64), min_size=1, max_size=3)


@given(signing_keys, st.binary(), st.integers(1, 4_000_000_000))
def test_signatures_of_deliveries(keys: list[bytes], body: bytes, at: int) -> None:
    """Against a computation of our own, from the specification's text."""
    secrets = [SigningSecret(f"whsec_{base64.b64encode(key).decode()}") for key in keys]
    expected = []
    for key in keys:
        made = hmac.new(key, digestmod=hashlib.sha256)
        made.update(b"evt_1" + b"." + str(at).encode("ascii") + b"." + body)
        expected.append("v1," + base64.b64encode(made.digest()).decode("ascii"))
    assert sign(secrets, "evt_1", at, body).split(" ") == expected


def test_the_specifications_own_vector() -> None:
    """Source: github.com/standard-webhooks/standard-webhooks, the libraries' test of `sign`."""
    secret = SigningSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_rotation_of_a_secret() -> None:
    """The new one first; former ones sign on for a day, all of them: nobody knows which one the CRM has."""
    now = datetime(2026, 11, 22, tzinfo=UTC)
    first = rotated([], now)
    second = rotated(first, now)
    third = rotated(second, now)
    assert [len(secrets) for secrets in (first, second, third)] == [1, 2, 3]
    assert [one.secret for one in third[1:]] == [one.secret for one in second]
    within, after = (int((now + timedelta(hours=hours)).timestamp()) for hours in (23, 25))
    assert len(sign(third, "evt", within, b"x").split(" ")) == 3
    assert sign(third, "evt", after, b"x") == sign(third[:1], "evt", after, b"x")
    assert len(base64.b64decode(new_secret().secret.removeprefix("whsec_"))) >= 24


# ---------------------------------------------------------------- retry budget


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def calls_per_second(budget: RetryBudget, clock: Clock, seconds: int, rate: int) -> Iterator[int]:
    """An account that fails altogether: each first attempt is repeated as often as the budget lets it."""
    account = UUID(int=1)
    for _ in range(seconds):
        calls = 0
        for _ in range(rate):
            clock.now += 1 / rate
            budget.first_attempt(account)
            calls += 1
            while calls and budget.take(account):
                calls += 1
        yield calls


@pytest.mark.parametrize("rate", [200, 1000])
def test_a_provider_that_fails_is_called_by_a_quarter_more(clock: Clock, rate: int) -> None:
    """Over any ten seconds of a minute: at most 1.25 calls for each first attempt."""
    calls = list(calls_per_second(RetryBudget(clock=clock), clock, 60, rate))
    for start in range(51):
        assert sum(calls[start : start + 10]) <= 1.25 * 10 * rate


def test_the_budget_does_not_pile_up(clock: Clock) -> None:
    """A quiet hour buys no storm: ten repetitions at once, then the fifth and the one a second again."""
    budget, account = RetryBudget(clock=clock), UUID(int=1)
    for _ in range(100_000):
        budget.first_attempt(account)
    clock.now += 3600
    taken = 0
    while budget.take(account):
        taken += 1
    assert taken == 10
    clock.now += 1
    assert [budget.take(account), budget.take(account)] == [True, False]


def test_the_budget_of_one_account_is_its_own(clock: Clock) -> None:
    budget = RetryBudget(clock=clock)
    while budget.take(UUID(int=1)):
        pass
    assert budget.take(UUID(int=2))


# ---------------------------------------------------------------- bodies


class Script:
    """An ASGI `receive` that plays messages; asking for more than there are fails."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.left = list(messages)

    async def __call__(self) -> Any:
        return self.left.pop(0)


def chunk(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


GONE = {"type": "http.disconnect"}


@pytest.mark.parametrize(
    "messages",
    [
        [chunk(b"0123456789", more=False)],
        [chunk(b"01234"), chunk(b"56789", more=False)],
        [chunk(b"0123456789"), chunk(b"", more=False)],
        [chunk(b""), chunk(b""), chunk(b"0123456789"), {"type": "http.request"}],
        [{"type": "http.request", "body": b"0123456789"}],
    ],
)
async def test_bodies_up_to_the_limit(messages: list[dict[str, Any]]) -> None:
    assert await read_body(Script(*messages), 10, LargeBodies(), "owner") == b"0123456789"


async def test_an_empty_body() -> None:
    assert await read_body(Script({"type": "http.request"}), 10, LargeBodies(), "owner") == b""


@pytest.mark.parametrize(
    "messages",
    [[chunk(b"0123456789a", more=False)], [chunk(b"0123456789"), chunk(b"a"), chunk(b"never read")]],
)
async def test_a_body_over_the_limit_is_not_read_to_its_end(messages: list[dict[str, Any]]) -> None:
    script = Script(*messages)
    with pytest.raises(TooLarge):
        await read_body(script, 10, LargeBodies(), "owner")
    assert [message["body"] for message in script.left] == [b"never read"][: len(messages) - 1]


@pytest.mark.parametrize("messages", [[GONE], [chunk(b"01234"), GONE]])
async def test_a_client_that_goes_away(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(Disconnected):
        await read_body(Script(*messages), 10, LargeBodies(), "owner")


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=8), st.integers(0, 30))
async def test_any_division_into_chunks_is_the_same_body(chunks: list[bytes], limit: int) -> None:
    whole = b"".join(chunks)
    messages = [chunk(part) for part in chunks[:-1]] + [chunk(chunks[-1], more=False)]
    if len(whole) > limit:
        with pytest.raises(TooLarge):
            await read_body(Script(*messages), limit, LargeBodies(), "owner")
    else:
        assert await read_body(Script(*messages), limit, LargeBodies(), "owner") == whole
