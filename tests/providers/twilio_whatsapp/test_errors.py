"""Twilio's error table: every documented code means what the contract says, wherever it arrives."""

from typing import Any

import pytest

from providers import Response
from providers.twilio_whatsapp import errors

from ..flows import answered
from .samples import names, sample

# The codes by class, as the contract's table has them.
CLASSES: dict[str, tuple[int, ...]] = {
    "Rejected": (
        20001, 20422, 21211, 21602, 21604, 21610, 21612, 21614, 21618, 21619, 21620, 21623, 21624, 21654, 21655,
        21656, 30003, 30004, 30005, 30006, 30007, 30010, 30015, 30016, 63003, 63005, 63006, 63011, 63013, 63014, 63015,
        63016, 63019, 63021, 63024, 63027, 63028, 63029, 63030, 63031, 63032, 63033, 63034, 63035, 63036, 63040, 63041,
        63049, 63050,
    ),
    "Unsupported": (21617, 21658),
    "AccountBroken": (
        20003, 20004, 20005, 20006, 20008, 20101, 20103, 20104, 20404, 21212, 21408, 21601, 21603, 21606, 21607, 21608,
        21609, 21626, 21701, 21702, 21703, 21704, 21705, 63001, 63002, 63007, 63008, 63020, 63022, 63039, 63062, 63101,
    ),
    "Restricted": (30002, 63026, 63051, 63112),
    "Throttled": (14107, 20429, 21611, 30001, 63017, 63018, 63038),
    "Unavailable": (20409, 30017, 63012, 63025, 63037),
    "Uncertain": (20500, 20503, 30008, 30021, 30410, 63009, 63010, 63023),
}  # fmt: skip
CODES = [(code, name) for name, codes in CLASSES.items() for code in codes]


def test_the_whole_table_is_here() -> None:
    """No code twice, none beyond, and each that a sample names."""
    assert len({code for code, _ in CODES}) == len(CODES) == 107
    assert set(errors._VERDICTS) == {code for code, _ in CODES}
    outcomes = [sample(name)["outcome"] for name in names("send_error_*")]
    assert {outcome["provider_code"] for outcome in outcomes if "provider_code" in outcome} <= dict(CODES).keys()


@pytest.mark.parametrize(("code", "name"), CODES)
def test_the_code_decides(code: int, name: str) -> None:
    """In an answer, whatever its status, as a number or as text, and in a failed status."""
    for status in (400, 403, 418, 429, 500):
        for written in (code, str(code)):
            assert type(errors.send_error(answered({"code": written}, status))).__name__ == name
    reported = errors.reported({"ErrorCode": str(code)})
    assert reported is not None
    assert (reported.class_, reported.code) == (name, str(code))


@pytest.mark.parametrize("code", ["63999", "29999", "0", "x", "6\u00b3"])
def test_an_unknown_code_of_a_status_is_the_end_of_the_message(code: str) -> None:
    """And is kept as it came."""
    reported = errors.reported({"ErrorCode": code})
    assert reported is not None
    assert (reported.class_, reported.code) == ("Rejected", code)


@pytest.mark.parametrize(
    "problem", [{}, {"code": 29999}, {"code": None}, {"code": True}, {"code": "x"}, {"code": 1e400}]
)
@pytest.mark.parametrize(
    ("status", "name"),
    [
        (301, "AccountBroken"),
        (400, "Rejected"),
        (401, "AccountBroken"),
        (403, "AccountBroken"),
        (404, "AccountBroken"),
        (408, "Uncertain"),
        (409, "Rejected"),
        (422, "Rejected"),
        (425, "Uncertain"),
        (429, "Throttled"),
        (500, "Uncertain"),
        (503, "Uncertain"),
        (599, "Uncertain"),
        (201, "Uncertain"),
    ],
)
def test_else_the_status_decides(problem: dict[str, Any], status: int, name: str) -> None:
    """For codes that are not in the table, and for none."""
    error = errors.send_error(answered(problem, status))
    assert type(error).__name__ == name
    assert error.code


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'{"status":"queued"'])
def test_an_answer_may_be_anything(body: bytes) -> None:
    """Its status is left."""
    error = errors.send_error(Response(status=502, body=body))
    assert (error.code, error.detail) == ("http_502", "HTTP 502 without a readable error")


def test_a_call_that_may_be_repeated_is_never_uncertain() -> None:
    """Reading and configuring twice harms nobody."""
    for status in (408, 500, 503):
        assert type(errors.call_error(answered({}, status))).__name__ == "Unavailable"


@pytest.mark.parametrize(
    ("headers", "code", "seconds"),
    [
        ({"retry-after": "7"}, 20429, 7),
        ({"retry-after": "soon"}, 20429, None),
        ({"retry-after": "9" * 400}, 21611, 120),
        ({}, 63038, 3600),
        ({}, 21211, None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], code: int, seconds: float | None) -> None:
    """What the answer says, else what the contract says, else nothing."""
    assert errors.send_error(answered({"code": code}, 429, headers)).retry_after_s == seconds
