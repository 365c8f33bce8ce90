//! From the text of a script to what is to be run.
//!
//! The grammar is the part of POSIX sh that people type into `kubectl exec`: lists (`;`, newline, `&&`, `||`),
//! pipelines, redirections, assignments, quotes and variables. What it does not know is refused by name, never
//! guessed.

use std::iter::Peekable;

use super::token::{Arrow, SyntaxError, Token, Word, tokens};

/// A parsed script: what to run, and on what condition.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Script(pub(super) Vec<(Condition, Pipeline)>);

/// When the next pipeline of a list runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// In any case (`;`).
    Always,
    /// If the last one succeeded (`&&`).
    Success,
    /// If the last one failed (`||`).
    Failure,
}

/// Commands that run at once, each reading what the one before writes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pipeline {
    /// Whether `!` turns success into failure and back.
    pub(super) negated: bool,
    /// At least one.
    pub(super) commands: Vec<Command>,
}

/// One command with its assignments and redirections.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Command {
    /// `NAME=value` before the command.
    pub(super) assignments: Vec<(String, Word)>,
    /// The command and its arguments.
    pub(super) words: Vec<Word>,
    /// In the order in which they were written.
    pub(super) redirections: Vec<Redirection>,
}

/// `<`, `>`, `>>`, `N>` and `N>&M`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Redirection {
    /// 0, 1 or 2.
    pub(super) descriptor: u8,
    /// From or to what.
    pub(super) target: Target,
}

/// What a descriptor is redirected to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A file to read.
    Read(Word),
    /// A file to replace.
    Write(Word),
    /// A file to write on at its end.
    Append(Word),
    /// What another descriptor goes to.
    Same(u8),
}

/// Parses `text`.
pub(super) fn parse(text: &str) -> Result<Script, SyntaxError> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::token::Piece, *};

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
