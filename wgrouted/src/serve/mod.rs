//! What the daemon tells over its control socket, and over TCP if it shall.
//!
//! Here live the questions and how they reach the engine. The engine answers between two events;
//! whatever takes long, such as writing a million rows as JSON, happens elsewhere.

mod bounded;
pub mod client;
pub mod filter;
pub mod http;
mod metrics;
mod process;
pub mod reach;
pub mod tcp;
mod text;
pub mod token;

use std::{path::PathBuf, sync::Arc};

use tokio::sync::{mpsc, oneshot, watch};

use self::filter::Samples;

use crate::{
    core::{engine::Engine, event::Event, exits::status::ExitsStatus},
    reach::Feed,
};

/// The control socket's name in the runtime directory.
pub const SOCKET: &str = "wgrouted.sock";

/// A question to the engine.
pub type Question = Box<dyn FnOnce(&Engine) + Send>;

/// The way to the engine.
#[derive(Clone, Debug)]
pub struct Desk {
    questions: mpsc::Sender<Question>,
    events: mpsc::Sender<Event>,
    samples: Samples,
    feed: Feed,
    exits: watch::Receiver<Arc<ExitsStatus>>,
}

/// The daemon is stopping.
#[derive(Debug, thiserror::Error)]
#[error("the daemon is stopping")]
pub struct Stopping;

impl Desk {
    /// A desk whose questions arrive at `questions`, and whose orders are `events`. Below `filter`
    /// are the pins of the packet filter; `feed` is reachability's, `exits` how exits and flows are.
    pub fn new(
        questions: mpsc::Sender<Question>,
        events: mpsc::Sender<Event>,
        filter: PathBuf,
        feed: Feed,
        exits: watch::Receiver<Arc<ExitsStatus>>,
    ) -> Self {
        Desk { questions, events, samples: Samples::new(filter), feed, exits }
    }

    /// How exits and flows are.
    pub(crate) fn exits(&self) -> Arc<ExitsStatus> {
        self.exits.borrow().clone()
    }

    /// Samples of what the packet filter drops.
    pub(crate) fn samples(&self) -> &Samples {
        &self.samples
    }

    /// What reachability knows.
    pub(crate) fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Asks the engine.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Result<T, Stopping> {
        let (reply, answer) = oneshot::channel();
        let question: Question = Box::new(move |engine| {
            // Whoever asked may have hung up.
            let _ = reply.send(question(engine));
        });
        self.questions.send(question).await.map_err(|_| Stopping)?;
        answer.await.map_err(|_| Stopping)
    }

    /// Has everything read again.
    pub async fn resync(&self) -> Result<(), Stopping> {
        self.events.send(Event::Resync).await.map_err(|_| Stopping)
    }
}
