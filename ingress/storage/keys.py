"""Conditions that one index alone serves, whatever statistics say of the tables.

A plan is made once and kept, often while little waits: by such statistics, reading the whole of an index of what waits
looks as good as a step in the index of a key, and stays so when thousands wait. Rows are compared by no index but
their own.
"""


def within_key(columns: str, same: str, after: str, below: str) -> str:
    """Rows of which all *columns* but the last have the *same* values, and the last is between two: in the order of it.

    As the last one is compared together with the one before, an index that has it behind others, such as the key's, is
    no better for that; a range of it alone is taken for a two-hundredth, and any index for as good then. And as the
    first one is said to be no less and no more than it is, its index seems to have less of it, even where all is alike.
    """
    names, values = columns.split(", "), same.split(", ")
    equal = " and ".join(f"{name} = {value}" for name, value in zip(names, values, strict=False))
    first = f"{names[0]} >= {values[0]} and {names[0]} <= {values[0]}"
    pair = f"({names[-2]}, {names[-1]})"
    return f"{equal} and {first} and {pair} > ({values[-1]}, {after}) and {pair} < ({values[-1]}, {below})"


def same_key(columns: str, left: str, right: str) -> str:
    """A row of *left* has the key of the row *right*: a step in the index of *columns*, never a hash of them all.

    It chooses no partition: `between` does (ingress/storage/columns.py).
    """
    of_left, of_right = (", ".join(f"{of}.{column}" for column in columns.split(", ")) for of in (left, right))
    return f"({of_left}) >= ({of_right}) and ({of_left}) <= ({of_right})"
