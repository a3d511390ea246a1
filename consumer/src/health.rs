//! What is wrong now, for `/readyz`: a list of problems by what has them, each a sentence for an operator. Beside it what
//! went wrong and cannot be mended, which is noted and makes nobody unready.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde::Serialize;

/// The problems of a running consumer; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Health {
    problems: Arc<Mutex<ByPart>>,
    notes: Arc<Mutex<ByPart>>,
}

/// A sentence for each part.
type ByPart = BTreeMap<String, String>;

/// What `/readyz` answers.
#[derive(Debug, Serialize)]
pub struct Readiness {
    /// Whether nothing is wrong.
    pub ready: bool,
    /// What is wrong, by part. Events wait in the log meanwhile; none is lost.
    pub problems: BTreeMap<String, String>,
    /// What has gone wrong for good since the process began, by part, with the time.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, String>,
}

impl Health {
    /// A consumer that has not started yet.
    pub fn new() -> Self {
        let health = Self::default();
        health.starting("the consumer has not started yet");
        health
    }

    /// What a start is waiting for: not ready, but nothing to warn of.
    pub fn starting(&self, step: &str) {
        lock(&self.problems).insert("start".into(), step.into());
    }

    /// The start is over.
    pub fn started(&self) {
        lock(&self.problems).remove("start");
    }

    /// It is being stopped: not ready, but nothing to warn of.
    pub fn stopping(&self) {
        lock(&self.problems).insert("stop".into(), "the consumer is being stopped".into());
    }

    /// Something is wrong with `part`, until [`Health::clear`].
    pub fn report(&self, part: &str, problem: impl Into<String>) {
        let problem = problem.into();
        let mut problems = lock(&self.problems);
        if problems.get(part) != Some(&problem) {
            tracing::warn!(part, problem, "not ready");
            problems.insert(part.into(), problem);
        }
    }

    /// `part` is well again.
    pub fn clear(&self, part: &str) {
        if lock(&self.problems).remove(part).is_some() {
            tracing::info!(part, "ready again");
        }
    }

    /// Something has happened to `part` that nothing can mend. It stands there until the process ends, or something newer is
    /// noted of the part, and makes nobody unready: a probe that failed for it would go on failing, and say nothing any more
    /// of what can be mended.
    pub fn note(&self, part: &str, note: &str) {
        let at = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        lock(&self.notes).insert(part.into(), format!("{at}: {note}"));
    }

    /// What is wrong now, and what has been noted.
    pub fn readiness(&self) -> Readiness {
        let (problems, notes) = (lock(&self.problems).clone(), lock(&self.notes).clone());
        Readiness { ready: problems.is_empty(), problems, notes }
    }
}

fn lock(of: &Mutex<ByPart>) -> MutexGuard<'_, ByPart> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
