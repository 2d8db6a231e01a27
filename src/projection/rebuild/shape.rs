//! Creates a table of the same shape as a live one: columns, constraints, indexes, owner, rights. Also finds what prevents the exchange of
//! the two.

use tokio_postgres::types::Oid;

use crate::{
    database::{Connection, names::Names, rights},
    projection::{schema, table::Table},
};

/// What prevents the exchange of a table (`$1`): features that the new table would lack, and rights that this role lacks.
const OBSTACLES: &str = "
    SELECT 'it is no ordinary table' FROM pg_class WHERE oid = $1 AND (relkind <> 'r' OR relpersistence <> 'p')
    UNION ALL
    SELECT 'it is a partition, or inherits' FROM pg_class c WHERE oid = $1 AND EXISTS (
        SELECT FROM pg_inherits WHERE inhrelid = c.oid OR inhparent = c.oid
    )
    UNION ALL
    SELECT 'the role ' || current_user || ' is not its owner' FROM pg_class WHERE oid = $1 AND NOT pg_has_role(relowner, 'USAGE')
    UNION ALL
    SELECT 'the role ' || current_user || ' lacks CREATE on the schema ' || n.nspname
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1 AND NOT has_schema_privilege(n.oid, 'CREATE')
    UNION ALL
    SELECT 'it has row-level security' FROM pg_class c WHERE oid = $1
        AND (relrowsecurity OR EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid))
    UNION ALL
    SELECT 'it has the rule ' || rulename FROM pg_rewrite WHERE ev_class = $1
    UNION ALL
    SELECT 'its column ' || attname || ' counts by itself' FROM pg_attribute WHERE attrelid = $1 AND attidentity <> ''
    UNION ALL
    SELECT 'it owns the ' || pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d JOIN pg_class s ON s.oid = d.objid
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND s.relkind = 'S'
    UNION ALL
    SELECT 'it is in the publication ' || p.pubname FROM pg_publication_tables p
    JOIN pg_class c ON c.relname = p.tablename JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = p.schemaname
    WHERE c.oid = $1
    UNION ALL
    SELECT DISTINCT pg_describe_object(d.classid, d.objid, 0) || ' refers to it'
    FROM pg_class t
    JOIN pg_depend d ON d.deptype = 'n' AND (
        d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid
        OR d.refclassid = 'pg_type'::regclass AND d.refobjid IN (SELECT y.oid FROM pg_type y WHERE t.reltype IN (y.oid, y.typelem))
    )
    LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    LEFT JOIN pg_class v ON v.oid = r.ev_class
    WHERE t.oid = $1 AND d.classid NOT IN ('pg_constraint'::regclass, 'pg_attrdef'::regclass, 'pg_trigger'::regclass)
        AND v.relkind IS DISTINCT FROM 'v'
    UNION ALL
    SELECT DISTINCT 'the role ' || current_user || ' does not own the view ' || v.oid::regclass
    FROM pg_depend d JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid JOIN pg_class v ON v.oid = r.ev_class
    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.deptype = 'n' AND NOT pg_has_role(v.relowner, 'USAGE')
    UNION ALL
    SELECT 'the role ' || current_user || ' does not own ' || f.conrelid::regclass || ', which refers to it'
    FROM pg_constraint f JOIN pg_class c ON c.oid = f.conrelid
    WHERE f.contype = 'f' AND f.confrelid = $1 AND NOT pg_has_role(c.relowner, 'USAGE')";

/// The part of a table's shape that is copied at the beginning. A later change of it would be lost.
pub(super) const SHAPE: &str = "
    SELECT concat_ws(E'\\n',
        (SELECT string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated,
             pg_get_expr(d.adbin, d.adrelid)), E'\\n' ORDER BY a.attnum)
         FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped),
        (SELECT string_agg(conname || ' ' || pg_get_constraintdef(oid), E'\\n' ORDER BY conname)
         FROM pg_constraint WHERE conrelid = $1 AND contype IN ('p', 'u', 'x', 'c')),
        (SELECT string_agg(pg_get_indexdef(indexrelid), E'\\n' ORDER BY indexrelid)
         FROM pg_index WHERE indrelid = $1 AND indisvalid)
    )";

/// The statements that copy replica identity, comment, owner and rights of a table (`$1`) to another one (`$2`, in the schema `$3`). They
/// first revoke the default rights of the role that created it.
const DRESS: &str = "
    SELECT statement FROM (
        SELECT 1, format('ALTER TABLE %s REPLICA IDENTITY %s', $2::text, CASE relreplident WHEN 'd' THEN 'DEFAULT'
            WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' ELSE 'USING INDEX ' || quote_ident((
                SELECT x.relname FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid AND i.indisreplident
            )) END)
        FROM pg_class c WHERE oid = $1
        UNION ALL
        SELECT 1, format('COMMENT ON TABLE %s IS %L', $2::text, obj_description($1, 'pg_class')) WHERE obj_description($1, 'pg_class') IS NOT NULL
        UNION ALL
        SELECT 2, format('REVOKE ALL ON %s FROM %s', $2::text, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
        FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = $2::regclass AND a.grantee <> c.relowner
        UNION ALL
        SELECT 3, format('GRANT CREATE, USAGE ON SCHEMA %I TO %I; ALTER TABLE %s OWNER TO %I', $3::text, pg_get_userbyid(relowner),
            $2::text, pg_get_userbyid(relowner))
        FROM pg_class WHERE oid = $1 AND pg_get_userbyid(relowner) <> current_user
        UNION ALL
        SELECT 4, format('GRANT %s ON %s TO %s%s', a.privilege_type, $2::text,
            CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
            CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = $1 AND a.grantee <> c.relowner
        UNION ALL
        SELECT 4, format('GRANT %s (%I) ON %s TO %s%s', x.privilege_type, a.attname, $2::text,
            CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
            CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM pg_attribute a, aclexplode(a.attacl) x WHERE a.attrelid = $1 AND NOT a.attisdropped
    ) AS d (step, statement) ORDER BY step";

/// Finds a table by its schema (`$1`) and its name (`$2`).
pub(super) const FIND: &str = "
    SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')";

/// The `oid` of a table; none if it does not exist.
///
/// # Errors
/// If PostgreSQL does not answer.
pub(super) async fn oid(connection: &Connection, schema: &str, name: &str) -> anyhow::Result<Option<Oid>> {
    let row = connection.query_opt(FIND, &[&schema, &name]).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

/// What prevents the exchange of this table; empty if nothing does.
///
/// # Errors
/// If PostgreSQL does not answer.
pub(super) async fn obstacles(connection: &Connection, table: Oid) -> anyhow::Result<Vec<String>> {
    let rows = connection.query(OBSTACLES, &[&table]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// The shape as text, for comparisons.
///
/// # Errors
/// If PostgreSQL does not answer.
pub(super) async fn fingerprint(connection: &Connection, table: Oid) -> anyhow::Result<String> {
    Ok(connection.query_one(SHAPE, &[&table]).await?.try_get(0)?)
}

/// The columns that can be written.
///
/// # Errors
/// If PostgreSQL does not answer.
pub(super) async fn columns(connection: &Connection, table: Oid) -> anyhow::Result<Vec<String>> {
    let sql = "SELECT attname FROM pg_attribute
               WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum";
    let rows = connection.query(sql, &[&table]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Whether a new table is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// It will replace the live one.
    ForGood,
    /// It is dropped at the end of the run, so PostgreSQL need not log its rows.
    ForNow,
}

/// A live table, and the schema for a new one of its shape.
pub(super) struct Copied<'a> {
    pub(super) connection: &'a Connection,
    pub(super) table: &'static Table,
    /// That of the live one.
    pub(super) oid: Oid,
    /// The schema of the new one.
    pub(super) schema: &'a str,
}

impl Copied<'_> {
    fn names(&self) -> &Names {
        self.connection.names()
    }

    /// Creates the new one, empty, with its constraints and the indexes by which projections find rows.
    ///
    /// # Errors
    /// If PostgreSQL refuses.
    pub(super) async fn make(&self, kept: Kept) -> anyhow::Result<()> {
        let (live, made) = (self.table.live(self.names()), self.table.within(self.schema));
        let sql = "SELECT coalesce('WITH (' || array_to_string(c.reloptions, ', ') || ')', '') || coalesce(' TABLESPACE ' || quote_ident(s.spcname), '')
                   FROM pg_class c LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace WHERE c.oid = $1";
        let options: String = self.connection.query_one(sql, &[&self.oid]).await?.try_get(0)?;
        let make = format!(
            "CREATE {} TABLE {made} (LIKE {live} INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION
                 INCLUDING COMMENTS INCLUDING STATISTICS) {options}",
            if kept == Kept::ForNow { "UNLOGGED" } else { "" },
        );
        self.connection.batch_execute(&make).await?;
        let sql = "SELECT format('ALTER TABLE %s ADD CONSTRAINT %I %s', $2::text, conname, pg_get_constraintdef(oid))
                   FROM pg_constraint WHERE conrelid = $1 AND contype IN ('p', 'u', 'x', 'c') ORDER BY contype DESC, conname";
        self.run(sql, &made).await?;
        self.index(true).await
    }

    /// Creates the other indexes, which only readers need; called when the rows are there.
    ///
    /// # Errors
    /// If PostgreSQL refuses.
    pub(super) async fn index_for_readers(&self) -> anyhow::Result<()> {
        self.index(false).await
    }

    /// Makes the statistics.
    ///
    /// # Errors
    /// If PostgreSQL refuses.
    pub(super) async fn analyse(&self) -> anyhow::Result<()> {
        let made = self.table.within(self.schema);
        Ok(self.connection.batch_execute(&format!("ANALYZE {made}")).await?)
    }

    /// Creates the indexes that belong to no constraint, with the same names: an index is in its table's schema, so names do not collide.
    /// Indexes of the platform's tables for the projections have names that begin with `hub_`.
    async fn index(&self, for_projections: bool) -> anyhow::Result<()> {
        let sql = "SELECT replace(pg_get_indexdef(i.indexrelid), ' ON ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname) || ' USING ',
                       ' ON ' || $2::text || ' USING ')
                   FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                   JOIN pg_class x ON x.oid = i.indexrelid
                   WHERE i.indrelid = $1 AND i.indisvalid AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid AND contype IN ('p', 'u', 'x'))";
        let sql = format!("{sql} AND (x.relname LIKE 'hub\\_%') = {for_projections} ORDER BY i.indexrelid");
        self.run(&sql, &self.table.within(self.schema)).await
    }

    /// Gives the new one the owner, the rights and the comment.
    ///
    /// # Errors
    /// If PostgreSQL refuses.
    pub(super) async fn dress(&self) -> anyhow::Result<()> {
        let made = self.table.within(self.schema);
        let rows = self.connection.query(DRESS, &[&self.oid, &made, &self.schema]).await?;
        for row in rows {
            self.connection.batch_execute(row.try_get(0)?).await?;
        }
        Ok(())
    }

    async fn run(&self, statements: &str, made: &str) -> anyhow::Result<()> {
        for row in self.connection.query(statements, &[&self.oid, &made]).await? {
            self.connection.batch_execute(row.try_get(0)?).await?;
        }
        Ok(())
    }
}

/// Creates a missing table, as the migrations created it. Rights that were granted on it are lost.
///
/// # Errors
/// If PostgreSQL refuses.
pub(super) async fn make_missing(connection: &Connection, table: &Table) -> anyhow::Result<()> {
    let statements = statements_about(table);
    anyhow::ensure!(!statements.is_empty(), "no migration makes {}", table.name);
    connection.batch_execute(&statements).await?;
    Ok(())
}

/// The statements of the migrations that create a table and its indexes.
fn statements_about(table: &Table) -> String {
    let name = if table.is_own() {
        table.name.to_owned()
    } else {
        format!("{{platform}}.{}", table.bare())
    };
    let (creates, indexes) = (format!(" {name} ("), format!(" ON {name} ("));
    let mut statements = String::new();
    for text in schema::texts() {
        let code: Vec<_> = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("--"))
            .collect();
        for statement in code.join("\n").split(";\n").map(str::trim) {
            let head = statement.lines().next().unwrap_or_default();
            if head.starts_with("CREATE TABLE") && head.contains(&creates)
                || head.starts_with("CREATE INDEX") && head.contains(&indexes)
            {
                statements += &format!("{statement};\n");
            }
        }
    }
    statements
}

/// Whether PostgreSQL refused because a right is missing.
pub(super) fn lacks_a_right(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<crate::database::Error>()
        .and_then(crate::database::Error::code)
        == Some(rights::MISSING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::table;

    #[test]
    fn the_migrations_say_how_each_table_is_made() {
        for table in table::all() {
            let statements = statements_about(table);
            let tables = statements.matches("CREATE TABLE").count();
            assert_eq!(tables, 1, "{}: {statements}", table.name);
            // `indexes` creates those of the platform's tables.
            let is_indexed = statements.contains("CREATE INDEX");
            assert!(table.is_own() || !is_indexed, "{}: {statements}", table.name);
        }
        let orders = Table::of("hub.orders").map(statements_about).unwrap_or_default();
        assert_eq!(orders.matches("CREATE INDEX").count(), 10, "{orders}");
    }
}
