//! A link's operational state.
//!
//! Here lives [`KernelLinks`], which reads and writes whether a link is dormant (RFC 2863 section
//! 3.1.12: not in a condition to pass packets, but waiting for an event). Nothing else of a link is
//! touched.

use std::ops::ControlFlow;

use crate::{
    core::route::IfIndex,
    source::rtnetlink::{
        Error,
        request::{Client, Part, Request},
        wire::{self, Attributes},
    },
};

// include/uapi/linux/if_link.h, include/uapi/linux/if.h
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKMODE: u16 = 17;
const IF_OPER_DORMANT: u8 = 5;
const IF_OPER_UP: u8 = 6;
const IF_LINK_MODE_DEFAULT: u8 = 0;
const IF_LINK_MODE_DORMANT: u8 = 1;

/// Reads and writes links' states.
pub struct KernelLinks {
    client: Client,
}

impl KernelLinks {
    /// Opens a socket for requests.
    pub fn open() -> Result<KernelLinks, Error> {
        Ok(KernelLinks { client: Client::open()? })
    }

    /// Whether a link is dormant, or becomes so of itself; `None` if there is no such link.
    pub fn is_dormant(&mut self, link: IfIndex) -> Result<Option<bool>, Error> {
        let request = Request::new("look at a link", wire::RTM_GETLINK, 0, &header(link))
            .attribute(libc::IFLA_EXT_MASK, &libc::RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
        let mut dormant = None;
        let asked = self.client.exchange(request, &mut |part| {
            if let Part::Message(message) = part
                && message.kind == wire::RTM_NEWLINK
                && let Some((_, attributes)) = message.payload.split_first_chunk::<16>()
            {
                dormant = Some(Attributes::new(attributes).flatten().any(|attribute| {
                    matches!(
                        attribute,
                        (IFLA_OPERSTATE, [IF_OPER_DORMANT])
                            | (IFLA_LINKMODE, [IF_LINK_MODE_DORMANT])
                    )
                }));
            }
            ControlFlow::Continue(())
        });
        match asked {
            Err(Error::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => {
                Ok(None)
            }
            asked => asked.map(|_| dormant),
        }
    }

    /// Makes a link dormant, or lets it be up again. Returns whether there is such a link.
    ///
    /// The mode keeps a dormant link dormant when its driver finds a carrier (`rfc2863_policy`,
    /// net/core/link_watch.c). What was `unknown` before becomes `up`: the kernel lets nobody set
    /// `unknown` (`set_operstate`, net/core/rtnetlink.c), and the two mean the same to its users.
    pub fn set_dormant(&mut self, link: IfIndex, dormant: bool) -> Result<bool, Error> {
        // From dormant to up only where the mode allows it, so the mode comes first; from up to
        // dormant in either order.
        let (mode, state) = match dormant {
            true => (IF_LINK_MODE_DORMANT, IF_OPER_DORMANT),
            false => (IF_LINK_MODE_DEFAULT, IF_OPER_UP),
        };
        for (kind, value) in [(IFLA_LINKMODE, mode), (IFLA_OPERSTATE, state)] {
            let request = Request::new(
                "set a link's state",
                wire::RTM_SETLINK,
                libc::NLM_F_ACK,
                &header(link),
            )
            .attribute(kind, &[value]);
            match self.client.order(request) {
                Err(Error::Refused { source, .. })
                    if source.raw_os_error() == Some(libc::ENODEV) =>
                {
                    return Ok(false);
                }
                result => result?,
            }
        }
        Ok(true)
    }
}

/// `struct ifinfomsg`: family, padding, type, index, flags, change.
fn header(link: IfIndex) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header
}
