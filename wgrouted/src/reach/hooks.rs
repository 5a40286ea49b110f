//! Commands and webhooks that are told of changes.
//!
//! Here lives the sink around [`Pacer`]: who is told when is decided there. It has a thread of its own
//! without any capability and without a way to gain one, so that neither has what it starts: a command
//! runs as the daemon's user and no more, also where that is root. Invariants: a hook tells at most
//! four peers at a time; a command that takes too long dies with all that it started in its
//! process group; nobody waits for a hook.

mod command;
mod webhook;

use std::{io, sync::Arc, thread};

use caps::{CapSet, CapsHashSet};
use tokio::{
    runtime,
    sync::{broadcast::error::RecvError, oneshot, watch},
    task::JoinSet,
    time::sleep,
};
use tracing::{debug, error, warn};

use super::{
    Feed,
    board::SinkStatus,
    view::{HookView, word},
};
use crate::core::reach::{
    hooks::{Pacer, PeerKey, Telling},
    rule::{HookAction, HookRule, ReachRule},
};

/// The sink's name on the board.
const SINK: &str = "hooks";
/// Peers that one hook is told of at a time: a command for each of thousands would be too many.
const AT_ONCE: usize = 4;

/// Tells hooks, as long as there are any, until the daemon is stopping.
pub async fn serve(feed: Feed) {
    let mut rule = feed.rule.clone();
    loop {
        tokio::select! {
            () = feed.stopped() => return,
            some = rule.wait_for(|rule| !rule.hooks.is_empty()) => if some.is_err() { return },
        }
        let (over, ended) = oneshot::channel::<()>();
        let started = thread::Builder::new().name(SINK.to_owned()).spawn({
            let feed = feed.clone();
            move || {
                let _over = over;
                if let Err(error) = on_its_own(&feed) {
                    failed(&feed, &error);
                }
            }
        });
        if let Err(error) = started {
            failed(&feed, &error);
        }
        let _ = ended.await;
        // It ended because there are no hooks any more, or because it failed.
        tokio::select! {
            () = feed.stopped() => return,
            () = changed(&mut rule) => {}
        }
    }
}

/// Waits until something else is configured; for ever if nobody can any more.
async fn changed(rule: &mut watch::Receiver<Arc<ReachRule>>) {
    if rule.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn failed(feed: &Feed, error: &io::Error) {
    let text = format!("hooks are not told of anything until the next reload: {error}");
    error!("{text}");
    let doing = "nothing".to_owned();
    feed.board.write(SINK, SinkStatus { ok: false, doing, error: Some(text) });
}

/// The thread.
fn on_its_own(feed: &Feed) -> io::Result<()> {
    // These belong to a thread, and what it starts inherits them: a root daemon's commands would
    // otherwise have every capability of the bounding set (capabilities(7), execve by root).
    rustix::thread::set_no_new_privs(true)?;
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::set(None, set, &CapsHashSet::new()).map_err(io::Error::other)?;
    }
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(Hooks::default().serve(feed));
    Ok(())
}

struct Hook {
    rule: Arc<HookRule>,
    pacer: Pacer,
    running: usize,
    /// Tells a hook from its successor with another rule.
    number: u64,
}

/// How telling went.
struct Told {
    number: u64,
    key: PeerKey,
    result: Result<(), String>,
}

#[derive(Default)]
struct Hooks {
    hooks: Vec<Hook>,
    running: JoinSet<Told>,
    numbers: u64,
    told: u64,
    failures: u64,
    /// What the last that was told answered.
    error: Option<String>,
}

impl Hooks {
    async fn serve(mut self, feed: &Feed) {
        let mut news = feed.news.subscribe();
        let mut rule = feed.rule.clone();
        let mut stopped = Box::pin(feed.stopped());
        self.configure(&rule.borrow_and_update().hooks.clone(), feed);
        while !self.hooks.is_empty() {
            self.tell(feed);
            let due = self.hooks.iter().filter(|hook| hook.running < AT_ONCE);
            let due = due.filter_map(|hook| hook.pacer.deadline()).min();
            let timer = async {
                match due {
                    Some(at) => sleep(at.since(feed.now())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // What still runs is killed as it is dropped.
                () = &mut stopped => return,
                () = changed(&mut rule) => {
                    let hooks = rule.borrow_and_update().hooks.clone();
                    self.configure(&hooks, feed);
                }
                Some(told) = self.running.join_next() => self.end(told),
                change = news.recv() => match change {
                    Ok(change) => self.hooks.iter_mut().for_each(|hook| hook.pacer.change(&change)),
                    Err(RecvError::Lagged(_)) => self.look(feed),
                    Err(RecvError::Closed) => return,
                },
                () = timer => {}
            }
        }
        feed.board.wipe(SINK);
    }

    /// Hooks whose rule stays go on; new ones learn how everything is.
    fn configure(&mut self, rules: &[HookRule], feed: &Feed) {
        let mut old = std::mem::take(&mut self.hooks);
        for rule in rules {
            let kept = old.iter().position(|hook| *hook.rule == *rule);
            self.hooks.push(match kept {
                Some(at) => old.swap_remove(at),
                None => {
                    self.numbers += 1;
                    Hook {
                        rule: Arc::new(rule.clone()),
                        pacer: Pacer::new(rule.interval),
                        running: 0,
                        number: self.numbers,
                    }
                }
            });
        }
        self.look(feed);
    }

    fn look(&mut self, feed: &Feed) {
        let picture = feed.picture.borrow().clone();
        // An empty picture is one that has not been drawn yet: nobody has vanished.
        if picture.complete || !picture.peers.is_empty() {
            self.hooks.iter_mut().for_each(|hook| hook.pacer.picture(&picture));
        }
    }

    fn tell(&mut self, feed: &Feed) {
        for hook in &mut self.hooks {
            while hook.running < AT_ONCE
                && let Some(telling) = hook.pacer.due(feed.now())
            {
                hook.running += 1;
                let (rule, number) = (Arc::clone(&hook.rule), hook.number);
                self.running.spawn(async move {
                    let result = tell(&rule, &telling).await;
                    Told { number, key: telling.key, result }
                });
            }
        }
        let count = self.hooks.len();
        let hooks = if count == 1 { "hook" } else { "hooks" };
        let (told, failures) = (self.told, self.failures);
        let doing = format!("{count} {hooks}, {told} times told, {failures} failures");
        let error = self.error.clone();
        feed.board.write(SINK, SinkStatus { ok: error.is_none(), doing, error });
    }

    fn end(&mut self, told: Result<Told, tokio::task::JoinError>) {
        let Ok(Told { number, key, result }) = told else { return };
        if let Some(hook) = self.hooks.iter_mut().find(|hook| hook.number == number) {
            hook.running -= 1;
            hook.pacer.done(&key);
        }
        self.told += 1;
        self.error = result.err();
        if let Some(error) = &self.error {
            self.failures += 1;
            warn!("{error}");
        }
    }
}

/// Tells one hook of one peer. An error is a whole sentence.
async fn tell(rule: &HookRule, telling: &Telling) -> Result<(), String> {
    let view = HookView::new(telling);
    let json = serde_json::to_vec(&view).map_err(|error| error.to_string())?;
    let (interface, peer, state) = (&view.interface, &view.peer, word(&view.state));
    debug!(%interface, %peer, %state, "telling a hook");
    match &rule.action {
        HookAction::Command(command) => {
            command::run(command, &view.environment(), &json, rule.timeout).await
        }
        HookAction::Webhook(url) => webhook::send(url, json.into(), rule.timeout).await,
    }
}
