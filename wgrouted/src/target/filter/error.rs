//! What the kernel refuses, in a line that people read.

use std::io;

use crate::core::filter::table::FilterError;

/// An error of one line.
pub(super) fn refuse(message: String) -> FilterError {
    FilterError { message }
}

/// Something that the kernel did not do. `what` begins with a verb.
pub(super) fn failed(what: &str, error: &io::Error) -> FilterError {
    let remedy = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => ": CAP_BPF and CAP_NET_ADMIN are needed",
        Some(libc::ENOSYS) => ": this kernel is built without BPF (CONFIG_BPF_SYSCALL)",
        Some(libc::ENOMEM | libc::E2BIG) => ": choose smaller sizes for the filter",
        _ => "",
    };
    refuse(format!("cannot {what}: {error}{remedy}"))
}
