"""A contract checked without a test runner: a table for the terminal.

What needs samples is left out where there are none, and what needs the author's `sign` where they are not signed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from ..base import Webhook
from ..description import config_fields
from ..errors import Malformed
from ..registry import ProviderType
from . import mutations
from .comparing import ContractBroken
from .contract import FEATURES, Contract
from .messages import KINDS
from .samples import SampleError, Samples, WebhookCase

# How often input is made up: a moment's work.
_EXAMPLES = 1000
_SEED = 20261125

Check = Callable[[], object]


class Row(msgspec.Struct, frozen=True):
    """One line of the table. ``broken`` says what is wrong in the first cases; ``skipped`` why nothing was checked."""

    title: str
    checked: int
    broken: list[str] = []
    skipped: str | None = None


def check(
    provider: ProviderType, folder: Path | None, examples: tuple[Mapping[str, Any], Samples] | None = None
) -> list[Row]:
    """The contract of *provider* with the samples in *folder*.

    Without one, with *examples*: the configuration of an account, and samples whose webhooks are signed for it. Without
    either, on an account made of its placeholders.
    """
    contract = Contract()
    contract.samples = Samples(folder)
    made: Mapping[str, Any] = {
        field.name: field.placeholder or "example" for field in config_fields(provider) if field.required
    }
    if examples is not None:
        made, contract.samples = examples
    try:
        contract.provider = msgspec.convert(made, provider) if folder is None else contract.samples.account(provider)
    except msgspec.ValidationError as error:
        reason = f"no account can be made of the placeholders ({error}); give --samples with an account.json"
        return [Row(title="everything but that the registry finds it", checked=0, skipped=reason)]
    lacking = "needs --samples" if folder is None else "no samples"
    read = contract.check_reading if examples is None else contract.check_webhook
    return [_row(title, checks, lacking) for title, checks in _checks(contract, read)]


def table(rows: list[Row]) -> str:
    """*rows* for people, each broken promise below its line."""
    lines = []
    for row in rows:
        state = "FAILED" if row.broken else f"skipped: {row.skipped}" if row.skipped else "ok"
        lines.append(f"{row.title:42} {row.checked or '':>6}  {state}")
        lines += [f"    {line}" for broken in row.broken for line in broken.splitlines()]
    return "".join(f"{line}\n" for line in lines)


def _checks(contract: Contract, check_genuine: Callable[[WebhookCase], None]) -> Iterator[tuple[str, dict[str, Check]]]:
    """Titles, and their checks by the name of the case."""
    samples, genuine = contract.samples, contract.genuine()
    signed = [case for case in genuine if contract.verifies(case.hook)]
    bodies = [case.hook for case in genuine] or [_HOOK]
    forged = [case for case in samples.webhooks if case.answer is not None or case.error == "Unverified"]
    read = [case for case in samples.webhooks if case not in forged]
    yield "the registry finds it", {"": contract.check_registered}
    yield "it describes itself", {"": contract.check_description}
    yield "webhooks give what they say", {str(case): partial(check_genuine, case) for case in read}
    yield (
        "handshakes are answered, forgeries refused",
        {str(case): partial(contract.check_webhook, case) for case in forged},
    )
    yield "the same webhook has the same keys", {str(case): partial(contract.check_stable, case) for case in genuine}
    yield "another number is not ours", {str(case): partial(contract.check_ownership, case) for case in genuine}
    yield "no event shows what a person wrote", {str(case): partial(contract.check_private, case) for case in genuine}
    yield "a probe is verified, and gives no event", {"": contract.check_probe}
    yield (
        "a changed byte is unverified",
        _made_up(lambda random: contract.check_forged(random.choice(signed), random)) if signed else {},
    )
    yield (
        "whatever comes is verified or not",
        _made_up(lambda random: contract.verifies(mutations.damaged(random.choice(bodies), random))),
    )
    yield (
        "a damaged webhook is events or Malformed",
        _made_up(lambda random: _read(contract, mutations.damaged(random.choice(bodies), random))),
    )
    yield "flows ask and end as they say", {str(case): partial(contract.check_flow, case) for case in samples.flows}
    yield (
        "the same call makes the same requests",
        {str(case): partial(contract.check_repeatable, case) for case in samples.flows},
    )
    yield (
        "documented errors have their class",
        {str(row): partial(contract.check_documented_error, row) for row in samples.errors},
    )
    yield "capabilities say what can be sent", {kind: partial(contract.check_kind, kind) for kind in KINDS}
    if limited := contract.provider.info.limits:
        yield "limits hold", {".".join(limit): partial(contract.check_limit, *limit) for limit in contract.limits()}
        yield (
            "no other headers and files are sent",
            {kind: partial(contract.check_headers_and_types, kind) for kind in limited},
        )
    yield (
        "capabilities say what can be asked for",
        {feature: partial(contract.check_feature, feature) for feature in FEATURES},
    )
    yield "no secret is shown", {"": contract.check_secrets}
    operations = list(contract.operations())
    yield (
        "operations end, whatever the answers",
        _made_up(lambda random: contract.check_ending(random.choice(operations), random), 10),
    )


_HOOK = Webhook(method="POST", url="https://gw.example.org/webhooks/provider/token", headers={}, body=b"{}")


def _read(contract: Contract, hook: Webhook) -> None:
    try:
        contract.read(hook)
    except Malformed:
        return


def _made_up(example: Callable[[Random], Any], times: int = 1) -> dict[str, Check]:
    random = Random(_SEED)  # noqa: S311  # to be repeated
    return {f"example {number}": partial(example, random) for number in range(times * _EXAMPLES)}


def _row(title: str, checks: dict[str, Check], lacking: str) -> Row:
    if not checks:
        return Row(title=title, checked=0, skipped=lacking)
    broken = list(_broken(checks.items()))
    return Row(title=title, checked=len(checks), broken=broken[:5])


def _broken(checks: Iterable[tuple[str, Check]]) -> Iterator[str]:
    for name, one in checks:
        try:
            one()
        except (ContractBroken, SampleError) as error:
            yield f"{name}: {error}" if name else str(error)
