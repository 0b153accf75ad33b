-- Turns the tables that grow into partitioned ones, while this release serves. No row is copied: each table becomes the
-- first partition of its successor, up to a bound two to three weeks ahead, and goes when its last row is past its time.
--
-- Locks: each of eight tables for some milliseconds, three times; who cannot have that within 50 ms tries again later. The
-- long steps (constraints that are validated, indexes that are made) are in nobody's way. For eight million events it takes
-- some minutes. The first release does not run on what is left from the first step on. If it stops, begin it again within
-- two weeks: the constraint that it was at takes nothing beyond the bound.

-- step: the former release is shut out
insert into schema_version values (4);
-- Up to where the first partition of each table reaches.
create table first_partitions (
    tab         text primary key,
    part        text not null,
    key         text not null,
    upper_bound text not null
);
insert into first_partitions
select tab, tab || '_first', key, upper_bound from (
    values ('messages', 'id'), ('attempts', 'message_id'), ('quarantine', 'id')
) tables (tab, key), (
    -- A Monday. Ids begin with their milliseconds.
    select rpad(lpad(to_hex(extract(epoch from date_trunc('week', now() at time zone 'UTC') + interval '3 weeks')::bigint
        * 1000), 12, '0'), 32, '0')::uuid::text
) monday (upper_bound);
insert into first_partitions
select tab, tab || '_first', 'received_at',
    (date_trunc('week', now() at time zone 'UTC') + interval '3 weeks')::text || '+00'
from unnest(array['inbound_webhooks', 'message_statuses']) tab;
insert into first_partitions values ('inbound_dedup', 'inbound_dedup_untimed', 'day', '2000-01-01');
-- As far as four weeks at the pace of the last ones, and a day at a thousand transactions a second.
insert into first_partitions
select tab, tab || '_first', 'sequence', (here + greatest(100000000::numeric * 65536, ahead))::bigint::text
from unnest(array['events', 'deliveries']) tab cross join sequence_horizon() here cross join lateral (
    select coalesce(max((here - sequence) * (28 * 86400 / greatest(extract(epoch from now() - at), 3600))), 0) as ahead
    from (select * from event_marks where at > now() - interval '4 weeks' order by at limit 1) mark
) pace;

create function make_successor(which text, primary_key text) returns void language plpgsql as $$
declare next text := 'next_' || which;
begin
    execute format('create table %I (like %I including defaults including generated including constraints)
        partition by range (%I)', next, which, (select key from first_partitions where tab = which));
    if primary_key is not null then
        execute format('alter table %I add primary key (%s)', next, primary_key);
    end if;
    execute format('alter table %I enable row level security, force row level security', next);
    execute format(
        'create policy organization on %I to ingress_app
            using (organization_id = nullif(current_setting(''app.org_id'', true), '''')::uuid)
            with check (organization_id = nullif(current_setting(''app.org_id'', true), '''')::uuid)', next);
    execute format('create policy worker on %I to ingress_worker using (true) with check (true)', next);
    execute format('create policy ingest on %I to ingress_ingest using (true) with check (true)', next);
    execute format('grant select, insert, update, delete on %I to ingress_worker, ingress_app', next);
end $$;
-- Not looked at yet: what is there is below it for sure, and what comes for weeks.
create function bound_rows(which text) returns void language plpgsql as $$
begin
    execute (select format('alter table %I add constraint in_first_partition check (%I < %L) not valid', tab, key, upper_bound)
        from first_partitions where tab = which);
end $$;
-- What goes in and out has the other table from the end of the transaction on. The constraint says what attaching it would
-- look for in each row; the indexes are there.
create function become_first_partition(which text) returns void language plpgsql as $$
declare of first_partitions; name name; indexes bigint;
begin
    select * into of from first_partitions where tab = which;
    for name in select relname from pg_index join pg_class on oid = indexrelid
            where indrelid = which::regclass and not starts_with(relname, of.part) loop
        execute format('alter index %I rename to %I', name, of.part || substr(name, length(which) + 1));
    end loop;
    for name in select polname from pg_policy where polrelid = which::regclass loop
        execute format('drop policy %I on %I', name, which);
    end loop;
    execute format('revoke all on %I from ingress_app, ingress_ingest, ingress_worker', which);
    execute format('alter table %I rename to %I', which, of.part);
    execute format('alter table %I rename to %I', 'next_' || which, which);
    for name in select relname from pg_index join pg_class on oid = indexrelid where indrelid = which::regclass loop
        execute format('alter index %I rename to %I', name, substr(name, length('next_') + 1));
    end loop;
    indexes := (select count(*) from pg_index where indrelid = of.part::regclass);
    execute format('alter table %I attach partition %I for values from (minvalue) to (%L)', which, of.part, of.upper_bound);
    if indexes <> (select count(*) from pg_index where indrelid = of.part::regclass) then
        raise exception 'attaching % makes an index that was missing, while everybody waits', of.part;
    end if;
    execute format('alter table %I drop constraint in_first_partition', of.part);
end $$;

-- step: the successor of inbound_webhooks
select make_successor('inbound_webhooks', null);
create index on next_inbound_webhooks using brin (received_at) with (autosummarize = on);
revoke all on next_inbound_webhooks from ingress_app;
grant insert on next_inbound_webhooks to ingress_ingest;

-- step of inbound_webhooks: rows come below a bound
select bound_rows('inbound_webhooks');

-- long of inbound_webhooks: all rows are below it
alter table inbound_webhooks validate constraint in_first_partition;

-- step of inbound_webhooks: the table is a partition
select become_first_partition('inbound_webhooks');

-- step: the successor of inbound_dedup
select make_successor('inbound_dedup', 'organization_id, key_hash, day');
grant insert, select on next_inbound_dedup to ingress_ingest;
do $$
declare today date := (now() at time zone 'UTC')::date; part text;
begin
    for ago in -21 .. 31 loop
        part := 'inbound_dedup_p' || to_char(today - ago, 'YYYYMMDD');
        execute format('create table %I partition of next_inbound_dedup for values from (%L) to (%L)', part,
            today - ago, today - ago + 1);
        execute format('alter table %I enable row level security, force row level security', part);
    end loop;
end $$;

-- alone: the keys of inbound_dedup, with their day
drop index concurrently if exists inbound_dedup_key_with_day;
create unique index concurrently inbound_dedup_key_with_day on inbound_dedup (organization_id, key_hash, day);

-- alone: the keys of inbound_dedup by their age
drop index concurrently if exists inbound_dedup_untimed_first_seen_idx;
create index concurrently inbound_dedup_untimed_first_seen_idx on inbound_dedup (first_seen);

-- step of inbound_dedup: rows come below a bound
select bound_rows('inbound_dedup');

-- long of inbound_dedup: all rows are below it
alter table inbound_dedup validate constraint in_first_partition;

-- step of inbound_dedup: the table is a partition
drop trigger forget_day on inbound_dedup;
drop index inbound_dedup_first_seen_idx;
alter table inbound_dedup drop constraint inbound_dedup_pkey;
alter table inbound_dedup add constraint inbound_dedup_pkey primary key using index inbound_dedup_key_with_day;
select become_first_partition('inbound_dedup');

-- step: the successor of quarantine
select make_successor('quarantine', 'organization_id, id');
create index on next_quarantine (received_at) where state = 'open' and not foreign_item;
create index on next_quarantine (organization_id, state, id) where not foreign_item;
create index on next_quarantine (organization_id, state, id) where foreign_item;
create policy no_foreign_items on next_quarantine as restrictive to ingress_app using (not foreign_item);
grant insert on next_quarantine to ingress_ingest;

-- alone: the quarantine's items of other accounts
drop index concurrently if exists quarantine_foreign_items;
create index concurrently quarantine_foreign_items on quarantine (organization_id, state, id) where foreign_item;

-- step of quarantine: rows come below a bound
select bound_rows('quarantine');

-- long of quarantine: all rows are below it
alter table quarantine validate constraint in_first_partition;

-- step of quarantine: the table is a partition
select become_first_partition('quarantine');

-- step: the successor of events
select make_successor('events', 'organization_id, sequence');
create index on next_events (conversation_id, type, sequence);
create index on next_events (type, organization_id, sequence);
grant insert, select on next_events to ingress_ingest;

-- step of events: rows come below a bound
select bound_rows('events');

-- long of events: all rows are below it
alter table events validate constraint in_first_partition;

-- step of events: the table is a partition
select become_first_partition('events');

-- step: the successor of deliveries
select make_successor('deliveries', 'organization_id, sequence');
create index on next_deliveries (conversation_id, state, sequence) where state <> 'delivered';
create index on next_deliveries (state, organization_id, sequence) where state <> 'delivered';
grant insert, select on next_deliveries to ingress_ingest;

-- step of deliveries: rows come below a bound
select bound_rows('deliveries');

-- long of deliveries: all rows are below it
alter table deliveries validate constraint in_first_partition;

-- step of deliveries: the table is a partition
drop index deliveries_conversation_id_sequence_idx, deliveries_sequence_organization_id_idx,
    deliveries_organization_id_sequence_idx;
select become_first_partition('deliveries');

-- step: the successor of messages
select make_successor('messages', 'organization_id, id');
create index on next_messages (conversation_id, created_at);
create index on next_messages (conversation_id, queue_place) where state = 'sending' and queue_place is not null;
create index on next_messages (message_key, organization_id);
create index on next_messages (leased_until) where leased_until is not null;
create index on next_messages (lead_id, organization_id, id) where lead_id is not null;
create index on next_messages (request_id, organization_id) where request_id is not null;
create index on next_messages (config_id, id) where config_id is not null;
create index on next_messages (error_class, organization_id, id) where error_class is not null;
create index on next_messages (error_code, organization_id, id) where error_code is not null;
grant select, update on next_messages to ingress_ingest;

-- step of messages: rows come below a bound
select bound_rows('messages');

-- long of messages: all rows are below it
alter table messages validate constraint in_first_partition;

-- step of messages: the table is a partition
drop trigger enter_idempotency_key on messages;
drop trigger leave_idempotency_key on messages;
drop index messages_idempotency_key_organization_id_idx, messages_leased_until_idx;
select become_first_partition('messages');

-- step: the successor of attempts
select make_successor('attempts', 'organization_id, message_id, number');
create index on next_attempts (failure, organization_id, message_id) where failure is not null;
create index on next_attempts (code, organization_id, message_id) where code is not null;
grant select, update on next_attempts to ingress_ingest;

-- step of attempts: rows come below a bound
select bound_rows('attempts');

-- long of attempts: all rows are below it
alter table attempts validate constraint in_first_partition;

-- step of attempts: the table is a partition
select become_first_partition('attempts');

-- step: the successor of message_statuses
select make_successor('message_statuses', null);
create index on next_message_statuses (message_key, organization_id);
create index on next_message_statuses using brin (received_at) with (autosummarize = on);
create index on next_message_statuses (received_at) where not matched;
grant insert, select on next_message_statuses to ingress_ingest;

-- alone: the statuses of a message
drop index concurrently if exists message_statuses_of_message;
create index concurrently message_statuses_of_message on message_statuses (message_key, organization_id);

-- alone: the statuses of a time
drop index concurrently if exists message_statuses_of_time;
create index concurrently message_statuses_of_time on message_statuses using brin (received_at) with (autosummarize = on);

-- step of message_statuses: rows come below a bound
select bound_rows('message_statuses');

-- long of message_statuses: all rows are below it
alter table message_statuses validate constraint in_first_partition;

-- step of message_statuses: the table is a partition
alter table message_statuses drop constraint message_statuses_pkey;
drop index message_statuses_received_at_idx;
select become_first_partition('message_statuses');

-- step of delivery_queues: the indexes of the former release
drop index delivery_queues_organization_id_due_at_idx;
alter index delivery_queues_not_postponed rename to delivery_queues_organization_id_due_at_idx;

-- batches: what is done is under way no more
with ended as (
    select organization_id, id from messages where leased_until is not null and state = 'done' limit 1000 for update skip locked
),
freed as (
    update messages m set leased_until = null from ended where m.organization_id = ended.organization_id and m.id = ended.id
)
select '', count(*) from ended having count(*) > 0

-- step: what the migration needed
drop table first_partitions;
drop function make_successor, bound_rows, become_first_partition, forget_day, enter_idempotency_key, leave_idempotency_key;
