"""What a test has found so far, for whoever waits for it, and all of it in the end."""

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


def each_once(steps: list[Check], tested: list[Check]) -> list[Check]:
    """The checks of the *steps* before a test and of what was *tested*, by name."""
    checks = {check.name: check for check in tested}
    for step in steps:
        # Where both failed, the step has the reason; else the test, which came later, has the result.
        if step.name not in checks or not (step.passed or checks[step.name].passed):
            checks[step.name] = step
    return list(checks.values())
