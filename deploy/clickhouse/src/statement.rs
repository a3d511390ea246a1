//! What kind of statement a text is, as far as this server must know before the engine sees it:
//! where an `INSERT`'s data begins, whether a result can be streamed, and in which format.
//!
//! This is a look at the words outside brackets, not a parser: the engine parses, and every
//! error about the statement itself is the engine's. A text this module cannot place runs as a plain
//! statement.

use std::iter::Peekable;

use super::{
    error::{Exception, code},
    forbidden,
    lexer::{Kind, Token, lexer},
};

/// A statement, ready to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// `INSERT … FORMAT x` or `INSERT … VALUES`: data follows.
    Insert {
        /// The statement up to its `FORMAT` or `VALUES`.
        sql: String,
        /// The data's format.
        format: String,
        /// Where in the text the data begins.
        data_offset: usize,
    },
    /// A `SELECT`, whose result the engine can give block by block.
    Select {
        /// The whole text.
        sql: String,
        /// The text's own `FORMAT`, if it has one.
        format: Option<String>,
    },
    /// Anything else: its result is small or empty and comes whole.
    Plain {
        /// The whole text.
        sql: String,
        /// The text's own `FORMAT`, if it has one.
        format: Option<String>,
    },
}

impl Statement {
    /// Looks at a text. It refuses what the HTTP interface must not run: several statements at once, and what stands in
    /// [`forbidden`].
    pub fn parse(text: &str) -> Result<Self, Exception> {
        let (tokens, insert) = read(text);
        forbidden::refuse(&tokens)?;
        refuse_several(&tokens)?;
        if let Some(insert) = insert {
            return Ok(insert);
        }
        let first = tokens.iter().find(|token| !token.is_symbol('('));
        let format = trailing_format(&tokens).map(str::to_owned);
        let sql = text.to_owned();
        let selects = first.is_some_and(|t| t.is_word("SELECT") || t.is_word("WITH") || t.is_word("FROM"));
        Ok(if selects { Self::Select { sql, format } } else { Self::Plain { sql, format } })
    }

    /// Its text, without an insert's data.
    pub fn text(&self) -> &str {
        match self {
            Self::Insert { sql, .. } | Self::Select { sql, .. } | Self::Plain { sql, .. } => sql,
        }
    }

    /// Refuses what somebody who only reads may not run.
    pub fn refuse_changes(&self) -> Result<(), Exception> {
        forbidden::refuse_changes(&lexer(self.text()).collect::<Vec<_>>())
    }
}

/// Whether a text begins like an `INSERT`, so that its data may follow it in the body.
pub fn begins_insert(text: &str) -> bool {
    lexer(text).next().is_some_and(|token| token.is_word("INSERT"))
}

/// The tokens of what the engine will read as SQL, and the `INSERT` with data, if it is one: behind its `VALUES` or `FORMAT
/// name` there are no tokens, as its data would be noise. Of anything else, `INSERT … SELECT` too, they are all there are.
fn read(text: &str) -> (Vec<Token<'_>>, Option<Statement>) {
    let mut reader = Reader { rest: lexer(text).peekable(), tokens: Vec::new() };
    let insert = reader.insert(text);
    let mut tokens = reader.tokens;
    if insert.is_none() {
        tokens.extend(reader.rest);
    }
    (tokens, insert)
}

/// Reads on and keeps what it has read.
struct Reader<'t, I: Iterator<Item = Token<'t>>> {
    rest: Peekable<I>,
    tokens: Vec<Token<'t>>,
}

impl<'t, I: Iterator<Item = Token<'t>>> Reader<'t, I> {
    fn next_if(&mut self, is: impl FnOnce(&Token<'t>) -> bool) -> Option<Token<'t>> {
        let token = self.rest.next_if(is)?;
        self.tokens.push(token);
        Some(token)
    }

    /// The `INSERT` that carries data; `None` for `INSERT … SELECT` and whatever else the engine runs alone.
    fn insert(&mut self, text: &'t str) -> Option<Statement> {
        self.next_if(|token| token.is_word("INSERT"))?;
        for optional in ["INTO", "TABLE", "FUNCTION"] {
            self.next_if(|token| token.is_word(optional));
        }
        // The table's name, so that a table called `values` or `format` is not taken for the keyword.
        let mut before = self.next_if(|_| true)?;
        while self.next_if(|token| token.is_symbol('.')).is_some() {
            before = self.next_if(|_| true)?;
        }
        loop {
            let token = self.next_if(|_| true)?;
            if token.depth == 0 {
                if token.is_word("SELECT") || token.is_word("WITH") {
                    return None;
                }
                let data = if token.is_word("VALUES") {
                    Some(("Values", token.end()))
                } else if token.is_word("FORMAT") {
                    self.next_if(|name| name.kind == Kind::Word)
                        .map(|name| (name.text, after_format(text, name.end())))
                } else {
                    None
                };
                if let Some((format, data_offset)) = data {
                    let sql = text[..before.end()].to_owned();
                    return Some(Statement::Insert { sql, format: format.to_owned(), data_offset });
                }
            }
            before = token;
        }
    }
}

/// Data begins after the format's name, the blanks behind it and one line end.
fn after_format(text: &str, name_end: usize) -> usize {
    let rest = &text[name_end..];
    let mut data = rest.trim_start_matches([' ', '\t', '\x0c', ';']);
    data = data.strip_prefix('\r').unwrap_or(data);
    data = data.strip_prefix('\n').unwrap_or(data);
    name_end + (rest.len() - data.len())
}

/// The statement's own output format: the last `FORMAT name` outside brackets.
fn trailing_format<'t>(tokens: &[Token<'t>]) -> Option<&'t str> {
    let outer: Vec<&Token<'_>> = tokens.iter().filter(|token| token.depth == 0).collect();
    let at = outer.windows(2).rposition(|pair| pair[0].is_word("FORMAT") && pair[1].kind == Kind::Word)?;
    // A column may be called `format`: what follows the clause can only be SETTINGS, a semicolon or nothing.
    let ends = outer.get(at + 2).is_none_or(|token| token.is_word("SETTINGS") || token.is_symbol(';'));
    ends.then(|| tokens.iter().find(|token| token.start == outer[at + 1].start).map(|token| token.text))?
}

fn refuse_several(tokens: &[Token<'_>]) -> Result<(), Exception> {
    let mut after = tokens.iter().skip_while(|token| !token.is_symbol(';')).skip_while(|t| t.is_symbol(';'));
    match after.next() {
        None => Ok(()),
        Some(token) => Err(Exception::new(
            code::SYNTAX_ERROR,
            "SYNTAX_ERROR",
            format_args!(
                "Syntax error (Multi-statements are not allowed): failed at position {} ({})",
                token.start + 1,
                token.text.chars().take(40).collect::<String>()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(text: &str) -> (String, String, String) {
        match Statement::parse(text).expect("parses") {
            Statement::Insert { sql, format, data_offset } => (sql, format, text[data_offset..].to_owned()),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[track_caller]
    fn check_insert(text: &str, sql: &str, format: &str, data: &str) {
        assert_eq!(insert(text), (sql.to_owned(), format.to_owned(), data.to_owned()), "{text}");
    }

    #[test]
    fn an_inserts_data_begins_behind_its_format() {
        check_insert("INSERT INTO t FORMAT Native", "INSERT INTO t", "Native", "");
        check_insert("insert into t format CSV\n1,2\n", "insert into t", "CSV", "1,2\n");
        check_insert("INSERT INTO t(a, b) FORMAT RowBinary", "INSERT INTO t(a, b)", "RowBinary", "");
        check_insert("INSERT INTO t FORMAT CSV \r\n\n1", "INSERT INTO t", "CSV", "\n1");
        check_insert(
            "INSERT INTO t FORMAT JSONEachRow {\"a\":1}",
            "INSERT INTO t",
            "JSONEachRow",
            "{\"a\":1}",
        );
        check_insert("INSERT INTO t VALUES (1, ';')", "INSERT INTO t", "Values", " (1, ';')");
        check_insert("INSERT INTO t (a) values(1)", "INSERT INTO t (a)", "Values", "(1)");
        check_insert(
            "INSERT INTO d.t SETTINGS async_insert = 1, x = 'FORMAT y' FORMAT Native",
            "INSERT INTO d.t SETTINGS async_insert = 1, x = 'FORMAT y'",
            "Native",
            "",
        );
    }

    #[test]
    fn names_that_look_like_keywords_are_names() {
        check_insert("INSERT INTO `values` FORMAT CSV\n1", "INSERT INTO `values`", "CSV", "1");
        check_insert("INSERT INTO format FORMAT CSV\n1", "INSERT INTO format", "CSV", "1");
        check_insert(
            "INSERT INTO d.format (format) FORMAT CSV\n1",
            "INSERT INTO d.format (format)",
            "CSV",
            "1",
        );
        check_insert(
            "/* INSERT */ INSERT INTO TABLE FUNCTION f('a', 'b') FORMAT CSV\n1",
            "/* INSERT */ INSERT INTO TABLE FUNCTION f('a', 'b')",
            "CSV",
            "1",
        );
    }

    #[test]
    fn names_that_look_like_keywords_hide_nothing() {
        for text in [
            "INSERT INTO TABLE values SELECT file('x')",
            "INSERT INTO values SELECT a, file('x')",
            "INSERT INTO d.values SELECT file('x')",
            "INSERT INTO \"values\" (a) SELECT file('x')",
            "INSERT INTO TABLE format SELECT file('x')",
            "INSERT INTO TABLE format.values (format) WITH 1 AS x SELECT file('x')",
            "INSERT values SELECT file('x')",
            "INSERT t SELECT a AS values, file('x')",
            "INSERT INTO FUNCTION values('x String', 'a') SELECT file('x')",
            "INSERT INTO t /* VALUES */ SELECT file('x')",
            "INSERT INTO t -- FORMAT CSV\n SELECT file('x')",
            "INSERT INTO TABLE values FROM t SELECT file('x')",
            "WITH a AS (SELECT 1) INSERT INTO TABLE values SELECT file('x')",
            "EXPLAIN INSERT INTO TABLE values SELECT file('x')",
        ] {
            let refused = Statement::parse(text).expect_err(text);
            assert_eq!(refused.code(), code::ACCESS_DENIED, "{text}");
        }
        for text in [
            "INSERT INTO TABLE values SELECT 1; SELECT 2",
            "INSERT INTO TABLE values; SELECT 2",
            "INSERT INTO t; DROP TABLE u FORMAT CSV\n1",
            "INSERT INTO t; DROP TABLE u VALUES (1)",
        ] {
            assert_eq!(Statement::parse(text).expect_err(text).code(), code::SYNTAX_ERROR, "{text}");
        }
        // What follows a format is data, whatever it looks like; a comment before it hides it from nobody.
        check_insert("INSERT INTO t FORMAT CSV\n1; SELECT 2", "INSERT INTO t", "CSV", "1; SELECT 2");
        check_insert("INSERT INTO t -- a\nFORMAT CSV\n1", "INSERT INTO t", "CSV", "1");
    }

    #[test]
    fn inserts_without_data_are_plain() {
        for text in ["INSERT INTO t SELECT 1", "INSERT INTO t (a) WITH 1 AS x SELECT x", "INSERT INTO t"] {
            assert!(matches!(Statement::parse(text).expect("parses"), Statement::Plain { .. }), "{text}");
        }
    }

    #[test]
    fn selects_stream_and_know_their_format() {
        let format = |text: &str| match Statement::parse(text).expect("parses") {
            Statement::Select { format, .. } => format,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(format("SELECT 1"), None);
        assert_eq!(format("(SELECT 1) FORMAT JSON"), Some("JSON".to_owned()));
        assert_eq!(format("WITH 1 AS x SELECT x FORMAT JSON;"), Some("JSON".to_owned()));
        assert_eq!(format("SELECT 1 FORMAT CSV SETTINGS max_threads = 1"), Some("CSV".to_owned()));
        assert_eq!(format("SELECT format FROM t WHERE format = 'FORMAT x'"), None);
        assert_eq!(format("SELECT a format FROM t -- FORMAT JSON"), None);
        assert_eq!(format("SELECT $x$ FORMAT JSON $x$"), None);
        assert!(matches!(Statement::parse("SHOW TABLES").expect("parses"), Statement::Plain { .. }));
    }

    #[test]
    fn several_statements_and_files_are_refused() {
        let refused = |text: &str| Statement::parse(text).expect_err(text).code();
        assert_eq!(refused("SELECT 1; SELECT 2"), code::SYNTAX_ERROR);
        assert_eq!(refused("SELECT 1 INTO OUTFILE '/tmp/x'"), code::INTO_OUTFILE_NOT_ALLOWED);
        assert_eq!(
            refused("INSERT INTO t FROM INFILE '/etc/passwd' FORMAT CSV"),
            code::INTO_OUTFILE_NOT_ALLOWED
        );
        Statement::parse("SELECT ';', 'INTO OUTFILE'; -- the end").expect("one statement");
    }
}
