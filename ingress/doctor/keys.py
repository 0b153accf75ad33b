"""Encryption keys: do they open all that is stored; and what was found when audit trails were last verified."""

import asyncio
from collections import defaultdict
from uuid import UUID

from ..audit.verification import VERIFY_EVERY_S
from ..encryption.rotation import Made, look
from ..storage.connections import WORKER
from ..storage.statements import audit
from ..storage.vault import VaultError
from .findings import DoctorCheck, DoctorFinding, Examined, Findings, error, listed, ok, warning

# Then it is said how far that was.
LOOK_S = 45.0
SHOWN = 20
MEANS = "these accounts neither send nor receive, these callbacks get nothing, and these trails seem broken"
ANEW = "configure these accounts and set these callbacks anew"


async def given(examined: Examined) -> Findings:
    """Which of them seals, by its id."""
    try:
        newest, *others = examined.vault.key_ids
    except VaultError as failure:
        yield error(f"INGRESS_ENCRYPTION_KEYS: {failure}", "the service does not start", "ingress generate-key")
    else:
        yield ok(f"{newest!r} encrypts{f', {listed(others)} decrypt, too' if others else ''}")


async def secrets(examined: Examined) -> Findings:
    """Everything is opened, a page at a time, and forgotten."""
    seen = 0

    def count(number: int) -> None:
        nonlocal seen
        seen = number

    try:
        async with asyncio.timeout(LOOK_S), examined.database as database:
            made = await look(database, examined.vault, count)
    except TimeoutError:
        found = f"only {seen:,} records were looked at in {LOOK_S:.0f} s"
        yield warning(
            found, "of the others nothing is known", "ingress keys: it says which keys are missing, however long"
        )
        return
    for each in _unopened(made, examined.vault.key_ids):
        yield each
    if not made.unopened:
        by = (f"{made.by(key_id):,} made with {key_id!r}" for key_id in examined.vault.key_ids)
        yield ok(f"{seen:,} records open: {', '.join(by)}")


def _unopened(made: Made, known: list[str]) -> list[DoctorFinding]:
    """One a reason."""
    fix, rows = _opening(sorted(made.key_ids - set(known))), _rows_by_reason(made).items()
    return [error(f"{len(of):,} do not open, {reason}: {listed(of, SHOWN)}", MEANS, fix) for reason, of in rows]


def _rows_by_reason(made: Made) -> dict[str, list[str]]:
    rows = defaultdict[str, list[str]](list)
    for column, key, reason in made.unopened:
        rows[reason].append(f"{column} of {'/'.join(map(str, key))}")
    return rows


def _opening(missing: list[str]) -> str:
    """What makes them open again."""
    if not missing:
        return ANEW
    return f"put the key {listed(missing)} back at the end of INGRESS_ENCRYPTION_KEYS; where it is lost, {ANEW}"


async def trails(examined: Examined) -> Findings:
    """Processes verify each once an hour; what they found is in the organization's row."""
    async with examined.role(WORKER) as connection:
        broken, gauges = await audit.broken_trails(connection), await audit.gauges(connection)
    for organization_id, entry in broken.items():
        yield _broken(organization_id, entry)
    if gauges.overdue_s > VERIFY_EVERY_S:
        found = f"a trail should have been verified {gauges.overdue_s / 3600:.0f} hours ago"
        yield warning(found, "a change goes unnoticed", "start a process; where one runs, look in its log for `audit`")
    elif not broken:
        yield ok("every audit trail was intact when it was last verified, within the last two hours")


def _broken(organization_id: UUID, entry: int) -> DoctorFinding:
    fix = f"INGRESS_API_ORG={organization_id} ingress audit verify; docs/switching.md says what to do then"
    means = "somebody who can write to the database has changed it; what it says cannot be relied on"
    return error(f"the audit trail of {organization_id} is broken at entry {entry}", means, fix)


CHECKS = (
    DoctorCheck("keys.given", given),
    DoctorCheck("keys.secrets", secrets, limit_s=LOOK_S + 10, needs=("keys.given", "schema.version")),
    DoctorCheck("keys.trails", trails, needs=("schema.version",)),
)
