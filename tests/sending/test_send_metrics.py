"""What the sends' objectives are measured by: what was accepted or not by our fault, and how sends ended."""

from contextvars import ContextVar
from typing import Any

import pytest

from ingress import metrics
from ingress.dev.sandbox import ErrorCode
from ingress.sending.outbound import NoneReady, Outbound
from ingress.sending.outcomes import Outcomes
from ingress.storage.database import StoreUnavailable

from ..gateway import Gateway, Organization


def counted(name: str, **labels: str) -> float:
    """How much of it this process has counted."""
    return metrics.REGISTRY.get_sample_value(f"whatsapp_ingress_{name}_total", labels) or 0.0


@pytest.mark.parametrize(
    ("error", "status", "outcome"),
    [
        (StoreUnavailable("TimeoutError"), 503, "shed"),
        (ZeroDivisionError(), 500, "error"),
        (NoneReady(10.0, None), 503, "resting"),
    ],
)
async def test_a_send_that_is_not_accepted_is_counted_by_whose_fault_that_is(
    organization: Organization, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, outcome: str
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Outbound, "send", fail)
    before = counted("send_requests", outcome=outcome)
    assert (await organization.send()).status == status
    assert counted("send_requests", outcome=outcome) == before + 1


@pytest.mark.parametrize(
    ("code", "status", "ended"),
    [(None, 200, ("sent", "ok")), (131026, 422, ("failed", "Rejected")), (190, 502, ("failed", "AccountBroken"))],
)
async def test_the_end_of_a_send_is_counted_by_its_cause(
    organization: Organization,
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
    code: int | None,
    status: int,
    ended: tuple[str, str],
) -> None:
    """What is the message's or the account's own fault counts against no objective."""
    labels = {"provider": "meta_business", "outcome": ended[0], "class": ended[1]}
    before, ends = counted("send_terminal", **labels), list[tuple[str, ...]]()
    finish, child, is_ours = Outcomes._finish, metrics.child, ContextVar("is_ours", default=False)

    async def finished(outcomes: Outcomes, dispatch: Any, outcome: Any) -> Any:
        is_ours.set(str(dispatch.organization_id) == organization.id)
        return await finish(outcomes, dispatch, outcome)

    def counting(metric: Any, *values: str) -> Any:
        if metric is metrics.send_terminal and is_ours.get():  # sends of other tests may end meanwhile
            ends.append(values)
        return child(metric, *values)

    monkeypatch.setattr(Outcomes, "_finish", finished)
    monkeypatch.setattr(metrics, "child", counting)
    if code is not None:
        await gateway.meta.script(organization.numbers[0], ErrorCode(code=code))
    assert (await organization.send()).status == status
    assert ends == [("meta_business", *ended)]
    assert counted("send_terminal", **labels) > before
