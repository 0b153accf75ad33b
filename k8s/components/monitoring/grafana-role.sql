-- What the boards' tables may read in the database: counts, states and names of organizations; no message, no person, no
-- secret, no address. As the schema's owner, after `ingress migrate`, and again after an upgrade:
--     psql "$DATABASE_OWNER_URL" -f grafana-role.sql
-- and once, for a login of Grafana's own:
--     create role grafana login password '…' in role ingress_boards;
--     alter role grafana set default_transaction_read_only = on;
--     alter role grafana set statement_timeout = '5s';

begin;
do $$
begin
    if not exists (select from pg_roles where rolname = 'ingress_boards') then
        create role ingress_boards nologin;
    end if;
end $$;

grant select (id, name, name_key, version, version_at) on organizations to ingress_boards;
grant select (organization_id, id, provider_type, name, state, broken_at) on whatsapp_provider_configs to ingress_boards;
grant select (organization_id, config_id, state, since, reason, checked_at, received_at, sent_at) on provider_health to ingress_boards;
grant select (organization_id, id, at, action, actor, provider, outcome, version) on provider_audit_log to ingress_boards;
grant select (organization_id, failing_since, consecutive_failures, paused_until, disabled_at, disabled_reason)
    on callbacks to ingress_boards;
grant select (organization_id, received_at, reason, state, foreign_item) on quarantine to ingress_boards;
grant select (organization_id, counted_at) on figures_progress to ingress_boards;
grant select (organization_id, minutes, since, tried, sent, fallbacks, received, errors) on provider_figures to ingress_boards;

-- Row-level security shows no row to who has no policy.
do $$
declare tab text;
begin
    foreach tab in array array['organizations', 'whatsapp_provider_configs', 'provider_health', 'provider_audit_log', 'callbacks',
                               'quarantine', 'figures_progress', 'provider_figures'] loop
        execute format('drop policy if exists boards on %I', tab);
        execute format('create policy boards on %I for select to ingress_boards using (true)', tab);
    end loop;
end $$;
commit;

-- Sessions and statements of others, for board 6: as a superuser, or who may grant it.
--     grant pg_read_all_stats to grafana;
