//! The kernel's routing tables over rtnetlink.
//!
//! Here live the codec ([`decode`], [`wire`]: pure functions over bytes) and the two sockets that
//! use it: [`Monitor`] listens, [`Dumper`] asks; [`Notifier`] listens to little. They must stay two sockets: replies on the
//! listening one would share its receive buffer with notifications, and an overrun would then
//! lose both.
//!
//! Whoever wants a complete picture opens the monitor first, then dumps, then applies what the
//! monitor received meanwhile. Route dumps have no consistency check in the kernel
//! (`NLM_F_DUMP_INTR` is never set for them), so nothing else is safe.

pub mod decode;
mod dump;
mod monitor;
mod notifier;
pub(crate) mod request;
pub mod wire;

pub use dump::{Dumper, can_ask};
pub use monitor::{Counters, Knocker, Monitor, Stopper, Wake};
pub use notifier::Notifier;

use std::io;

/// Why talking to rtnetlink failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on the socket failed.
    #[error("cannot {action} the rtnetlink socket")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// What the system answered.
        source: io::Error,
    },
    /// The kernel answered a request with an error.
    #[error("the kernel refused to {request}{}", Explained(.explanation))]
    Refused {
        /// What was asked.
        request: &'static str,
        /// The kernel's own words (extended acknowledgement), if it had any.
        explanation: Option<String>,
        /// Its error number.
        source: io::Error,
    },
    /// What was dumped changed each time while it was read.
    #[error("gave up to {request}: it changed during each of {attempts} attempts; try again later")]
    Unsettled {
        /// What was asked.
        request: &'static str,
        /// How often.
        attempts: u32,
    },
    /// An answer did not fit the receive buffer.
    #[error("an answer to `{request}` has {length} bytes, more than the receive buffer holds")]
    Truncated {
        /// What was asked.
        request: &'static str,
        /// The answer's size.
        length: usize,
    },
    /// An answer is not netlink.
    #[error("cannot understand the kernel's answer to `{request}`")]
    Malformed {
        /// What was asked.
        request: &'static str,
        /// What is wrong with it.
        source: decode::DecodeError,
    },
}

impl Error {
    fn socket(action: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Socket { action, source }
    }
}

/// Prints `: text` where there is a text.
struct Explained<'a>(&'a Option<String>);

impl std::fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.as_ref().map_or(Ok(()), |text| write!(f, ": {text}"))
    }
}
