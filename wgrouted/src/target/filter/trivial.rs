//! A program that does nothing.
//!
//! Here lives the loading of it, by which it is found out what may be attached where.

use std::{io, os::fd::OwnedFd};

use super::sys::{address, bpf_fd};

/// `BPF_PROG_LOAD`, enum bpf_cmd, include/uapi/linux/bpf.h.
const PROG_LOAD: u32 = 5;

// enum bpf_prog_type
pub(super) const SCHED_CLS: u32 = 3;
pub(super) const XDP: u32 = 6;

/// Loads a program that returns zero.
pub(super) fn load(kind: u32) -> io::Result<OwnedFd> {
    /// `BPF_MOV64_IMM(BPF_REG_0, 0)`, `BPF_EXIT_INSN()` (include/linux/filter.h), as octets.
    const PROGRAM: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        version: u32,
        flags: u32,
    }
    let mut attr = Load {
        kind,
        count: PROGRAM.len() as u32,
        instructions: address(PROGRAM.as_ptr()),
        license: address(c"GPL".as_ptr()),
        log_level: 0,
        log_size: 0,
        log: 0,
        version: 0,
        flags: 0,
    };
    // SAFETY: the program and the text, which ends with a zero, live until the call returns.
    unsafe { bpf_fd(PROG_LOAD, &mut attr) }
}
