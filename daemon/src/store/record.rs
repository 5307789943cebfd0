//! Rows as they are carried from one database into another, whichever columns their table has. Not for queries that know
//! what they ask for: those take their columns by number.

use std::sync::Arc;

use rusqlite::types::Value;
use rusqlite::{Connection, Params};

/// A row of any table, by the names of its columns.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) columns: Arc<[String]>,
    pub(super) values: Vec<Value>,
}

impl Record {
    fn value(&self, column: &str) -> Option<&Value> {
        self.columns.iter().position(|name| name == column).map(|at| &self.values[at])
    }

    pub(super) fn text(&self, column: &str) -> Option<&str> {
        match self.value(column) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(super) fn blob(&self, column: &str) -> Option<&[u8]> {
        match self.value(column) {
            Some(Value::Blob(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// 0 where there is none; rows are numbered from 1.
    pub(super) fn number(&self, column: &str) -> i64 {
        match self.value(column) {
            Some(Value::Integer(number)) => *number,
            _ => 0,
        }
    }

    pub(super) fn set(&mut self, column: &str, value: impl Into<Value>) {
        if let Some(at) = self.columns.iter().position(|name| name == column) {
            self.values[at] = value.into();
        }
    }

    /// The row's number, the next free one where its own was set to NULL.
    pub(super) fn insert(&self, to: &Connection, table: &str) -> rusqlite::Result<i64> {
        let places = vec!["?"; self.columns.len()].join(", ");
        let columns = self.columns.join(", ");
        to.prepare_cached(&format!("INSERT INTO {table} ({columns}) VALUES ({places})"))?
            .execute(rusqlite::params_from_iter(&self.values))?;
        Ok(to.last_insert_rowid())
    }
}

/// Row by row: a table may be larger than memory.
pub(super) fn for_each(
    from: &Connection,
    sql: &str,
    params: impl Params,
    mut with: impl FnMut(&Record) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement = from.prepare_cached(sql)?;
    let columns: Arc<[String]> = statement.column_names().into_iter().map(String::from).collect();
    let mut rows = statement.query(params)?;
    while let Some(row) = rows.next()? {
        let values = (0..columns.len()).map(|at| row.get(at)).collect::<Result<_, _>>()?;
        with(&Record { columns: Arc::clone(&columns), values })?;
    }
    Ok(())
}
