//! The real partition in a simulated world: thousands of random schedules, each known by its seed.
//!
//! A schedule appends to the log and lets consumers read, time pass, and what is on its way succeed, fail, happen without
//! being acknowledged, happen in part or late, or leave nothing but a token. Consumers crash and start again with other limits; a successor takes
//! over while its predecessor goes on, unfenced only in what it has sent already. The store merges copies, forgets
//! tokens, and refuses rows; the log loses its oldest messages, or begins again. In the end all of this stops, and
//! what is left must be stored.
//!
//! Checked all the time (in [`world`] and [`instance`]):
//!
//! * an insert's range is on record, and a range on record is only ever sent with the same rows; a row has one range;
//! * the position never passes a line that is neither stored nor dead-lettered; only what is wrong is dead-lettered;
//! * rows that may have been sent are asked for before they are sent again, or dead-lettered; none that is stored is
//!   dead-lettered;
//! * no row is stored a second time while its token is remembered, unless it was acknowledged, and then not seen;
//! * one batch and one thing at a time are on their way;
//!
//! and in the end: every line is stored or dead-lettered, never both, and the position is the log's end.
//!
//! `MILLRACE_SIMULATION_SEEDS` says how many schedules are tried (10,000 by default), `MILLRACE_SIMULATION_SEED` which
//! one alone, step by step.

mod instance;
mod mutation;
mod world;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use millrace_consumer::partition::Input;

use self::{
    instance::{Fate, Instance},
    mutation::Mutation,
    world::{Checked, Violation, World},
};

const SEEDS: u64 = 10_000;
/// Kinds of things that happen in so many schedules.
const HAPPENINGS: usize = 17;
/// A broken rule is noticed within so many schedules.
const SEEDS_TO_NOTICE: u64 = 2_000;

#[test]
fn whatever_happens_everything_is_stored_once_or_dead_lettered() {
    if let Some(seed) = number("MILLRACE_SIMULATION_SEED") {
        assert_eq!(Simulation::new(seed, None, true).run().err(), None, "seed {seed}");
        return;
    }
    let seeds = number("MILLRACE_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let mut happened = BTreeMap::<_, u64>::new();
    for seed in 0..seeds {
        match Simulation::new(seed, None, false).run() {
            Ok(world) => world
                .happened
                .into_iter()
                .for_each(|(what, count)| *happened.entry(what).or_default() += count),
            Err(violation) => {
                panic!("seed {seed}: {violation}; MILLRACE_SIMULATION_SEED={seed} repeats it alone")
            }
        }
    }
    println!("{seeds} seeds: {happened:#?}");
    assert!(seeds < SEEDS || happened.len() == HAPPENINGS, "something never happens: {happened:#?}");
}

#[test]
fn breaking_any_rule_is_noticed() {
    for mutation in Mutation::ALL {
        let noticed = (0..SEEDS_TO_NOTICE).find_map(|seed| Some((seed, violation(seed, Some(mutation))?)));
        let (seed, violation) = noticed.unwrap_or_else(|| panic!("{mutation:?} goes unnoticed"));
        println!("{mutation:?}: seed {seed}: {violation}");
    }
}

fn violation(seed: u64, mutation: Option<Mutation>) -> Option<Violation> {
    Simulation::new(seed, mutation, false).run().err()
}

fn number(variable: &str) -> Option<u64> {
    Some(std::env::var(variable).ok()?.parse().expect("a number"))
}

/// Numbers that a seed determines (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What may happen, and how likely it is: every seed has a weather of its own, and in many something never happens.
struct Weather {
    gaps: u64,
    poison: u64,
    failures: u64,
    /// Of the failures, those without a meaning.
    unknown: u64,
    crashes: u64,
    handovers: u64,
    store: u64,
    spells: u64,
    log: u64,
    stops: u64,
}

impl Weather {
    fn of(random: &mut Random) -> Self {
        let mut often = |most: u64| if random.percent(40) { 0 } else { 1 + random.below(most) };
        Self {
            gaps: often(30),
            poison: often(15),
            failures: often(60),
            unknown: often(90),
            crashes: often(40),
            handovers: often(40),
            store: often(80),
            spells: often(10),
            log: often(10),
            stops: often(10),
        }
    }
}

struct Simulation {
    random: Random,
    weather: Weather,
    world: World,
    owner: Instance,
    /// Consumers that have lost the partition and do not know yet.
    former: Vec<Instance>,
    now: Instant,
    /// For so many more steps nothing goes well, and no error has a meaning.
    spell: u64,
    mutation: Option<Mutation>,
    /// Says what happens.
    tells: bool,
}

const STEPS: u64 = 300;
const STEPS_TO_THE_END: u64 = 4_000;

impl Simulation {
    fn new(seed: u64, mutation: Option<Mutation>, tells: bool) -> Self {
        let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let weather = Weather::of(&mut random);
        let window = if random.percent(50) { 1 + random.below(8) as usize } else { usize::MAX };
        let mut world = World::new(window, tells);
        let now = Instant::now();
        let owner = Instance::start(&mut world, now, 0, 1 + random.below(12) as u32, mutation);
        Self { random, weather, world, owner, former: Vec::new(), now, spell: 0, mutation, tells }
    }

    fn run(mut self) -> Checked<World> {
        for _ in 0..1 + self.random.below(STEPS) {
            self.step()?;
        }
        self.end()
    }

    fn tell(&self, what: &str) {
        if self.tells {
            println!("{what}; on record: {:?}", self.world.recorded);
        }
    }

    fn step(&mut self) -> Checked {
        let Weather { crashes, handovers, store, spells, log, stops, .. } = self.weather;
        let weights = [200, 50, crashes, handovers, store, log, stops, spells, 600];
        self.spell = self.spell.saturating_sub(1);
        let mut number = self.random.below(weights.iter().sum());
        let step = weights.iter().position(|weight| {
            let here = number < *weight;
            number = number.saturating_sub(*weight);
            here
        });
        match step {
            Some(0) => self.append(),
            Some(1) => self.pass_time(),
            Some(2) => self.crash()?,
            Some(3) => self.hand_over()?,
            Some(4) => self.change_the_store()?,
            Some(5) => self.change_the_log()?,
            Some(6) => {
                self.tell("the owner is asked to stop");
                self.owner.input(&mut self.world, self.now, Input::Drain)?;
            }
            Some(7) => self.spell = self.random.below(STEPS),
            _ => self.act()?,
        }
        if self.owner.stopped {
            self.tell("it has stopped");
            self.start();
        }
        self.former.retain(|former| !former.stopped);
        Ok(())
    }

    fn append(&mut self) {
        // What is appended beyond a position that nobody has corrected would be passed over, by Kafka itself.
        if !self.world.is_stale() {
            self.world.append(&mut self.random, self.weather.gaps, self.weather.poison);
        }
    }

    fn pass_time(&mut self) {
        let long = self.random.percent(10);
        self.now += Duration::from_millis(if long { 20_000 } else { self.random.below(200) });
    }

    /// The owner, or one of those who were it, does something.
    fn act(&mut self) -> Checked {
        let (world, random, now) = (&mut self.world, &mut self.random, self.now);
        let former = random.below(3 * self.former.len().max(1) as u64) as usize;
        let instance = self.former.get_mut(former).unwrap_or(&mut self.owner);
        let who = instance.id;
        match random.below(8) {
            0..=3 => instance.offer(world, now)?,
            4 => instance.input(world, now, Input::Timer)?,
            5 if random.percent(20) => instance.input(world, now, Input::MemoryFull)?,
            _ => {
                let (failures, unknown) = match self.spell {
                    0 => (self.weather.failures, self.weather.unknown),
                    _ => (100, 100),
                };
                let fate = match random.below(5) {
                    _ if !random.percent(failures) => Fate::Well,
                    0 => Fate::AcknowledgementLost,
                    1 => Fate::Fails,
                    2 => Fate::Partly,
                    3 => Fate::TokenAlone,
                    _ => Fate::Later,
                };
                let work = instance.work.is_some();
                instance.finish(world, now, random, fate, unknown)?;
                if work {
                    self.tell(&format!("work of {who}: {fate:?}"));
                }
            }
        }
        Ok(())
    }

    fn start(&mut self) {
        let id = self.world.owner + 1;
        self.world.owner = id;
        let rows_max = 1 + self.random.below(12) as u32;
        let next = Instance::start(&mut self.world, self.now, id, rows_max, self.mutation);
        let before = std::mem::replace(&mut self.owner, next);
        if !before.stopped && self.former.len() < 2 {
            self.former.push(before);
        }
        self.tell(&format!("{id} starts"));
    }

    fn crash(&mut self) -> Checked {
        self.tell("a crash");
        self.start();
        match self.former.pop() {
            Some(crashed) => crashed.crash(&mut self.world, &mut self.random),
            None => Ok(()),
        }
    }

    fn hand_over(&mut self) -> Checked {
        if self.random.percent(50) {
            self.tell("another takes over");
            self.world.note("another takes over");
            self.start();
        } else if !self.former.is_empty() {
            self.tell("a former owner is told");
            self.former.remove(0).crash(&mut self.world, &mut self.random)?;
        }
        Ok(())
    }

    fn change_the_store(&mut self) -> Checked {
        match self.random.below(4) {
            0 => self.world.merge(self.random.below(2) as u8),
            1 => self.world.forget_tokens(&mut self.random),
            _ if !self.world.late.is_empty() => {
                self.tell("a late insert");
                self.world.note("an insert arrives late");
                let at = self.random.below(self.world.late.len() as u64) as usize;
                let request = self.world.late.swap_remove(at);
                self.world.insert(&request, |_| true)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn change_the_log(&mut self) -> Checked {
        // What stands below a position that nobody has corrected has not been read.
        if self.random.percent(50) && !self.world.is_stale() {
            let from = self.random.below(self.world.next_offset + 1);
            self.tell(&format!("the log's retention removes what is below {from}"));
            self.world.retain(from);
            return Ok(());
        }
        // Nobody reads while a log is made anew: what is left of the old one is what was on its way.
        self.start();
        while let Some(former) = self.former.pop() {
            former.crash(&mut self.world, &mut self.random)?;
        }
        let keep_position = self.random.percent(30);
        self.world.recreate(&mut self.random, keep_position);
        self.world.note("a log is made anew");
        self.tell("the log is made anew");
        self.owner.stopped = true;
        self.start();
        Ok(())
    }

    /// Nothing goes wrong any more.
    fn end(mut self) -> Checked<World> {
        self.tell("from here on all goes well");
        while let Some(former) = self.former.pop() {
            former.crash(&mut self.world, &mut self.random)?;
        }
        while let Some(request) = self.world.late.pop() {
            self.world.insert(&request, |_| true)?;
        }
        let mut last_is_there = false;
        for _ in 0..STEPS_TO_THE_END {
            self.now += Duration::from_secs(10);
            let (world, now) = (&mut self.world, self.now);
            self.owner.offer(world, now)?;
            self.owner.input(world, now, Input::Timer)?;
            self.owner.finish(world, now, &mut self.random, Fate::Well, 0)?;
            if self.owner.stopped {
                self.start();
            }
            if !last_is_there && !self.world.is_stale() {
                // A range that ended in a gap is known to be over when something comes after it.
                last_is_there = true;
                self.world.append(&mut self.random, 0, 0);
            }
            if last_is_there && self.world.check_end().is_ok() {
                break;
            }
        }
        self.world.check_end()?;
        self.owner.input(&mut self.world, self.now, Input::Drain)?;
        if self.owner.stopped {
            Ok(self.world)
        } else {
            Err("a partition with nothing to do does not stop".into())
        }
    }
}
