//! Keeping resident memory close to what is in use.

/// Allocations of at least this many bytes get pages of their own, which go back to the system
/// when they are freed.
const OWN_PAGES: i32 = 256 << 10;

/// Fixes glibc's threshold for allocations with pages of their own. Left alone, it grows to the
/// largest one that was freed (mallopt(3), "dynamic mmap threshold"), and what a dump of a full
/// table needed for a moment would stay resident for good.
#[cfg(target_env = "gnu")]
pub(super) fn return_large_allocations() {
    // SAFETY: mallopt takes two integers; no other thread runs yet.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES) };
}

/// Other allocators return large allocations by themselves.
#[cfg(not(target_env = "gnu"))]
pub(super) fn return_large_allocations() {}
