//! The capabilities that the daemon needs: one, another to probe peers, and two more where it filters
//! packets.

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

/// What loading programs and holding maps needs; the second because the kernel's verifier allows
/// less to those who have only the first (`bpf_allow_ptr_leaks`, include/linux/bpf.h).
const FILTER: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_PERFMON];

/// What ICMP probes need: raw sockets. Kept whether or not peers are probed now, since a reload may
/// say so.
const PROBE: Capability = Capability::CAP_NET_RAW;

/// Fails unless the calling thread may change the network.
pub fn require() -> Result<(), PrivilegeError> {
    match caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN)? {
        true => Ok(()),
        false => Err(PrivilegeError::NetAdmin),
    }
}

/// Drops every other capability of the calling thread and of the threads that it will start. What
/// probes and the packet filter would need is kept if it is there; without it they say so themselves.
pub fn keep_only_what_is_needed(filter: bool) -> Result<(), PrivilegeError> {
    let held = caps::read(None, CapSet::Permitted)?;
    let filter = FILTER.into_iter().filter(|_| filter);
    let welcome = filter.chain([PROBE]).filter(|capability| held.contains(capability));
    let mut needed = CapsHashSet::from([Capability::CAP_NET_ADMIN]);
    needed.extend(welcome);
    caps::clear(None, CapSet::Ambient)?;
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &needed)?;
    }
    Ok(())
}
