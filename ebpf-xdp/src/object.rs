//! The compiled programs, for whoever loads them.
//!
//! `cargo lab bpf` makes the file from this crate; the host alone has it.

/// ELF wants its headers aligned.
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

static FILE: &Aligned<[u8]> = &Aligned(*include_bytes!("../object/wgrouted.bpf.o"));

/// The object file.
pub fn file() -> &'static [u8] {
    &FILE.0
}
