"""`ingress doctor`: what is wrong with a set-up, and how it is mended."""

import argparse
import asyncio
import json
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from textwrap import wrap
from typing import Any, NoReturn

from providers import Registry

from .. import __version__
from ..doctor.examination import CheckResult, examine, worst
from ..doctor.findings import WORST, DoctorFinding, Examined
from ..envelope import timestamp
from ..settings import read

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
WIDTH = 100


def add_command(commands: Any) -> None:
    about = "what is wrong with this set-up, and how it is mended; with the environment of the service"
    parser = commands.add_parser("doctor", help=about, description=about)
    parser.add_argument("--json", action="store_true", help="print what docs/operating.md describes")
    parser.add_argument("--quiet", action="store_true", help="leave out what is as it should be")
    parser.add_argument("--disk", type=_bytes, metavar="SIZE", help="how large the database's disk is, as 500GB")


def _bytes(text: str) -> int:
    """Raises `ValueError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", text.lower())
    if match is None:
        raise ValueError
    return round(float(match[1]) * UNITS[match[2]])


def run(environment: Mapping[str, str], options: argparse.Namespace) -> NoReturn:
    """Ends with the exit status: 0 all is well, 1 there are warnings, 2 errors."""
    logging.disable(logging.CRITICAL)  # what is logged underneath is a finding
    settings, wrong = read(environment)
    registry = Registry(canary=settings.canary)
    examined = Examined(
        environment=environment, settings=settings, wrong=wrong, registry=registry, disk_bytes=options.disk
    )
    loop = asyncio.new_event_loop()
    try:
        status = loop.run_until_complete(_shown(examined, options))
    finally:
        loop.close()
    sys.stdout.flush()
    # A thread may hang with the import of a plug-in, or the look-up of a name: Python would wait for it.
    os._exit(status)


async def _shown(examined: Examined, options: argparse.Namespace) -> int:
    results = await examine(examined)
    if options.json:
        sys.stdout.write(json.dumps(report(results), indent=2) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in lines(results, quiet=options.quiet))
    return status_of(results)


def status_of(results: Sequence[CheckResult]) -> int:
    """Of the worst finding: 0 ok, 1 a warning, 2 an error."""
    return WORST.index(worst([finding for _, finding in _findings(results)]))


def _findings(results: Iterable[CheckResult]) -> list[tuple[str, DoctorFinding]]:
    """Each beside the name of its check."""
    return [(result.name, finding) for result in results for finding in result.findings or []]


def _left_out(results: Iterable[CheckResult]) -> list[str]:
    return [result.name for result in results if result.findings is None]


def report(results: Sequence[CheckResult]) -> dict[str, Any]:
    """For programs: docs/operating.md says what may be relied on."""
    return {
        "format": 1,
        "release": __version__,
        "at": timestamp(datetime.now(UTC)),
        "status": WORST[status_of(results)],
        "findings": [
            {"check": check, **{name: value or None for name, value in finding._asdict().items()}}
            for check, finding in _findings(results)
        ],
        "left_out": _left_out(results),
        "seconds": {result.name: result.seconds for result in results if result.findings is not None},
    }


def lines(results: Sequence[CheckResult], *, quiet: bool = False) -> Iterator[str]:
    """For people: a line a finding, below it what it means and what to do."""
    findings = _findings(results)
    for name, finding in findings:
        if not (quiet and finding.severity == "ok"):
            yield from _paragraph(f"{finding.severity:8}", f"{name}: {finding.found}")
            yield from _paragraph(f"{'':8}means: ", finding.means)
            if finding.fix:
                yield f"{'':8}fix:   {finding.fix}"  # in one line, to be copied
    if left_out := _left_out(results):
        yield from _paragraph("left out ", f"{', '.join(left_out)}: what they need failed")
    counts = Counter(finding.severity for _, finding in findings)
    yield ""
    yield f"{counts['error']} errors, {counts['warning']} warnings, {counts['ok']} as they should be"


def _paragraph(head: str, text: str) -> Iterator[str]:
    """*text* beside *head*."""
    first, *rest = wrap(text, WIDTH - len(head), break_long_words=False, break_on_hyphens=False) or [""]
    if first:
        yield head + first
    yield from (" " * len(head) + line for line in rest)
