//! One map of the kernel, typed.
//!
//! Here live reading and changing of elements, in batches where the kernel has them. What the maps
//! are for is not known here. Invariant: a `Map`'s sizes are those that the kernel told, and no
//! key or value of another size is handed over.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    thread,
    time::Duration,
};

use aya::util::nr_cpus;
use ebpf_xdp::layout::Plain;

use super::sys::{self, MapInfo};

/// Elements a batch: enough that system calls cost nothing beside the work.
const BATCH: usize = 4096;
/// How often an element is tried again that failed for a reason that passes.
const TRIES: u32 = 5;

/// A map.
#[derive(Debug)]
pub(super) struct Map {
    fd: OwnedFd,
    info: MapInfo,
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// An element that could not be changed: its position, and the error number.
pub(super) type Failed = (usize, i32);

impl Map {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Map> {
        let info = sys::map_info(fd.as_fd())?;
        Ok(Map { fd, info })
    }

    pub(super) fn info(&self) -> &MapInfo {
        &self.info
    }

    /// Room, in elements.
    pub(super) fn entries(&self) -> u32 {
        self.info.entries
    }

    fn check<K: Plain, V: Plain>(&self) {
        assert_eq!(size_of::<K>(), self.info.key as usize, "a key of another map");
        assert_eq!(size_of::<V>(), self.info.value as usize, "a value of another map");
    }

    pub(super) fn set<K: Plain, V: Plain>(&self, key: &K, value: &V) -> io::Result<()> {
        self.check::<K, V>();
        // SAFETY: sizes are checked.
        patiently(|| unsafe { sys::update(self.as_fd(), key, value) })
    }

    /// Whether an element has this value.
    pub(super) fn says<K: Plain, V: Plain + PartialEq>(&self, key: &K, value: &V) -> bool {
        self.check::<K, V>();
        let mut found = *value;
        // SAFETY: sizes are checked; the value is overwritten by one of its type.
        unsafe { sys::lookup(self.as_fd(), key, &raw mut found) }.is_ok() && found == *value
    }

    /// Removes an element. One that is not there is removed already.
    pub(super) fn delete<K: Plain>(&self, key: &K) -> io::Result<()> {
        assert_eq!(size_of::<K>(), self.info.key as usize, "a key of another map");
        // SAFETY: the size is checked.
        patiently(|| found(unsafe { sys::delete(self.as_fd(), key) }).map(drop))
    }

    /// The first words of a value that is at least as long.
    pub(super) fn head(&self, key: &u32) -> io::Result<[u32; 2]> {
        let size = self.info.value as usize;
        assert!(self.info.key == 4 && size >= 8, "no such key or head");
        let mut value = vec![0_u64; size.div_ceil(8)];
        // SAFETY: there is room for a value.
        unsafe { sys::lookup(self.as_fd(), key, value.as_mut_ptr()) }?;
        let head = value[0].to_ne_bytes();
        let word =
            |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        Ok([word(0), word(4)])
    }

    /// Gives all CPUs this value, of maps that have one for each.
    pub(super) fn set_each<K: Plain, V: Plain>(&self, key: &K, value: V) -> io::Result<()> {
        self.check::<K, V>();
        let values = vec![value; self.cpus::<V>()?];
        // SAFETY: there is a value for each possible CPU, and `cpus` has checked that they lie as
        // close in the vector as the kernel reads them.
        patiently(|| unsafe { sys::update(self.as_fd(), key, values.as_ptr()) })
    }

    fn cpus<V>(&self) -> io::Result<usize> {
        const { assert!(size_of::<V>().is_multiple_of(8), "the kernel pads to eight bytes") };
        nr_cpus().map_err(|(_, error)| error)
    }

    /// Changes elements one after the other. All are tried.
    pub(super) fn set_all<K: Plain, V: Plain>(&self, keys: &[K], values: &[V]) -> Vec<Failed> {
        self.check::<K, V>();
        assert_eq!(keys.len(), values.len());
        self.all(
            keys.len(),
            |at, count| {
                let (keys, values) = (&keys[at..at + count], &values[at..at + count]);
                // SAFETY: sizes are checked, and so are both counts.
                unsafe {
                    let (keys, values) = (keys.as_ptr(), values.as_ptr());
                    sys::update_batch(self.as_fd(), keys, values, count as u32)
                }
            },
            |at| self.set(&keys[at], &values[at]),
        )
    }

    /// Removes elements. All are tried.
    pub(super) fn delete_all<K: Plain>(&self, keys: &[K]) -> Vec<Failed> {
        assert_eq!(size_of::<K>(), self.info.key as usize, "a key of another map");
        self.all(
            keys.len(),
            |at, count| {
                let keys = &keys[at..at + count];
                // SAFETY: the size is checked.
                unsafe { sys::delete_batch(self.as_fd(), keys.as_ptr(), count as u32) }
            },
            |at| self.delete(&keys[at]),
        )
    }

    /// A batch ends at the first element that fails (kernel: `generic_map_update_batch()`). That
    /// one is tried alone, and the rest goes on behind it.
    fn all(
        &self,
        count: usize,
        batch: impl Fn(usize, usize) -> sys::Batched,
        single: impl Fn(usize) -> io::Result<()>,
    ) -> Vec<Failed> {
        let mut failed = Vec::new();
        let (mut at, mut batches) = (0, true);
        while at < count {
            if batches && count - at > 1 {
                let (done, result) = batch(at, BATCH.min(count - at));
                at += done as usize;
                match result {
                    Ok(()) => continue,
                    Err(error) => batches = !is_unknown(&error),
                }
            }
            if let Err(error) = single(at) {
                failed.push((at, errno(&error)));
            }
            at += 1;
        }
        failed
    }

    /// Gives every element to `each`. An element that comes or goes meanwhile may be missing.
    pub(super) fn scan<K: Plain, V: Plain>(&self, mut each: impl FnMut(K, V)) -> io::Result<()> {
        self.check::<K, V>();
        // SAFETY: sizes are checked.
        unsafe { self.scan_wide(1, |key, values: &[V]| each(key, values[0])) }
    }

    /// The same with the values of all CPUs, of maps that have one for each.
    pub(super) fn scan_each<K: Plain, V: Plain>(
        &self,
        each: impl FnMut(K, &[V]),
    ) -> io::Result<()> {
        self.check::<K, V>();
        // SAFETY: sizes are checked; a value for each possible CPU is what the kernel gives.
        unsafe { self.scan_wide(self.cpus::<V>()?, each) }
    }

    /// # Safety
    ///
    /// An element has a key of type `K` and `width` values of type `V`.
    unsafe fn scan_wide<K: Plain, V: Plain>(
        &self,
        width: usize,
        mut each: impl FnMut(K, &[V]),
    ) -> io::Result<()> {
        let mut room = BATCH;
        let mut place = vec![0; size_of::<K>().max(8)];
        let mut first = true;
        let (mut keys, mut values) = (vec![zero::<K>(); room], vec![zero::<V>(); room * width]);
        loop {
            // SAFETY: the caller's promise, and the vectors have that room.
            let (count, result) = unsafe {
                let (keys, values) = (keys.as_mut_ptr(), values.as_mut_ptr());
                let place = place.as_mut_ptr();
                sys::lookup_batch(self.as_fd(), place, first, keys, values, room as u32)
            };
            for (key, values) in keys.iter().zip(values.chunks(width)).take(count as usize) {
                each(*key, values);
            }
            match result {
                Ok(()) => first = false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
                // A bucket of a hash table is given whole (kernel/bpf/hashtab.c,
                // `__htab_map_lookup_and_delete_batch()`).
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    room *= 2;
                    keys.resize(room, zero());
                    values.resize(room * width, zero());
                }
                Err(error) if first && is_unknown(&error) => break,
                Err(error) => return Err(error),
            }
        }
        // One by one.
        let (mut before, mut next) = (None::<K>, zero::<K>());
        loop {
            let key = before.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
            // SAFETY: both are keys of this map, or null.
            if found(unsafe { sys::next_key(self.as_fd(), key, &raw mut next) })?.is_none() {
                return Ok(());
            }
            // SAFETY: a key of this map, and room for its values.
            let got = unsafe { sys::lookup(self.as_fd(), &raw const next, values.as_mut_ptr()) };
            if found(got)?.is_some() {
                each(next, &values[..width]);
            }
            before = Some(next);
        }
    }
}

/// Room for a key or value.
fn zero<T: Plain>() -> T {
    // SAFETY: of such types every bit pattern is a value.
    unsafe { std::mem::zeroed() }
}

/// The error number, for whoever counts failures.
pub(super) fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | sys::ENOTSUPP))
}

fn found(result: io::Result<()>) -> io::Result<Option<()>> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        other => other.map(Some),
    }
}

/// Tries again what failed for want of memory (before Linux 6.13 the tries allocate without
/// waiting) or because a lock was not to be had (from 7.3 on they give up rather than wait).
fn patiently(mut attempt: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    for pause in 0..TRIES {
        match attempt() {
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(
                        libc::ENOMEM
                            | libc::EBUSY
                            | libc::EDEADLK
                            | libc::ETIMEDOUT
                            | libc::EAGAIN
                            | libc::EINTR
                    )
                ) =>
            {
                thread::sleep(Duration::from_millis(1 << pause));
            }
            other => return other,
        }
    }
    attempt()
}
