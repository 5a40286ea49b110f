//! Interfaces that babeld has while their peer can be reached.
//!
//! Here lives [`Babeld`]: what is wanted, what babeld has, and the next command. babeld tells every
//! change by itself (`monitor`), among them how well it hears its neighbours, which is evidence.
//! Invariant: an interface that is not configured for babeld is never touched, and one whose peer's
//! state is unknown stays as it is, unless it was flushed here.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    grammar::{Command, Kind, Line},
    hearing::Hearing,
};
use crate::core::{
    reach::{
        dialogue::{Dialogue, PATIENCE, RETRY, Report, Step, names},
        lines::Lines,
        rule::BabeldRule,
        status::{self, Reachability},
    },
    rule::OnExit,
    time::Time,
};

/// `rxcost` is changed only if it is off by a quarter and by this much: babeld reads it when an
/// interface comes up and at no other time (`interface_updown`), so a new one costs the link its
/// neighbour for a few Hello intervals.
pub const RXCOST_STEP: u32 = 16;
/// And only if it has been off for this long without a pause.
pub const RXCOST_SETTLE: Duration = Duration::from_secs(30);
/// And not before this time after the interface was last added.
pub const RXCOST_INTERVAL: Duration = Duration::from_secs(60);
/// 65535 is infinity.
const RXCOST_MOST: u32 = 65_534;

/// No interface has this name, for it is too long. To flush it is refused with `no` by a babeld
/// that obeys, and with `bad` by one that only tells.
const NOBODY: &str = "wgrouted-asks-whether-it-may";

const IS_READ_ONLY: &str = "it is read-only; name it in babeld's `local-path-readwrite` or \
                            `local-port-readwrite`, of which babeld heeds the last one only";

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// babeld answers.
    Connected {
        /// What it calls itself.
        version: String,
    },
    /// An interface was added or flushed.
    Changed {
        /// The interface.
        interface: String,
        /// babeld uses it now.
        added: bool,
        /// What receiving on it costs, if that follows the round-trip time.
        rxcost: Option<u32>,
        /// Why.
        why: String,
    },
    /// Evidence: whether babeld hears its neighbour; `None` if it does not say any more.
    Heard {
        /// The interface.
        interface: String,
        /// Whether.
        heard: Option<bool>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    /// `None`: as it is.
    used: Option<bool>,
    rule: BabeldRule,
    rtt: Option<Duration>,
    on_exit: OnExit,
    why: String,
}

/// How an interface was added here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Applied {
    options: String,
    rxcost: Option<u32>,
    at: Time,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Talk {
    #[default]
    Closed,
    Greeting {
        since: Time,
        babel: bool,
    },
    Idle,
    Asked {
        command: Command,
        since: Time,
    },
    Stranger,
}

/// The machine.
#[derive(Clone, Debug, Default)]
pub struct Babeld {
    wanted: BTreeMap<String, Wanted>,
    /// What was flushed here and is to be added again in the end.
    held: BTreeMap<String, Wanted>,
    present: BTreeSet<String>,
    applied: BTreeMap<String, Applied>,
    /// Since when `rxcost` has been off.
    off: BTreeMap<String, Time>,
    /// What babeld calls bad.
    refused: BTreeMap<String, Command>,
    hearing: Hearing,
    talk: Talk,
    lines: Lines,
    version: Option<String>,
    dumped: bool,
    tried: bool,
    read_only: Option<Time>,
    stopping: bool,
}

impl Dialogue for Babeld {
    type Notice = Notice;

    fn want(&mut self, picture: &Reachability, now: Time) -> Vec<Notice> {
        let mut wanted = BTreeMap::new();
        let mut followed = BTreeSet::new();
        for peer in picture.peers.iter().filter(|peer| peer.dedicated) {
            followed.insert(peer.interface.clone());
            let Some(link) = &peer.link_rule else { continue };
            let Some(rule) = &link.babeld else { continue };
            let used = match peer.state {
                status::State::Unknown => None,
                _ => Some(peer.is_usable()),
            };
            let is = if peer.is_usable() { "can be reached" } else { "cannot be reached" };
            let this = Wanted {
                used,
                rule: rule.clone(),
                rtt: peer.probe.and_then(|probe| probe.rtt),
                on_exit: link.on_exit,
                why: format!("peer {} {is}", peer.peer),
            };
            wanted.insert(peer.interface.clone(), this);
        }
        // Interfaces that were not looked at yet may have the peers that seem to be gone.
        if !picture.complete {
            for (interface, before) in &self.wanted {
                wanted.entry(interface.clone()).or_insert_with(|| before.clone());
            }
        }
        self.wanted = wanted;
        self.settle_rxcost(now);
        self.hearing.follow(followed)
    }

    fn connected(&mut self, now: Time) {
        self.talk = Talk::Greeting { since: now, babel: false };
        self.lines.clear();
        self.present.clear();
        self.refused.clear();
        self.version = None;
        self.dumped = false;
        self.tried = false;
        self.read_only = self.read_only.map(|_| now);
    }

    fn disconnected(&mut self) -> Vec<Notice> {
        self.talk = Talk::Closed;
        self.dumped = false;
        self.hearing.clear()
    }

    fn receive(&mut self, bytes: &[u8], now: Time) -> Vec<Notice> {
        let mut notices = Vec::new();
        for line in self.lines.push(bytes) {
            self.said(Line::parse(&line), now, &mut notices);
        }
        notices
    }

    fn next(&mut self, now: Time) -> Step {
        let since = match &self.talk {
            Talk::Closed => return Step::Wait(None),
            Talk::Stranger => {
                let remedy = "set `babeld` in [reach] to babeld's control socket";
                return Step::Leave(format!("there is no babeld behind it; {remedy}"));
            }
            Talk::Greeting { since, .. } | Talk::Asked { since, .. } => Some(*since),
            Talk::Idle => None,
        };
        if let Some(since) = since {
            let patience = since + PATIENCE;
            if now < patience {
                return Step::Wait(Some(patience));
            }
            let reason = "it does not answer; babeld serves four connections at a time";
            return Step::Leave(reason.to_owned());
        }
        if let Some(since) = self.read_only
            && now >= since + RETRY
            && !self.stopping
        {
            return Step::Leave(IS_READ_ONLY.to_owned());
        }
        let test = !self.tried && (!self.wanted.is_empty() || !self.held.is_empty());
        let command = if !self.dumped {
            Command::Monitor
        } else if test {
            self.tried = true;
            Command::Flush(NOBODY.to_owned())
        } else if let Some(command) = self.change(now) {
            command
        } else {
            let settled = self.off.keys().map(|name| self.rxcost_due(name));
            let retry = self.read_only.map(|since| since + RETRY);
            return Step::Wait(settled.chain(retry).filter(|at| *at > now).min());
        };
        let step = Step::Send(command.to_string());
        self.talk = Talk::Asked { command, since: now };
        step
    }

    fn stop(&mut self) {
        self.stopping = true;
    }

    fn is_done(&self) -> bool {
        // What is on its way may still change what there is.
        let at_it = matches!(self.talk, Talk::Asked { .. });
        let done = || self.dumped && !at_it && self.change(Time::ZERO).is_none();
        self.talk == Talk::Closed || self.read_only.is_some() || done()
    }

    fn report(&self) -> Option<Report> {
        let version = self.version.as_ref()?;
        if !self.dumped || (!self.tried && !self.wanted.is_empty()) {
            return None;
        }
        let used = self.wanted.keys().filter(|name| self.present.contains(*name)).count();
        let doing = format!(
            "connected to {version}, {used} of {} interfaces in use, {} neighbours heard",
            self.wanted.len(),
            self.hearing.heard(),
        );
        let error = if self.read_only.is_some() {
            Some(IS_READ_ONLY.to_owned())
        } else if self.refused.is_empty() {
            None
        } else {
            let commands: Vec<_> =
                self.refused.values().map(|command| format!("`{command}`")).collect();
            Some(format!(
                "babeld does not understand {}; correct `options` in [interface.reach.babeld]",
                names(commands.iter().map(String::as_str))
            ))
        };
        Some(Report { doing, error })
    }
}

impl Babeld {
    /// Whether babeld has an interface.
    pub fn has(&self, interface: &str) -> bool {
        self.present.contains(interface)
    }

    /// Whether babeld should have an interface now.
    fn target(&self, name: &str) -> Option<bool> {
        let wanted = self.wanted.get(name);
        let used = wanted.and_then(|wanted| wanted.used);
        if self.stopping {
            if wanted.is_some_and(|wanted| wanted.on_exit == OnExit::Remove) {
                return Some(false);
            }
            // What stayed flushed would have nobody to add it.
            return (used == Some(false) || self.held.contains_key(name)).then_some(true);
        }
        used.or_else(|| self.held.contains_key(name).then_some(true))
    }

    fn change(&self, now: Time) -> Option<Command> {
        if self.read_only.is_some() {
            return None;
        }
        let names: BTreeSet<&String> = self.wanted.keys().chain(self.held.keys()).collect();
        names.into_iter().find_map(|name| {
            let command = match (self.target(name)?, self.present.contains(name)) {
                (true, false) => self.add(name)?,
                (false, true) => Command::Flush(name.clone()),
                (true, true) if !self.stopping && self.is_outdated(name, now) => {
                    Command::Flush(name.clone())
                }
                _ => return None,
            };
            (self.refused.get(name) != Some(&command)).then_some(command)
        })
    }

    fn add(&self, name: &str) -> Option<Command> {
        let wanted = self.wanted.get(name).or_else(|| self.held.get(name))?;
        Some(Command::Interface {
            name: name.to_owned(),
            options: wanted.rule.options.clone(),
            rxcost: rxcost(wanted),
        })
    }

    /// Whether an interface is to be added once more, because babeld changes none that it has.
    fn is_outdated(&self, name: &str, now: Time) -> bool {
        let Some(wanted) = self.wanted.get(name) else { return false };
        let other = |own: &Applied| {
            own.options != wanted.rule.options
                || own.rxcost.is_some() != wanted.rule.rxcost.is_some()
        };
        self.applied.get(name).is_some_and(other)
            || (self.off.contains_key(name) && now >= self.rxcost_due(name))
    }

    fn rxcost_due(&self, name: &str) -> Time {
        let off = self.off.get(name).map(|since| *since + RXCOST_SETTLE);
        let added = self.applied.get(name).map(|own| own.at + RXCOST_INTERVAL);
        off.max(added).unwrap_or_default()
    }

    /// Notes which costs are off.
    fn settle_rxcost(&mut self, now: Time) {
        let mut off = BTreeMap::new();
        for (name, wanted) in &self.wanted {
            let applied = self.applied.get(name).and_then(|own| own.rxcost);
            let current = applied.or_else(|| self.hearing.rxcost(name));
            if let (Some(current), Some(target)) = (current, rxcost(wanted))
                && self.present.contains(name)
                && current.abs_diff(target) >= RXCOST_STEP.max(current / 4)
            {
                off.insert(name.clone(), self.off.get(name).copied().unwrap_or(now));
            }
        }
        self.off = off;
    }

    fn said(&mut self, line: Line, now: Time, notices: &mut Vec<Notice>) {
        match line {
            Line::Banner { version } => {
                if let Talk::Greeting { babel, .. } = &mut self.talk {
                    *babel = version.starts_with("1.");
                }
            }
            Line::Version(version) => {
                if matches!(self.talk, Talk::Greeting { .. }) {
                    self.version = Some(version);
                }
            }
            Line::Interface { kind, name, .. } => {
                if kind == Kind::Flush {
                    self.present.remove(&name);
                    notices.extend(self.hearing.interface_gone(&name));
                } else {
                    self.present.insert(name);
                }
            }
            Line::Neighbour { kind, neighbour } => {
                if self.present.contains(&neighbour.interface) {
                    notices.extend(self.hearing.take(kind, neighbour));
                }
            }
            Line::Ok | Line::No(_) | Line::Bad => self.answered(&line, now, notices),
            // A server of another kind speaks first, too, and has no banner.
            Line::Other(_) => {
                if matches!(self.talk, Talk::Greeting { babel: false, .. }) {
                    self.talk = Talk::Stranger;
                }
            }
        }
    }

    fn answered(&mut self, answer: &Line, now: Time, notices: &mut Vec<Notice>) {
        let command = match std::mem::replace(&mut self.talk, Talk::Idle) {
            Talk::Greeting { babel: true, .. } => {
                let version = self.version.get_or_insert_with(|| "babeld".to_owned()).clone();
                notices.push(Notice::Connected { version });
                return;
            }
            Talk::Greeting { .. } => {
                self.talk = Talk::Stranger;
                return;
            }
            Talk::Asked { command, .. } => command,
            // babeld answers nothing that it was not asked.
            talk @ (Talk::Closed | Talk::Idle | Talk::Stranger) => {
                self.talk = talk;
                return;
            }
        };
        match command {
            Command::Monitor => {
                self.dumped = true;
                self.applied.retain(|name, _| self.present.contains(name));
                self.held.retain(|name, _| !self.present.contains(name));
                // What was flushed by a run before this one.
                for (name, wanted) in &self.wanted {
                    if wanted.used == Some(false) && !self.present.contains(name) {
                        self.held.insert(name.clone(), wanted.clone());
                    }
                }
            }
            Command::Flush(name) if name == NOBODY => {
                self.read_only = (*answer == Line::Bad).then_some(now);
            }
            command if *answer == Line::Bad => self.refuse(command),
            Command::Flush(name) => {
                self.present.remove(&name);
                self.applied.remove(&name);
                self.off.remove(&name);
                notices.extend(self.hearing.interface_gone(&name));
                if self.target(&name) == Some(false) {
                    if let Some(wanted) = self.wanted.get(&name) {
                        self.held.insert(name.clone(), wanted.clone());
                    }
                    let why = self.why(&name);
                    notices.push(Notice::Changed {
                        interface: name,
                        added: false,
                        rxcost: None,
                        why,
                    });
                }
            }
            Command::Interface { name, options, rxcost } => {
                if !matches!(answer, Line::Ok) {
                    self.refuse(Command::Interface { name, options, rxcost });
                    return;
                }
                self.refused.remove(&name);
                self.held.remove(&name);
                self.off.remove(&name);
                self.present.insert(name.clone());
                self.applied.insert(name.clone(), Applied { options, rxcost, at: now });
                let why = self.why(&name);
                notices.push(Notice::Changed { interface: name, added: true, rxcost, why });
            }
        }
    }

    fn refuse(&mut self, command: Command) {
        let (Command::Interface { name, .. } | Command::Flush(name)) = &command else { return };
        self.refused.insert(name.clone(), command);
    }

    fn why(&self, name: &str) -> String {
        match self.wanted.get(name) {
            _ if self.stopping => "wgrouted ends".to_owned(),
            Some(wanted) if wanted.used.is_some() => wanted.why.clone(),
            _ => "nothing is known of its peer any more".to_owned(),
        }
    }
}

/// What receiving on an interface should cost.
fn rxcost(wanted: &Wanted) -> Option<u32> {
    let base = wanted.rule.rxcost?;
    let rtt = wanted.rtt.map_or(0, |rtt| u32::try_from(rtt.as_millis()).unwrap_or(RXCOST_MOST));
    Some(base.saturating_add(rtt).min(RXCOST_MOST))
}
