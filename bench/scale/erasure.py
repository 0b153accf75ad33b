"""A person with ten thousand messages is erased: how long that takes, and what is left."""

import time
from collections.abc import Iterator

from ..service import ask
from .bench import Bench, execute, query
from .table import Row

MESSAGES = 10_000
TIMEOUT_S = 600
# The person of the big organization with whom most was said, and another one.
_MOST = """
select conversation_id from events where organization_id = '{of}' and type = 'message.received'
group by 1 order by count(*) desc limit 1"""
_OTHER = """
select v.id::text || ' ' || v.contact_id
from conversations v join contact_addresses a using (organization_id, contact_id)
where v.organization_id = '{of}' and a.kind = 'phone' and v.id <> '{most}' order by v.id limit 1"""
_GIVE = """
update {table} set conversation_id = '{other}' where organization_id = '{of}' and {key} in (
    select {key} from {table} where organization_id = '{of}' and conversation_id = '{most}'
    order by {key} limit {count})"""
_LEFT = """
select (select count(*) from events where organization_id = '{of}' and conversation_id = '{other}')
    + (select count(*) from messages where organization_id = '{of}' and conversation_id = '{other}')
    + (select count(*) from contact_addresses where organization_id = '{of}' and contact_id = '{contact}')
    + (select count(*) from contacts where organization_id = '{of}' and id = '{contact}')"""


def measure(bench: Bench) -> Iterator[Row]:
    of, count = bench.full.big.id, min(MESSAGES, bench.scaled(120_000))
    most = query(bench.full, _MOST.format(of=of))
    other, contact = query(bench.full, _OTHER.format(of=of, most=most)).split()
    for table, key in (("events", "sequence"), ("messages", "id")):
        execute(bench.full, _GIVE.format(table=table, key=key, of=of, most=most, other=other, count=count // 2))
    counted = _LEFT.format(of=of, other=other, contact=contact)
    rows = query(bench.full, counted)
    with bench.full.served() as server:
        began = time.perf_counter()
        erasure = ask(f"{server.url}/contacts/{contact}/erasure", bench.full.big.key, None)
        while erasure["state"] != "done" and time.perf_counter() < began + TIMEOUT_S:
            time.sleep(0.1)
            erasure = ask(f"{server.url}/erasures/{erasure['id']}", bench.full.big.key, None, method="GET")
        took = time.perf_counter() - began
    left = query(bench.full, counted)
    figures = {"seconds": took, "rows": rows, "deleted": erasure["deleted"], "left": left}
    what = f"erase of a contact with {rows:,} rows of messages and events: hits left; time"
    yield Row("erasure", what, f"{left}; {took:.1f} s", "0; 60 s", "10 s", figures)
