"""What a database is made of, as far as somebody can notice it."""

import asyncpg

# Columns in any order: what was added later stands last. Partitions come and go; what they are of says what they have.
OURS = """
with ours as (
    select c.oid, c.relname, c.relkind from pg_class c
    where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p')
        and (not c.relispartition or c.relname = 'inbound_dedup_untimed')
)"""


def _acl(column: str, default: str) -> str:
    """Who may do what; where nothing was granted, what is so by *default*."""
    return f"(select string_agg(acl::text, ' ' order by acl::text) from unnest(coalesce({column}, {default})) acl)"


_RELATION_ACL = _acl("relacl", "acldefault('r', relowner)")
_FUNCTION_ACL = _acl("proacl", "acldefault('f', proowner)")
_COLUMN_ACL = _acl("attacl", "'{}'")
PARTS = {
    "tables": f"""
        select relname, relkind, relrowsecurity, relforcerowsecurity, {_RELATION_ACL},
            pg_get_partkeydef(oid), pg_get_expr(relpartbound, oid), pg_get_userbyid(relowner), reloptions
        from ours join pg_class using (oid, relname, relkind)""",
    "columns": f"""
        select relname, attname, format_type(atttypid, atttypmod), attnotnull, attgenerated, attcollation, attstorage,
            attcompression, {_COLUMN_ACL}, pg_get_expr(adbin, adrelid)
        from ours join pg_attribute on attrelid = ours.oid left join pg_attrdef on adrelid = attrelid and adnum = attnum
        where attnum > 0 and not attisdropped""",
    "constraints": """
        select relname, conname, contype, condeferrable, condeferred, convalidated, coninhcount, conislocal,
            pg_get_constraintdef(c.oid)
        from ours join pg_constraint c on conrelid = ours.oid""",
    "indexes": """
        select relname, indexrelid::regclass::text, indisunique, indisprimary, indisvalid, pg_get_indexdef(indexrelid)
        from ours join pg_index on indrelid = oid""",
    "policies": """
        select relname, polname, polpermissive, polcmd, polroles::regrole[]::text, pg_get_expr(polqual, polrelid),
            pg_get_expr(polwithcheck, polrelid)
        from ours join pg_policy on polrelid = ours.oid""",
    "triggers": """
        select relname, tgname, tgenabled, pg_get_triggerdef(t.oid)
        from ours join pg_trigger t on tgrelid = ours.oid where not tgisinternal""",
    "functions": f"""
        select oid::regprocedure::text, pg_get_functiondef(oid), {_FUNCTION_ACL}, pg_get_userbyid(proowner)
        from pg_proc where pronamespace = current_schema()::regnamespace""",
    "other things": """
        select relname, relkind from pg_class
        where relnamespace = current_schema()::regnamespace and relkind not in ('r', 'p', 'i', 'I')""",
}


async def catalogue(connection: asyncpg.Connection) -> dict[str, set[str]]:
    """By kind, a line each."""
    return {
        kind: {str(tuple(row)) for row in await connection.fetch(OURS + statement)} for kind, statement in PARTS.items()
    }
