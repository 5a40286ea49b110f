//! What the kernel lets a packet filter do.
//!
//! Here live attempts: a map is made, a program of two instructions is loaded and attached, and all of
//! it is gone when its descriptors are closed. Invariant: nothing is pinned, and the caller sees to it
//! that the device is nobody else's.

use std::{
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya::{maps::MapType, sys::is_map_supported};

use super::{
    clsact::{Clsact, Direction},
    sys, trivial,
};
use crate::core::route::IfIndex;

/// An attempt: done, impossible, or forbidden.
pub type Tried = io::Result<bool>;

/// What was tried.
#[derive(Debug)]
pub struct Features {
    /// The system call.
    pub bpf: Tried,
    /// Tries for prefixes.
    pub tries: Tried,
    /// Programs at tc, by link.
    pub tcx: Tried,
    /// Programs at tc, as classifiers.
    pub clsact: Tried,
    /// Programs at XDP.
    pub xdp: Tried,
}

impl Features {
    /// Tries everything, on a device of the calling thread's network namespace.
    pub fn try_on(device: IfIndex) -> Features {
        let tries = is_map_supported(MapType::LpmTrie).map_err(|error| error.io_error);
        let attach = |kind, attach_type, flags| {
            let program = trivial::load(kind)?;
            // Dropping the link detaches the program.
            sys::create_link(program.as_fd(), device, attach_type, flags).map(drop)
        };
        let classify = || {
            let program = trivial::load(trivial::SCHED_CLS)?;
            let mut clsact = Clsact::open()?;
            let made = clsact.add_qdisc(device)?;
            let put = clsact.put(device, Direction::Ingress, program.as_fd());
            let removed = clsact.remove(device, Direction::Ingress);
            if made {
                clsact.remove_empty_qdisc(device)?;
            }
            put.and(removed)
        };
        Features {
            bpf: tried(sys::probe()),
            tries,
            tcx: tried(attach(trivial::SCHED_CLS, sys::ATTACH_TCX_INGRESS, 0)),
            clsact: tried(classify()),
            xdp: tried(attach(trivial::XDP, sys::ATTACH_XDP, sys::XDP_GENERIC)),
        }
    }
}

/// What is forbidden is an error; any other refusal is an answer.
fn tried(result: io::Result<()>) -> Tried {
    match result {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => {
            Err(error)
        }
        Err(_) => Ok(false),
    }
}

/// Whether a directory, or what will hold it, lies on a BPF file system; `None` if nobody may look.
pub fn is_on_bpffs(directory: &Path) -> Option<bool> {
    let mut at: PathBuf = directory.to_owned();
    loop {
        match sys::is_bpffs(&at) {
            Ok(is) => return Some(is),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !at.pop() {
                    return None;
                }
            }
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_lies_where_it_would_be_made() {
        assert_eq!(is_on_bpffs(Path::new("/proc/no/such/directory")), Some(false));
    }

    #[test]
    #[ignore = "needs root: sudo -E cargo test -p wgrouted --lib features -- --ignored"]
    fn the_kernel_can_do_it_and_nothing_is_left() {
        // SAFETY: no pointers are passed; the call moves this thread to a new network namespace.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        for _ in 0..2 {
            let features = Features::try_on(1);
            assert!(matches!(features.bpf, Ok(true)), "{features:?}");
            assert!(matches!(features.tries, Ok(true)), "{features:?}");
            assert!(matches!(features.clsact, Ok(true)), "{features:?}");
            assert!(matches!(features.xdp, Ok(true)), "{features:?}");
        }
        let mut clsact = Clsact::open().unwrap();
        assert!(clsact.add_qdisc(1).unwrap(), "the queueing discipline was left behind");
    }
}
