"""A database large enough for a plan to show: an organization with half of everything, and a thousand others."""

from datetime import timedelta

import asyncpg

from ingress.storage import partitions
from ingress.storage.statements.lifetime.partitions import all_of, make

# Of a thousand others, so many have something.
ROWS, OTHERS, DAYS, USED = 30_000, 1_000, 40, 200
# Of events, and as many weeks of all else.
BLOCKS = 4
# What comes after the statistics were taken: a rush, of which they say nothing.
RUSH = 3_000
BIG = "00000000-0000-0000-0000-000000000001"


def _of(number: str) -> str:
    return f"('00000000-0000-0000-0000-' || lpad(to_hex({number}), 12, '0'))::uuid"


WHOSE = _of(f"case when n % 10 < 5 then 1 else 2 + n % {USED} end")
ID = """(lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8'
    || substr(md5(n::text), 4, 15))::uuid"""
# One conversation has a tenth of all.
CHAT = "md5('chat ' || case when n % 10 = 0 then 0 else n % 2000 end)::uuid"
CONFIG = f"md5(case when n % 20 = 0 then 'second ' else 'first ' end || {WHOSE})::uuid"
EACH = f"""(select n, date_trunc('hour', now()) - interval '{DAYS} days' * (1 - n / {ROWS}.0) as at
    from generate_series(1, {ROWS}) n) each"""
ORGANIZATIONS, PEOPLE = f"generate_series(1, {OTHERS + 1}) n", f"generate_series(0, {ROWS // 2}) n"
# Spread over all of the past.
SEQUENCE = f":here::bigint * n / {ROWS + RUSH + 1}"
FILL = (
    f"insert into organizations (id, name, audit_seal) select {_of('n')}, 'Name ' || n, '' from {ORGANIZATIONS}",
    f"""insert into whatsapp_provider_configs (organization_id, id, provider_type, name, state, config_data, accounts,
        signing_keys, webhook_token_hash, webhook_token)
    select {_of("n")}, md5(c || {_of("n")})::uuid, 'one', 'c', 'inactive', '', array['account ' || n],
        array[decode(md5(n::text), 'hex')], decode(md5(c || n), 'hex'), ''
    from {ORGANIZATIONS}, unnest(array['first ', 'second ']) c""",
    f"""insert into api_keys (organization_id, id, name, secret_hash, scopes)
    select {_of("n")}, n || '-' || key, 'key', '', '{{}}' from {ORGANIZATIONS}, generate_series(1, 2) key""",
    """insert into provider_health (organization_id, config_id)
    select organization_id, id from whatsapp_provider_configs""",
    "insert into callbacks (organization_id, url, secrets) select id, 'http://crm', '' from organizations",
    "insert into figures_progress (organization_id) select id from organizations",
    f"""insert into contacts (organization_id, id, name, username)
    select {WHOSE}, md5('person ' || n)::uuid, 'Person ' || n, 'user' || n from {PEOPLE}""",
    f"""insert into contact_addresses (organization_id, address, contact_id, kind, scope, value)
    select {WHOSE}, 'phone:' || n, md5('person ' || n)::uuid, 'phone', '', n::text from {PEOPLE}""",
    f"""insert into conversations (organization_id, id, account, contact_id)
    select {WHOSE}, md5('chat ' || n)::uuid, '1555', md5('person ' || n)::uuid from {PEOPLE}""",
    f"""insert into messages (organization_id, id, conversation_id, request_hash, request, request_id, state, status,
        status_rank, provider, config_id, account_id, provider_message_id, message_key, error, created_at, expires_at)
    select {WHOSE}, {ID}, {CHAT}, '', json_build_object('lead_id', 'lead-' || n / 3), 'req_' || n, 'done',
        case when n % 50 = 0 then 'failed' else 'read' end, 3, 'one', {CONFIG}, {CONFIG}, 'wamid.' || n,
        'wamid.' || n, case when n % 50 = 0 then json_build_object('class', 'Rejected', 'code', '131026') end, at, at
    from {EACH}""",
    f"""insert into attempts
        (organization_id, message_id, number, config_id, provider, version, started_at, class, code)
    select {WHOSE}, {ID}, 1, {CONFIG}, 'one', 1, at, case when n % 25 = 0 then 'Unavailable' else 'ok' end,
        case when n % 25 = 0 then 'http_503' end
    from {EACH}""",
    f"""insert into message_statuses
        (organization_id, account_id, message_key, value, status_rank, received_at, matched)
    select {WHOSE}, {CONFIG}, 'wamid.' || n, 'read', 3, at, n % 10 > 0 from {EACH}""",
    f"""insert into events (organization_id, sequence, type, config_id, conversation_id, created_at, data)
    select {WHOSE}, {SEQUENCE}, case n % 2 when 0 then 'message.received' else 'message.status' end, {CONFIG}, {CHAT},
        at, '{{}}'
    from {EACH}""",
    f"""insert into deliveries (organization_id, sequence, conversation_id, state, finished_at)
    select {WHOSE}, {SEQUENCE}, {CHAT}, case when n % 100 = 0 then 'parked' else 'delivered' end, at from {EACH}""",
    f"""insert into inbound_webhooks (organization_id, config_id, received_at, headers, body)
    select {WHOSE}, {CONFIG}, at, '', '' from {EACH}""",
    f"""insert into inbound_dedup (organization_id, key_hash, day, sequence, first_seen)
    select {WHOSE}, decode(md5('in.' || n), 'hex'),
        case when n % 10 = 0 then '-infinity' else current_date - n % 28 end, {SEQUENCE}, at
    from {EACH}""",
    f"""insert into idempotency_keys (organization_id, key_hash, message_id)
    select {WHOSE}, decode(md5('key ' || n), 'hex'), {ID} from {EACH}""",
    f"""insert into quarantine (organization_id, id, config_id, received_at, reason, headers, body, state, foreign_item)
    select {WHOSE}, {ID}, {CONFIG}, at, 'unreadable', '{{}}', '', case when n % 4 = 0 then 'open' else 'discarded' end,
        n % 3 = 0
    from {EACH}""",
    f"""insert into provider_audit_log (organization_id, id, at, action, actor, outcome, hash)
    select {WHOSE}, n, at, 'changed', 'platform', 'done', '' from {EACH}""",
    f"""insert into provider_figures (organization_id, config_id, minutes, since, errors, undelivered, durations)
    select {WHOSE}, {CONFIG}, 1, at, '{{}}', '{{}}', '{{}}' from {EACH}""",
)
LATER = f"(select n, now() as at from generate_series({ROWS + 1}, {ROWS + RUSH}) n) each"
RUSHED = (
    f"""insert into messages (organization_id, id, conversation_id, request_hash, request, state, queue_place,
        expires_at, leased_until)
    select {WHOSE}, {ID}, {CHAT}, '', '{{}}', 'sending', n, now(), now() + interval '1 minute' from {LATER}""",
    f"""insert into events (organization_id, sequence, type, config_id, conversation_id, data)
    select {WHOSE}, {SEQUENCE}, 'message.received', {CONFIG}, {CHAT}, '{{}}' from {LATER}""",
    f"""insert into deliveries (organization_id, sequence, conversation_id)
    select {WHOSE}, {SEQUENCE}, {CHAT} from {LATER}""",
    f"""insert into delivery_queues (organization_id, conversation_id, due_at, postponed)
    select {WHOSE}, md5('queue ' || n)::uuid, now() + interval '1 h' * (n % 2), n % 2 = 1 from {LATER}""",
    f"""update conversations c set canonical_id = md5('chat ' || n + {RUSH})::uuid
    from generate_series(1, {RUSH}) n where c.id = md5('chat ' || n)::uuid""",
    f"""insert into held_events (organization_id, sequence, type, config_id, conversation_id, account_id,
        provider_message_id, message_key, candidates, data)
    select {WHOSE}, {SEQUENCE}, 'message.echo', {CONFIG}, {CHAT}, {CONFIG}, 'held.' || n, 'held.' || n, '{{}}', '{{}}'
    from {LATER}""",
)


async def fill(url: str) -> None:
    """Fill the migrated database at *url*, in some seconds."""
    connection = await asyncpg.connect(url, server_settings={"session_replication_role": "replica"})
    try:
        here = await _make_past(connection)
        for statement in FILL:
            await connection.execute(statement.replace(":here", here))
        await _analyze(connection)
        for statement in RUSHED:
            await connection.execute(statement.replace(":here", here))
    finally:
        await connection.close()


async def _analyze(connection: asyncpg.Connection) -> None:
    """As PostgreSQL does by itself: tables that have rows, and none that is partitioned."""
    tables = await connection.fetch(
        "select oid::regclass::text from pg_class where relkind = 'r' and relnamespace = current_schema()::regnamespace"
        " and pg_relation_size(oid) > 0"
    )
    await connection.execute(f"analyze {', '.join(row[0] for row in tables)}")


async def _make_past(connection: asyncpg.Connection) -> str:
    """Partitions of former days and weeks, and of events in several blocks until here: where that is."""
    existing = await all_of(connection)
    for grid in partitions.GRIDS:
        end = min(part.from_at for part in existing if part.table == grid.table and part.from_at)
        for _ in range(DAYS // grid.days + 1):
            begin = end - timedelta(days=grid.days)
            await make(connection, grid.table, f"p{begin:%Y%m%d}", str(grid.bound(begin)), str(grid.bound(end)))
            end = begin
    here = await connection.fetchval("select next_sequence(0)")
    for table in partitions.BY_SEQUENCE:
        for part in existing:
            if part.table == table:
                await connection.execute(f"drop table {part.name}")
        for block in range(BLOCKS):
            low, high = here * block // BLOCKS, here * (block + 1) // BLOCKS
            await make(connection, table, f"p{low}", str(low), str(high))
        await make(connection, table, f"p{here}", str(here), str(here + partitions.LARGEST_BLOCK))
    return str(here)
