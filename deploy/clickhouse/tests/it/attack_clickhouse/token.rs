//! Our tokens against the engine's own.

use std::collections::BTreeSet;

use millrace_clickhouse::{
    forbidden::HIGHER_ORDER,
    lexer::{Kind, lexer},
};
use rand::{RngExt as _, SeedableRng as _, rngs::ChaCha8Rng};
use serde_json::Value;

use super::Target;

/// What a comment or a quote hides from us it must hide from the engine, and the other way round.
#[tokio::test]
async fn our_tokens_are_the_engines() {
    const PARTS: &[&str] = &[
        "'", "\"", "`", "\u{201c}", "\u{201d}", "\u{2018}", "\u{2019}", "\\", "/*", "*/", "//", "/", "*",
        "--", "-", "# ", "#!", "#", "\n", "\r", " ", "\t", "\u{a0}", "\u{2003}", "\u{feff}", "\u{200b}",
        "file", "a", "x'", "X'4", "b'", "N'", "$", "$a$", "$$", "1", "0x", "1_0", ".", "e1", "e+", "p2", "(",
        ")", "[", "{", "}", ",", ";", "\u{e9}",
    ];
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let texts: Vec<String> = (0..5_000)
        .map(|_| {
            (0..random.random_range(1..12)).map(|_| PARTS[random.random_range(0..PARTS.len())]).collect()
        })
        .collect();

    let target = Target::start().await;
    target.works("millrace", "", "CREATE TABLE texts (n UInt32, q String) ENGINE = Memory").await;
    let rows: String =
        texts.iter().enumerate().map(|(n, q)| format!("{}\n", serde_json::json!({"n": n, "q": q}))).collect();
    target.works("millrace", "", &format!("INSERT INTO texts FORMAT JSONEachRow\n{rows}")).await;
    let sql = "SELECT n, tokenizeQuery(q) FROM texts ORDER BY n FORMAT JSONCompactEachRow";
    let answer = target.works("millrace", "output_format_json_named_tuples_as_objects=0", sql).await;
    let mut compared = 0;
    for (line, text) in answer.lines().zip(&texts) {
        let line: Value = serde_json::from_str(line).unwrap();
        let tokens = line[1].as_array().unwrap();
        let span = |token: &Value| (token[0].as_u64().unwrap() as usize, token[1].as_u64().unwrap() as usize);
        // Behind an error the engine runs nothing.
        let end = tokens.iter().find(|token| token[2].as_str().unwrap().starts_with("Error"));
        let end = end.map_or(text.len(), |token| span(token).0);
        let theirs: BTreeSet<(usize, usize, Kind)> = tokens
            .iter()
            .filter_map(|token| {
                let kind = match token[2].as_str().unwrap() {
                    "BareWord" | "Number" => Kind::Word,
                    "QuotedIdentifier" => Kind::Name,
                    "StringLiteral" | "HereDoc" => Kind::Text,
                    "OpeningRoundBracket" | "ClosingRoundBracket" | "Comma" | "Semicolon" => Kind::Symbol,
                    _ => return None,
                };
                Some((span(token).0, span(token).1, kind))
            })
            .filter(|(_, to, _)| *to <= end)
            .collect();
        let ours: BTreeSet<(usize, usize, Kind)> = lexer(text)
            .filter(|token| token.kind != Kind::Symbol || ["(", ")", ",", ";"].contains(&token.text))
            .map(|token| (token.start, token.end(), token.kind))
            .filter(|(_, to, _)| *to <= end)
            .collect();
        assert_eq!(ours, theirs, "{text:?}");
        compared += 1;
    }
    assert_eq!(compared, texts.len());
    let sql = "SELECT name FROM system.functions WHERE higher_order \
               OR alias_to IN (SELECT name FROM system.functions WHERE higher_order)";
    let higher = target.works("reader", "", sql).await;
    let known: BTreeSet<&str> = HIGHER_ORDER.iter().copied().collect();
    let missing: Vec<&str> = higher.lines().filter(|name| !known.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
