//! Tables as the server makes them for `kubectl get`.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

/// A `meta.k8s.io/v1` Table. Its [`Display`](fmt::Display) is what kubectl would print: aligned columns without those
/// of `-o wide`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    /// The columns.
    pub column_definitions: Vec<Column>,
    /// The rows; absent in the document means none.
    #[serde(default)]
    pub rows: Vec<Row>,
}

/// A column of a [`Table`].
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Column {
    /// Its name, in the server's spelling.
    pub name: String,
    /// 0 is always shown; anything else only with `-o wide`.
    #[serde(default)]
    pub priority: i32,
}

/// A row of a [`Table`].
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Row {
    /// One value for each column.
    pub cells: Vec<Value>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<usize> = (0..self.column_definitions.len())
            .filter(|index| self.column_definitions[*index].priority == 0)
            .collect();
        let head = shown.iter().map(|index| self.column_definitions[*index].name.to_uppercase()).collect();
        let body =
            self.rows.iter().map(|row| shown.iter().map(|index| text(row.cells.get(*index))).collect());
        let lines: Vec<Vec<String>> = std::iter::once(head).chain(body).collect();
        for line in &lines {
            let mut gap = 0;
            for (column, cell) in line.iter().enumerate() {
                write!(f, "{:gap$}{cell}", "")?;
                let width = lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
                gap = width + 3 - cell.chars().count();
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn text(cell: Option<&Value>) -> String {
    match cell {
        None | Some(Value::Null) => "<none>".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_aligned_and_wide_ones_left_out() {
        let table: Table = serde_json::from_value(json!({
            "kind": "Table",
            "columnDefinitions": [
                {"name": "Name", "type": "string", "priority": 0},
                {"name": "Restarts", "type": "integer"},
                {"name": "Node", "type": "string", "priority": 1},
                {"name": "Age", "type": "string", "priority": 0},
            ],
            "rows": [
                {"cells": ["web-0", 0, "n1", "3m"], "object": {}},
                {"cells": ["a-much-longer-name", 12, "n2", null]},
            ],
        }))
        .unwrap();
        assert_eq!(
            table.to_string(),
            "NAME                 RESTARTS   AGE\n\
             web-0                0          3m\n\
             a-much-longer-name   12         <none>\n"
        );
    }
}
