//! The one capability that the daemon needs.

use caps::{CapSet, Capability, CapsHashSet};

/// Why the daemon cannot work with the privileges that it has.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// It may not change the network.
    #[error(
        "CAP_NET_ADMIN is missing: run as root, or use the systemd unit, or \
         `setpriv --ambient-caps +net_admin --inh-caps +net_admin wgrouted run …`"
    )]
    NetAdmin,
    /// The system refused.
    #[error("cannot read or drop capabilities: {0}")]
    System(#[from] caps::errors::CapsError),
}

/// Fails unless the calling thread may change the network.
pub fn require() -> Result<(), PrivilegeError> {
    match caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN)? {
        true => Ok(()),
        false => Err(PrivilegeError::NetAdmin),
    }
}

/// Drops every other capability of the calling thread and of the threads that it will start.
pub fn keep_only_what_is_needed() -> Result<(), PrivilegeError> {
    let needed = CapsHashSet::from([Capability::CAP_NET_ADMIN]);
    caps::clear(None, CapSet::Ambient)?;
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &needed)?;
    }
    Ok(())
}
