//! From the text of a script to what is to be run.
//!
//! The grammar is the part of POSIX sh that people type into `kubectl exec`: lists (`;`, newline, `&&`, `||`),
//! pipelines, redirections, assignments, quotes and variables. What it does not know is refused by name, never
//! guessed.

use std::{iter::Peekable, str::Chars};

/// A parsed script: what to run, and on what condition.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Script(pub(crate) Vec<(Condition, Pipeline)>);

/// When the next pipeline of a list runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// In any case (`;`).
    Always,
    /// If the last one succeeded (`&&`).
    Success,
    /// If the last one failed (`||`).
    Failure,
}

/// Commands that run at once, each reading what the one before writes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pipeline {
    /// Whether `!` turns success into failure and back.
    pub(crate) negated: bool,
    /// At least one.
    pub(crate) commands: Vec<Command>,
}

/// One command with its assignments and redirections.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Command {
    /// `NAME=value` before the command.
    pub(crate) assignments: Vec<(String, Word)>,
    /// The command and its arguments.
    pub(crate) words: Vec<Word>,
    /// In the order in which they were written.
    pub(crate) redirections: Vec<Redirection>,
}

/// `<`, `>`, `>>`, `N>` and `N>&M`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Redirection {
    /// 0, 1 or 2.
    pub(crate) descriptor: u8,
    /// From or to what.
    pub(crate) target: Target,
}

/// What a descriptor is redirected to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A file to read.
    Read(Word),
    /// A file to replace.
    Write(Word),
    /// A file to write on at its end.
    Append(Word),
    /// What another descriptor goes to.
    Same(u8),
}

/// A word before its variables are replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Word(pub(crate) Vec<Piece>);

/// A part of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
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
pub(crate) enum SyntaxError {
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

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(Word),
    Redirect(u8, Arrow),
    Pipe,
    And,
    Or,
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrow {
    Read,
    Write,
    Append,
    Same,
}

/// Parses `text`.
pub(crate) fn parse(text: &str) -> Result<Script, SyntaxError> {
    let mut tokens = tokens(text)?.into_iter().peekable();
    let mut script = Script::default();
    let mut condition = Condition::Always;
    loop {
        match tokens.peek() {
            None if condition == Condition::Always => return Ok(script),
            None => return Err(SyntaxError::Unexpected("end of file".to_owned())),
            // Newlines may follow `&&`; a lone `;` is forgiven.
            Some(Token::End) => {
                tokens.next();
                continue;
            }
            Some(_) => {}
        }
        script.0.push((condition, pipeline(&mut tokens)?));
        condition = match tokens.next() {
            None | Some(Token::End) => Condition::Always,
            Some(Token::And) => Condition::Success,
            Some(Token::Or) => Condition::Failure,
            Some(other) => return Err(unexpected(&other)),
        };
    }
}

fn pipeline(tokens: &mut Peekable<impl Iterator<Item = Token>>) -> Result<Pipeline, SyntaxError> {
    let mut pipeline = Pipeline::default();
    if let Some(Token::Word(word)) = tokens.peek()
        && word.literal() == Some("!")
    {
        tokens.next();
        pipeline.negated = true;
    }
    loop {
        pipeline.commands.push(command(tokens)?);
        if tokens.peek() != Some(&Token::Pipe) {
            return Ok(pipeline);
        }
        tokens.next();
    }
}

fn command(tokens: &mut Peekable<impl Iterator<Item = Token>>) -> Result<Command, SyntaxError> {
    let mut command = Command::default();
    while let Some(token) = tokens.next_if(|token| matches!(token, Token::Word(_) | Token::Redirect(..))) {
        match token {
            Token::Word(word) => {
                if command.words.is_empty() {
                    if let Some(assignment) = word.assignment() {
                        command.assignments.push(assignment);
                        continue;
                    }
                    refuse_keyword(&word)?;
                }
                command.words.push(word);
            }
            Token::Redirect(descriptor, arrow) => {
                let word = match tokens.next() {
                    Some(Token::Word(word)) => word,
                    Some(other) => return Err(unexpected(&other)),
                    None => return Err(SyntaxError::Unexpected("end of file".to_owned())),
                };
                let target = match arrow {
                    Arrow::Read => Target::Read(word),
                    Arrow::Write => Target::Write(word),
                    Arrow::Append => Target::Append(word),
                    Arrow::Same => match word.literal() {
                        Some("1") => Target::Same(1),
                        Some("2") => Target::Same(2),
                        _ => return Err(SyntaxError::Unsupported("redirection to that descriptor")),
                    },
                };
                command.redirections.push(Redirection { descriptor, target });
            }
            _ => {}
        }
    }
    if command == Command::default() {
        return Err(match tokens.next() {
            Some(token) => unexpected(&token),
            None => SyntaxError::Unexpected("end of file".to_owned()),
        });
    }
    Ok(command)
}

fn refuse_keyword(word: &Word) -> Result<(), SyntaxError> {
    match word.literal() {
        Some("if" | "then" | "else" | "elif" | "fi") => Err(SyntaxError::Unsupported("\"if\"")),
        Some("while" | "until" | "do" | "done") => Err(SyntaxError::Unsupported("\"while\"")),
        Some("for") => Err(SyntaxError::Unsupported("\"for\"")),
        Some("case" | "esac") => Err(SyntaxError::Unsupported("\"case\"")),
        Some("{" | "}") => Err(SyntaxError::Unsupported("a group in braces")),
        _ => Ok(()),
    }
}

fn unexpected(token: &Token) -> SyntaxError {
    let text = match token {
        Token::Word(_) => "word",
        Token::Redirect(..) => "redirection",
        Token::Pipe => "\"|\"",
        Token::And => "\"&&\"",
        Token::Or => "\"||\"",
        Token::End => "newline or \";\"",
    };
    SyntaxError::Unexpected(text.to_owned())
}

impl Word {
    /// Its text, if nothing in it is quoted or a variable.
    fn literal(&self) -> Option<&str> {
        match &self.0[..] {
            [Piece::Text { text, quoted: false }] => Some(text),
            _ => None,
        }
    }

    /// Splits `NAME=value`.
    fn assignment(&self) -> Option<(String, Self)> {
        let Some((Piece::Text { text, quoted: false }, rest)) = self.0.split_first() else { return None };
        let (name, value) = text.split_once('=')?;
        let mut letters = name.chars();
        let is_name = letters.next().is_some_and(is_name_start) && letters.all(is_name_part);
        is_name.then(|| {
            let value = Piece::Text { text: value.to_owned(), quoted: true };
            (name.to_owned(), Self(std::iter::once(value).chain(rest.iter().cloned()).collect()))
        })
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, SyntaxError> {
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
    fn push(&mut self, more: &str, quote: bool) {
        match self.0.last_mut() {
            Some(Piece::Text { text, quoted }) if *quoted == quote => text.push_str(more),
            _ => self.0.push(Piece::Text { text: more.to_owned(), quoted: quote }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str, quoted: bool) -> Piece {
        Piece::Text { text: text.to_owned(), quoted }
    }

    #[test]
    fn lists_pipelines_and_redirections_are_told_apart() {
        let script =
            parse("A=1 cat <in | wc -l >>out 2>&1 && ! true || echo no; echo end # not this").unwrap();
        let conditions: Vec<Condition> = script.0.iter().map(|(condition, _)| *condition).collect();
        assert_eq!(
            conditions,
            [Condition::Always, Condition::Success, Condition::Failure, Condition::Always]
        );
        let first = &script.0[0].1.commands;
        assert_eq!(first.len(), 2);
        assert_eq!(first[0].assignments[0].0, "A");
        assert_eq!(
            first[0].redirections,
            [Redirection { descriptor: 0, target: Target::Read(Word(vec![text("in", false)])) }]
        );
        assert_eq!(
            first[1].redirections,
            [
                Redirection { descriptor: 1, target: Target::Append(Word(vec![text("out", false)])) },
                Redirection { descriptor: 2, target: Target::Same(1) },
            ]
        );
        assert!(script.0[1].1.negated);
        assert_eq!(script.0[3].1.commands[0].words.len(), 2);
    }

    #[test]
    fn quotes_protect_and_variables_keep_their_quoting() {
        let script = parse(r#"echo 'a $b' "c $d\"" e\ f${g}"#).unwrap();
        assert_eq!(
            script.0[0].1.commands[0].words[1..],
            [
                Word(vec![text("a $b", true)]),
                Word(vec![
                    text("c ", true),
                    Piece::Variable { name: "d".to_owned(), quoted: true },
                    text("\"", true)
                ]),
                Word(vec![
                    text("e", false),
                    text(" ", true),
                    text("f", false),
                    Piece::Variable { name: "g".to_owned(), quoted: false }
                ]),
            ]
        );
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (script, message) in [
            ("echo 'a", "unterminated"),
            ("echo a | ", "end of file"),
            ("| a", "\"|\""),
            ("a && ", "end of file"),
            ("echo $(date)", "command substitution"),
            ("while true; do date; done", "\"while\""),
            ("sleep 5 &", "background"),
            ("(echo a)", "parentheses"),
            ("cat <<EOF", "<<"),
            ("echo >", "end of file"),
        ] {
            let error = parse(script).unwrap_err().to_string();
            assert!(error.contains(message), "{script}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(script in "[a-c \\n'\"$(){}<>|&;#\\\\=!0-3]{0,40}") {
            let _ = parse(&script);
        }
    }
}
