//! What is wrong now, for `/readyz`: a list of problems by what has them, each a sentence for an operator.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

/// The problems of a running consumer; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Health {
    problems: Arc<Mutex<BTreeMap<String, String>>>,
}

/// What `/readyz` answers.
#[derive(Debug, Serialize)]
pub struct Readiness {
    /// Whether nothing is wrong.
    pub ready: bool,
    /// What is wrong, by part. Events wait in the log meanwhile; none is lost.
    pub problems: BTreeMap<String, String>,
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
        self.lock().insert("start".into(), step.into());
    }

    /// The start is over.
    pub fn started(&self) {
        self.lock().remove("start");
    }

    /// It is being stopped: not ready, but nothing to warn of.
    pub fn stopping(&self) {
        self.lock().insert("stop".into(), "the consumer is being stopped".into());
    }

    /// Something is wrong with `part`, until [`Health::clear`].
    pub fn report(&self, part: &str, problem: impl Into<String>) {
        let problem = problem.into();
        let mut problems = self.lock();
        if problems.get(part) != Some(&problem) {
            tracing::warn!(part, problem, "not ready");
            problems.insert(part.into(), problem);
        }
    }

    /// `part` is well again.
    pub fn clear(&self, part: &str) {
        if self.lock().remove(part).is_some() {
            tracing::info!(part, "ready again");
        }
    }

    /// What is wrong now.
    pub fn readiness(&self) -> Readiness {
        let problems = self.lock().clone();
        Readiness { ready: problems.is_empty(), problems }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
