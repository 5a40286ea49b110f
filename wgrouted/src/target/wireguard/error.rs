//! What can go wrong between us and WireGuard.
//!
//! Here lives [`WgError`] alone. Each text names the thing and the remedy.

use std::io;

use super::genl::GenlError;
use crate::core::{device::DeviceError, route::IfIndex};

/// Why WireGuard could not be read or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WgError {
    /// The generic netlink family `wireguard` does not exist.
    #[error(
        "the kernel has no WireGuard: load it with `modprobe wireguard`, or boot a kernel built \
         with CONFIG_WIREGUARD"
    )]
    NoFamily,
    /// `EPERM`: both commands of the family carry `GENL_UNS_ADMIN_PERM`.
    #[error("not permitted to read or change WireGuard devices: needs CAP_NET_ADMIN")]
    NotPermitted,
    /// `ENODEV`: the link does not exist.
    #[error("there is no link {0} in this network namespace: create the interface again")]
    NoDevice(IfIndex),
    /// `EOPNOTSUPP`: the link exists and is of another kind.
    #[error("link {0} is not a WireGuard interface: see its kind with `ip -details link show`")]
    NotWireguard(IfIndex),
    /// Every dump was torn by somebody's changes.
    #[error(
        "link {ifindex} kept changing during each of {attempts} dumps: find the other program \
         that edits its allowed IPs"
    )]
    Unstable {
        /// The link.
        ifindex: IfIndex,
        /// Dumps tried.
        attempts: u32,
    },
    /// Any other error that the kernel returned.
    #[error("WireGuard link {ifindex}: the kernel answers {}{}", os_error(*errno), detail(text))]
    Refused {
        /// The link.
        ifindex: IfIndex,
        /// The error number, positive.
        errno: i32,
        /// The kernel's own words (`NLMSGERR_ATTR_MSG`), empty if it gave none.
        text: String,
    },
    /// The kernel stayed short of something, mostly memory.
    #[error("WireGuard link {ifindex}: the kernel keeps answering {}: free memory", os_error(*errno))]
    Exhausted {
        /// The link.
        ifindex: IfIndex,
        /// The error number, positive.
        errno: i32,
    },
    /// A system call on the socket failed.
    #[error("generic netlink socket: cannot {action}: {}", os_error(*errno))]
    Socket {
        /// What was tried.
        action: &'static str,
        /// The error number, positive.
        errno: i32,
    },
    /// The kernel's answer does not follow the protocol.
    #[error("generic netlink: cannot understand the kernel's answer: {0}")]
    Malformed(&'static str),
}

impl WgError {
    /// Gives an error number of the kernel its meaning for a WireGuard request
    /// (`lookup_interface()` in drivers/net/wireguard/netlink.c, `genl_rcv_msg()` in
    /// net/netlink/genetlink.c).
    fn from_kernel(ifindex: IfIndex, errno: i32, text: String) -> WgError {
        match errno {
            libc::ENOENT => WgError::NoFamily,
            libc::EPERM => WgError::NotPermitted,
            libc::ENODEV => WgError::NoDevice(ifindex),
            libc::EOPNOTSUPP => WgError::NotWireguard(ifindex),
            _ => WgError::Refused { ifindex, errno, text },
        }
    }

    /// Gives an error of the exchange its meaning.
    pub(super) fn from_genl(ifindex: IfIndex, error: GenlError) -> WgError {
        match error {
            GenlError::Refused { errno, text } => WgError::from_kernel(ifindex, errno, text),
            GenlError::Socket { action, source } => {
                WgError::Socket { action, errno: source.raw_os_error().unwrap_or(libc::EIO) }
            }
            GenlError::Malformed(what) => WgError::Malformed(what),
        }
    }
}

impl From<WgError> for DeviceError {
    fn from(error: WgError) -> DeviceError {
        let gone = matches!(error, WgError::NoDevice(_));
        DeviceError { message: error.to_string(), gone }
    }
}

fn os_error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

fn detail(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_words_are_kept() {
        let error = WgError::from_kernel(7, libc::EINVAL, "NLA_F_NESTED is missing".to_owned());
        assert_eq!(
            error.to_string(),
            "WireGuard link 7: the kernel answers Invalid argument (os error 22): NLA_F_NESTED is \
             missing"
        );
        assert_eq!(WgError::from_kernel(7, libc::ENODEV, String::new()), WgError::NoDevice(7));
    }
}
