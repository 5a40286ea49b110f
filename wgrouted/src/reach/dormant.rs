//! The sink of link states: a dedicated link whose peer is down is dormant.
//!
//! Here lives the task that sets and clears it, for babeld (`link-detect`), FRR and whoever else
//! looks at `IFF_RUNNING`; packets pass as before, so probes find the peer again. The law: down is
//! dormant, up and suspect are not, and of an unknown peer the link stays as it is if probes will
//! soon know better, else it is not. Invariant: no link stays dormant without somebody who watches:
//! not when the daemon stops, not when it is no longer configured, and one that a killed daemon left
//! is put right at start.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    task,
    time::{Instant, sleep_until},
};

use super::{
    Feed,
    board::{SinkStatus, in_one_line},
};
use crate::{
    core::{
        reach::status::{PeerStatus, Reachability, State},
        route::IfIndex,
    },
    source::rtnetlink::Error,
    target::klink::KernelLinks,
};

/// The sink's name on the board.
const SINK: &str = "links";
/// How often links are looked at, in case somebody else changed their state.
const CHECK: Duration = Duration::from_secs(30);
/// When what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps the links' states until the daemon stops.
pub async fn run(mut feed: Feed) {
    let mut keeper = Keeper::default();
    let mut error: Option<String> = None;
    let (mut revision, mut due) = (None, Instant::now() + CHECK);
    loop {
        let stopping = *feed.stopping.borrow();
        let mut check = false;
        if !stopping {
            tokio::select! {
                changed = feed.picture.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = feed.picture.borrow_and_update().revision;
                    if revision.replace(now) == Some(now) {
                        continue;
                    }
                }
                () = sleep_until(due) => check = true,
                _ = feed.stopping.changed() => continue,
            }
        }
        let picture = match stopping {
            true => Arc::default(),
            false => feed.picture.borrow().clone(),
        };
        // The kernel makes questions about links wait while it is busy with others (RTNL); probes
        // must not.
        let asked = task::spawn_blocking(move || {
            let mut keeper = keeper;
            let status = keeper.round(&picture, check || stopping);
            (keeper, status)
        });
        let Ok((back, status)) = asked.await else { return };
        keeper = back;
        let fault = status.as_ref().and_then(|status| status.error.clone());
        if let Some(error) = fault.as_ref().filter(|fault| error.as_ref() != Some(*fault)) {
            tracing::warn!(error, "a link's state is not as it should be");
        }
        error = fault;
        match status {
            Some(status) => drop(feed.board.write(SINK, status)),
            None => feed.board.wipe(SINK),
        }
        if stopping {
            return;
        }
        due = Instant::now() + if error.is_some() { RETRY } else { CHECK };
    }
}

/// Reads and writes the states.
#[derive(Default)]
struct Keeper {
    kernel: Option<KernelLinks>,
    ours: BTreeMap<IfIndex, Kept>,
}

/// A link whose state we keep.
struct Kept {
    interface: String,
    /// Whether it was dormant when we last looked, or since we set it.
    dormant: Option<bool>,
}

impl Keeper {
    /// Brings the links in line with a picture. `check` has states read again that are known.
    fn round(&mut self, picture: &Reachability, check: bool) -> Option<SinkStatus> {
        let wanted: BTreeMap<_, _> = picture.peers.iter().filter_map(wanted).collect();
        for (link, (interface, _)) in &wanted {
            let kept = || Kept { interface: (*interface).to_owned(), dormant: None };
            self.ours.entry(*link).or_insert_with(kept);
        }
        let mut error = None;
        let kernel = &mut self.kernel;
        self.ours.retain(|link, kept| {
            // What is no longer configured is left as it would be without us.
            let wish = wanted.get(link).map_or(Some(false), |(_, wish)| *wish);
            let known = kept.dormant.filter(|_| !check);
            match keep(kernel, *link, known, wish) {
                Ok(dormant) => {
                    if dormant.is_some() && dormant != known {
                        tracing::debug!(interface = kept.interface, dormant, "the link's state");
                    }
                    kept.dormant = dormant;
                    wanted.contains_key(link)
                }
                Err(fault) => {
                    let name = &kept.interface;
                    error = Some(format!("cannot set the state of {name}: {}", explain(&fault)));
                    kept.dormant = None;
                    true
                }
            }
        });
        let dormant = self.ours.values().filter(|kept| kept.dormant == Some(true));
        let names: Vec<_> = dormant.map(|kept| kept.interface.as_str()).collect();
        let links = wanted.len();
        let doing = match names.len() {
            0 => format!("{links} watched, none dormant"),
            _ => format!("{links} watched, dormant: {}", names.join(", ")),
        };
        let of_use = links > 0 || error.is_some();
        of_use.then(|| SinkStatus { ok: error.is_none(), doing, error })
    }
}

/// Sees to a link's state. Returns whether it is dormant; `None` if there is no such link.
fn keep(
    kernel: &mut Option<KernelLinks>,
    link: IfIndex,
    known: Option<bool>,
    wish: Option<bool>,
) -> Result<Option<bool>, Error> {
    if known.is_some() && (wish.is_none() || wish == known) {
        return Ok(known);
    }
    let kernel = match kernel {
        Some(kernel) => kernel,
        none => none.insert(KernelLinks::open()?),
    };
    let Some(is) = kernel.is_dormant(link)? else { return Ok(None) };
    match wish {
        Some(wish) if wish != is => Ok(kernel.set_dormant(link, wish)?.then_some(wish)),
        _ => Ok(Some(is)),
    }
}

fn explain(error: &Error) -> String {
    match error {
        Error::Refused { source, .. } if source.raw_os_error() == Some(libc::EPERM) => {
            "CAP_NET_ADMIN is needed: run as root".to_owned()
        }
        error => in_one_line(error),
    }
}

/// A link whose state is to be kept, and how; `None` for as it is.
fn wanted(peer: &PeerStatus) -> Option<(IfIndex, (&str, Option<bool>))> {
    let rule = peer.link_rule.as_ref()?;
    if !(rule.dormant && peer.dedicated) {
        return None;
    }
    let wish = match peer.state {
        State::Down => Some(true),
        State::Up | State::Suspect => Some(false),
        State::Unknown if peer.probed.is_empty() => Some(false),
        State::Unknown => None,
    };
    Some((peer.ifindex?, (&peer.interface, wish)))
}
