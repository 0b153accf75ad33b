"""What a person watches: lines, bars, and the table at the end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from .checks import CheckResult

PLAIN_WIDTH = 132  # where nobody's terminal sets one: a log file has no edge to wrap at
LABEL = "   {task.description:<20}"


class Bar:
    """One line with a bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, count: int) -> None:
        self._progress.advance(self._task, count)

    def at(self, count: int) -> None:
        self._progress.update(self._task, completed=count)

    def say(self, what: str) -> None:
        self._progress.update(self._task, description=what)


class Bars:
    """The bars of one scene."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def bar(self, what: str, total: int) -> Bar:
        return Bar(self._progress, self._progress.add_task(what, total=total))


class Screen:
    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        if not self._console.is_terminal:
            self._console.width = PLAIN_WIDTH

    def line(self, text: str) -> None:
        self._console.print(escape(text))

    @contextmanager
    def progress(self) -> Iterator[Bars]:
        """Bars that move within the block and stay on the screen after it."""
        columns = (TextColumn(LABEL), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as progress:
            yield Bars(progress)

    def table(self, scenes: Sequence[tuple[str, Sequence[CheckResult]]], took_s: float) -> None:
        """Every check of every scene, and one line that sums them up."""
        table = Table("", "what", "expected", "seen", "ok", title_justify="left")
        for column in table.columns[2:4]:
            column.justify = "right"
        for scene, checks in scenes:
            for number, check in enumerate(checks):
                verdict = "[green]yes[/]" if check.ok else "[bold red]NO[/]"
                cells = (scene if number == 0 else "", check.what, check.expected, check.seen)
                table.add_row(*map(escape, cells), verdict)
                if not check.ok:
                    table.add_row("", f"[red]{escape(check.reason)}[/]")
            table.add_section()
        self._console.print()
        self._console.print(table)
        wrong = sum(not check.ok for _, checks in scenes for check in checks)
        total = sum(len(checks) for _, checks in scenes)
        verdict = f"[bold red]{wrong} of {total} checks failed[/]" if wrong else f"[green]All {total} checks passed[/]"
        self._console.print(f"{verdict} after {took_s:.1f} s.")

    def broke_off(self, error: BaseException, log: Sequence[str]) -> None:
        """The scene ended before its table; why, and the end of the service's log."""
        while isinstance(error, BaseExceptionGroup):  # a task's own error says more than its group
            error = error.exceptions[0]
        self._console.print(f"\n[bold red]The scene broke off:[/] {escape(f'{type(error).__name__}: {error}')}")
        self.quote(log)

    def quote(self, log: Sequence[str]) -> None:
        """The end of the service's log, where that was more than ordinary work."""
        self._console.print("The end of the service's log:" if log else "The service logged nothing unusual.")
        for line in log:
            self._console.print(f"  {escape(line)}", soft_wrap=True)
