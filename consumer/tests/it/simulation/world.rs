//! What outlives every consumer: the log, the recorded position, and a small ClickHouse. Here the promises are checked,
//! at the moment at which they would be broken.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use millrace_schemas::spool::Position;

use super::Random;

/// Why a schedule is not what was promised.
pub(super) type Violation = String;
pub(super) type Checked<T = ()> = Result<T, Violation>;

/// A line of the log: which log (it may be made anew), offset, line.
pub(super) type LineId = (u32, u64, u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Row,
    /// The store refuses it, whoever sends it.
    Poison,
    Undecodable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) id: LineId,
    /// Equal for copies of one event.
    pub(super) event: u32,
    /// The table's partition, or its shard.
    pub(super) month: u8,
    pub(super) content: Content,
}

#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) offset: u64,
    pub(super) lines: Vec<Line>,
}

/// A part of a range: offsets `[first, next)` of a log, and which rows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Part {
    pub(super) epoch: u32,
    pub(super) first: u64,
    pub(super) next: u64,
    pub(super) start: u32,
    pub(super) end: u32,
}

/// What the driver writes into the token: no word of which log it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Token {
    pub(super) first: u64,
    pub(super) next: u64,
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) digest: u64,
    /// 0, unless a mutation takes the token away.
    pub(super) attempt: u64,
}

/// An insert on its way.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) part: Part,
    /// None: it is stored whatever is there.
    pub(super) token: Option<Token>,
    pub(super) rows: Vec<Line>,
}

impl Request {
    pub(super) fn is_refused(&self) -> bool {
        self.rows.iter().any(|row| row.content == Content::Poison)
    }
}

#[derive(Default)]
pub(super) struct World {
    tells: bool,
    pub(super) epoch: u32,
    pub(super) log: Vec<Message>,
    pub(super) next_offset: u64,
    next_event: u32,
    /// Everything below was removed from the log by its retention.
    cut: u64,
    /// Lines that are neither stored nor dead yet.
    owed: BTreeMap<LineId, Line>,

    pub(super) recorded: Option<Position>,
    /// The consumer whose commits are taken.
    pub(super) owner: u32,
    intents: HashSet<(u32, u64, u64)>,

    /// Deduplication: so many tokens are remembered.
    window: usize,
    tokens: VecDeque<(u8, Token)>,
    physical: Vec<Line>,
    events: HashSet<u32>,
    stored_by: HashMap<LineId, (Part, Option<Token>)>,
    dead: BTreeSet<LineId>,
    /// Good rows that errors without a meaning had dead-lettered.
    pub(super) unsure: BTreeSet<LineId>,
    /// Inserts that nobody waits for any more, and that may still be applied.
    pub(super) late: Vec<Request>,

    range_of: HashMap<LineId, (u64, u64)>,
    rows_of: HashMap<Part, Vec<LineId>>,
    /// Parts that were sent, with the number of the sending.
    pub(super) sent: HashMap<Part, u64>,
    pub(super) sendings: u64,
    /// How often what happened: a simulation in which nothing happens proves nothing.
    pub(super) happened: BTreeMap<&'static str, u64>,
}

impl World {
    /// An empty one, whose store remembers so many tokens.
    pub(super) fn new(window: usize, tells: bool) -> Self {
        Self { window, tells, ..Self::default() }
    }

    pub(super) fn append(&mut self, random: &mut Random, gap_percent: u64, poison_percent: u64) {
        if random.percent(gap_percent) {
            self.next_offset += 1 + random.below(4);
        }
        let offset = self.next_offset;
        let lines = (0..random.below(4) as u32)
            .map(|line| {
                let content = match random.below(100) {
                    percent if percent < poison_percent => Content::Poison,
                    percent if percent < poison_percent + 5 => Content::Undecodable,
                    _ => Content::Row,
                };
                // Some events are sent twice by whoever sends them; a copy keeps its month or not.
                let again = self.next_event > 0 && content == Content::Row && random.percent(5);
                let event = if again { random.below(self.next_event.into()) as u32 } else { self.next_event };
                self.next_event += u32::from(!again);
                Line { id: (self.epoch, offset, line), event, month: random.below(5) as u8 / 4, content }
            })
            .collect::<Vec<_>>();
        self.owed.extend(lines.iter().map(|line| (line.id, *line)));
        self.log.push(Message { offset, lines });
        self.next_offset = offset + 1;
    }

    pub(super) fn message_from(&self, offset: u64) -> Option<&Message> {
        self.log.get(self.log.partition_point(|message| message.offset < offset))
    }

    /// Where a consumer begins to read.
    pub(super) fn begin(&self) -> u64 {
        self.recorded.map_or(0, |position| if position.next > self.next_offset { 0 } else { position.next })
    }

    /// The log was made anew and the position is still that of the old one.
    pub(super) fn is_stale(&self) -> bool {
        self.recorded.is_some_and(|position| position.next > self.next_offset)
    }

    /// The log's retention removes its oldest messages, read or not.
    pub(super) fn retain(&mut self, from: u64) {
        self.log.retain(|message| message.offset >= from);
        self.cut = self.cut.max(from);
        self.owed.retain(|(_, offset, _), _| *offset >= from);
    }

    /// The log is made anew; nobody reads or writes it meanwhile. A position that is kept lies beyond its end.
    pub(super) fn recreate(&mut self, random: &mut Random, keep_position: bool) {
        self.epoch += 1;
        self.log.clear();
        self.owed.clear();
        (self.next_offset, self.cut) = (0, 0);
        let kept = self.recorded.filter(|position| keep_position && position.next > 10);
        self.recorded = kept;
        for _ in 0..1 + random.below(9) {
            self.append(random, 0, 5);
        }
        if let Some(Position { next: first, pending_next: Some(next) }) = kept {
            self.intents.insert((self.epoch, first, next));
        }
    }

    /// A position arrives; it counts when its sender is the owner.
    pub(super) fn record(&mut self, by: u32, position: Position, fenced: bool) -> Checked<bool> {
        if fenced && by != self.owner {
            self.note("a commit is fenced");
            return Ok(false);
        }
        self.settle();
        // A position beyond the log's end is one of the log before it, and so is what it says.
        let of_this_log = position.next <= self.next_offset;
        let passed = self.owed.iter().find(|((_, offset, _), _)| of_this_log && *offset < position.next);
        if let Some((id, line)) = passed {
            return Err(format!("the position moves to {} past {id:?}, {:?}", position.next, line.content));
        }
        if let Some(next) = position.pending_next {
            self.intents.insert((self.epoch, position.next, next));
        }
        self.recorded = Some(position);
        Ok(true)
    }

    pub(super) fn note(&mut self, what: &'static str) {
        *self.happened.entry(what).or_default() += 1;
    }

    fn settle(&mut self) {
        let (events, dead) = (&self.events, &self.dead);
        self.owed.retain(|id, line| match line.content {
            Content::Row => !events.contains(&line.event) && !dead.contains(id),
            Content::Poison | Content::Undecodable => !dead.contains(id),
        });
    }

    /// An insert is about to be sent.
    pub(super) fn check_request(&mut self, by: u32, request: &Request) -> Checked {
        let Part { epoch, first, next, .. } = request.part;
        let intent = Position { next: first, pending_next: Some(next) };
        if by == self.owner && self.recorded != Some(intent) {
            return Err(format!("{first}-{next} is inserted while {:?} is on record", self.recorded));
        }
        if !self.intents.contains(&(epoch, first, next)) {
            return Err(format!("{first}-{next} is inserted and was never on record"));
        }
        for row in &request.rows {
            let range = *self.range_of.entry(row.id).or_insert((first, next));
            if range != (first, next) {
                return Err(format!("{:?} is sent in {first}-{next} and was in {range:?}", row.id));
            }
        }
        let rows: Vec<_> = request.rows.iter().map(|row| row.id).collect();
        let before = self.rows_of.entry(request.part).or_insert_with(|| rows.clone());
        // What the log itself no longer has cannot be sent again.
        if *before != rows && first >= self.cut {
            return Err(format!("{:?} held {before:?} and now holds {rows:?}", request.part));
        }
        self.sendings += 1;
        self.sent.insert(request.part, self.sendings);
        Ok(())
    }

    /// An insert is applied in the months for which `here` says so.
    pub(super) fn insert(&mut self, request: &Request, here: impl Fn(u8) -> bool) -> Checked {
        for month in (0..2).filter(|month| here(*month)) {
            let rows: Vec<_> = request.rows.iter().filter(|row| row.month == month).copied().collect();
            let known = request.token.is_some_and(|token| self.tokens.contains(&(month, token)));
            if rows.is_empty() {
                continue;
            }
            if self.tells {
                let Part { first, next, start, end, .. } = request.part;
                println!(
                    "  {first}-{next} rows {start}..{end} in month {month}: {}",
                    if known { "known" } else { "stored" }
                );
            }
            if known {
                self.note("a token drops an insert");
                continue;
            }
            if let Some(token) = request.token {
                self.remember(month, token);
            }
            for row in rows {
                match (self.stored_by.insert(row.id, (request.part, request.token)), request.token) {
                    (None, _) => {}
                    (Some(_), None) => self.note("a row is stored again without a token"),
                    (Some((part, token)), Some(_)) => {
                        let another_part = (part.start, part.end) != (request.part.start, request.part.end);
                        let remembered = token.is_some_and(|token| {
                            Some(token) != request.token && self.tokens.contains(&(month, token))
                        });
                        let forgotten = !remembered && token.is_none_or(|token| token.attempt == 0);
                        if !forgotten && !another_part && request.part.first >= self.cut {
                            return Err(format!("{:?} is stored twice within the window", row.id));
                        }
                        self.note("a row is stored again beyond the window");
                    }
                }
                self.events.insert(row.event);
                self.physical.push(row);
            }
        }
        Ok(())
    }

    /// The store dies between an insert's token and its rows.
    pub(super) fn write_token_down(&mut self, request: &Request) {
        let Some(token) = request.token else { return };
        for month in 0..2 {
            let has_rows = request.rows.iter().any(|row| row.month == month);
            if has_rows && !self.tokens.contains(&(month, token)) {
                self.note("a token is written down, and its rows are not");
                self.remember(month, token);
            }
        }
    }

    /// Inserts of others fill the window.
    pub(super) fn forget_tokens(&mut self, random: &mut Random) {
        if self.window < usize::MAX {
            for _ in 0..self.window {
                let attempt = random.next() | 1;
                self.remember(0, Token { first: 0, next: 0, start: 0, end: 0, digest: 0, attempt });
            }
        }
    }

    fn remember(&mut self, month: u8, token: Token) {
        self.tokens.push_back((month, token));
        while self.tokens.len() > self.window {
            self.tokens.pop_front();
        }
    }

    /// `ReplacingMergeTree` leaves one copy of each event in a month.
    pub(super) fn merge(&mut self, month: u8) {
        let mut seen = HashSet::new();
        self.physical.retain(|row| row.month != month || seen.insert(row.event));
    }

    /// Which of the rows are seen there, as the same event at the same place.
    pub(super) fn count_held(&self, rows: &[Line]) -> usize {
        let place = |line: &Line| (line.event, line.id.1, line.id.2);
        rows.iter().filter(|row| self.physical.iter().any(|held| place(held) == place(row))).count()
    }

    pub(super) fn dead_letter(&mut self, lines: &[Line]) -> Checked {
        for line in lines {
            if line.content == Content::Row && !self.unsure.contains(&line.id) {
                return Err(format!("{:?} is dead-lettered, and nothing was wrong with it", line.id));
            }
            self.dead.insert(line.id);
            self.note(match line.content {
                Content::Row => "a good row is dead-lettered after errors without a meaning",
                Content::Poison => "a refused row is dead-lettered",
                Content::Undecodable => "a line that is no row is dead-lettered",
            });
        }
        Ok(())
    }

    /// Nothing goes on any more.
    pub(super) fn check_end(&mut self) -> Checked {
        self.settle();
        if let Some((id, line)) = self.owed.first_key_value() {
            return Err(format!("{id:?} is lost: {:?}", line.content));
        }
        let end = Position { next: self.next_offset, pending_next: None };
        if self.recorded != Some(end) {
            return Err(format!("{:?} is on record at the end, and not {end:?}", self.recorded));
        }
        let poison = self.physical.iter().find(|row| row.content != Content::Row);
        let both =
            self.physical.iter().find(|row| self.dead.contains(&row.id) && !self.unsure.contains(&row.id));
        match poison.or(both) {
            Some(row) => Err(format!("{:?} is stored and dead-lettered", row.id)),
            None => Ok(()),
        }
    }
}
