//! The `bpf()` system call, as far as aya leaves it to us.
//!
//! Here lives the boundary to the kernel: typed arguments in, file descriptors and `io::Error`s
//! out. What the maps mean is not known here. Invariant: the kernel is handed no pointer that does
//! not cover what it reads or writes; the sizes of keys and values are the caller's promise, kept
//! by [`super::map::Map`].

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

// enum bpf_cmd, include/uapi/linux/bpf.h
const MAP_CREATE: u32 = 0;
const MAP_LOOKUP_ELEM: u32 = 1;
const MAP_UPDATE_ELEM: u32 = 2;
const MAP_DELETE_ELEM: u32 = 3;
const MAP_GET_NEXT_KEY: u32 = 4;
const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;
const PROG_TEST_RUN: u32 = 10;
const OBJ_GET_INFO_BY_FD: u32 = 15;
const MAP_LOOKUP_BATCH: u32 = 24;
const MAP_UPDATE_BATCH: u32 = 26;
const MAP_DELETE_BATCH: u32 = 27;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;
const LINK_DETACH: u32 = 34;

// enum bpf_attach_type
pub(super) const ATTACH_XDP: u32 = 37;
pub(super) const ATTACH_TCX_INGRESS: u32 = 46;
pub(super) const ATTACH_TCX_EGRESS: u32 = 47;

// enum bpf_link_type
pub(super) const LINK_XDP: u32 = 6;
pub(super) const LINK_TCX: u32 = 11;

/// `XDP_FLAGS_SKB_MODE`: generic XDP.
pub(super) const XDP_GENERIC: u32 = 2;

/// `ENOTSUPP` of the kernel's own, which no C library knows.
pub(super) const ENOTSUPP: i32 = 524;

/// Hands a request to the kernel. Gives what the system call gave.
///
/// # Safety
///
/// Every address in `attr` must be valid for what `command` does with it.
unsafe fn bpf<T>(command: u32, attr: &mut T) -> io::Result<i32> {
    let (attr, size) = (std::ptr::from_mut(attr), size_of::<T>());
    // SAFETY: the kernel reads and writes `size` bytes of `attr`; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// # Safety
///
/// As for [`bpf`], and `command` gives a new file descriptor.
pub(super) unsafe fn bpf_fd<T>(command: u32, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise; nobody else has the new descriptor.
    unsafe { bpf(command, attr).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

pub(super) fn address<T: ?Sized>(of: *const T) -> u64 {
    of.cast::<u8>().addr() as u64
}

#[repr(C)]
#[derive(Default)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

fn element<K, V>(map: BorrowedFd<'_>, key: *const K, value: *const V) -> Element {
    let (key, value) = (address(key), address(value));
    Element { map_fd: map.as_raw_fd() as u32, key, value, ..Element::default() }
}

/// What a new map shall be.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MapKind {
    pub(super) kind: u32,
    pub(super) key: u32,
    pub(super) value: u32,
    pub(super) entries: u32,
}

/// Whether the kernel lets us ask at all.
pub(super) fn probe() -> io::Result<()> {
    let mut attr = Element { map_fd: u32::MAX, ..Element::default() };
    // SAFETY: the descriptor is refused before any address is looked at.
    match unsafe { bpf(MAP_LOOKUP_ELEM, &mut attr) } {
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => Ok(()),
        other => other.map(drop),
    }
}

pub(super) fn create_map(map: MapKind, name: &str) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        map: MapKind,
        flags: u32,
        inner: u32,
        numa: u32,
        name: [u8; 16],
    }
    let mut attr = Create { map, flags: 0, inner: 0, numa: 0, name: [0; 16] };
    let length = name.len().min(15);
    attr.name[..length].copy_from_slice(&name.as_bytes()[..length]);
    // SAFETY: no addresses.
    unsafe { bpf_fd(MAP_CREATE, &mut attr) }
}

/// # Safety
///
/// `key` and `value` point to a key and to room for what a lookup gives.
pub(super) unsafe fn lookup<K, V>(
    map: BorrowedFd<'_>,
    key: *const K,
    out: *mut V,
) -> io::Result<()> {
    // SAFETY: the caller's promise.
    unsafe { bpf(MAP_LOOKUP_ELEM, &mut element(map, key, out.cast_const())) }.map(drop)
}

/// # Safety
///
/// `key` and `value` point to a key and to a value of the map, or one for each possible CPU.
pub(super) unsafe fn update<K, V>(
    map: BorrowedFd<'_>,
    key: *const K,
    value: *const V,
) -> io::Result<()> {
    // SAFETY: the caller's promise.
    unsafe { bpf(MAP_UPDATE_ELEM, &mut element(map, key, value)) }.map(drop)
}

/// # Safety
///
/// `key` points to a key of the map.
pub(super) unsafe fn delete<K>(map: BorrowedFd<'_>, key: *const K) -> io::Result<()> {
    // SAFETY: the caller's promise.
    unsafe { bpf(MAP_DELETE_ELEM, &mut element(map, key, std::ptr::null::<u8>())) }.map(drop)
}

/// # Safety
///
/// `key` is null or points to a key of the map, `next` to room for one.
pub(super) unsafe fn next_key<K>(
    map: BorrowedFd<'_>,
    key: *const K,
    next: *mut K,
) -> io::Result<()> {
    // SAFETY: the caller's promise.
    unsafe { bpf(MAP_GET_NEXT_KEY, &mut element(map, key, next.cast_const())) }.map(drop)
}

/// How far a batch came, and why not further.
pub(super) type Batched = (u32, io::Result<()>);

/// # Safety
///
/// `keys` and `values` point to `count` keys and values of the map.
pub(super) unsafe fn update_batch<K, V>(
    map: BorrowedFd<'_>,
    keys: *const K,
    values: *const V,
    count: u32,
) -> Batched {
    // SAFETY: the caller's promise.
    unsafe { change_batch(MAP_UPDATE_BATCH, map, address(keys), address(values), count) }
}

/// # Safety
///
/// `keys` points to `count` keys of the map.
pub(super) unsafe fn delete_batch<K>(map: BorrowedFd<'_>, keys: *const K, count: u32) -> Batched {
    // SAFETY: the caller's promise.
    unsafe { change_batch(MAP_DELETE_BATCH, map, address(keys), 0, count) }
}

/// # Safety
///
/// As for the callers.
unsafe fn change_batch(
    command: u32,
    map: BorrowedFd<'_>,
    keys: u64,
    values: u64,
    count: u32,
) -> Batched {
    let map_fd = map.as_raw_fd() as u32;
    let mut attr = Batch { keys, values, count, map_fd, ..Batch::default() };
    // SAFETY: the caller's promise.
    let result = unsafe { bpf(command, &mut attr) }.map(drop);
    match result {
        // A count that was not changed says that the kernel did not get as far as counting.
        Err(error) if attr.count >= count => (0, Err(error)),
        other => (attr.count.min(count), other),
    }
}

/// # Safety
///
/// `place` has room for a key and for four bytes, and holds what the call before left in it unless
/// `first`; `keys` and `values` have room for `count` keys and values of the map.
pub(super) unsafe fn lookup_batch<K, V>(
    map: BorrowedFd<'_>,
    place: *mut u8,
    first: bool,
    keys: *mut K,
    values: *mut V,
    count: u32,
) -> Batched {
    let mut attr = Batch {
        in_batch: if first { 0 } else { address(place) },
        out_batch: address(place),
        keys: address(keys),
        values: address(values),
        count,
        map_fd: map.as_raw_fd() as u32,
        ..Batch::default()
    };
    // SAFETY: the caller's promise.
    let result = unsafe { bpf(MAP_LOOKUP_BATCH, &mut attr) }.map(drop);
    match result {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => (0, Err(error)),
        other => (attr.count.min(count), other),
    }
}

#[repr(C)]
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

fn path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

pub(super) fn pin(fd: BorrowedFd<'_>, at: &Path) -> io::Result<()> {
    let at = path(at)?;
    let bpf_fd = fd.as_raw_fd() as u32;
    let mut attr = Object { pathname: address(at.as_ptr()), bpf_fd, file_flags: 0 };
    // SAFETY: the path ends with a zero and outlives the call.
    unsafe { bpf(OBJ_PIN, &mut attr) }.map(drop)
}

/// What a pin stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pinned {
    Map,
    Program,
    Link,
}

/// Opens a pin, of that kind only.
pub(super) fn open(at: &Path, kind: Pinned) -> io::Result<OwnedFd> {
    let name = path(at)?;
    let mut attr = Object { pathname: address(name.as_ptr()), bpf_fd: 0, file_flags: 0 };
    // SAFETY: the path ends with a zero and outlives the call.
    let fd = unsafe { bpf_fd(OBJ_GET, &mut attr) }?;
    let target = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    // "anon_inode:bpf-map", and of links, on some kernels, "anon_inode:[bpf_link]".
    let word = match kind {
        Pinned::Map => "bpf-map",
        Pinned::Program => "bpf-prog",
        Pinned::Link => "bpf-link",
    };
    if target.to_string_lossy().replace('_', "-").contains(word) {
        Ok(fd)
    } else {
        Err(io::Error::other(format!("it is not a {kind:?}").to_lowercase()))
    }
}

/// # Safety
///
/// `T` is made of integers and no longer than what the kernel knows of such objects.
unsafe fn info<T: Default>(fd: BorrowedFd<'_>) -> io::Result<T> {
    #[repr(C)]
    struct Query {
        bpf_fd: u32,
        length: u32,
        info: u64,
    }
    let mut info = T::default();
    let length = size_of::<T>() as u32;
    let bpf_fd = fd.as_raw_fd() as u32;
    let mut attr = Query { bpf_fd, length, info: address(&raw mut info) };
    // SAFETY: the kernel writes at most `length` bytes of `info`.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

/// The head of `struct bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MapInfo {
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) key: u32,
    pub(super) value: u32,
    pub(super) entries: u32,
    pub(super) flags: u32,
}

/// The head of `struct bpf_link_info`, of links to devices.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LinkInfo {
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) program: u32,
    pad: u32,
    /// 0: detached, or the device is gone.
    pub(super) ifindex: u32,
    pub(super) attach_type: u32,
}

pub(super) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    // SAFETY: integers.
    unsafe { info(map) }
}

pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // SAFETY: integers.
    unsafe { info(link) }
}

/// A program's number.
pub(super) fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: integers.
    unsafe { info::<[u32; 2]>(program) }.map(|[_, id]| id)
}

pub(super) fn create_link(
    program: BorrowedFd<'_>,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let program = program.as_raw_fd() as u32;
    // struct { prog_fd, target_ifindex, attach_type, flags, 32 bytes of a union }
    let mut attr = [program, ifindex, attach_type, flags, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: no addresses.
    unsafe { bpf_fd(LINK_CREATE, &mut attr) }
}

/// Puts another program into a link, in one step.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // struct { link_fd, new_prog_fd, flags, old_prog_fd }
    let mut attr = [link.as_raw_fd() as u32, program.as_raw_fd() as u32, 0, 0];
    // SAFETY: no addresses.
    unsafe { bpf(LINK_UPDATE, &mut attr) }.map(drop)
}

/// Detaches a link, whoever else still holds it.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = [link.as_raw_fd() as u32];
    // SAFETY: no addresses.
    unsafe { bpf(LINK_DETACH, &mut attr) }.map(drop)
}

/// Runs an XDP program on a packet that came in by `ifindex`. Gives what the program gave.
pub(super) fn run_xdp(program: BorrowedFd<'_>, packet: &[u8], ifindex: u32) -> io::Result<u32> {
    #[repr(C)]
    #[derive(Default)]
    struct Run {
        prog_fd: u32,
        result: u32,
        data_in: u32,
        data_out: u32,
        data: u64,
        out: u64,
        repeat: u32,
        duration: u32,
        context_in: u32,
        context_out: u32,
        context: u64,
        context_result: u64,
        flags: u32,
        cpu: u32,
        batch: u32,
        pad: u32,
    }
    let length = u32::try_from(packet.len()).map_err(io::Error::other)?;
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
    let context: [u32; 6] = [0, length, 0, ifindex, 0, 0];
    let mut attr = Run {
        prog_fd: program.as_raw_fd() as u32,
        data_in: length,
        data: address(packet.as_ptr()),
        repeat: 1,
        context_in: size_of_val(&context) as u32,
        context: address(&raw const context),
        ..Run::default()
    };
    // SAFETY: the kernel reads the packet and the context, whose sizes are given, and writes
    // nothing but `attr`.
    unsafe { bpf(PROG_TEST_RUN, &mut attr) }?;
    Ok(attr.result)
}

/// The number of the calling thread's network namespace: no other has it until the machine is
/// started anew.
pub(super) fn namespace_cookie() -> io::Result<u64> {
    // SAFETY: no pointers are passed.
    let socket: RawFd =
        unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: nobody else has the new descriptor.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let (mut cookie, mut length) = (0_u64, 8);
    // SAFETY: the kernel writes at most `length` bytes of `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Whether a path lies on a BPF file system.
pub(super) fn is_bpffs(at: &Path) -> io::Result<bool> {
    let at = path(at)?;
    // SAFETY: all zero is a value of this structure of integers.
    let mut status: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero; the kernel writes one `statfs`.
    if unsafe { libc::statfs(at.as_ptr(), &raw mut status) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(status.f_type as u64 & 0xffff_ffff == 0xcafe_4a11)
}

/// Waits until no program runs any more that began before: what they may have looked at is free
/// then.
pub(super) fn wait_for_running_programs() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // synchronize_rcu() (kernel/sched/membarrier.c); programs run within RCU.
    // SAFETY: no pointers are passed.
    if unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } != 0 {
        // Not on kernels with nohz_full: no packet is looked at for that long.
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Whether a device of that number is in the calling thread's network namespace.
pub(super) fn has_device(ifindex: u32) -> bool {
    let mut name = [0 as libc::c_char; libc::IF_NAMESIZE];
    // SAFETY: the name has the room that the function wants.
    !unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr()) }.is_null()
}

/// Nanoseconds of the clock that the programs read.
pub(super) fn coarse_monotonic() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec`. It fails for unknown clocks only.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
}
