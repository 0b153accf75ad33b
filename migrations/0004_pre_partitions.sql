-- Makes room for partitions while the first release serves: what partitioned tables cannot be asked (which message has an
-- idempotency key) or do not say (when a sequence was) gets tables of its own, and is entered into them.
--
-- Locks: four tables, each for some milliseconds; who cannot have that within 50 ms tries again later. Takes about a minute
-- for four million messages, in batches that nobody waits for. The first release goes on as before, and can be returned to.

-- step: a table of what was applied
create table schema_migrations (
    name       text        primary key,
    began_at   timestamptz not null default now(),
    applied_at timestamptz,
    progress   json
);
grant select on schema_migrations to ingress_app, ingress_ingest, ingress_worker;

-- step of organizations: tables of what partitions do not say, and of what is kept for how long
create table event_marks (
    sequence bigint      primary key,
    at       timestamptz not null
);
create table idempotency_keys (
    organization_id uuid        not null,
    key_hash        bytea       not null,
    message_id      uuid        not null,
    primary key (organization_id, key_hash)
);
create index on idempotency_keys (message_id);
create table retention_settings (
    organization_id uuid        primary key references organizations (id),
    bodies_days     integer,
    events_days     integer,
    statuses_days   integer,
    updated_at      timestamptz not null default now()
);
create table retention_marks (
    organization_id uuid        primary key references organizations (id),
    sequence        bigint      not null default 0,
    since           timestamptz not null
);
create table retention_progress (
    kind            text        not null,
    days            integer     not null,
    through         timestamptz not null,
    at              timestamptz not null,
    primary key (kind, days)
);
create table retention_turn (
    only_row        boolean     primary key default true check (only_row),
    lease_id        uuid,
    leased_until    timestamptz,
    ran_at          timestamptz
);
insert into retention_turn default values;
create table erasures (
    organization_id uuid        not null references organizations (id),
    id              uuid        not null,
    contact_id      uuid,
    cut_at          timestamptz,
    sought          text[],
    looked_until    timestamptz,
    step            text,
    deleted         bigint      not null default 0,
    created_at      timestamptz not null default now(),
    finished_at     timestamptz,
    due_at          timestamptz not null default now(),
    lease_id        uuid,
    leased_until    timestamptz,
    primary key (organization_id, id)
);
create unique index on erasures (organization_id, contact_id) where contact_id is not null;
create index on erasures (due_at) where finished_at is null;
create table retired_keys (
    id         uuid        primary key,
    key_id     text        not null unique,
    derived    bytea       not null,
    retired_at timestamptz not null default now()
);
alter table retired_keys enable row level security;
alter table retired_keys force row level security;
create policy worker on retired_keys to ingress_worker using (true) with check (true);
grant select, insert, update on retired_keys to ingress_worker;
grant select on event_marks to ingress_app, ingress_ingest, ingress_worker;
grant insert, delete on event_marks to ingress_worker;
grant select, insert, update on retention_progress, retention_turn to ingress_worker;
do $$
declare tab text;
begin
    foreach tab in array array['idempotency_keys', 'retention_settings', 'retention_marks', 'erasures'] loop
        execute format('alter table %I enable row level security', tab);
        execute format('alter table %I force row level security', tab);
        execute format(
            'create policy organization on %I to ingress_app
                using (organization_id = nullif(current_setting(''app.org_id'', true), '''')::uuid)
                with check (organization_id = nullif(current_setting(''app.org_id'', true), '''')::uuid)', tab);
        execute format('create policy worker on %I to ingress_worker using (true) with check (true)', tab);
        execute format('grant select, insert, update, delete on %I to ingress_worker', tab);
        execute format('grant select, insert, update, delete on %I to ingress_app', tab);
    end loop;
end $$;

-- step of organizations: where a trail begins whose first entries are gone
alter table organizations add column audit_gone bigint not null default 0, add column audit_gone_hash bytea,
    add column audit_gone_seal bytea, add column audit_checked bigint not null default 0, add column audit_checked_hash bytea,
    add column audit_checked_seal bytea, add column audit_rechecked bigint not null default 0;

-- step of provider_audit_log: entries go after years
grant delete on provider_audit_log to ingress_worker;
create function refuse_deletion() returns trigger language plpgsql as $$
begin
    if old.at < now() - interval '366 days'
            and exists (select from organizations where id = old.organization_id and audit_gone >= old.id) then
        return old;
    end if;
    raise exception 'provider_audit_log is append-only' using errcode = 'integrity_constraint_violation';
end $$;
drop trigger append_only on provider_audit_log;
create trigger append_only before update or truncate on provider_audit_log
    for each statement execute function refuse_change();
create trigger kept_for_years before delete on provider_audit_log for each row execute function refuse_deletion();

-- step of event_clock: long transactions that write no event hold up nobody
alter table event_clock add column heedless xid8;
create or replace function sequence_horizon() returns bigint language sql stable as
$$ select base + ((case when heedless is null then pg_snapshot_xmin(pg_current_snapshot())
    else (select coalesce(min(running), pg_snapshot_xmax(pg_current_snapshot()))
        from pg_snapshot_xip(pg_current_snapshot()) running where running <> heedless)
    end)::text::bigint << 16) from event_clock $$;

-- step: functions that make and drop partitions
create function make_partition(parent regclass, suffix text, lower_bound text, upper_bound text) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare made text; options text;
begin
    -- What becomes of a row is written into its own page, where that has room: so no index has to be written.
    select format('%I.%I', relnamespace::regnamespace, relname || '_' || suffix),
            case when relname in ('messages', 'attempts') then ' with (fillfactor = 85)' else '' end into made, options from pg_class
        where oid = parent and relkind = 'p' and pg_get_userbyid(relowner) = current_user
            and has_table_privilege('ingress_worker', oid, 'delete');
    if made is null then
        raise exception '% is no partitioned table of this database', parent using errcode = 'insufficient_privilege';
    end if;
    execute format('create table %s (like %s including all)%s', made, parent, options);
    execute format('alter table %s enable row level security, force row level security', made);
    execute format('alter table %s attach partition %s for values from (%L) to (%L)', parent, made, lower_bound, upper_bound);
end $$;

-- Waits for who uses the table, and all others wait behind that: for a moment only, after which it fails and can be tried
-- again. The partition is a table then, which is dropped in another transaction: that takes longer.
create function detach_partition(part regclass) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '20ms' as $$
declare parent regclass;
begin
    select inhparent into parent from pg_inherits join pg_class c on c.oid = inhparent
        where inhrelid = part and c.relkind = 'p' and pg_get_userbyid(c.relowner) = current_user
            and has_table_privilege('ingress_worker', c.oid, 'delete');
    if parent is null then
        raise exception '% is no partition of this database', part using errcode = 'insufficient_privilege';
    end if;
    execute format('alter table %s detach partition %s', parent, part);
    execute format('comment on table %s is ''detached partition''', part);
end $$;

create function drop_detached(part regclass) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if not exists (select from pg_class where oid = part and not relispartition and pg_get_userbyid(relowner) = current_user
            and obj_description(oid, 'pg_class') = 'detached partition') then
        raise exception '% is no detached partition of this database', part using errcode = 'insufficient_privilege';
    end if;
    execute format('drop table %s', part);
end $$;
revoke execute on function make_partition, detach_partition, drop_detached from public;
grant execute on function make_partition, detach_partition, drop_detached to ingress_worker;

-- step of inbound_dedup: the day of a key
alter table inbound_dedup add column day date not null default '-infinity';
-- The key is unique without its day here. What gets none goes into the partition of those, which this table becomes.
create function forget_day() returns trigger language plpgsql as
$$ begin new.day := '-infinity'; return new; end $$;
create trigger forget_day before insert on inbound_dedup for each row execute function forget_day();

-- step of messages: idempotency keys are entered
-- Of the first release; this one has entered those of its own by then. Where the key names another message, the new one is
-- not inserted, as where the unique index finds that. A message whose key is past its time lets go of it.
create function enter_idempotency_key() returns trigger language plpgsql as $$
declare
    hash bytea := substring(sha256(uuid_send(new.organization_id) || convert_to(new.idempotency_key, 'UTF8')) for 16);
    -- What came before this trigger is not all entered yet.
    other uuid := (select id from messages
        where organization_id = new.organization_id and idempotency_key = new.idempotency_key);
    -- Ids begin with their milliseconds.
    past_its_time constant uuid := rpad(lpad(to_hex(extract(epoch from now() - interval '30 days')::bigint * 1000),
        12, '0'), 32, '0')::uuid;
begin
    if other < past_its_time then
        update messages set idempotency_key = null where organization_id = new.organization_id and id = other;
        other := null;
    end if;
    if other is null then
        insert into idempotency_keys values (new.organization_id, hash, new.id) on conflict do nothing;
        other := (select message_id from idempotency_keys where organization_id = new.organization_id and key_hash = hash);
    end if;
    return case when other = new.id then new end;
end $$;
create trigger enter_idempotency_key before insert on messages
    for each row when (new.idempotency_key is not null) execute function enter_idempotency_key();
-- Of a send that was withdrawn, to be asked for again.
create function leave_idempotency_key() returns trigger language plpgsql as $$
begin
    delete from idempotency_keys where organization_id = old.organization_id and message_id = old.id;
    return null;
end $$;
create trigger leave_idempotency_key after delete on messages
    for each row when (old.idempotency_key is not null) execute function leave_idempotency_key();

-- step of deliveries: what was given up is said once
alter table deliveries add column gap_reported boolean not null default false;

-- step of callbacks: endpoints that are down are found by when they are tried next
create index callbacks_paused_until_idx on callbacks (paused_until) where paused_until is not null;

-- step of delivery_queues: what waits for its time is marked
alter table delivery_queues add column postponed boolean not null default false;

-- alone: the queues that are due, and those that are not
drop index concurrently if exists delivery_queues_not_postponed;
create index concurrently delivery_queues_not_postponed on delivery_queues (organization_id, due_at)
    where lease_id is null and not postponed;
drop index concurrently if exists delivery_queues_due_at_idx;
create index concurrently delivery_queues_due_at_idx on delivery_queues (due_at) where lease_id is null and postponed;

-- alone: keys that are soon over
drop index concurrently if exists api_keys_expires_at_idx;
create index concurrently api_keys_expires_at_idx on api_keys (expires_at) where revoked_at is null;

-- alone: what is not delivered yet, of a conversation
drop index concurrently if exists deliveries_waiting_of_conversation;
create index concurrently deliveries_waiting_of_conversation on deliveries (conversation_id, state, sequence)
    where state <> 'delivered';

-- alone: what is not delivered yet, of an organization
drop index concurrently if exists deliveries_waiting;
create index concurrently deliveries_waiting on deliveries (state, organization_id, sequence) where state <> 'delivered';

-- alone: the sends that are under way
drop index concurrently if exists messages_under_way;
create index concurrently messages_under_way on messages (leased_until) where leased_until is not null;

-- batches of messages: idempotency keys of the last 30 days
with page as (
    select organization_id, id, idempotency_key from messages
    where (organization_id, id) > (coalesce($1::text::json ->> 0, '00000000-0000-0000-0000-000000000000')::uuid,
            coalesce($1::text::json ->> 1, '00000000-0000-0000-0000-000000000000')::uuid)
        -- Ids begin with their milliseconds.
        and id > rpad(lpad(to_hex(extract(epoch from now() - interval '30 days')::bigint * 1000), 12, '0'), 32, '0')::uuid
    order by organization_id, id limit 5000
),
entered as (
    insert into idempotency_keys (organization_id, key_hash, message_id)
    select organization_id,
        substring(sha256(uuid_send(organization_id) || convert_to(idempotency_key, 'UTF8')) for 16), id
    from page where idempotency_key is not null order by 1, 2
    on conflict do nothing
)
select json_build_array(organization_id, id)::text, (select count(*) from page)
from page order by organization_id desc, id desc limit 1

-- batches: when the stream of events was where, at two hundred places
with recursive marks as (
    select 0 as place, $1::text::bigint as sequence, null::timestamptz as created_at
    union all
    select place + 1, next.sequence, next.created_at from marks cross join lateral (
        select newer.sequence, newer.created_at from organizations cross join lateral (
            select sequence, created_at from events
            where organization_id = organizations.id and sequence >= coalesce(marks.sequence
                + greatest((sequence_horizon() - (select min(sequence) from event_marks)) / 200, 1), 0)
            order by sequence limit 1
        ) newer
        order by newer.sequence limit 1
    ) next where place < case when $1 is null then 1 else 5 end
),
-- What is below it is older, even if it was begun a moment later.
marked as (
    insert into event_marks select sequence, created_at + interval '1 minute' from marks where place > 0
    on conflict do nothing
)
select max(sequence)::text, count(*) from marks where place > 0 having count(*) > 0
