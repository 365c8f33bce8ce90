//! From the text of a script to words and operators.

use std::{iter::Peekable, str::Chars};

/// A word before its variables are replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Word(pub(super) Vec<Piece>);

/// A part of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Text as it is.
    Text {
        /// The text.
        text: String,
        /// Whether any quote was around it.
        quoted: bool,
    },
    /// A variable or special parameter.
    Variable {
        /// Its name, or `?`, `$`, `#`, `@`, `*`, a digit.
        name: String,
        /// Whether its value stays one word.
        quoted: bool,
    },
}

/// Why a script is not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SyntaxError {
    /// A quote without its partner.
    #[error("syntax error: unterminated quoted string")]
    Unterminated,
    /// Something that cannot stand where it stands.
    #[error("syntax error: unexpected {0}")]
    Unexpected(String),
    /// Something that a real shell knows.
    #[error("syntax error: {0} is not supported by the shell of a demo container")]
    Unsupported(&'static str),
}

/// A token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token {
    Word(Word),
    Redirect(u8, Arrow),
    Pipe,
    And,
    Or,
    End,
}

/// Which redirection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrow {
    Read,
    Write,
    Append,
    Same,
}

/// The tokens of a script.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, SyntaxError> {
    let mut tokens = Vec::new();
    let mut letters = text.chars().peekable();
    while let Some(&letter) = letters.peek() {
        match letter {
            '\n' | ';' => {
                letters.next();
                tokens.push(Token::End);
            }
            letter if letter.is_whitespace() => {
                letters.next();
            }
            '#' => while letters.next_if(|letter| *letter != '\n').is_some() {},
            '|' => {
                letters.next();
                tokens.push(if letters.next_if_eq(&'|').is_some() { Token::Or } else { Token::Pipe });
            }
            '&' => {
                letters.next();
                if letters.next_if_eq(&'&').is_none() {
                    return Err(SyntaxError::Unsupported("\"&\" (a command in the background)"));
                }
                tokens.push(Token::And);
            }
            '(' | ')' => return Err(SyntaxError::Unsupported("a group in parentheses")),
            '<' | '>' => tokens.push(arrow(&mut letters, None)?),
            '0'..='2' => {
                let mut ahead = letters.clone();
                ahead.next();
                if matches!(ahead.peek(), Some('<' | '>')) {
                    letters = ahead;
                    tokens.push(arrow(&mut letters, letter.to_digit(10))?);
                } else {
                    tokens.push(Token::Word(word(&mut letters)?));
                }
            }
            _ => tokens.push(Token::Word(word(&mut letters)?)),
        }
    }
    Ok(tokens)
}

/// Reads `<`, `>`, `>>`, `>&`; `descriptor` is the number that stood before it.
fn arrow(letters: &mut Peekable<Chars<'_>>, descriptor: Option<u32>) -> Result<Token, SyntaxError> {
    let (default, arrow) = match letters.next() {
        Some('<') => match letters.peek() {
            Some('<') => return Err(SyntaxError::Unsupported("\"<<\"")),
            Some('&' | '>') => return Err(SyntaxError::Unsupported("that redirection")),
            _ => (0, Arrow::Read),
        },
        _ => match letters.peek() {
            Some('>') => {
                letters.next();
                (1, Arrow::Append)
            }
            Some('&') => {
                letters.next();
                (1, Arrow::Same)
            }
            _ => (1, Arrow::Write),
        },
    };
    let descriptor = match descriptor {
        Some(1) => 1,
        Some(2) => 2,
        Some(_) => 0,
        None => default,
    };
    Ok(Token::Redirect(descriptor, arrow))
}

fn word(letters: &mut Peekable<Chars<'_>>) -> Result<Word, SyntaxError> {
    let mut word = Word::default();
    while let Some(&letter) = letters.peek() {
        match letter {
            '|' | '&' | ';' | '<' | '>' | '(' | ')' => break,
            letter if letter.is_whitespace() => break,
            '\'' => {
                letters.next();
                word.push("", true);
                loop {
                    match letters.next() {
                        Some('\'') => break,
                        Some(letter) => word.push(letter.encode_utf8(&mut [0; 4]), true),
                        None => return Err(SyntaxError::Unterminated),
                    }
                }
            }
            '"' => {
                letters.next();
                double_quoted(letters, &mut word)?;
            }
            '\\' => {
                letters.next();
                match letters.next() {
                    Some('\n') => {}
                    Some(letter) => word.push(letter.encode_utf8(&mut [0; 4]), true),
                    None => word.push("\\", true),
                }
            }
            '$' => variable(letters, &mut word, false)?,
            '`' => return Err(SyntaxError::Unsupported("command substitution")),
            letter => {
                letters.next();
                word.push(letter.encode_utf8(&mut [0; 4]), false);
            }
        }
    }
    Ok(word)
}

fn double_quoted(letters: &mut Peekable<Chars<'_>>, word: &mut Word) -> Result<(), SyntaxError> {
    word.push("", true);
    loop {
        match letters.peek().copied() {
            None => return Err(SyntaxError::Unterminated),
            Some('"') => {
                letters.next();
                return Ok(());
            }
            Some('$') => variable(letters, word, true)?,
            Some('`') => return Err(SyntaxError::Unsupported("command substitution")),
            Some('\\') => {
                letters.next();
                match letters.next() {
                    Some('\n') => {}
                    Some(letter @ ('"' | '$' | '`' | '\\')) => {
                        word.push(letter.encode_utf8(&mut [0; 4]), true)
                    }
                    Some(letter) => {
                        word.push("\\", true);
                        word.push(letter.encode_utf8(&mut [0; 4]), true);
                    }
                    None => return Err(SyntaxError::Unterminated),
                }
            }
            Some(letter) => {
                letters.next();
                word.push(letter.encode_utf8(&mut [0; 4]), true);
            }
        }
    }
}

/// Reads what begins with `$`.
fn variable(letters: &mut Peekable<Chars<'_>>, word: &mut Word, quoted: bool) -> Result<(), SyntaxError> {
    letters.next();
    let name = match letters.peek().copied() {
        Some('(') => return Err(SyntaxError::Unsupported("command substitution")),
        Some('{') => {
            letters.next();
            let mut name = String::new();
            loop {
                match letters.next() {
                    Some('}') => break,
                    Some(letter) => name.push(letter),
                    None => return Err(SyntaxError::Unterminated),
                }
            }
            if !is_parameter(&name) {
                return Err(SyntaxError::Unsupported("that kind of ${…}"));
            }
            name
        }
        Some(letter @ ('?' | '$' | '#' | '@' | '*' | '0'..='9')) => {
            letters.next();
            letter.to_string()
        }
        Some(letter) if is_name_start(letter) => {
            let mut name = String::new();
            while let Some(letter) = letters.next_if(|letter| is_name_part(*letter)) {
                name.push(letter);
            }
            name
        }
        _ => {
            word.push("$", quoted);
            return Ok(());
        }
    };
    word.0.push(Piece::Variable { name, quoted });
    Ok(())
}

fn is_parameter(name: &str) -> bool {
    let mut letters = name.chars();
    match letters.next() {
        Some('?' | '$' | '#' | '@' | '*') => letters.next().is_none(),
        Some('0'..='9') => letters.all(|letter| letter.is_ascii_digit()),
        Some(letter) => is_name_start(letter) && letters.all(is_name_part),
        None => false,
    }
}

fn is_name_start(letter: char) -> bool {
    letter.is_ascii_alphabetic() || letter == '_'
}

fn is_name_part(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

impl Word {
    /// Its text, if nothing in it is quoted or a variable.
    pub(super) fn literal(&self) -> Option<&str> {
        match &self.0[..] {
            [Piece::Text { text, quoted: false }] => Some(text),
            _ => None,
        }
    }

    /// Splits `NAME=value`.
    pub(super) fn assignment(&self) -> Option<(String, Self)> {
        let Some((Piece::Text { text, quoted: false }, rest)) = self.0.split_first() else { return None };
        let (name, value) = text.split_once('=')?;
        let mut letters = name.chars();
        let is_name = letters.next().is_some_and(is_name_start) && letters.all(is_name_part);
        is_name.then(|| {
            let value = Piece::Text { text: value.to_owned(), quoted: true };
            (name.to_owned(), Self(std::iter::once(value).chain(rest.iter().cloned()).collect()))
        })
    }

    fn push(&mut self, more: &str, quote: bool) {
        match self.0.last_mut() {
            Some(Piece::Text { text, quoted }) if *quoted == quote => text.push_str(more),
            _ => self.0.push(Piece::Text { text: more.to_owned(), quoted: quote }),
        }
    }
}
