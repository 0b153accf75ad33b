"""Conditions that one index alone serves, whatever statistics say of the tables.

A plan is made once and kept, often while little waits: by such statistics, reading the whole of an index of what waits
looks as good as a step in the index of a key, and stays so when thousands wait. Rows are compared by no index but
their own.
"""


def within_key(columns: str, low: str, high: str) -> str:
    """*columns* between two rows, neither of them included: to be ordered by all of the columns."""
    return f"({columns}) > ({low}) and ({columns}) < ({high})"


def same_key(columns: str, left: str, right: str) -> str:
    """A row of *left* has the key of the row *right*: a step in the index of *columns*, never a hash of them all."""
    of_left, of_right = (", ".join(f"{of}.{column}" for column in columns.split(", ")) for of in (left, right))
    return f"({of_left}) >= ({of_right}) and ({of_left}) <= ({of_right})"
