//! The language of BIRD's control socket (BIRD's `doc/reply_codes`, `nest/cli.c`).
//!
//! Here live [`Line`] and [`Reply`], which read it, and [`Command`], which writes it. Invariant:
//! whatever BIRD says, reading it neither fails nor grows without bound.

use std::fmt;

/// Lines of one reply that are kept: ten times the protocols that anybody has.
const MOST_LINES: usize = 65_536;

/// "BIRD x ready."
pub const WELCOME: u16 = 1;
/// "Access restricted".
pub const RESTRICTED: u16 = 16;
/// "already disabled".
pub const ALREADY_DISABLED: u16 = 8;
/// "disabled".
pub const DISABLED: u16 = 9;
/// "already enabled".
pub const ALREADY_ENABLED: u16 = 10;
/// "enabled".
pub const ENABLED: u16 = 11;
/// A row of `show protocols`.
pub const PROTOCOL: u16 = 1002;
/// "No protocols match".
pub const NO_MATCH: u16 = 8003;
/// "Access denied".
pub const DENIED: u16 = 8007;
/// Codes from here on are errors.
pub const FIRST_ERROR: u16 = 8000;

/// One line of BIRD's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// `NNNN-text`: the reply goes on.
    More(u16, String),
    /// ` text`: likewise, with the code of the line before.
    Same(String),
    /// `NNNN text`: the reply ends.
    Last(u16, String),
    /// `+text`: a line of BIRD's log, for those who asked for it.
    Log(String),
    /// Nothing of the kind.
    Other(String),
}

impl Line {
    /// Reads a line without its end.
    pub fn parse(line: &str) -> Line {
        if let Some(text) = line.strip_prefix(' ') {
            return Line::Same(text.to_owned());
        }
        if let Some(text) = line.strip_prefix('+') {
            return Line::Log(text.to_owned());
        }
        let coded = line.split_at_checked(4).and_then(|(code, rest)| {
            let digits = code.bytes().all(|byte| byte.is_ascii_digit());
            let code = code.parse().ok().filter(|_| digits)?;
            let mut rest = rest.chars();
            match rest.next() {
                Some('-') => Some(Line::More(code, rest.as_str().to_owned())),
                Some(' ') => Some(Line::Last(code, rest.as_str().to_owned())),
                _ => None,
            }
        });
        coded.unwrap_or_else(|| Line::Other(line.to_owned()))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Line::More(code, text) => write!(f, "{code:04}-{text}"),
            Line::Same(text) => write!(f, " {text}"),
            Line::Last(code, text) => write!(f, "{code:04} {text}"),
            Line::Log(text) => write!(f, "+{text}"),
            Line::Other(text) => f.write_str(text),
        }
    }
}

/// Everything that BIRD answers to one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its lines, the last one included, each with its code.
    pub lines: Vec<(u16, String)>,
    /// The code of the last line.
    pub code: u16,
}

impl Reply {
    /// The text of the first line with this code.
    pub fn text_of(&self, code: u16) -> Option<&str> {
        self.lines.iter().find(|(own, _)| *own == code).map(|(_, text)| text.as_str())
    }

    /// The first error in it.
    pub fn error(&self) -> Option<(u16, &str)> {
        let mut lines = self.lines.iter();
        lines.find(|(code, _)| *code >= FIRST_ERROR).map(|(code, text)| (*code, text.as_str()))
    }

    /// The rows of `show protocols`.
    pub fn protocols(&self) -> impl Iterator<Item = Protocol<'_>> {
        let rows = self.lines.iter().filter(|(code, _)| *code == PROTOCOL);
        rows.filter_map(|(_, text)| Protocol::parse(text))
    }
}

/// Collects lines until a reply is whole.
#[derive(Clone, Debug, Default)]
pub struct Replies {
    begun: Vec<(u16, String)>,
}

impl Replies {
    /// Takes a line in; returns the reply that it completes.
    pub fn push(&mut self, line: Line) -> Option<Reply> {
        match line {
            Line::More(code, text) => self.keep(code, text),
            Line::Same(text) => {
                let code = self.begun.last().map(|(code, _)| *code);
                self.keep(code.unwrap_or_default(), text);
            }
            Line::Last(code, text) => {
                let mut lines = std::mem::take(&mut self.begun);
                lines.push((code, text));
                return Some(Reply { lines, code });
            }
            Line::Log(_) | Line::Other(_) => {}
        }
        None
    }

    /// Forgets a reply that is not whole.
    pub fn clear(&mut self) {
        self.begun.clear();
    }

    fn keep(&mut self, code: u16, text: String) {
        if self.begun.len() < MOST_LINES {
            self.begun.push((code, text));
        }
    }
}

/// A row of `show protocols`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its state.
    pub state: State,
}

/// A protocol's state (`proto_state_name` in BIRD's `nest/proto.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// `down`: disabled, or about to start.
    Down,
    /// `start`, `up`: enabled; it may still look for its neighbour.
    Running,
    /// `stop`, `flush` and what may come: on its way to another state.
    Changing,
}

impl<'a> Protocol<'a> {
    /// Reads the text of a row: name, protocol, table, state, since, and what the protocol says.
    pub fn parse(text: &'a str) -> Option<Protocol<'a>> {
        let mut words = text.split_ascii_whitespace();
        let name = words.next()?;
        let state = match words.nth(2)? {
            "down" => State::Down,
            "start" | "up" => State::Running,
            _ => State::Changing,
        };
        Some(Protocol { name, state })
    }
}

/// What BIRD is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The state of all protocols.
    Show,
    /// Enables a protocol.
    Enable(String),
    /// Disables a protocol and says why: `show protocols all` shows it.
    Disable(String, String),
}

impl fmt::Display for Command {
    /// In quotes, a name is a pattern that fits nothing else, neither a keyword (`all`!) nor a
    /// symbol of another kind, and BIRD answers 8003 if there is no such protocol.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Show => f.write_str("show protocols"),
            Command::Enable(name) => write!(f, "enable \"{}\"", quotable(name)),
            Command::Disable(name, why) => {
                write!(f, "disable \"{}\" \"{}\"", quotable(name), quotable(why))
            }
        }
    }
}

/// BIRD's texts in quotes know no escapes (`conf/cf-lex.l`).
fn quotable(text: &str) -> String {
    text.chars().map(|c| if c == '"' || c.is_control() { '?' } else { c }).collect()
}
