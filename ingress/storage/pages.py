"""Pages that are bounded by their bytes, so that no list of large rows is read whole."""

# What a page has at most, unless its first row alone has more.
PAGE_BYTES = 4 * 1024 * 1024


def within(columns: str, rows: str, size: str, order: str, most_bytes: int = PAGE_BYTES) -> str:
    """*columns* of the first of *rows* in their *order*, as many as have *most_bytes* together, and one at least.

    *size* is a row's, in terms of *rows*. A column more is ``followed``: whether *rows* has more after it.
    """
    return f"""
select {columns} from (
    select page.*, sum({size}) over counted as so_far, {size} as size_bytes,
        lead(true) over counted is not null as followed
    from ({rows}) page window counted as (order by {order} rows unbounded preceding)
) measured where so_far <= {most_bytes} or so_far = size_bytes order by {order}"""  # noqa: S608  (parts of statements, none from outside)
