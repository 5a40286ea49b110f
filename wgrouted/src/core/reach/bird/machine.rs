//! Protocols of BIRD that are enabled while their peer can be reached.
//!
//! Here lives [`Bird`]: what is wanted, what BIRD reports, and the next command. It reads everything
//! back, every few seconds and after each change, because BIRD may be restarted, reconfigured, or
//! told otherwise by hand. Invariant: a protocol that is not configured is never touched, and one
//! whose peer's state is unknown stays as it is, unless it was disabled here.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::grammar::{
    ALREADY_DISABLED, ALREADY_ENABLED, Command, DENIED, DISABLED, ENABLED, Line, NO_MATCH,
    RESTRICTED, Replies, Reply, State, WELCOME,
};
use crate::core::{
    reach::{
        dialogue::{Dialogue, PATIENCE, RETRY, Report, Step, names},
        lines::Lines,
        status::{self, Reachability},
    },
    time::Time,
};

/// Time between two looks at BIRD's protocols: a command that costs it well below a millisecond.
pub const READ_INTERVAL: Duration = Duration::from_secs(3);
/// Likewise while a protocol is on its way to another state.
pub const READ_SOON: Duration = Duration::from_millis(500);
/// A protocol that does not stay as it was put is put right again at once, then not before this time.
/// Twice as long each time, so that a quarrel with `disable after error`, a limit or an operator stays slow.
pub const REPEAT: Duration = Duration::from_secs(5);
/// The longest such time.
pub const REPEAT_MOST: Duration = Duration::from_secs(300);

const IS_RESTRICTED: &str = "it is restricted, BIRD lets it only read; give wgrouted a socket \
                             without `restrict`";

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// BIRD answers.
    Connected {
        /// What it calls itself.
        version: String,
    },
    /// A protocol was enabled or disabled.
    Changed {
        /// The protocol.
        protocol: String,
        /// How it is now.
        enabled: bool,
        /// Why.
        why: String,
        /// It was like this before, and somebody else changed it.
        repaired: bool,
    },
    /// BIRD did not do what it was told.
    Refused {
        /// The command.
        command: String,
        /// BIRD's words.
        answer: String,
    },
}

/// How a protocol should be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    /// `None`: as it is.
    enabled: Option<bool>,
    why: String,
}

/// A change that was asked for.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    enabled: bool,
    at: Time,
    wait: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Talk {
    Closed,
    Greeting { since: Time },
    Idle,
    Asked { command: Command, since: Time },
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Bird {
    wanted: BTreeMap<String, Wanted>,
    /// What was disabled here and is to be enabled again in the end.
    held: BTreeSet<String>,
    reported: BTreeMap<String, State>,
    attempts: BTreeMap<String, Attempt>,
    talk: Talk,
    lines: Lines,
    replies: Replies,
    version: Option<String>,
    /// The protocols that the last look was about.
    asked: BTreeSet<String>,
    /// How each was seen to be after all was well.
    settled: BTreeMap<String, bool>,
    next_read: Time,
    read: bool,
    /// BIRD lets us only read, since then.
    restricted: Option<Time>,
    /// A command that changes something was sent on this connection.
    tried: bool,
    stopping: bool,
    repaired: u64,
}

impl Default for Bird {
    fn default() -> Self {
        Bird {
            wanted: BTreeMap::new(),
            held: BTreeSet::new(),
            reported: BTreeMap::new(),
            attempts: BTreeMap::new(),
            talk: Talk::Closed,
            lines: Lines::default(),
            replies: Replies::default(),
            version: None,
            asked: BTreeSet::new(),
            settled: BTreeMap::new(),
            next_read: Time::ZERO,
            read: false,
            restricted: None,
            tried: false,
            stopping: false,
            repaired: 0,
        }
    }
}

impl Dialogue for Bird {
    type Notice = Notice;

    fn want(&mut self, picture: &Reachability, now: Time) -> Vec<Notice> {
        let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
        for peer in &picture.peers {
            let enabled = match peer.state {
                status::State::Unknown => None,
                _ => Some(peer.is_usable()),
            };
            for protocol in &peer.rule.bird {
                let is = if peer.is_usable() { "can be reached" } else { "cannot be reached" };
                let this = Wanted { enabled, why: format!("peer {} {is}", peer.peer) };
                // Of several peers one that can be reached suffices, one that may be does too.
                match wanted.get_mut(protocol) {
                    Some(other) if rank(this.enabled) > rank(other.enabled) => *other = this,
                    Some(_) => {}
                    None => drop(wanted.insert(protocol.clone(), this)),
                }
            }
        }
        // Interfaces that were not looked at yet may have the peers that seem to be gone.
        if !picture.complete {
            for (protocol, before) in &self.wanted {
                wanted.entry(protocol.clone()).or_insert_with(|| before.clone());
            }
        }
        if wanted.keys().any(|protocol| !self.asked.contains(protocol)) {
            self.next_read = self.next_read.min(now);
        }
        self.settled.retain(|protocol, _| wanted.contains_key(protocol));
        self.wanted = wanted;
        Vec::new()
    }

    fn connected(&mut self, now: Time) {
        self.talk = Talk::Greeting { since: now };
        self.lines.clear();
        self.replies.clear();
        self.reported.clear();
        self.attempts.clear();
        self.version = None;
        self.read = false;
        self.tried = false;
        self.restricted = self.restricted.map(|_| now);
        self.next_read = now;
    }

    fn disconnected(&mut self) -> Vec<Notice> {
        self.talk = Talk::Closed;
        self.read = false;
        Vec::new()
    }

    fn receive(&mut self, bytes: &[u8], now: Time) -> Vec<Notice> {
        let mut notices = Vec::new();
        for line in self.lines.push(bytes) {
            if let Some(reply) = self.replies.push(Line::parse(&line)) {
                self.answered(&reply, now, &mut notices);
            }
        }
        notices
    }

    fn next(&mut self, now: Time) -> Step {
        let since = match &self.talk {
            Talk::Closed => return Step::Wait(None),
            Talk::Greeting { since } | Talk::Asked { since, .. } => Some(*since),
            Talk::Idle => None,
        };
        if let Some(since) = since {
            let patience = since + PATIENCE;
            if now < patience {
                return Step::Wait(Some(patience));
            }
            return Step::Leave("it does not answer; see whether BIRD is busy or hangs".to_owned());
        }
        if self.version.is_none() {
            let remedy = "set `bird` in [reach] to BIRD's control socket";
            return Step::Leave(format!("there is no BIRD behind it; {remedy}"));
        }
        if let Some(since) = self.restricted
            && now >= since + RETRY
            && !self.stopping
        {
            return Step::Leave(IS_RESTRICTED.to_owned());
        }
        let command = match self.change(now) {
            Some(command) => command,
            None if now >= self.next_read => Command::Show,
            None => return Step::Wait(Some(self.wake(now))),
        };
        if let Command::Enable(name) | Command::Disable(name, _) = &command {
            self.tried = true;
            let enabled = matches!(command, Command::Enable(_));
            let wait = match self.attempts.get(name) {
                Some(last) if last.enabled == enabled && now.since(last.at) < REPEAT_MOST * 2 => {
                    (last.wait * 2).clamp(REPEAT, REPEAT_MOST)
                }
                _ => Duration::ZERO,
            };
            // What is as it should be is told so only to see whether the socket is restricted.
            if self.left().any(|(left, _, _)| left == name) {
                self.attempts.insert(name.clone(), Attempt { enabled, at: now, wait });
            }
        }
        let step = Step::Send(command.to_string());
        self.talk = Talk::Asked { command, since: now };
        step
    }

    fn stop(&mut self) {
        self.stopping = true;
    }

    fn is_done(&self) -> bool {
        // What was just disabled and not read back is not done either.
        let changing = |name: &String| self.reported.get(name) == Some(&State::Changing);
        let at_it = matches!(self.talk, Talk::Asked { .. }) || self.held.iter().any(changing);
        self.talk == Talk::Closed
            || self.restricted.is_some()
            || (self.read && !at_it && self.left().next().is_none())
    }

    fn report(&self) -> Option<Report> {
        let version = self.version.as_ref()?;
        if !self.read {
            return None;
        }
        let known = |name: &String| self.reported.contains_key(name);
        let asked = self.wanted.keys().filter(|name| self.asked.contains(*name));
        let unknown: Vec<_> = asked.filter(|name| !known(name)).collect();
        let down = |name: &&String| self.reported.get(*name) == Some(&State::Down);
        let down = self.wanted.keys().filter(down).count();
        let doing = format!(
            "connected to {version}, {} protocols followed, {down} down, {} put right again",
            self.wanted.len() - unknown.len(),
            self.repaired,
        );
        // Where there is nothing to say, nothing is known of who would listen.
        let speaks = self.wanted.keys().any(|name| self.target(name).is_some());
        let error = if self.restricted.is_some() && speaks {
            Some(IS_RESTRICTED.to_owned())
        } else if unknown.is_empty() {
            None
        } else {
            Some(format!(
                "BIRD knows no protocol {}; give its configuration one, or correct `bird` of the \
                 peer",
                names(unknown.into_iter().map(String::as_str))
            ))
        };
        Some(Report { doing, error })
    }
}

impl Bird {
    /// How often a protocol was put right that somebody else had changed.
    pub fn repaired(&self) -> u64 {
        self.repaired
    }

    /// What BIRD last reported of a protocol.
    pub fn reported(&self, protocol: &str) -> Option<State> {
        self.reported.get(protocol).copied()
    }

    /// How a protocol should be now, and why.
    fn target(&self, name: &str) -> Option<(bool, &str)> {
        let wanted = self.wanted.get(name);
        let state = wanted.and_then(|wanted| wanted.enabled);
        let why = wanted.map_or("", |wanted| wanted.why.as_str());
        if self.stopping {
            // What stayed disabled would have nobody to enable it.
            let ours = self.held.contains(name) || state == Some(false);
            return ours.then_some((true, "wgrouted leaves it to BIRD"));
        }
        match state {
            Some(enabled) => Some((enabled, why)),
            None if self.held.contains(name) => {
                Some((true, "nothing is known of its peer any more"))
            }
            None => None,
        }
    }

    /// Protocols that are not as they should be, as far as BIRD has said how they are.
    fn left(&self) -> impl Iterator<Item = (&str, bool, &str)> {
        let names: BTreeSet<&String> = self.wanted.keys().chain(&self.held).collect();
        names.into_iter().filter_map(|name| {
            let (enabled, why) = self.target(name)?;
            let differs = match self.reported.get(name)? {
                State::Down => enabled,
                State::Running => !enabled,
                State::Changing => false,
            };
            differs.then_some((name.as_str(), enabled, why))
        })
    }

    /// When a protocol may be put so (again).
    fn allowed(&self, name: &str, enabled: bool) -> Time {
        match self.attempts.get(name) {
            Some(last) if last.enabled == enabled && !self.stopping => last.at + last.wait,
            _ => Time::ZERO,
        }
    }

    fn change(&self, now: Time) -> Option<Command> {
        // A restricted socket is tried once: it may be another by now.
        if !self.read || (self.restricted.is_some() && self.tried) {
            return None;
        }
        let mut left = self.left();
        let found = left.find(|(name, on, _)| now >= self.allowed(name, *on));
        let (name, enabled, why) = found.or_else(|| self.harmless().filter(|_| !self.tried))?;
        Some(if enabled {
            Command::Enable(name.to_owned())
        } else {
            Command::Disable(name.to_owned(), format!("wgrouted: {why}"))
        })
    }

    /// A protocol that is as it should be. To be told so changes nothing, and shows whether BIRD
    /// would obey, before a peer is down and it matters.
    fn harmless(&self) -> Option<(&str, bool, &str)> {
        self.wanted.keys().find_map(|name| {
            let (enabled, why) = self.target(name)?;
            let settled = self.settled.get(name) == Some(&enabled);
            let known = self.reported.get(name).is_some_and(|is| *is != State::Changing);
            (settled && known && !self.stopping).then_some((name.as_str(), enabled, why))
        })
    }

    fn wake(&self, now: Time) -> Time {
        let writable = self.restricted.is_none();
        let changes = self.left().filter(|_| writable).map(|(name, on, _)| self.allowed(name, on));
        let retry = self.restricted.map(|since| since + RETRY);
        let times = changes.chain(retry).filter(|at| *at > now);
        times.chain([self.next_read]).min().unwrap_or(self.next_read)
    }

    fn answered(&mut self, reply: &Reply, now: Time, notices: &mut Vec<Notice>) {
        match std::mem::replace(&mut self.talk, Talk::Idle) {
            Talk::Greeting { .. } => {
                let text = reply.text_of(WELCOME).unwrap_or_default();
                let own = text.strip_suffix(" ready.").unwrap_or(text);
                if own.starts_with("BIRD ") {
                    self.version = Some(own.to_owned());
                    notices.push(Notice::Connected { version: own.to_owned() });
                }
            }
            Talk::Asked { command: Command::Show, .. } => self.shown(reply, now),
            Talk::Asked { command, .. } => self.changed(&command, reply, now, notices),
            // BIRD says nothing that it was not asked for.
            talk @ (Talk::Closed | Talk::Idle) => self.talk = talk,
        }
    }

    fn shown(&mut self, reply: &Reply, now: Time) {
        if reply.error().is_some() {
            self.next_read = now + READ_INTERVAL;
            return;
        }
        self.reported.clear();
        for row in reply.protocols() {
            if self.wanted.contains_key(row.name) || self.held.contains(row.name) {
                self.reported.insert(row.name.to_owned(), row.state);
            }
        }
        // Somebody else has enabled it, or it is no longer configured.
        self.held.retain(|name| self.reported.get(name).is_some_and(|is| *is != State::Running));
        for (name, wanted) in &self.wanted {
            if wanted.enabled == Some(false) && self.reported.get(name) == Some(&State::Down) {
                self.held.insert(name.clone());
            }
        }
        self.asked = self.wanted.keys().cloned().collect();
        for name in &self.asked {
            let target = self.target(name).map(|(enabled, _)| enabled);
            match (self.reported.get(name), target) {
                (Some(State::Running), Some(true)) => self.settled.insert(name.clone(), true),
                (Some(State::Down), Some(false)) => self.settled.insert(name.clone(), false),
                _ => None,
            };
        }
        self.read = true;
        let changing = self.reported.values().any(|state| *state == State::Changing);
        self.next_read = now + if changing { READ_SOON } else { READ_INTERVAL };
    }

    fn changed(&mut self, command: &Command, reply: &Reply, now: Time, notices: &mut Vec<Notice>) {
        let (name, enabled) = match command {
            Command::Enable(name) => (name, true),
            Command::Disable(name, _) => (name, false),
            Command::Show => return,
        };
        // Read back before anything else is believed.
        self.reported.insert(name.clone(), State::Changing);
        self.next_read = now;
        let code = reply.lines.first().map_or(reply.code, |(code, _)| *code);
        match code {
            ENABLED | DISABLED | ALREADY_ENABLED | ALREADY_DISABLED => {
                self.restricted = None;
                let why = self.target(name).map_or_else(String::new, |(_, why)| why.to_owned());
                if enabled {
                    self.held.remove(name);
                } else {
                    self.held.insert(name.clone());
                }
                if code == ENABLED || code == DISABLED {
                    let repaired = self.settled.get(name) == Some(&enabled);
                    self.repaired += u64::from(repaired);
                    let protocol = name.clone();
                    notices.push(Notice::Changed { protocol, enabled, why, repaired });
                }
            }
            RESTRICTED | DENIED => {
                self.restricted = Some(now);
            }
            NO_MATCH => drop(self.reported.remove(name)),
            _ => notices.push(Notice::Refused {
                command: command.to_string(),
                answer: reply.error().map_or_else(|| code.to_string(), |(_, text)| text.to_owned()),
            }),
        }
    }
}

/// The higher one decides between peers of one protocol.
fn rank(enabled: Option<bool>) -> u8 {
    match enabled {
        Some(true) => 2,
        None => 1,
        Some(false) => 0,
    }
}
