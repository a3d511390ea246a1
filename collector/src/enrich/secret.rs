//! Which segments of a path can only be secrets: tokens that let somebody in, or that show one person's order to whoever
//! has the link.
//!
//! A segment is looked at as *runs* of letters and digits; `%xx` and all else separate them.
//!
//! * **Anywhere** a segment is a secret from 32 characters on: a run of 32 or more hexadecimal digits, letters of both cases
//!   mixed with digits (base64 and its kin), letters of one case mixed with digits, a JSON Web Token. Ids that people use
//!   in addresses are shorter (ULID 26, KSUID 27, ObjectId 24) or have hyphens (UUID), and stay. 32 hexadecimal digits stay
//!   where the word before says that they name a product or the like (Shopware: `/detail/…`).
//! * **Behind a capability word** (`orders`, `checkouts`, `invoice`, `share`, …) UUIDs and shorter codes are secrets, too:
//!   12 hexadecimal digits, or 10 letters and digits that are mixed.
//! * **Behind a credential word** (`reset`, `activate`, `invite`, `unsubscribe`, …) whatever is not a word or a number: 6
//!   letters and digits are enough.
//!
//! Words and numbers stay everywhere. Mixed means that the kind of character (upper case, lower case, digit) changes more
//! often than it does in names of products: random texts change at six of ten places, `iPhone15ProMax` at four. That is a
//! guess; the test at the end says how many random texts are missed.
//!
//! All of it is a function of the path up to the segment, and what is put in a secret's place is none itself.

use std::{collections::HashMap, sync::LazyLock};

/// From so many characters on a random text is a secret wherever it stands.
pub(super) const TOKEN_BYTES_MIN: usize = 32;
/// Longer segments are no words.
const WORD_BYTES_MAX: usize = 32;
/// More parts make a title, not a word: `how-to-reset-your-phone`.
const WORD_PARTS_MAX: usize = 3;

/// What the path before a segment says of it, the strongest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Context {
    Open,
    /// The word right before says that something public is named.
    Public,
    Capability,
    Credential,
}

static WORDS: LazyLock<HashMap<&'static [u8], Context>> = LazyLock::new(|| {
    let mut context = Context::Open;
    let mut words = HashMap::new();
    for line in include_str!("data/secret_words.txt").lines() {
        match line {
            line if line.starts_with("[credential") => context = Context::Credential,
            line if line.starts_with("[capability") => context = Context::Capability,
            line if line.starts_with("[public") => context = Context::Public,
            line if line.is_empty() || line.starts_with('#') => {}
            word => drop(words.insert(word.as_bytes(), context)),
        }
    }
    words
});

/// Reads a path segment by segment and says which are secrets. What the segments before one say is worked out only once one
/// looks like a secret, and once for each of them.
#[derive(Debug)]
pub(super) struct Judge<'p> {
    path: &'p str,
    /// Of all segments that end before byte `read`.
    context: Context,
    /// The last of them names something public.
    is_public: bool,
    read: usize,
}

impl<'p> Judge<'p> {
    pub(super) fn new(path: &'p str) -> Self {
        Self::within(path, Context::Open)
    }

    /// For a path that stands in the parameters of another, and what that one says.
    pub(super) fn within(path: &'p str, context: Context) -> Self {
        Self {
            path,
            context: if context == Context::Public { Context::Open } else { context },
            is_public: false,
            read: 0,
        }
    }

    /// Whether what stands from byte `start` of the path on, up to its end or the next `/`, is a secret. `segment` is
    /// what is kept of it.
    pub(super) fn is_secret(&mut self, start: usize, segment: &str) -> bool {
        let shape = Shape::of(segment);
        if shape.is_token {
            return !(shape.is_id && self.context_at(start) == Context::Public);
        }
        shape.may_be_code && self.is_code(start, segment, &shape)
    }

    fn is_code(&mut self, start: usize, segment: &str, shape: &Shape) -> bool {
        let least = match self.context_at(start) {
            Context::Open | Context::Public => return false,
            Context::Capability => CAPABILITY,
            Context::Credential => CREDENTIAL,
        };
        is_uuid(segment)
            || (shape.is_whole && shape.all.is_code(&least))
            || runs(segment).any(|run| Run::of(run).is_code(&least))
    }

    /// What all that stands before a byte of the path says.
    pub(super) fn context_at(&mut self, start: usize) -> Context {
        while self.read < start {
            let (segment, end) = first_segment(&self.path[self.read..start]);
            let read = segment.len() + end.len();
            let segment = memchr::memchr(b';', segment.as_bytes()).map_or(segment, |end| &segment[..end]);
            if !segment.is_empty() {
                let word = word(segment);
                self.is_public = word == Context::Public;
                if word > Context::Public {
                    self.context = self.context.max(word);
                }
            }
            self.read += read.max(1);
        }
        if self.context == Context::Open && self.is_public { Context::Public } else { self.context }
    }
}

/// The segments of a path, each with where it begins and what ends it: a slash, or an encoded one.
pub(super) fn segments(path: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let rest = path.get(start..).filter(|rest| !rest.is_empty())?;
        let (segment, end) = first_segment(rest);
        let at = start;
        start += segment.len() + end.len();
        Some((at, segment, end))
    })
}

fn first_segment(path: &str) -> (&str, &str) {
    let bytes = path.as_bytes();
    for at in memchr::memchr3_iter(b'/', b'\\', b'%', bytes) {
        let length = match bytes[at] {
            b'%' if bytes[at + 1..].get(..2).is_some_and(|code| code.eq_ignore_ascii_case(b"2f")) => 3,
            b'%' => continue,
            _ => 1,
        };
        return (&path[..at], &path[at..at + length]);
    }
    (path, "")
}

/// What a segment says of those behind it.
fn word(segment: &str) -> Context {
    if segment.len() > WORD_BYTES_MAX {
        return Context::Open;
    }
    // In lower case, with a blank between the parts.
    let mut lower = [b' '; 2 * WORD_BYTES_MAX];
    let (mut length, mut before) = (0, b' ');
    for byte in segment.bytes() {
        length += usize::from(byte.is_ascii_uppercase() && before.is_ascii_lowercase());
        if !matches!(byte, b'-' | b'_' | b'.' | b'~' | b'+' | b'!' | b'#') {
            lower[length] = byte.to_ascii_lowercase();
        }
        length += 1;
        before = byte;
    }
    let parts = || lower[..length].split(|byte| *byte == b' ').filter(|part| !part.is_empty());
    let count = parts().count();
    if count > WORD_PARTS_MAX {
        return Context::Open;
    }
    let known = |part: &[u8]| WORDS.get(part).copied().unwrap_or(Context::Open);
    let strongest = parts().map(known).max().unwrap_or(Context::Open);
    // `product-reviews` names nothing that a product's id would follow.
    if strongest == Context::Public && count > 1 { Context::Open } else { strongest }
}

/// How a segment looks as a whole.
#[derive(Default)]
struct Shape {
    /// Its runs, as if nothing separated them.
    all: Run,
    /// Little separates them: words that hyphens join are a page's name.
    is_whole: bool,
    /// Random, and long enough to be a secret anywhere.
    is_token: bool,
    /// 32 hexadecimal digits, as ids have them, too.
    is_id: bool,
    /// Something in it may be a short code.
    may_be_code: bool,
}

impl Shape {
    fn of(segment: &str) -> Self {
        let (mut shape, mut joints) = (Self::default(), 0);
        for run in runs(segment) {
            let of_run = Run::of(run);
            shape.is_token |= of_run.is_hexadecimal() && of_run.length >= TOKEN_BYTES_MIN;
            shape.may_be_code |= of_run.may_be_code();
            joints += usize::from(shape.all.length > 0);
            shape.all.add(&of_run);
        }
        shape.is_whole = joints * 10 <= segment.len();
        shape.is_id =
            shape.is_token && shape.all.length == TOKEN_BYTES_MIN && segment.len() == TOKEN_BYTES_MIN;
        if shape.all.length >= TOKEN_BYTES_MIN && !shape.is_token {
            shape.is_token = is_jwt(segment) || (shape.is_whole && shape.all.is_random());
        }
        shape
    }
}

/// No word has so many letters of one case in a row.
const LETTERS_MAX: usize = 28;

/// How many characters make a code.
struct Least {
    hexadecimal: usize,
    mixed: usize,
    /// Of letters and digits that need not be mixed well.
    plain: usize,
    letters: usize,
}

const CAPABILITY: Least = Least { hexadecimal: 12, mixed: 10, plain: usize::MAX, letters: 10 };
const CREDENTIAL: Least = Least { hexadecimal: 6, mixed: 6, plain: 6, letters: 8 };

/// In percent of all places, how often the kind of character changes in what is random, where no word says what to expect.
const THREE_KINDS: usize = 39;
const TWO_KINDS: usize = 22;
/// The same of letters alone, behind a word: `OrderConfirmation` changes at 19.
const LETTERS: usize = 30;
/// How often it changes behind a word: a number with letters before it (`R123456789`) changes once.
const CHANGES_MIN: usize = 2;

/// Letters and digits in a row.
#[derive(Debug, Default)]
struct Run {
    length: usize,
    upper: usize,
    lower: usize,
    digits: usize,
    /// How often the kind changes.
    changes: usize,
    has_other_than_hexadecimal: bool,
}

impl Run {
    fn of(run: &str) -> Self {
        let mut counted = Self { length: run.len(), ..Self::default() };
        let mut before = None;
        for byte in run.bytes() {
            let (kind, count) = match byte {
                b'A'..=b'Z' => (0, &mut counted.upper),
                b'a'..=b'z' => (1, &mut counted.lower),
                _ => (2, &mut counted.digits),
            };
            *count += 1;
            counted.changes += usize::from(before.is_some_and(|before| before != kind));
            before = Some(kind);
            counted.has_other_than_hexadecimal |= !byte.is_ascii_hexdigit();
        }
        counted
    }

    fn add(&mut self, other: &Self) {
        self.length += other.length;
        self.upper += other.upper;
        self.lower += other.lower;
        self.digits += other.digits;
        self.changes += other.changes;
        self.has_other_than_hexadecimal |= other.has_other_than_hexadecimal;
    }

    /// Digits alone are a number.
    fn is_hexadecimal(&self) -> bool {
        !self.has_other_than_hexadecimal && self.upper + self.lower > 0
    }

    /// Whether letters are mixed with digits as they are in random texts, and not in names.
    fn is_random(&self) -> bool {
        let least = if self.upper > 0 && self.lower > 0 { THREE_KINDS } else { TWO_KINDS };
        self.has_both() && self.changes_at(least)
    }

    fn has_both(&self) -> bool {
        self.digits > 0 && self.upper + self.lower > 0
    }

    fn changes_at(&self, percent: usize) -> bool {
        self.changes * 100 >= self.length.saturating_sub(1) * percent
    }

    /// Without looking at what stands before.
    fn may_be_code(&self) -> bool {
        let letters = self.upper + self.lower;
        (self.digits > 0 && letters > 0 && self.length >= CREDENTIAL.plain)
            || (self.upper > 1 && self.lower > 0 && self.length >= CREDENTIAL.letters)
            // Of a UUID.
            || (self.is_hexadecimal() && self.digits > 0 && self.length == 4)
            || self.lower.max(self.upper) >= LETTERS_MAX
    }

    fn is_code(&self, least: &Least) -> bool {
        let has_both = self.has_both();
        (has_both && self.is_hexadecimal() && self.length >= least.hexadecimal)
            || (has_both && self.changes >= CHANGES_MIN && self.length >= least.mixed)
            || (has_both && self.length >= least.plain)
            || (self.upper > 1 && self.lower > 0 && self.changes_at(LETTERS) && self.length >= least.letters)
            || self.lower.max(self.upper) >= LETTERS_MAX
    }
}

/// Letters and digits in a row, without those of `%xx`.
fn runs(segment: &str) -> impl Iterator<Item = &str> {
    let bytes = segment.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() && !bytes[at].is_ascii_alphanumeric() {
            let is_code = bytes[at] == b'%'
                && bytes.get(at + 1..at + 3).is_some_and(|code| code.iter().all(u8::is_ascii_hexdigit));
            at += if is_code { 3 } else { 1 };
        }
        let start = at;
        while at < bytes.len() && bytes[at].is_ascii_alphanumeric() {
            at += 1;
        }
        (at > start).then(|| &segment[start..at])
    })
}

/// Whether a UUID stands in a segment.
fn is_uuid(segment: &str) -> bool {
    const LENGTH: usize = 36;
    segment.as_bytes().windows(LENGTH).any(|window| {
        window.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
    })
}

/// A JSON Web Token begins with `{"`, and has three parts; an encrypted one has five.
pub(super) fn is_jwt(text: &str) -> bool {
    text.starts_with("eyJ") && text.matches('.').count() >= 2 && text.len() >= TOKEN_BYTES_MIN
}

/// Whether a word of a text can only be a secret: it stands in no path that would say more.
pub(super) fn is_token(word: &str) -> bool {
    word.len() >= TOKEN_BYTES_MIN && Shape::of(word).is_token
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

    const BASE64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    /// Of 1,000 random texts, how many are missed behind a start of a path.
    fn missed(start: &str, alphabet: &[u8], length: usize) -> usize {
        const TEXTS: usize = 20_000;
        let mut random = SmallRng::seed_from_u64(length as u64);
        let is_missed = |_: &usize| {
            let text: String =
                (0..length).map(|_| alphabet[random.random_range(0..alphabet.len())] as char).collect();
            let path = format!("{start}{text}");
            !Judge::new(&path).is_secret(start.len(), &text)
        };
        let missed = (0..TEXTS).filter(is_missed).count();
        missed * 1000 / TEXTS
    }

    #[test]
    fn few_random_texts_are_missed() {
        let base62 = &BASE64[..62];
        let base36 = &BASE64[26..62];
        let hexadecimal = b"0123456789abcdef";
        for (start, alphabet, length, at_most) in [
            ("/a/", BASE64, 43, 20),
            ("/a/", base62, 32, 20),
            ("/a/", base62, 64, 20),
            ("/a/", base36, 40, 25),
            ("/a/", hexadecimal, 32, 20),
            ("/orders/", base62, 10, 20),
            ("/orders/", BASE64, 22, 20),
            ("/orders/", base36, 15, 20),
            ("/orders/", hexadecimal, 16, 20),
            ("/reset/", base62, 10, 20),
            ("/reset/", BASE64, 20, 20),
            ("/reset/", base36, 8, 80),
            ("/reset/", hexadecimal, 10, 20),
        ] {
            let missed = missed(start, alphabet, length);
            assert!(missed <= at_most, "{start} {} {length}: {missed} of 1,000", alphabet.len());
        }
    }
}
