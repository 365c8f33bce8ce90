//! Variables, and what words become with them.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{
    Shell, TerminalSize, Trouble,
    token::{Piece, Word},
};

/// How much a shell's variables may hold, names and values, in bytes.
const MOST_VARIABLES: usize = 256 << 10;
impl Shell {
    /// Sets variable `name`.
    pub(super) fn set(&mut self, name: &str, value: String) -> Result<(), Trouble> {
        let others: usize = self
            .variables
            .iter()
            .filter(|(key, _)| *key != name)
            .map(|(key, value)| key.len() + value.len())
            .sum();
        if others + name.len() + value.len() > MOST_VARIABLES {
            return Err(Trouble::Variables(name.to_owned()));
        }
        self.variables.insert(name.to_owned(), value);
        Ok(())
    }

    /// Sets variable `name` and hands it on to commands.
    pub(super) fn export(&mut self, name: &str, value: String) -> Result<(), Trouble> {
        self.set(name, value)?;
        self.exported.insert(name.to_owned());
        Ok(())
    }

    /// The fields that `word` becomes; each byte of them is taken from `room`.
    pub(super) fn expand(&self, word: &Word, room: &mut usize) -> Result<Vec<String>, Trouble> {
        let mut fields: Vec<String> = Vec::new();
        // What is being put together; `None` between fields.
        let mut field: Option<String> = None;
        let mut put = |field: &mut Option<String>, text: &str| {
            *room = room.checked_sub(text.len() + 1).ok_or(Trouble::Arguments)?;
            field.get_or_insert_default().push_str(text);
            Ok::<(), Trouble>(())
        };
        for (index, piece) in word.0.iter().enumerate() {
            match piece {
                Piece::Text { text, quoted } => {
                    if index == 0 && !quoted && (text == "~" || text.starts_with("~/")) {
                        put(&mut field, &self.variable("HOME"))?;
                        put(&mut field, &text[1..])?;
                    } else {
                        put(&mut field, text)?;
                    }
                }
                Piece::Variable { name, quoted: true } => put(&mut field, &self.variable(name))?,
                Piece::Variable { name, quoted: false } => {
                    let value = self.variable(name);
                    if value.starts_with(char::is_whitespace) {
                        fields.extend(field.take());
                    }
                    for (index, part) in value.split_whitespace().enumerate() {
                        if index > 0 {
                            fields.extend(field.take());
                        }
                        put(&mut field, part)?;
                    }
                    if value.ends_with(char::is_whitespace) {
                        fields.extend(field.take());
                    }
                }
            }
        }
        fields.extend(field);
        Ok(fields)
    }

    pub(super) fn variable(&self, name: &str) -> String {
        let size = |pick: fn(&TerminalSize) -> &AtomicU32| {
            self.terminal.as_ref().map(|terminal| pick(&terminal.size).load(Ordering::Relaxed).to_string())
        };
        match name {
            "?" => self.status.to_string(),
            "$" => "1".to_owned(),
            "#" => (self.arguments.len().saturating_sub(1)).to_string(),
            "@" | "*" => self.arguments.get(1..).unwrap_or_default().join(" "),
            "PWD" => self.directory.clone(),
            "COLUMNS" => size(|size| &size.columns).unwrap_or_default(),
            "LINES" => size(|size| &size.lines).unwrap_or_default(),
            _ => match name.parse::<usize>() {
                Ok(index) => self.arguments.get(index).cloned().unwrap_or_default(),
                Err(_) => self.variables.get(name).cloned().unwrap_or_default(),
            },
        }
    }
}
