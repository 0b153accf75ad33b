"""The error table of the WhatsApp Cloud API: every row means what the contract says, wherever it arrives."""

from typing import Any

import pytest

from providers.cloud_api import errors

from ..flows import answered
from .samples import sample

ROWS: list[dict[str, Any]] = sample("error_classification")
NAMES = {
    "permanent_content": "Rejected",
    "permanent_account": "AccountBroken",
    "throttled": "Throttled",
    "transient": "Unavailable",
    "ambiguous": "Uncertain",
}


def codes(row: dict[str, Any]) -> list[int]:
    return [row["code"]] if "code" in row else list(range(row["code_from"], row["code_to"] + 1))


def expected(row: dict[str, Any]) -> str:
    return "Restricted" if row.get("punished") else NAMES[row["class"]]


def label(row: dict[str, Any]) -> str:
    return f"{codes(row)[0]}-{row.get('subcode', '')}-{''.join(row['where'])}"


REPLIES = [row for row in ROWS if row["class"] != "not_a_send" and row["where"] != ["W"]]
STATUSES = [row for row in ROWS if "W" in row["where"]]
NOT_SENDS = [row for row in ROWS if row["class"] == "not_a_send"]
# A status takes a code's own W row where there is one, else its S row.
SENDS_ONLY = [row for row in REPLIES if "W" not in row["where"] and "subcode" not in row]


def test_the_whole_table_is_here() -> None:
    """Every row is covered by one of the tests below."""
    assert len(ROWS) == 129
    assert len(REPLIES) + len(NOT_SENDS) + len([row for row in ROWS if row["where"] == ["W"]]) >= len(ROWS)


@pytest.mark.parametrize("row", STATUSES, ids=label)
def test_a_failed_status_is_judged_by_its_row(row: dict[str, Any]) -> None:
    """The W row of the code."""
    for code in codes(row):
        assert errors.reported({"code": code}, "W").class_ == expected(row)


@pytest.mark.parametrize("row", SENDS_ONLY, ids=label)
def test_a_failed_status_without_a_row_takes_the_one_of_the_reply(row: dict[str, Any]) -> None:
    """But nothing is uncertain in a status: the message is dead for certain."""
    also = {code for other in STATUSES for code in codes(other)}
    wanted = "Unavailable" if expected(row) == "Uncertain" else expected(row)
    for code in set(codes(row)) - also:
        assert errors.reported({"code": str(code)}, "W").class_ == wanted


@pytest.mark.parametrize("row", NOT_SENDS, ids=label)
def test_a_code_that_is_no_result_of_a_send_has_no_class(row: dict[str, Any]) -> None:
    """As a notice; as an answer to a call its HTTP status decides. A row of its own beats a range."""
    own = {other["code"] for other in REPLIES if "code" in other}
    for code in set(codes(row)) - own:
        assert errors.reported({"code": code}, "I").class_ is None
        refused = errors.call_error(answered({"error": {"code": code}}, 400))
        assert type(refused).__name__ == "Rejected"


@pytest.mark.parametrize("status", [400, 500, 503])
def test_a_call_that_may_be_repeated_is_never_uncertain(status: int) -> None:
    """Reading and configuring twice harms nobody."""
    found = errors.call_error(answered({"error": {"code": 1}}, status))
    assert type(found).__name__ == "Unavailable"
