"""What `make scale` fills a database with is what the service would have, and it measures every read of the API."""

import json
import re
from pathlib import Path

import pytest

from bench.scale import lifetime, reads, traffic
from bench.scale.bench import begun, query
from bench.scale.seeding import Sizes
from bench.service import ask
from ingress.api.routes import openapi


async def documented() -> set[str]:
    """Every GET of the API, and each with every parameter that it takes."""
    description = json.loads((await openapi(None)).body)  # type: ignore[arg-type]  # it looks at no request
    found = set()
    for path, operations in description["paths"].items():
        for parameter in operations.get("get", {}).get("parameters", []):
            if parameter["in"] == "query":
                found.add(f"{path}?{parameter['name']}")
        if "get" in operations:
            found.add(path)
    return found


async def test_every_read_with_every_filter_is_measured() -> None:
    measured = set()
    for path in reads.PATHS:
        route, _, query_string = path.partition("?")
        measured |= {route, *(f"{route}?{part.partition('=')[0]}" for part in query_string.split("&"))}
    measured = {re.sub("{.*?}", "{}", path) for path in measured}
    missing = {
        path
        for path in await documented()
        if re.sub("{.*?}", "{}", path) not in measured and path.partition("?")[0] not in reads.LEFT_OUT
    }
    assert missing == set()


def test_a_database_is_filled_as_the_service_fills_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "TIMES", 1)
    sizes = Sizes(4_000, organizations=3)
    with begun(tmp_path, sizes) as bench:
        for table, count in (("events", sizes.events), ("deliveries", sizes.events), ("messages", sizes.pairs)):
            assert query(bench.full, f"select count(*) from {table}") == count
        of_the_big = f"select count(*)::float8 / {sizes.events} from events where organization_id = $1"
        assert 0.2 < query(bench.full, of_the_big, bench.full.big.id) < 0.4
        # Ids are of their time, and sequences in the order of it, below what comes next.
        time_of_id = "to_timestamp(('x' || translate(left(id::text, 13), '-', ''))::bit(48)::bigint / 1000.0)"
        moved = f"select count(*) from messages where abs(extract(epoch from created_at - {time_of_id})) > 0.002"
        assert query(bench.full, moved) == 0
        late = "select created_at < lag(created_at) over (order by sequence) as late from events"
        assert query(bench.full, f"select count(*) from ({late}) e where late") == 0
        assert query(bench.full, "select next_sequence(0) > max(sequence) from events")
        (row,) = reads.measure(bench)  # each is answered
        assert len(row.figures) > len(reads.PATHS)
        assert all(row.figures for row in traffic.kept(bench))
        with bench.full.served() as server:
            verified = ask(f"{server.url}{reads.INTEGRATION}/audit/verify", bench.full.big.key, None, method="GET")
            assert verified["intact"]
            assert verified["entries"] > sizes.audit_entries
        (row,) = lifetime.keys(bench)
        assert row.figures == {"left": 0}
