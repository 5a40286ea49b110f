//! How each sink fares.
//!
//! Here lives [`Board`], on which sinks write and from which people read.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

/// How a sink fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkStatus {
    /// It does what it shall.
    pub ok: bool,
    /// What it does: "connected to BIRD 2.0.12, 4 protocols", "12 routes in table main".
    pub doing: String,
    /// What is wrong and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How all sinks fare, by name: "routes", "bird", "babeld", "links", "hooks", …
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<BTreeMap<String, SinkStatus>>>);

impl Board {
    /// Writes how a sink fares. Returns whether it fares otherwise than before.
    pub fn write(&self, sink: &str, status: SinkStatus) -> bool {
        let mut all = self.lock();
        if all.get(sink) == Some(&status) {
            return false;
        }
        all.insert(sink.to_owned(), status);
        true
    }

    /// Wipes a sink that is no longer configured.
    pub fn wipe(&self, sink: &str) {
        self.lock().remove(sink);
    }

    /// Reads everything.
    pub fn read(&self) -> BTreeMap<String, SinkStatus> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, SinkStatus>> {
        // What a sink that panicked wrote is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error with its causes, in one line, as a board has room for.
pub fn in_one_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
