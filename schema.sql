-- WhatsApp Ingress: the whole database, from empty. PostgreSQL 15 or newer.
--
-- Applied by `ingress migrate`, and at start where its login owns the database, under an advisory lock
-- (ingress/storage/database.py). Every table of an organization's data carries organization_id, has row-level security forced,
-- and two kinds of policy:
--   ingress_app      the HTTP API: sees the organization in the setting app.org_id, nothing without it
--   ingress_ingest   writes webhooks in batches that mix organizations
--   ingress_worker   background work across organizations: sends, deliveries, lookups by token or key
-- None of the roles can log in or bypasses row-level security; connections take one with `SET ROLE`.
--
-- Only a primary key starts with organization_id. A second index that does looks as good as the key to a planner that
-- knows a table as empty yet, and would be read through whole for an organization that has all the rows.

do $$
declare name text;
begin
    foreach name in array array['ingress_app', 'ingress_ingest', 'ingress_worker'] loop
        if not exists (select from pg_roles where rolname = name) then
            begin
                execute format('create role %I nologin noinherit', name);
            exception when duplicate_object or unique_violation then
                null;  -- Roles belong to the server, the lock to a database: another one's migration was faster.
            end;
        end if;
        -- The owner takes them too, to migrate. Who has made a role does not have it by that, since PostgreSQL 16.
        if not pg_has_role(name, case when current_setting('server_version_num')::int < 160000 then 'member' else 'set' end) then
            execute format('grant %I to current_user', name);
        end if;
    end loop;
end $$;

create table schema_version (
    version    integer     primary key,
    applied_at timestamptz not null default now()
);
insert into schema_version values (4);

-- What was applied of migrations/, or came with this file (ingress/storage/upgrades.py).
create table schema_migrations (
    name       text        primary key,
    began_at   timestamptz not null default now(),
    -- NULL: it is being applied, or was broken off.
    applied_at timestamptz,
    -- How far it is: {step, cursor, rows}. NULL: to its end.
    progress   json
);

-- ------------------------------------------------------------------ organizations and their providers

create table organizations (
    id                  uuid        primary key,
    name                text        not null,
    -- What it is looked for by: see contacts.
    name_key            text        collate "C" not null generated always as (lower(name)) stored,
    -- NULL: no provider configured yet.
    active_config_id    uuid,
    -- Tried in this order when the active config cannot send.
    fallback_config_ids uuid[]      not null default '{}',
    -- FallbackPolicy (ingress/switching/policy.py) as JSON. NULL: the defaults.
    fallback_policy     json,
    -- Goes up by one with every change of the three columns above. The fence: an attempt to send is inserted only
    -- where the version is the one its process believes in.
    version             bigint      not null default 0,
    -- When it last went up: each process measures from here how long a change took to reach it.
    version_at          timestamptz not null default now(),
    -- StandIn (ingress/health/automatic.py) as JSON. NULL: the active config is the one that people chose.
    automatic           json,
    -- What a rollback returns to. NULL: there was none, or it was deleted.
    former_config_id    uuid,
    -- The fallbacks of then, for who returns to it; NULL: none, or somebody has set others since.
    former_fallback_ids uuid[],
    -- The end of the audit chain (ingress/audit/): how many entries there are, the hash of the last one, and a seal
    -- of both, which cannot be made from the entries. NULL until the first entry, which is that of its creation.
    audit_entries       bigint      not null default 0,
    audit_hash          bytea,
    audit_seal          bytea,
    -- The beginning of it: how many entries are past their time and gone, the hash of the last of them, and a seal as above.
    -- NULL: none is gone.
    audit_gone          bigint      not null default 0,
    audit_gone_hash     bytea,
    audit_gone_seal     bytea,
    -- How far it was verified, the hash of that entry, and a seal as above: the next verification begins there. NULL: never.
    audit_checked       bigint      not null default 0,
    audit_checked_hash  bytea,
    audit_checked_seal  bytea,
    -- What is before that is verified again, a part each time: behind this entry.
    audit_rechecked     bigint      not null default 0,
    -- When the chain is verified next; while it is, when the lease on that ends.
    audit_due_at        timestamptz not null default now() + interval '1 hour',
    -- The first entry that was wrong when it was last verified. NULL: none.
    audit_broken        bigint,
    created_at          timestamptz not null default now()
);
create index on organizations (name_key, id);
create index on organizations (audit_due_at);
create index on organizations (audit_broken) where audit_broken is not null;

create table whatsapp_provider_configs (
    organization_id    uuid        not null references organizations (id),
    id                 uuid        not null,
    provider_type      text        not null,
    name               text        not null,
    -- Drawn in ingress/switching/manager.py. Whatever the state, its webhooks are received.
    state              text        not null
        check (state in ('configured', 'switching', 'active', 'inactive', 'error')),
    -- AES-256-GCM (ingress/storage/vault.py): config_data as JSON, bound to organization, config and field.
    config_data        bytea       not null,
    -- What webhooks call its account, as its fields say. Whether that is so: account_owners.
    accounts           text[]      not null,
    -- Keyed hashes of the secrets that sign its webhooks: who else has one of them can be asked, and what they are cannot.
    signing_keys       bytea[]     not null,
    -- What the config's webhook address is found by. The address itself is sealed beside it, to be shown again.
    webhook_token_hash bytea       not null unique,
    webhook_token      bytea       not null,
    -- The business number, E.164. NULL: the provider has not named it yet.
    sender             text,
    -- What the provider last said of the account: ProviderStatus as JSON. NULL: never asked.
    session            json,
    -- It was saved to become active: once it is, it has joined the fallback order at its end, so that is where the config
    -- goes that it takes over from. FALSE: it has been active, has its place already, or shall have none.
    joins_order        boolean     not null default false,
    -- When the provider first said that the account cannot send. NULL: it took its last message, or nobody asked yet.
    broken_at          timestamptz,
    created_at         timestamptz not null default now(),
    updated_at         timestamptz not null default now(),
    primary key (organization_id, id)
);
create index on whatsapp_provider_configs (created_at);
create index on whatsapp_provider_configs using gin (signing_keys);
create index on whatsapp_provider_configs (broken_at) where broken_at is not null;
alter table organizations add foreign key (id, active_config_id)
    references whatsapp_provider_configs (organization_id, id) deferrable initially deferred;

-- Whose an account is: the organization's whose connection test passed at a host that the provider or the platform vouches
-- for. One organization's at a time; let go of with its last config of the account (ingress/accounts/ownership.py).
create table account_owners (
    organization_id uuid        not null references organizations (id),
    provider_type   text        not null,
    account         text        not null,
    since           timestamptz not null default now(),
    primary key (provider_type, account)
);

-- Apps of providers with an address of their own: what comes in there goes to the organizations whose accounts it names.
-- What the platform keeps of it, in inbound_webhooks and quarantine, is kept under an organization_id of zeros.
create table provider_apps (
    id                 uuid        primary key,
    provider_type      text        not null,
    name               text        not null,
    -- As in whatsapp_provider_configs.
    config_data        bytea       not null,
    signing_keys       bytea[]     not null,
    webhook_token_hash bytea       not null unique,
    webhook_token      bytea       not null,
    created_at         timestamptz not null default now(),
    updated_at         timestamptz not null default now()
);
create index on provider_apps using gin (signing_keys);

-- Switches that are neither made nor ended: what it takes to make one, or to take it back. A process that makes one holds
-- the organization's lock; a row without a deadline that nobody holds the lock for was left by one that died.
create table switches (
    organization_id  uuid        not null,
    -- To which; it is in the state `switching` meanwhile.
    config_id        uuid        not null,
    -- switch, rollback or fallback.
    kind             text        not null,
    -- As in provider_audit_log.
    actor            text        not null,
    address          text,
    reason           text,
    -- NULL: at any version.
    expected_version bigint,
    -- Of the config before, which it returns to where the switch is not made.
    former_state     text        not null,
    began_at         timestamptz not null default clock_timestamp(),
    -- It waits for a phone to be linked until then. NULL: it is under way.
    waits_until      timestamptz,
    primary key (organization_id, config_id),
    foreign key (organization_id, config_id) references whatsapp_provider_configs (organization_id, id) on delete cascade
);

-- Which processes a switch was announced to, each by its connection that listens, and since when it is used there.
create table switch_processes (
    organization_id uuid        not null references organizations (id) on delete cascade,
    version         bigint      not null,
    -- The server's number of that connection.
    process         integer     not null,
    -- NULL: it has not confirmed it.
    used_at         timestamptz,
    primary key (organization_id, version, process)
);
-- What a process has not confirmed yet.
create index on switch_processes (process, organization_id) where used_at is null;

-- How the account of a config is doing (ingress/health/judgement.py). Looked at by the process that leases the row: `due_at` is
-- when the next look is due, and while one is under way when its lease ends.
create table provider_health (
    organization_id uuid        not null,
    config_id       uuid        not null,
    state           text        not null default 'unknown' check (state in ('unknown', 'healthy', 'degraded', 'unhealthy')),
    -- NULL: it was never looked at.
    since           timestamptz,
    reason          text,
    -- The provider's words, for people.
    detail          text,
    -- What it is about to become, found by so many looks in a row. NULL: nothing else.
    pending         text,
    looks           integer     not null default 0,
    checked_at      timestamptz,
    -- When a webhook of it last said something new, when a person's message last came in, and when its provider last took
    -- a message; each some seconds late. NULL: that never was.
    webhook_at      timestamptz,
    received_at     timestamptz,
    sent_at         timestamptz,
    -- When a webhook at its address was last refused, as its signature is not the config's, some seconds late. NULL: none.
    refused_at      timestamptz,
    -- How a phone is linked: starting, scan, linked, failed. NULL: not known, or its provider links none.
    pairing         text,
    -- Looked at again and again until then: somebody is linking a phone.
    watched_until   timestamptz,
    due_at          timestamptz not null default now() + interval '30 seconds',
    -- NULL: nobody is looking.
    lease_id        uuid,
    leased_until    timestamptz,
    primary key (organization_id, config_id),
    foreign key (organization_id, config_id) references whatsapp_provider_configs (organization_id, id) on delete cascade
);
create index on provider_health (due_at);
create index on provider_health (state) where state in ('degraded', 'unhealthy');

-- Every change of a provider, in the transaction that makes it, and what was refused. Append-only: see the trigger below.
create table provider_audit_log (
    organization_id uuid        not null references organizations (id),
    -- 1, 2, 3 … in each organization: a gap is a deletion.
    id              bigint      not null,
    at              timestamptz not null,
    action          text        not null,
    -- The id of the API key, or `platform`, or `system`.
    actor           text        not null,
    address         text,
    config_id       uuid,
    -- Of that config, or of the configuration that was refused. NULL: it is about none.
    provider        text,
    -- Whether it was made; undone: begun and taken back.
    outcome         text        not null check (outcome in ('done', 'refused', 'undone')),
    version         bigint,
    -- Secrets appear as fingerprints only.
    before          json,
    after           json,
    reason          text,
    -- HMAC over the entry and the hash of the one before it, with the id of its key (ingress/storage/vault.py).
    hash            bytea       not null,
    primary key (organization_id, id)
);
-- What it is looked through by; an organization's entries of each follow one another.
create index on provider_audit_log (action, organization_id, id);
create index on provider_audit_log (actor, organization_id, id);
create index on provider_audit_log (outcome, organization_id, id);
create index on provider_audit_log (config_id, organization_id, id);

create table api_keys (
    organization_id uuid        not null references organizations (id),
    id              text        not null unique,
    name            text        not null,
    secret_hash     bytea       not null,
    scopes          text[]      not null,
    created_at      timestamptz not null default now(),
    -- NULL: never expires, not revoked.
    expires_at      timestamptz,
    revoked_at      timestamptz,
    -- To within minutes. NULL: never.
    last_used_at    timestamptz,
    -- The key that made it. NULL: the platform's.
    made_by         text,
    primary key (organization_id, id)
);
-- Which keys are soon over.
create index on api_keys (expires_at) where revoked_at is null;

-- What is left of encryption keys when they are let go (ingress/encryption/), from their first use on: what they signed is
-- verified with it, and API keys that they hashed are known again. It opens nothing.
create table retired_keys (
    id         uuid        primary key,
    -- As in INGRESS_ENCRYPTION_KEYS.
    key_id     text        not null unique,
    -- Sealed with one of those that are still there.
    derived    bytea       not null,
    retired_at timestamptz not null default now()
);

-- Who is signed in to the console. A session acts for a key: what ends the key ends it.
create table console_sessions (
    -- SHA-256 of what the browser's cookie holds.
    id_hash         bytea       primary key,
    -- NULL: of the platform's key, and no organization is chosen yet.
    organization_id uuid        references organizations (id),
    -- `platform` for the platform's key; then the hash of that, so that another one ends the session.
    key_id          text        not null,
    platform_hash   bytea,
    created_at      timestamptz not null default now(),
    seen_at         timestamptz not null default now()
);
create index on console_sessions (key_id);
create index on console_sessions (seen_at);

-- Until when the users of a key have seen what the console calls attention to.
create table notification_marks (
    organization_id uuid        not null references organizations (id),
    -- `platform` for the platform's.
    key_id          text        not null,
    seen_at         timestamptz not null,
    primary key (organization_id, key_id)
);

-- ------------------------------------------------------------------ receiving

-- What a provider posted, byte for byte: the meaning of a 200 is that a row is here. Partitioned by day.
create table inbound_webhooks (
    organization_id uuid        not null,
    config_id       uuid        not null,
    received_at     timestamptz not null default now(),
    -- JSON, as bytes: looked at by people now and then, written for every webhook.
    headers         bytea       not null,
    body            bytea       not null
) partition by range (received_at);
-- What came lately: a partition has a day of it.
create index on inbound_webhooks using brin (received_at) with (autosummarize = on);

-- Webhooks too large to be read at once, acknowledged all the same: each is read in the background, by the process that
-- leases it, and goes to inbound_webhooks then.
create table unread_webhooks (
    organization_id uuid        not null,
    -- The sequence of its transaction (see `events`). Its events follow it, so they come before those of all that was
    -- received later, which nobody is given until this row is gone.
    sequence        bigint      not null,
    config_id       uuid        not null,
    received_at     timestamptz not null default now(),
    -- Of its address, without the question mark: some providers say there what a status is about.
    query           text        not null,
    headers         bytea       not null,
    body            bytea       not null,
    -- How often it was begun: what kills its readers is put aside.
    tries           smallint    not null default 0,
    -- NULL: nobody is reading it.
    lease_id        uuid,
    leased_until    timestamptz,
    primary key (organization_id, sequence)
);

-- One row a fact, kept for 30 days: longer than any provider repeats a webhook. Narrow, and apart from the
-- events, so that the unique index stays small.
create table inbound_dedup (
    organization_id uuid        not null,
    -- Of the account and the provider's key: what comes in under the address of another config of it is known.
    key_hash        bytea       not null,
    -- The day (UTC) of the fact, as its provider says: a repetition says the same, so the key is unique in the partition of
    -- that day. -infinity: it says none, or one that is far from the day on which it was received.
    day             date        not null default '-infinity',
    -- Of its event, for what names the message by another id. NULL: it is no message.
    sequence        bigint,
    first_seen      timestamptz not null default now(),
    primary key (organization_id, key_hash, day)
) partition by range (day);
create table inbound_dedup_untimed partition of inbound_dedup for values from (minvalue) to ('2000-01-01');
-- What is past its time here is deleted, oldest first; other partitions are dropped.
create index on inbound_dedup_untimed (first_seen);

-- Bodies that could not be read, and items that belong to somebody else. Partitioned by week, as the ids are of a time.
create table quarantine (
    organization_id uuid        not null,
    id              uuid        not null,
    config_id       uuid        not null,
    received_at     timestamptz not null default now(),
    reason          text        not null,
    headers         json        not null,
    body            bytea       not null,
    -- True: another account's data came in under this config's address. The organization never sees it.
    foreign_item    boolean     not null default false,
    -- Some of it is events already: read again when their keys are gone, it would make them twice.
    partly_taken    boolean     not null default false,
    state           text        not null default 'open' check (state in ('open', 'replayed', 'discarded')),
    primary key (organization_id, id)
) partition by range (id);
-- The gauge of open ones.
create index on quarantine (received_at) where state = 'open' and not foreign_item;
-- An organization's list, and how many are open.
create index on quarantine (organization_id, state, id) where not foreign_item;
-- The platform's list of what is another account's.
create index on quarantine (organization_id, state, id) where foreign_item;

-- ------------------------------------------------------------------ events

-- sequence = base + xid * 65536 + place in the transaction. So the order of sequences is the order of
-- transaction ids, and everything below the oldest running transaction is final: a reader that stops there
-- (ingress/storage/statements/events.py) never skips an event, however transactions commit.
-- The base, a multiple of 65536, makes up for a dump restored into a cluster whose transaction ids start low again.
create table event_clock (
    only_row boolean primary key default true check (only_row),
    base     bigint  not null default 0,
    -- A transaction that writes no event, however long it takes: a migration's. NULL: there is none.
    heedless xid8
);
insert into event_clock default values;

create function next_sequence(place bigint) returns bigint language sql volatile as
$$ select base + (pg_current_xact_id()::text::bigint << 16) + place from event_clock $$;

-- Stable, so that it is as old as the statement it is used in: a horizon that moves on while rows are read would
-- let a reader pass what the statement began too early to see.
create function sequence_horizon() returns bigint language sql stable as
$$ select base + ((case when heedless is null then pg_snapshot_xmin(pg_current_snapshot())
    else (select coalesce(min(running), pg_snapshot_xmax(pg_current_snapshot()))
        from pg_snapshot_xip(pg_current_snapshot()) running where running <> heedless)
    end)::text::bigint << 16) from event_clock $$;

-- Where the stream was at a time, about once an hour: a sequence by itself says no time. What is below a mark is older.
create table event_marks (
    sequence bigint      primary key,
    at       timestamptz not null
);

-- Partitioned by blocks of about a week, of sequences, with the same bounds as `deliveries`.
create table events (
    organization_id     uuid        not null,
    sequence            bigint      not null,
    type                text        not null,
    config_id           uuid        not null,
    -- As in `conversations`; the config's own id where the event is about no contact.
    conversation_id     uuid        not null,
    created_at          timestamptz not null default now(),
    -- The envelope's `data`, as it is delivered, without `raw`.
    data                json        not null,
    -- A page is as long as fits into memory, and a value's length is known only once it is read and unpacked.
    data_bytes          integer     not null generated always as (octet_length(data::text)) stored,
    -- The provider's item: JSON, as bytes. NULL: the event is ours, no provider sent it.
    raw                 bytea,
    -- Also what the CRM knows it by: see `event_id` in ingress/identifiers.py.
    primary key (organization_id, sequence)
) partition by range (sequence);
-- What was said in a conversation.
create index on events (conversation_id, type, sequence);
-- Messages of people among all that came in, and events of the types that somebody asks for.
create index on events (type, organization_id, sequence);

-- What came about an id of the provider's that is nobody's yet, while sends that may have it are open: it may be about one
-- of them. An event when those have ended, or when it has waited for long (ingress/receiving/held_events.py). Its
-- deduplication key is stored already.
create table held_events (
    organization_id     uuid        not null,
    -- Of its transaction, as an event's: they become events in this order.
    sequence            bigint      not null,
    type                text        not null,
    config_id           uuid        not null,
    conversation_id     uuid        not null,
    account_id          uuid        not null,
    provider_message_id text        not null,
    -- As in messages.
    message_key         text        not null,
    -- The sends that were open when it came. Empty: it only comes after others of the same id.
    candidates          uuid[]      not null,
    received_at         timestamptz not null default now(),
    -- As in events.
    data                json        not null,
    raw                 bytea,
    primary key (organization_id, sequence)
);

-- ------------------------------------------------------------------ people

-- Who writes to an organization, or is written to. Whoever adds or changes one holds a lock on the organization's bucket
-- (ingress/storage/statements/contacts.py), so that two processes that meet somebody make one contact.
create table contacts (
    organization_id uuid        not null,
    id              uuid        not null,
    -- As they last called themselves, and since when. NULL: they never did.
    name            text,
    name_since      timestamptz,
    username        text,
    username_since  timestamptz,
    -- What they are looked for by. As columns: a condition on what a function makes of one is kept from indexes by
    -- row-level security. Compared byte by byte, a prefix is a range.
    name_key        text        collate "C" generated always as (lower(name)) stored,
    username_key    text        collate "C" generated always as (lower(username)) stored,
    -- The older contact that it turned out to be. NULL: it stands for itself.
    merged_into     uuid,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id)
);
create index on contacts (merged_into) where merged_into is not null;
-- Partial, here and below, as all that begins with the organization and is no key.
create index on contacts (organization_id, name_key, id) where name_key is not null and merged_into is null;
create index on contacts (organization_id, username_key, id) where username_key is not null and merged_into is null;

-- What people are known by. Of several of a kind and scope the newest is theirs, and the others were.
create table contact_addresses (
    organization_id uuid        not null,
    -- Kind, scope and value, as they are compared (ingress/people/addresses.py).
    address         text        not null,
    contact_id      uuid        not null,
    -- phone, lid, user, or parent.
    kind            text        not null,
    -- What the value is unique in, beside the organization.
    scope           text        not null,
    -- As the provider spells it.
    value           text        not null,
    since           timestamptz not null default now(),
    -- Of a number, how WhatsApp itself has it, which is how it is sent to: in its spelling, or a lid; empty where it is not on
    -- WhatsApp. NULL: nobody knows, and it is sent to as it is asked for.
    reached_by      text,
    -- When a provider was asked for that, which is good for a while. NULL: the person was seen there, which is better.
    asked_at        timestamptz,
    primary key (organization_id, address)
);
create index on contact_addresses (contact_id);
create index on contact_addresses (organization_id, value) where kind in ('user', 'parent');

-- What an account and a person, or a group, say to each other.
create table conversations (
    organization_id uuid        not null,
    -- Of the account and the contact or group, hashed (ingress/identifiers.py).
    id              uuid        not null,
    -- The business number as it is compared; the config's id where it has none.
    account         text        not null,
    -- NULL: a group's.
    contact_id      uuid,
    group_id        text,
    -- The one that it became when its contact was merged: its events and messages stay under its own id, and are read and
    -- delivered with that one's. NULL: itself.
    canonical_id    uuid,
    created_at      timestamptz not null default now(),
    primary key (organization_id, id)
);
create index on conversations (contact_id) where contact_id is not null;
create index on conversations (canonical_id) where canonical_id is not null;

-- For a statement that was given a conversation which a process remembers, and which was merged into another.
create function refuse_merged_conversations() returns boolean language plpgsql as
$$ begin raise exception 'a contact was merged' using errcode = 'WI001'; end $$;

-- ------------------------------------------------------------------ delivery to the CRM

create table callbacks (
    organization_id      uuid        primary key references organizations (id),
    url                  text        not null,
    -- Sealed JSON: a list of {secret, expires_at}; newest first.
    secrets              bytea       not null,
    -- NULL: enabled. Set by 410, or by days of failure.
    disabled_at          timestamptz,
    disabled_reason      text,
    -- NULL: the last delivery succeeded.
    failing_since        timestamptz,
    -- Of the last delivery that failed; NULL as above.
    last_error           text,
    consecutive_failures integer     not null default 0,
    -- The endpoint as a whole is down: nothing is tried before this.
    paused_until         timestamptz,
    updated_at           timestamptz not null default now()
);
-- Endpoints that are down, to be tried now and then.
create index on callbacks (paused_until) where paused_until is not null;

create table deliveries (
    organization_id uuid        not null,
    sequence        bigint      not null,
    conversation_id uuid        not null,
    -- pending -> delivered, or -> parked (given up; can be replayed: -> pending)
    state           text        not null default 'pending' check (state in ('pending', 'delivered', 'parked')),
    attempts        integer     not null default 0,
    -- Attempts that failed by this event's own fault: with 4xx, while the endpoint took others.
    refusals        integer     not null default 0,
    -- The HTTP status of the last attempt. NULL: no answer came, or none was made.
    answer          smallint,
    last_error      text,
    -- The last attempt, if that failed. NULL: none was made.
    failed_at       timestamptz,
    -- NULL as long as it is pending.
    finished_at     timestamptz,
    -- Of a parked one: the CRM has taken a later event of the conversation that said so.
    gap_reported    boolean     not null default false,
    primary key (organization_id, sequence)
) partition by range (sequence);
-- What a conversation has to deliver, in order, and what it gave up last.
create index on deliveries (conversation_id, state, sequence) where state <> 'delivered';
-- The same of an organization, and which organizations have any. By state first, so that rows compared by it have no other.
create index on deliveries (state, organization_id, sequence) where state <> 'delivered';

-- A conversation with pending deliveries. Claiming the row is the right to deliver its events, in order.
create table delivery_queues (
    organization_id uuid        not null,
    conversation_id uuid        not null,
    due_at          timestamptz not null default now(),
    -- Until then it waits, and is not looked at. False: it is due, at the latest then.
    postponed       boolean     not null default false,
    -- Counts arrivals, so that who empties the queue sees that one came meanwhile.
    arrivals        bigint      not null default 0,
    -- NULL: nobody is delivering.
    lease_id        uuid,
    leased_until    timestamptz,
    primary key (organization_id, conversation_id)
);
-- The next ones of an organization, those whose time has come, and those under way: claiming reads neither backlogs nor what
-- is not due, nor organizations that have nothing due.
create index on delivery_queues (organization_id, due_at) where lease_id is null and not postponed;
create index on delivery_queues (due_at) where lease_id is null and postponed;
create index on delivery_queues (organization_id) where lease_id is not null;

-- ------------------------------------------------------------------ sending

-- Partitioned by week, as the ids are of a time; `attempts` alike.
create table messages (
    organization_id     uuid        not null,
    id                  uuid        not null,
    conversation_id     uuid        not null,
    -- NULL: sent without a key, so never compared. Unique by `idempotency_keys`.
    idempotency_key     text,
    request_hash        bytea       not null,
    -- The body of POST /send, as decoded.
    request             json        not null,
    -- The CRM's own reference of it.
    lead_id             text        generated always as (request ->> 'lead_id') stored,
    -- What the request is called in its answer and in the log.
    request_id          text,
    -- In the order of acceptance, built as a sequence of `events` is: what a claim can see of its conversation has smaller
    -- ones. NULL: it waits for no other send, and none waits for it.
    queue_place         bigint,
    -- sending: a process works on it, or did when it died. uncertain: held until a status settles it.
    -- done: nothing more is tried. sending -> uncertain -> done, sending -> done.
    state               text        not null check (state in ('sending', 'uncertain', 'done')),
    status              text        not null default 'accepted',
    -- status as a number (providers/messages.py: STATUS_RANK); it only goes up.
    status_rank         smallint    not null default 0,
    -- A status of it came, of whatever rank; our own outcome is none.
    acknowledged        boolean     not null default false,
    -- NULL until a provider took it.
    provider            text,
    config_id           uuid,
    -- Of the config (`account_id` in ingress/identifiers.py): what the provider's id is unique in.
    account_id          uuid,
    provider_message_id text,
    -- What all of the provider's ids of it have in common: the id itself, where there is one. Matched by this one.
    message_key         text,
    -- The config that should have sent it, where another did.
    fallback_from       uuid,
    -- Why: the class of the error, or `breaker_open`. NULL: no other did.
    fallback_reason     text,
    -- 0: it waits for an earlier send of its conversation, and never was first.
    attempts            integer     not null default 1,
    -- NULL: no error so far. {class, code, detail}
    error               json,
    -- What it is looked for by. They change with its error alone: an index on the status would make every status of every
    -- message write all of the table's indexes.
    error_class         text        generated always as
        (coalesce(error ->> 'class', case status when 'failed' then 'Rejected' when 'unknown' then 'Uncertain' end)) stored,
    error_code          text        generated always as (error ->> 'code') stored,
    created_at          timestamptz not null default now(),
    updated_at          timestamptz not null default now(),
    sent_at             timestamptz,
    -- As the provider says; NULL where it does not.
    cost                text,
    expires_at          timestamptz not null,
    -- Who works on it, and until when nobody else may. For an uncertain one: when it is reported as unknown. NULL: it is done.
    lease_id            uuid,
    leased_until        timestamptz,
    primary key (organization_id, id)
) partition by range (id);
-- What was sent in a conversation.
create index on messages (conversation_id, created_at);
-- The queue of a conversation: who is first in it may be called for. What asks for `sending` alone cannot take it for its own.
create index on messages (conversation_id, queue_place) where state = 'sending' and queue_place is not null;
-- What a status, or an event that names it, is about.
create index on messages (message_key, organization_id);
-- What is under way or held. Not by its state, which statements that name a message by its key speak of as well: with the
-- statistics of a quiet time, reading all of this would look as good to them.
create index on messages (leased_until) where leased_until is not null;
-- What people look for messages by; none of the error's grows with what goes well.
create index on messages (lead_id, organization_id, id) where lead_id is not null;
create index on messages (request_id, organization_id) where request_id is not null;
create index on messages (config_id, id) where config_id is not null;
create index on messages (error_class, organization_id, id) where error_class is not null;
create index on messages (error_code, organization_id, id) where error_code is not null;

-- Which message a key of the last 30 days names. Apart from `messages`, whose partitions each know their own alone; deleted
-- by the time in message_id. The key may be somebody's data, its hash (ingress/identifiers.py) is not.
create table idempotency_keys (
    organization_id uuid        not null,
    key_hash        bytea       not null,
    message_id      uuid        not null,
    primary key (organization_id, key_hash)
);
-- What is past its time, oldest first.
create index on idempotency_keys (message_id);

-- Written before the provider is called: a row without a class is a call that may have happened.
create table attempts (
    organization_id     uuid        not null,
    message_id          uuid        not null,
    number              integer     not null,
    config_id           uuid        not null,
    provider            text        not null,
    version             bigint      not null,
    started_at          timestamptz not null,
    -- NULL: no outcome known. `ok`, or the name of a SendError.
    class               text,
    code                text,
    detail              text,
    duration_ms         integer,
    provider_message_id text,
    -- Its class, where that is an error: as in messages.
    failure             text        generated always as (nullif(class, 'ok')) stored,
    primary key (organization_id, message_id, number)
) partition by range (message_id);
-- What people look for messages by: an error of any of its attempts.
create index on attempts (failure, organization_id, message_id) where failure is not null;
create index on attempts (code, organization_id, message_id) where code is not null;

-- Statuses that came without our id, as they came: what they are about may become known later. One that carries our id
-- goes into its message alone. Whether any came at all: messages.acknowledged. Partitioned by week.
create table message_statuses (
    organization_id     uuid        not null,
    account_id          uuid        not null,
    -- As in messages.
    message_key         text        not null,
    value               text        not null,
    status_rank         smallint    not null,
    occurred_at         timestamptz,
    error               json,
    received_at         timestamptz not null default now(),
    -- False: no message of ours had this id yet. The sweep looks again for a while.
    matched             boolean     not null
) partition by range (received_at);
-- What was said of a message before its own answer came.
create index on message_statuses (message_key, organization_id);
-- What organizations keep for less time than the service.
create index on message_statuses using brin (received_at) with (autosummarize = on);
-- What the sweep looks for a message of.
create index on message_statuses (received_at) where not matched;

-- ------------------------------------------------------------------ figures

-- How far an organization's events are counted in the two tables below (ingress/health/counting.py), in the transaction
-- that writes what they count. So who dies in between, or is overtaken, counts nothing twice and leaves nothing out.
create table figures_progress (
    organization_id uuid        primary key references organizations (id),
    -- Of the last event that is counted.
    sequence        bigint      not null default 0,
    -- When that was: of sends that were accepted later, or shortly before, not all are counted.
    counted_at      timestamptz not null default now(),
    -- When somebody looks again, also if who looks now dies.
    due_at          timestamptz not null default now() + interval '1 minute'
);
create index on figures_progress (due_at);

-- What went through a config in a minute, by when its messages were accepted; kept for two days. In an hour: for 13 months.
create table provider_figures (
    organization_id uuid        not null,
    config_id       uuid        not null,
    -- 1 or 60.
    minutes         smallint    not null,
    since           timestamptz not null,
    -- Of the config. NULL: it was deleted before anything was counted.
    provider        text,
    -- Messages that were tried through it, that it took, and that it should have taken and another one was given.
    tried           integer     not null default 0,
    sent            integer     not null default 0,
    fallbacks       integer     not null default 0,
    -- Messages of people, by when they came.
    received        integer     not null default 0,
    -- Attempts that failed, by their classes (ingress/storage/statements/figures.py: CLASSES).
    errors          integer[]   not null,
    -- What it took, and reported as failed after all, by class and by when the report came.
    undelivered     integer[]   not null,
    -- How long it took to take a message, by bounds (BOUNDS_MS in the same file).
    durations       integer[]   not null,
    -- As it said. NULL: it said nothing, or in several currencies.
    cost            numeric,
    currency        text,
    primary key (organization_id, minutes, since, config_id)
);

-- Messages of a month that a provider delivered and priced, by its words; empty where it said nothing.
create table provider_usage (
    organization_id uuid        not null,
    month           timestamptz not null,
    config_id       uuid        not null,
    category        text        not null,
    kind            text        not null,
    -- true or false.
    billable        text        not null,
    messages        bigint      not null,
    primary key (organization_id, month, config_id, category, kind, billable)
);

-- ------------------------------------------------------------------ how long it is kept

-- People who are to be erased, by whichever process has its turn (ingress/retention/erasure.py).
create table erasures (
    organization_id uuid        not null references organizations (id),
    id              uuid        not null,
    -- NULL: it is done; then nothing says who it was.
    contact_id      uuid,
    -- When the person was cut off, what they are found by in raw bodies, and up to when these are looked through. NULL: they
    -- are not cut off yet, or it is done.
    cut_at          timestamptz,
    sought          text[],
    looked_until    timestamptz,
    -- What is being deleted, or what it waits for. NULL: neither.
    step            text,
    deleted         bigint      not null default 0,
    created_at      timestamptz not null default now(),
    finished_at     timestamptz,
    due_at          timestamptz not null default now(),
    -- NULL: nobody is at it.
    lease_id        uuid,
    leased_until    timestamptz,
    primary key (organization_id, id)
);
-- Asked for twice, it is one.
create unique index on erasures (organization_id, contact_id) where contact_id is not null;
-- The next one.
create index on erasures (due_at) where finished_at is null;

-- What an organization keeps shorter than the service (ingress/retention/). No row: nothing.
create table retention_settings (
    organization_id uuid        primary key references organizations (id),
    -- Days. NULL: as the service.
    bodies_days     integer,
    events_days     integer,
    statuses_days   integer,
    updated_at      timestamptz not null default now()
);

-- From where on an organization's events and messages are all there. Written before what is older is deleted. No row:
-- nothing was.
create table retention_marks (
    organization_id uuid        primary key references organizations (id),
    -- Of the newest event that is gone, 0: none is. Who reads on after an earlier one has missed some.
    sequence        bigint      not null default 0,
    since           timestamptz not null
);

-- How far rows of a table (`bodies`, `statuses`) are deleted that are kept for so many days.
create table retention_progress (
    kind            text        not null,
    days            integer     not null,
    -- What came before is gone.
    through         timestamptz not null,
    -- What organizations have set since is not taken into account.
    at              timestamptz not null,
    primary key (kind, days)
);

-- Whose turn it is to drop and delete: one process's at a time.
create table retention_turn (
    only_row        boolean     primary key default true check (only_row),
    -- NULL: nobody's.
    lease_id        uuid,
    leased_until    timestamptz,
    -- When everything was last dropped and deleted that was past its time. NULL: never yet.
    ran_at          timestamptz
);
insert into retention_turn default values;

-- Partitions are made ahead and dropped by the service (ingress/storage/partitions.py), whose login owns no table: so these
-- functions are the owner's, refuse what is not one of the service's partitioned tables (the owner may have others), and are
-- for ingress_worker alone.
--
-- Nobody is given a partition by itself, and it shows no row to who is not the owner: access goes through the table it is
-- of, whose policies hold. One is attached, not made as a part: who reads and writes the table need not wait for that.
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

-- ------------------------------------------------------------------ the second wall

do $$
declare tab text;
begin
    foreach tab in array array[
        'whatsapp_provider_configs', 'account_owners', 'switches', 'switch_processes', 'provider_health', 'provider_audit_log', 'api_keys', 'notification_marks', 'console_sessions', 'inbound_webhooks', 'unread_webhooks', 'inbound_dedup', 'quarantine',
        'events', 'held_events', 'callbacks', 'deliveries', 'delivery_queues', 'messages', 'attempts', 'message_statuses', 'organizations',
        'contacts', 'contact_addresses', 'conversations', 'figures_progress', 'provider_figures', 'provider_usage',
        'retention_settings', 'retention_marks', 'idempotency_keys', 'erasures'
    ] loop
        execute format('alter table %I enable row level security', tab);
        execute format('alter table %I force row level security', tab);
        -- current_setting gives '' after a transaction that set it locally, hence nullif.
        execute format(
            'create policy organization on %1$I to ingress_app
                using (%2$I = nullif(current_setting(''app.org_id'', true), '''')::uuid)
                with check (%2$I = nullif(current_setting(''app.org_id'', true), '''')::uuid)',
            tab, case tab when 'organizations' then 'id' else 'organization_id' end);
        execute format('create policy worker on %I to ingress_worker using (true) with check (true)', tab);
        execute format('grant select, insert, update, delete on %I to ingress_worker', tab);
        execute format('grant select, insert, update, delete on %I to ingress_app', tab);
    end loop;
    foreach tab in array array['inbound_webhooks', 'unread_webhooks', 'inbound_dedup', 'quarantine', 'events', 'held_events', 'deliveries', 'delivery_queues',
                               'messages', 'attempts', 'message_statuses', 'callbacks', 'provider_health', 'contacts',
                               'contact_addresses', 'conversations'] loop
        execute format('create policy ingest on %I to ingress_ingest using (true) with check (true)', tab);
    end loop;
end $$;
alter table inbound_dedup_untimed enable row level security, force row level security;
alter table provider_apps enable row level security;
alter table provider_apps force row level security;
create policy worker on provider_apps to ingress_worker using (true) with check (true);
grant select, insert, update, delete on provider_apps to ingress_worker;
alter table retired_keys enable row level security;
alter table retired_keys force row level security;
create policy worker on retired_keys to ingress_worker using (true) with check (true);
grant select, insert, update on retired_keys to ingress_worker;
-- As restrictive policy: what belongs to somebody else stays unseen even by a query that forgot to say so.
create policy no_foreign_items on quarantine as restrictive to ingress_app using (not foreign_item);

-- Bodies may hold items of several organizations, and no request of the API needs them, nor what waits.
revoke all on inbound_webhooks, unread_webhooks, held_events from ingress_app;
grant select (organization_id, sequence, config_id) on unread_webhooks to ingress_app, ingress_ingest;

grant insert on inbound_webhooks, unread_webhooks, quarantine to ingress_ingest;
grant insert, select on inbound_dedup, events, held_events, deliveries, message_statuses to ingress_ingest;
grant insert, select, update on delivery_queues, contacts, contact_addresses, conversations to ingress_ingest;
grant select (organization_id, disabled_at) on callbacks to ingress_ingest;
grant select, update on messages, attempts to ingress_ingest;
grant select (organization_id, config_id, due_at, checked_at), update (due_at) on provider_health to ingress_ingest;
grant select on event_clock, event_marks, schema_version, schema_migrations to ingress_app, ingress_ingest, ingress_worker;
grant insert, delete on event_marks to ingress_worker;
grant update on event_clock to ingress_worker;
grant select, insert, update on retention_progress, retention_turn to ingress_worker;

revoke update, delete on provider_audit_log from ingress_app;
revoke update on provider_audit_log from ingress_worker;
create function refuse_change() returns trigger language plpgsql as
$$ begin raise exception 'provider_audit_log is append-only' using errcode = 'integrity_constraint_violation'; end $$;
create trigger append_only before update or truncate on provider_audit_log
    for each statement execute function refuse_change();
-- An entry goes after years, and only where the trail begins behind it by then: the seal of that says who did it.
create function refuse_deletion() returns trigger language plpgsql as $$
begin
    if old.at < now() - interval '366 days'
            and exists (select from organizations where id = old.organization_id and audit_gone >= old.id) then
        return old;
    end if;
    raise exception 'provider_audit_log is append-only' using errcode = 'integrity_constraint_violation';
end $$;
create trigger kept_for_years before delete on provider_audit_log for each row execute function refuse_deletion();
