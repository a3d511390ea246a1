//! Statements that are refused before the engine sees them: what its access rights (see [`super::rights`]) do not reach.
//!
//! * the function `file()`, which reads any file;
//! * `INTO OUTFILE` and `FROM INFILE`, by which the client library inside the engine would touch files;
//! * `ATTACH`, which moves directories that are not the engine's;
//! * table engines that reach beyond the tables without a right of their own;
//! * for whoever only reads, everything that is not a question: `KILL` is no change to a read-only connection.
//!
//! This is the second of two walls, and the one that says what is wrong: text can say `file` in ways that no look at tokens
//! finds (a default inside a string). The first is the kernel's, [`super::sandbox`].

use std::collections::HashSet;

use super::{
    error::{Exception, code},
    lexer::{Kind, Token, lexer},
};

/// The function that reads files.
const FILE: &str = "file";
/// What stands before a table's name, which may be `file` and have its columns in brackets behind it.
const BEFORE_TABLE: [&str; 4] = ["INTO", "TABLE", "EXISTS", "VIEW"];
/// Engines of tables and databases that keep to the data directory, or have a right of their own in the engine. Those of
/// the MergeTree family besides.
const ENGINES: [&str; 14] = [
    "Memory",
    "Null",
    "Buffer",
    "Join",
    "Set",
    "Log",
    "TinyLog",
    "StripeLog",
    "Merge",
    "GenerateRandom",
    "Atomic",
    "Distributed",
    "Kafka",
    "MaterializedView",
];
/// Functions that take a function, by its bare name too. A test compares them with the engine's own list.
pub const HIGHER_ORDER: &[&str] = &[
    "arrayAll",
    "arrayAvg",
    "arrayBottomK",
    "arrayCompact",
    "arrayCount",
    "arrayCumSum",
    "arrayCumSumNonNegative",
    "arrayDifference",
    "arrayExists",
    "arrayFill",
    "arrayFilter",
    "arrayFirst",
    "arrayFirstIndex",
    "arrayFirstOrNull",
    "arrayFold",
    "arrayLast",
    "arrayLastIndex",
    "arrayLastOrNull",
    "arrayMap",
    "arrayMax",
    "arrayMin",
    "arrayPartialReverseSort",
    "arrayPartialSort",
    "arrayProduct",
    "arrayReverseFill",
    "arrayReverseSort",
    "arrayReverseSplit",
    "arraySort",
    "arraySplit",
    "arraySum",
    "arrayTopK",
    "mapAll",
    "mapApply",
    "mapExists",
    "mapFilter",
    "mapPartialReverseSort",
    "mapPartialSort",
    "mapReverseSort",
    "mapSort",
];
/// First words of questions.
const QUESTIONS: [&str; 10] =
    ["SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "USE", "SET"];

/// Refuses what nobody may run.
pub(super) fn refuse(tokens: &[Token<'_>]) -> Result<(), Exception> {
    let first = first_word(tokens);
    let pair = |one, two| tokens.windows(2).any(|pair| pair[0].is_word(one) && pair[1].is_word(two));
    if pair("INTO", "OUTFILE") || pair("FROM", "INFILE") {
        return Err(Exception::new(
            code::INTO_OUTFILE_NOT_ALLOWED,
            "INTO_OUTFILE_NOT_ALLOWED",
            "INTO OUTFILE and FROM INFILE are not allowed",
        ));
    }
    if first.is_some_and(|word| word.is_word("ATTACH")) || pair("PARALLEL", "WITH") {
        return Err(denied("ATTACH and PARALLEL WITH are not allowed here"));
    }
    if (0..tokens.len()).any(|at| calls_file(tokens, at)) {
        return Err(denied("The function `file` is not allowed here: it reads any file of this machine"));
    }
    if first.is_some_and(|word| word.is_word("CREATE") || word.is_word("REPLACE"))
        && let Some(engine) = foreign_engine(tokens)
    {
        let engine: String = engine.chars().take(64).collect();
        return Err(denied(format_args!("The engine `{}` is not allowed here", engine.escape_debug())));
    }
    Ok(())
}

/// Refuses values that make a placeholder name the function `file`: `arrayMap({f:Identifier}, …)`.
pub(super) fn refuse_values(text: &str, values: &[(String, String)]) -> Result<(), Exception> {
    let names_file = |value: &str| value.contains('\\') || value.to_ascii_lowercase().contains(FILE);
    let suspects: HashSet<&str> =
        values.iter().filter(|(_, value)| names_file(value)).map(|(name, _)| name.as_str()).collect();
    if suspects.is_empty() {
        return Ok(());
    }
    let tokens: Vec<Token<'_>> = lexer(text).collect();
    let refused = tokens.windows(4).any(|part| {
        part[0].is_symbol('{')
            && part[2].is_symbol(':')
            && part[3].is_word("Identifier")
            && part[1].name().is_some_and(|name| suspects.contains(&*name))
    });
    if refused { Err(denied("An Identifier parameter may not stand for `file` here")) } else { Ok(()) }
}

/// Refuses what somebody who only reads may not run. The engine's read-only connection refuses most of it besides.
pub(super) fn refuse_changes(tokens: &[Token<'_>]) -> Result<(), Exception> {
    match first_word(tokens) {
        Some(word) if !QUESTIONS.iter().any(|question| word.is_word(question)) => Err(Exception::new(
            code::READONLY,
            "READONLY",
            "Cannot execute query in readonly mode: it changes something, and GET requests and the user `reader` only read",
        )),
        _ => Ok(()),
    }
}

fn denied(message: impl std::fmt::Display) -> Exception {
    Exception::new(code::ACCESS_DENIED, "ACCESS_DENIED", message)
}

fn first_word<'a, 't>(tokens: &'a [Token<'t>]) -> Option<&'a Token<'t>> {
    tokens.iter().find(|token| !token.is_symbol('('))
}

/// Whether the token at `at` names the function `file`, rather than a column or a table.
fn calls_file(tokens: &[Token<'_>], at: usize) -> bool {
    if !tokens[at].name().is_some_and(|name| name.eq_ignore_ascii_case(FILE)) {
        return false;
    }
    let before = |distance: usize| at.checked_sub(distance).map(|at| &tokens[at]);
    let before_is = |distance, is: &dyn Fn(&Token<'_>) -> bool| before(distance).is_some_and(is);
    let next_is = |symbol| tokens.get(at + 1).is_some_and(|token| token.is_symbol(symbol));
    if next_is('(') {
        // `t.file(…)` is no function; a table's columns are no arguments.
        return !before_is(1, &|token| {
            token.is_symbol('.') || BEFORE_TABLE.iter().any(|word| token.is_word(word))
        });
    }
    // `* APPLY file`, `* APPLY(file)`.
    if before_is(1, &|token| token.is_word("APPLY"))
        || before_is(1, &|token| token.is_symbol('(')) && before_is(2, &|token| token.is_word("APPLY"))
    {
        return true;
    }
    // `arrayMap(file, …)`, `arrayMap((file), …)`: a function may be named where a lambda is wanted.
    let opened = tokens[..at].iter().rev().take_while(|token| token.is_symbol('(')).count();
    let behind = tokens.get(at + opened);
    let is_closed =
        (1..opened).all(|closing| tokens.get(at + closing).is_some_and(|token| token.is_symbol(')')));
    let function = at.checked_sub(opened + 1).and_then(|at| tokens[at].name());
    opened > 0
        && is_closed
        && behind.is_some_and(|token| token.is_symbol(','))
        && function.is_some_and(|name| HIGHER_ORDER.iter().any(|known| name.eq_ignore_ascii_case(known)))
}

/// The first engine in a `CREATE` that is not in the list.
fn foreign_engine(tokens: &[Token<'_>]) -> Option<String> {
    let outer: Vec<&Token<'_>> = tokens.iter().filter(|token| token.depth == 0).collect();
    let query = outer.windows(2).position(|pair| {
        pair[0].is_word("AS")
            && (pair[1].is_word("SELECT") || pair[1].is_word("WITH") || pair[1].is_symbol('('))
    });
    let outer = &outer[..query.unwrap_or(outer.len())];
    outer.iter().enumerate().filter(|(_, token)| token.is_word("ENGINE")).find_map(|(at, _)| {
        let is_name = at.checked_sub(1).is_some_and(|before| {
            outer[before].is_symbol('.') || BEFORE_TABLE.iter().any(|word| outer[before].is_word(word))
        });
        let engine = outer[at + 1..].iter().find(|token| !token.is_symbol('='))?;
        let name = match engine.kind {
            Kind::Word | Kind::Name => engine.name()?,
            Kind::Text | Kind::Symbol => engine.text.into(),
        };
        (!is_name && !name.ends_with("MergeTree") && !ENGINES.contains(&name.as_ref()))
            .then(|| name.into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> bool {
        refuse(&lexer(text).collect::<Vec<_>>()).is_err()
    }

    #[test]
    fn the_function_file_is_found_however_it_is_written() {
        for text in [
            "SELECT file('x')",
            "SELECT file ('x')",
            "SELECT FILE('x')",
            "SELECT `file`('x')",
            "SELECT \"fi\\x6ce\"('x')",
            "SELECT \u{201c}file\u{201d}('x')",
            "SELECT file/* */('x')",
            "SELECT file // \n('x')",
            "SELECT file -- (\n('x')",
            "SELECT 1 // '\n, file('x') // '",
            "SELECT (SELECT (file('x')))",
            "WITH a AS (SELECT file('x')) SELECT * FROM a",
            "SELECT * APPLY file FROM t",
            "SELECT * APPLY(`file`) FROM t",
            "SELECT arrayMap(file, ['x'])",
            "SELECT arrayFirst /**/ (( `file` ) , ['x'])",
            "INSERT INTO t SELECT a AS values, file('x')",
            "INSERT INTO FUNCTION file('x', CSV, 'a Int8') SELECT 1",
            "CREATE TABLE t (a String DEFAULT file('x')) ENGINE = MergeTree ORDER BY a",
            "ALTER TABLE t ADD COLUMN b String DEFAULT file('x')",
            "ALTER TABLE t UPDATE a = file('x') WHERE 1",
            "EXPLAIN SELECT file('x')",
        ] {
            assert!(refused(text), "{text}");
        }
    }

    #[test]
    fn columns_and_tables_may_be_called_file() {
        for text in [
            "SELECT file FROM t WHERE file IN ('a') ORDER BY file, name",
            "SELECT concat(file, 'x'), array(file, 'a'), arraySort(file), arrayConcat(file, a) FROM t",
            "SELECT 'file(1)', t.file, (file) FROM t -- file('x')",
            "INSERT INTO file (file, a) SELECT file, 1 FROM t",
            "CREATE TABLE IF NOT EXISTS file (file String) ENGINE = Memory",
            "SELECT filesystemAvailable(), profile('x')",
        ] {
            assert!(!refused(text), "{text}");
        }
    }

    #[test]
    fn a_placeholder_does_not_name_it_either() {
        let refused = |text: &str, name: &str, value: &str| {
            refuse_values(text, &[(name.to_owned(), value.to_owned())]).is_err()
        };
        assert!(refused("SELECT arrayMap({f:Identifier}, ['x'])", "f", "file"));
        assert!(refused("SELECT arrayMap({ f /**/ : Identifier }, ['x'])", "f", r"\x66ile"));
        assert!(!refused("SELECT {f:String} FROM {t:Identifier}", "f", "file"));
        assert!(!refused("SELECT * FROM {t:Identifier}", "t", "events"));
    }

    /// Each value is looked at once, however many placeholders name it.
    #[test]
    fn many_placeholders_and_values_are_looked_at_once() {
        let long = "x".repeat(1 << 19);
        let values: Vec<_> = [("a", long.as_str()), ("a", &long), ("b", "file")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let text = "SELECT {a:Identifier}, ".repeat(1 << 15);
        assert!(refuse_values(&text, &values).is_ok());
        assert!(refuse_values(&(text + "{b:Identifier}"), &values).is_err());
    }

    #[test]
    fn engines_keep_to_the_data_directory() {
        for text in [
            "CREATE TABLE t (a String) ENGINE = EmbeddedRocksDB(0, '/tmp/x') PRIMARY KEY a",
            "CREATE TABLE t (a String) ENGINE FileLog('/tmp', 'CSV')",
            "CREATE TABLE t (a String) ENGINE /**/ = `Executable`('x', TSV)",
            "CREATE TABLE engine (a String) ENGINE = ArrowStream('x')",
            "CREATE MATERIALIZED VIEW v ENGINE = File(CSV) AS SELECT engine FROM t",
            "CREATE DATABASE d ENGINE = Filesystem('/')",
            "CREATE TABLE t AS u ENGINE = URL('http://x', CSV)",
        ] {
            assert!(refused(text), "{text}");
        }
        for text in [
            "CREATE TABLE t (engine String) ENGINE = ReplacingMergeTree ORDER BY engine",
            "CREATE OR REPLACE VIEW v AS SELECT engine FROM system.tables",
            "CREATE VIEW v AS (SELECT engine x FROM t)",
            "CREATE TABLE engine (a UInt8) ENGINE Memory",
            "CREATE DATABASE IF NOT EXISTS d",
            "SELECT engine FROM system.tables",
        ] {
            assert!(!refused(text), "{text}");
        }
    }

    #[test]
    fn a_reader_asks() {
        let changes = |text: &str| refuse_changes(&lexer(text).collect::<Vec<_>>()).is_err();
        for text in
            ["KILL QUERY WHERE 1", "/* SELECT */ (KILL QUERY WHERE 1)", "INSERT INTO t SELECT 1", "SYSTEM X"]
        {
            assert!(changes(text), "{text}");
        }
        for text in ["(SELECT 1)", "with 1 AS x SELECT x", "show tables", "-- KILL\nEXPLAIN SELECT 1", ""] {
            assert!(!changes(text), "{text}");
        }
    }
}
