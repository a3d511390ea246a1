//! ClickHouse's tokens, as its own lexer sees them.
//!
//! What is decided about a statement here is only as good as this: a comment or a quote that the engine reads in another way
//! would hide a function's name from us and show it to the engine. So tests compare it with the engine's `tokenizeQuery`
//! (`tests/it/attack_clickhouse.rs`), text by text. Among what is easily missed: `//` begins a comment, `/* */` nests, “ ” and
//! ‘ ’ are quotes in which nothing is escaped, and U+00A0 and its like are blanks.

use std::{borrow::Cow, collections::HashMap};

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A keyword, an unquoted name or (part of) a number.
    Word,
    /// A quoted name.
    Name,
    /// A string.
    Text,
    /// One other character.
    Symbol,
}

/// One token.
#[derive(Debug, Clone, Copy)]
pub struct Token<'t> {
    /// What it is.
    pub kind: Kind,
    /// Its text, quotes included.
    pub text: &'t str,
    /// Where in the statement it begins.
    pub start: usize,
    /// How many brackets are open around it.
    pub depth: usize,
}

impl<'t> Token<'t> {
    /// Where it ends.
    pub fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// Whether it is this keyword.
    pub fn is_word(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(word)
    }

    /// Whether it is this character.
    pub fn is_symbol(&self, symbol: char) -> bool {
        self.kind == Kind::Symbol && self.text.starts_with(symbol)
    }

    /// The name it stands for: a word as it is, a quoted name without its quotes.
    pub fn name(&self) -> Option<Cow<'t, str>> {
        match self.kind {
            Kind::Word => Some(Cow::Borrowed(self.text)),
            Kind::Name => Some(unquoted(self.text)),
            Kind::Text | Kind::Symbol => None,
        }
    }
}

/// The tokens of a text. A comment or quote that does not end takes the rest.
pub fn lexer(text: &str) -> impl Iterator<Item = Token<'_>> {
    let mut at = 0;
    let mut depth = 0_usize;
    let mut before: Option<Token<'_>> = None;
    let mut tags = Tags { text, last: None };
    std::iter::from_fn(move || {
        at = skip_blank(text, at);
        let rest = &text[at..];
        let first = rest.chars().next()?;
        let (kind, length) = token(rest, at, before, &mut tags);
        if matches!(first, ')' | ']' | '}') {
            depth = depth.saturating_sub(1);
        }
        let token = Token { kind, text: &rest[..length], start: at, depth };
        if matches!(first, '(' | '[' | '{') {
            depth += 1;
        }
        at += length;
        before = Some(token);
        Some(token)
    })
}

fn token(rest: &str, at: usize, before: Option<Token<'_>>, tags: &mut Tags<'_>) -> (Kind, usize) {
    let Some(first) = rest.chars().next() else { return (Kind::Symbol, 0) };
    match first {
        '\'' => (Kind::Text, quoted_length(rest, '\'')),
        '"' | '`' => (Kind::Name, quoted_length(rest, first)),
        '\u{2018}' => (Kind::Text, up_to(rest, "\u{2019}")),
        '\u{201c}' => (Kind::Name, up_to(rest, "\u{201d}")),
        'x' | 'X' | 'b' | 'B' if rest.len() > 2 && rest[1..].starts_with('\'') => {
            (Kind::Text, 1 + up_to(&rest[1..], "'"))
        }
        '$' => match tags.heredoc_length(at) {
            Some(length) => (Kind::Text, length),
            None if rest[1..].starts_with(is_tag_char) => (Kind::Word, word_length(rest)),
            None => (Kind::Symbol, 1),
        },
        c if c.is_ascii_digit() => {
            let length = if before.is_some_and(|token| token.is_symbol('.')) {
                digits(rest.as_bytes(), 0, false)
            } else {
                number_length(rest.as_bytes())
            };
            // Letters that follow at once belong to it.
            let letters = rest[length..].find(|c| !is_tag_char(c));
            (Kind::Word, letters.map_or(rest.len(), |letters| length + letters))
        }
        // Behind a name or a bracket it is a dot, elsewhere it may begin a number; at the very beginning it does.
        '.' if at == 0
            || rest[1..].starts_with(|c: char| c.is_ascii_digit())
                && !before.is_some_and(|token| {
                    matches!(token.kind, Kind::Word | Kind::Name)
                        || token.is_symbol(')')
                        || token.is_symbol(']')
                }) =>
        {
            let fraction = digits(rest.as_bytes(), 1, false);
            (Kind::Word, exponent(rest.as_bytes(), fraction, b'e'))
        }
        c if is_word_char(c) => (Kind::Word, word_length(rest)),
        c => (Kind::Symbol, c.len_utf8()),
    }
}

/// A number that begins with a digit, up to where its digits, its fraction and its exponent end.
fn number_length(bytes: &[u8]) -> usize {
    let is_hex = matches!(bytes, [b'0', b'x' | b'X', digit, ..] if digit.is_ascii_hexdigit());
    let is_binary = matches!(bytes, [b'0', b'b' | b'B', b'0' | b'1', ..]);
    let mut at = digits(bytes, if is_hex || is_binary { 2 } else { 1 }, is_hex);
    if bytes.get(at) == Some(&b'.') {
        at = digits(bytes, at + 1, is_hex);
    }
    exponent(bytes, at, if is_hex { b'p' } else { b'e' })
}

/// Where digits end that begin at `at`. `_` may stand between two.
fn digits(bytes: &[u8], mut at: usize, is_hex: bool) -> usize {
    let is_digit = |at: usize| {
        bytes.get(at).is_some_and(|byte| byte.is_ascii_digit() || is_hex && byte.is_ascii_hexdigit())
    };
    while is_digit(at) || bytes.get(at) == Some(&b'_') && is_digit(at.wrapping_sub(1)) && is_digit(at + 1) {
        at += 1;
    }
    at
}

/// Where an exponent ends that may begin at `at`.
fn exponent(bytes: &[u8], at: usize, letter: u8) -> usize {
    if !bytes.get(at).is_some_and(|byte| byte.eq_ignore_ascii_case(&letter)) || at + 1 >= bytes.len() {
        return at;
    }
    let signed = at + 2 < bytes.len() && matches!(bytes[at + 1], b'+' | b'-');
    digits(bytes, if signed { at + 2 } else { at + 1 }, false)
}

fn is_word_char(c: char) -> bool {
    is_tag_char(c) || c == '$'
}

fn is_tag_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn word_length(rest: &str) -> usize {
    rest.find(|c| !is_word_char(c)).unwrap_or(rest.len())
}

/// Past blanks and comments.
fn skip_blank(text: &str, mut at: usize) -> usize {
    loop {
        let rest = &text[at..];
        let trimmed = rest.trim_start_matches(is_blank);
        at += rest.len() - trimmed.len();
        let length = if ["--", "//", "# ", "#!"].iter().any(|begin| trimmed.starts_with(begin)) {
            trimmed.find('\n').unwrap_or(trimmed.len())
        } else if trimmed.starts_with("/*") {
            nested_comment_length(trimmed)
        } else {
            return at;
        };
        at += length;
    }
}

/// Blanks of ASCII, and those that come with copied text.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{180e}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}')
}

fn nested_comment_length(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let (mut at, mut open) = (2, 1_usize);
    while at + 2 <= bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (at, open) = (at + 2, open + 1),
            b"*/" => (at, open) = (at + 2, open - 1),
            _ => at += 1,
        }
        if open == 0 {
            return at;
        }
    }
    rest.len()
}

/// The length of a quoted token: a backslash escapes, and the quote doubled stands for itself.
fn quoted_length(rest: &str, quote: char) -> usize {
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((index, c)) = chars.next() {
        if c == '\\' {
            chars.next();
        } else if c == quote {
            if chars.peek().is_some_and(|(_, next)| *next == quote) {
                chars.next();
            } else {
                return index + c.len_utf8();
            }
        }
    }
    rest.len()
}

/// The length of a token that opens with one character and goes up to `close`, in which nothing is escaped.
fn up_to(rest: &str, close: &str) -> usize {
    let open = rest.chars().next().map_or(0, char::len_utf8);
    rest[open..].find(close).map_or(rest.len(), |at| open + at + close.len())
}

/// Where the `$tag$`s of a text stand. A text may open as many as it likes and close none, so they are found in one pass, and
/// only when one is open: to search the rest for each would take the square of the text's length.
struct Tags<'t> {
    text: &'t str,
    /// Where each begins for the last time.
    last: Option<HashMap<&'t str, usize>>,
}

impl Tags<'_> {
    /// The length of `$tag$ … $tag$` that begins at `at`.
    fn heredoc_length(&mut self, at: usize) -> Option<usize> {
        let rest = &self.text[at..];
        let tag_end = rest[1..].find(|c| !is_tag_char(c))? + 2;
        let tag = rest.get(..tag_end).filter(|tag| tag.ends_with('$'))?;
        let last = self.last.get_or_insert_with(|| last_tags(self.text));
        if last.get(tag).is_none_or(|last| *last < at + tag_end) {
            return None;
        }
        rest[tag_end..].find(tag).map(|end| end + 2 * tag_end)
    }
}

fn last_tags(text: &str) -> HashMap<&str, usize> {
    let mut open: Option<usize> = None;
    let mut last = HashMap::new();
    for (at, byte) in text.bytes().enumerate() {
        if byte == b'$' {
            if let Some(open) = open {
                last.insert(&text[open..=at], open);
            }
            open = Some(at);
        } else if !is_tag_char(byte.into()) {
            open = None;
        }
    }
    last
}

/// A quoted name without its quotes. An escape that is not understood is kept, backslash and all.
fn unquoted(text: &str) -> Cow<'_, str> {
    let Some(quote) = text.chars().next() else { return Cow::Borrowed(text) };
    let inner = &text[quote.len_utf8()..];
    let close = if quote == '\u{201c}' { '\u{201d}' } else { quote };
    let inner = inner.strip_suffix(close).unwrap_or(inner);
    if quote == '\u{201c}' || !inner.contains(['\\', quote]) {
        return Cow::Borrowed(inner);
    }
    let mut name = Vec::with_capacity(inner.len());
    let mut bytes = inner.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'\\' {
            unescape(&mut bytes, &mut name);
        } else {
            if byte == quote as u8 {
                bytes.next();
            }
            name.push(byte);
        }
    }
    Cow::Owned(String::from_utf8_lossy(&name).into_owned())
}

/// What stands behind a backslash, as ClickHouse reads it.
fn unescape(bytes: &mut impl Iterator<Item = u8>, out: &mut Vec<u8>) {
    let Some(escape) = bytes.next() else { return out.push(b'\\') };
    match escape {
        b'x' => {
            let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
            if let (Some(high), Some(low)) = (digit(), digit()) {
                out.extend(u8::try_from(high * 16 + low));
            }
        }
        // Stands for nothing at all.
        b'N' => {}
        b'a' => out.push(0x07),
        b'b' => out.push(0x08),
        b'e' => out.push(0x1b),
        b'f' => out.push(0x0c),
        b'n' => out.push(b'\n'),
        b'r' => out.push(b'\r'),
        b't' => out.push(b'\t'),
        b'v' => out.push(0x0b),
        b'0' => out.push(0),
        b'\\' | b'"' | b'\'' | b'`' | b'/' | b'=' => out.push(escape),
        other => out.extend([b'\\', other]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<&str> {
        lexer(text).map(|token| token.text).collect()
    }

    #[test]
    fn comments_are_blanks() {
        for text in [
            "a /* x /* y */ ' */ b",
            "a -- '\nb",
            "a // '\nb",
            "a # '\nb",
            "a #!'\nb",
            "a/**/b",
            "a\u{a0}\u{2003}\u{feff}b",
        ] {
            assert_eq!(texts(text), ["a", "b"], "{text}");
        }
        assert_eq!(texts("a #b"), ["a", "#", "b"]);
        assert_eq!(texts("a /* b"), ["a"]);
    }

    #[test]
    fn quotes_hide_what_is_between_them() {
        for quoted in [
            "'a;''\\';'",
            "\"a;\"\"\\\";\"",
            "`a;``\\`;`",
            "\u{2018}a;'\\\u{2019}",
            "\u{201c}a;\"\\\u{201d}",
            "$$a;'$$",
            "$t$a;$$'$t$",
            "x'3b'",
        ] {
            assert_eq!(texts(&format!("{quoted} ;")), [quoted, ";"]);
        }
    }

    #[test]
    fn a_tag_closes_behind_its_opening_alone() {
        assert_eq!(texts("$a$a$"), ["$a$a$"]);
        assert_eq!(texts("$a$ $b$ $a$ $b$"), ["$a$ $b$ $a$", "$b$"]);
        assert_eq!(texts("$a$ $b$ $b$ $b$"), ["$a$", "$b$ $b$", "$b$"]);
        assert_eq!(texts("$$$ $$"), ["$$$ $$"]);
        assert_eq!(texts("$$$"), ["$", "$", "$"]);
    }

    /// Anything that looked through the rest of such a text at each of its places would take minutes here.
    #[test]
    fn a_long_text_takes_no_longer_than_its_length() {
        let numbered: String = (0..1 << 17).map(|n| format!("$t{n:x}$ ")).collect();
        let parts = [
            "$ ", "$$ ", "$a ", "/*", "/* */", "'", "\"", "\\", "\u{201c}", "--", "# ", "(", "a.", "x'", ".",
            "1e",
        ];
        for part in parts.iter().map(|part| part.repeat((1 << 18) / part.len())).chain([numbered]) {
            let text = format!("SELECT 1, {part}");
            assert!(lexer(&text).last().is_some_and(|last| last.end() <= text.len()));
        }
    }

    #[test]
    fn a_name_is_what_its_quotes_hold() {
        for name in ["file", "`file`", "\"file\"", "\u{201c}file\u{201d}", r"`f\x69le`", r#""fi\Nle""#] {
            let token = lexer(name).next().expect("a token");
            assert_eq!(token.name().as_deref(), Some("file"), "{name}");
        }
        assert_eq!(lexer("`a``b`").next().expect("a token").name().as_deref(), Some("a`b"));
        assert_eq!(lexer("'file'").next().expect("a token").name(), None);
    }
}
