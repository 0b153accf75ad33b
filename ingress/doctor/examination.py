"""Every check, and how they are run: each by itself, within its time, and none where what it needs is not there."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from time import monotonic

import msgspec

from . import environment, growth, keys, outgoing, plugins, postgres, public_address, redis, schema, walls
from .findings import WORST, DoctorCheck, DoctorFinding, Examined, Severity, error, words

CHECKS: Sequence[DoctorCheck] = (
    *environment.CHECKS,
    *postgres.CHECKS,
    *schema.CHECKS,
    *walls.CHECKS,
    *growth.CHECKS,
    *redis.CHECKS,
    *keys.CHECKS,
    *public_address.CHECKS,
    *outgoing.CHECKS,
    *plugins.CHECKS,
)
# Each may have a connection to the database, which has few where it needs looking at.
AT_ONCE = 3


class CheckResult(msgspec.Struct, frozen=True):
    """``findings`` None: it was left out, as a check that it needs had failed."""

    name: str
    findings: list[DoctorFinding] | None
    seconds: float = 0.0

    @property
    def severity(self) -> Severity:
        return worst(self.findings or [])


def worst(findings: Sequence[DoctorFinding]) -> Severity:
    return max((finding.severity for finding in findings), key=WORST.index, default="ok")


async def examine(examined: Examined, checks: Sequence[DoctorCheck] = CHECKS) -> list[CheckResult]:
    """What each of *checks* finds, in their order; those come first that others need."""
    running: dict[str, asyncio.Task[CheckResult]] = {}
    turns = asyncio.Semaphore(AT_ONCE)
    for check in checks:
        needed = [running[name] for name in check.needs]
        running[check.name] = asyncio.create_task(_run(check, examined, needed, turns))
    return list(await asyncio.gather(*running.values()))


async def _run(
    check: DoctorCheck, examined: Examined, needed: Sequence["asyncio.Task[CheckResult]"], turns: asyncio.Semaphore
) -> CheckResult:
    results = await asyncio.gather(*needed)
    if any(result.findings is None or result.severity == "error" for result in results):
        return CheckResult(check.name, None)
    async with turns:
        began = monotonic()
        findings = await _findings(check, examined)
        return CheckResult(check.name, findings, round(monotonic() - began, 3))


async def _findings(check: DoctorCheck, examined: Examined) -> list[DoctorFinding]:
    """What it found before it hung or broke is kept."""
    found: list[DoctorFinding] = []
    try:
        async with asyncio.timeout(check.limit_s), aclosing(check.run(examined)) as findings:
            async for each in findings:
                found.append(each)
    except TimeoutError:
        found.append(
            error(
                f"no answer within {check.limit_s:g} s",
                "what it looks at hangs, or is very slow; nothing is known of it",
                "run `ingress doctor` again; if it hangs again, look at what this check asks for, and at the network",
            )
        )
    except Exception as failure:  # noqa: BLE001  (one that fails leaves the others)
        found.append(
            error(
                f"the check failed: {words(failure)}",
                "nothing is known of what it looks at",
                "mend what the message names; a message without a hint is a defect of this command: report it",
            )
        )
    return found
