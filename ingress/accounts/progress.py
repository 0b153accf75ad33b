"""What a test has found so far, for whoever waits for it."""

from collections.abc import Callable, Iterable

from providers import Check

ShowCheck = Callable[[Check], None]


class ShownChecks:
    """Shows each check of a test once, as soon as it is done."""

    def __init__(self, show: ShowCheck | None = None) -> None:
        self._show = show
        self._shown: list[Check] = []

    def __call__(self, check: Check) -> None:
        if self._show is not None and check not in self._shown:
            self._shown.append(check)
            self._show(check)

    def all(self, checks: Iterable[Check]) -> None:
        """Those of *checks* that were not shown yet."""
        for check in checks:
            self(check)
