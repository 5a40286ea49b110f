//! What the kernel holds of BPF.
//!
//! Here lives the look at maps, programs and links by the kernel's own numbers (bpf(2)), and the
//! ways in which somebody else may interfere: detach a link, delete an entry. It shares nothing
//! with wgrouted, not even the place of its pins. Numbers are the whole kernel's, not a
//! namespace's: whoever compares them must know what else runs.

use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};

use super::{link_address::LinkAddress, node::Node};

/// Commands (linux/bpf.h).
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const MAP_LOOKUP_BATCH: libc::c_int = 24;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const LINK_DETACH: libc::c_int = 34;

/// Types of programs and of attachments, and a flag (linux/bpf.h, linux/if_link.h).
const PROG_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const XDP_FLAGS_SKB_MODE: u32 = 2;
/// `r0 = XDP_PASS; exit`.
const PASS: [u64; 2] = [2 << 32 | 0xb7, 0x95];

/// Types of links (linux/bpf.h).
const LINK_XDP: u32 = 6;
const LINK_TCX: u32 = 11;

/// Entries that are read at a time: enough that system calls cost nothing beside the work.
const BATCH: u32 = 4096;

/// Kinds of objects that have numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Program,
    Map,
    Link,
}

impl Kind {
    fn next_id(self) -> libc::c_int {
        match self {
            Kind::Program => 11,
            Kind::Map => 12,
            Kind::Link => 31,
        }
    }

    fn open(self) -> libc::c_int {
        match self {
            Kind::Program => 13,
            Kind::Map => 14,
            Kind::Link => 30,
        }
    }

    /// Where the name lies in the object's description.
    fn name(self) -> Option<usize> {
        match self {
            Kind::Program => Some(64),
            Kind::Map => Some(24),
            Kind::Link => None,
        }
    }
}

/// `union bpf_attr`, as words; unused ones are zero.
type Attributes = [u64; 16];

fn bpf(command: libc::c_int, attributes: &mut Attributes) -> io::Result<i64> {
    // SAFETY: the attributes are valid for their whole length; callers keep what they point to
    // alive and large enough.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            size_of::<Attributes>() as libc::c_uint,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Two numbers of 32 bits, as they lie in memory.
fn pair(low: u32, high: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&low.to_ne_bytes());
    bytes[4..].copy_from_slice(&high.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// The reverse.
fn halves(word: u64) -> (u32, u32) {
    let bytes = word.to_ne_bytes();
    let number = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four octets"));
    (number(0), number(4))
}

/// An object of the kernel, described by itself.
#[derive(Debug)]
struct Object {
    fd: OwnedFd,
    /// The description (`struct bpf_map_info` and its like).
    info: [u8; 256],
}

impl Object {
    /// All objects of a kind.
    fn all(kind: Kind) -> Result<Vec<Object>> {
        let mut objects = Vec::new();
        let mut id = 0;
        loop {
            let mut attributes = [0; 16];
            attributes[0] = pair(id, 0);
            match bpf(kind.next_id(), &mut attributes) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(objects),
                result => result.with_context(|| format!("list of {kind:?}s"))?,
            };
            (_, id) = halves(attributes[0]);
            let mut attributes = [0; 16];
            attributes[0] = pair(id, 0);
            match bpf(kind.open(), &mut attributes) {
                // SAFETY: the descriptor was just opened and belongs to nobody else.
                Ok(fd) => objects
                    .push(Object::of(unsafe { OwnedFd::from_raw_fd(libc::c_int::try_from(fd)?) })?),
                // Gone meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error).with_context(|| format!("{kind:?} {id}")),
            }
        }
    }

    fn of(fd: OwnedFd) -> Result<Object> {
        let mut info = [0; 256];
        let mut attributes = [0; 16];
        attributes[0] = pair(fd.as_raw_fd().cast_unsigned(), u32::try_from(info.len())?);
        attributes[1] = info.as_mut_ptr().expose_provenance() as u64;
        bpf(OBJ_GET_INFO_BY_FD, &mut attributes).context("description of a BPF object")?;
        Ok(Object { fd, info })
    }

    fn number(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.info[at..at + 4].try_into().expect("four octets"))
    }

    fn name(&self, kind: Kind) -> String {
        let at = kind.name().expect("a kind with names");
        let name = self.info[at..at + 16].split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    }
}

/// Names of the programs that are loaded.
pub fn programs() -> Result<Vec<String>> {
    let objects = Object::all(Kind::Program)?;
    Ok(objects.iter().map(|object| object.name(Kind::Program)).collect())
}

/// Names of the maps that exist.
pub fn maps() -> Result<Vec<String>> {
    let objects = Object::all(Kind::Map)?;
    Ok(objects.iter().map(|object| object.name(Kind::Map)).collect())
}

/// A link between a program and a device.
#[derive(Debug)]
pub struct Attachment {
    /// The device's index, in its own namespace.
    pub ifindex: u32,
    /// XDP; else tcx.
    pub is_xdp: bool,
    object: Object,
}

impl Attachment {
    /// All links to devices.
    pub fn all() -> Result<Vec<Attachment>> {
        let links = Object::all(Kind::Link)?.into_iter().filter_map(|object| {
            let kind = object.number(0);
            let ifindex = object.number(16);
            matches!(kind, LINK_XDP | LINK_TCX).then_some(Attachment {
                ifindex,
                is_xdp: kind == LINK_XDP,
                object,
            })
        });
        // A link whose device is gone, or that was detached, stands with index zero.
        Ok(links.filter(|link| link.ifindex != 0).collect())
    }

    /// Detaches it, as a third party may.
    pub fn detach(&self) -> Result<()> {
        let mut attributes = [0; 16];
        attributes[0] = pair(self.object.fd.as_raw_fd().cast_unsigned(), 0);
        bpf(LINK_DETACH, &mut attributes).context("detach a BPF link").map(drop)
    }
}

/// A program of somebody else's on a device, which passes everything. It goes when this is dropped.
#[derive(Debug)]
pub struct Stranger {
    _program: OwnedFd,
    _link: OwnedFd,
}

impl Stranger {
    /// Attaches one.
    pub fn attach(node: &Node, device: &str) -> Result<Stranger> {
        // SAFETY: the descriptors were just opened and belong to nobody else.
        let own = |fd: i64| Ok(unsafe { OwnedFd::from_raw_fd(libc::c_int::try_from(fd)?) });
        let mut attributes = [0; 16];
        attributes[0] = pair(PROG_XDP, u32::try_from(PASS.len())?);
        attributes[1] = PASS.as_ptr().expose_provenance() as u64;
        attributes[2] = c"GPL".as_ptr().expose_provenance() as u64;
        let loaded = bpf(PROG_LOAD, &mut attributes).context("load a program");
        let program: OwnedFd = loaded.and_then(own)?;
        let attach = || {
            let index = LinkAddress::of(device)?.index();
            let mut attributes = [0; 16];
            attributes[0] = pair(program.as_raw_fd().cast_unsigned(), index.cast_unsigned());
            attributes[1] = pair(ATTACH_XDP, XDP_FLAGS_SKB_MODE);
            bpf(LINK_CREATE, &mut attributes).context("attach a program").and_then(own)
        };
        let link = node.enter(attach)?;
        Ok(Stranger { _program: program, _link: link })
    }
}

/// A map with keys and values of fixed size.
#[derive(Debug)]
pub struct Map {
    object: Object,
    key: usize,
    value: usize,
}

impl Map {
    /// The only map with this name.
    pub fn named(name: &str) -> Result<Map> {
        let mut found = Object::all(Kind::Map)?;
        // The kernel keeps fifteen octets of a name.
        found.retain(|object| object.name(Kind::Map) == name[..name.len().min(15)]);
        ensure!(found.len() == 1, "{} maps are called {name}", found.len());
        let object = found.remove(0);
        let (key, value) = (object.number(8) as usize, object.number(12) as usize);
        Ok(Map { object, key, value })
    }

    /// How many entries it has room for.
    pub fn capacity(&self) -> u32 {
        self.object.number(16)
    }

    /// How much memory the kernel says it takes, in bytes (proc_pid_fdinfo(5)); of a trie, without
    /// the nodes where it only branches (kernel/bpf/lpm_trie.c, `trie_mem_usage()`).
    pub fn memory(&self) -> Result<u64> {
        let path = format!("/proc/self/fdinfo/{}", self.object.fd.as_raw_fd());
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        line.with_context(|| format!("no memlock in {path}"))?.trim().parse().context(path)
    }

    /// Gives every entry to `each`, key and value. For tries and arrays, which the kernel reads
    /// from key to key (kernel/bpf/syscall.c, `generic_map_lookup_batch()`).
    pub fn scan(&self, mut each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let room = BATCH as usize;
        let (mut keys, mut values) = (vec![0u8; room * self.key], vec![0u8; room * self.value]);
        let mut last = vec![0u8; self.key];
        let place = last.as_mut_ptr().expose_provenance() as u64;
        let mut from = 0;
        loop {
            let mut attributes = [0; 16];
            attributes[0] = from;
            attributes[1] = place;
            attributes[2] = keys.as_mut_ptr().expose_provenance() as u64;
            attributes[3] = values.as_mut_ptr().expose_provenance() as u64;
            attributes[4] = pair(BATCH, self.object.fd.as_raw_fd().cast_unsigned());
            let more = match bpf(MAP_LOOKUP_BATCH, &mut attributes) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => false,
                result => result.context("entries of a map").map(|_| true)?,
            };
            let (count, _) = halves(attributes[4]);
            let entries = keys.chunks(self.key).zip(values.chunks(self.value));
            entries.take(count as usize).for_each(|(key, value)| each(key, value));
            if !more {
                return Ok(());
            }
            from = place;
        }
    }

    /// The value of a key; of a trie, of its longest match.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        ensure!(key.len() == self.key, "a key has {} octets", self.key);
        let mut value = vec![0u8; self.value];
        let mut attributes = self.attributes();
        attributes[1] = key.as_ptr().addr() as u64;
        attributes[2] = value.as_mut_ptr().expose_provenance() as u64;
        match bpf(MAP_LOOKUP_ELEM, &mut attributes) {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error).context("look into a map"),
        }
    }

    /// Writes an entry, as a third party may.
    pub fn set(&self, key: &[u8], value: &[u8]) -> Result<()> {
        ensure!((key.len(), value.len()) == (self.key, self.value), "an entry of another size");
        let mut attributes = self.attributes();
        attributes[1] = key.as_ptr().addr() as u64;
        attributes[2] = value.as_ptr().addr() as u64;
        bpf(MAP_UPDATE_ELEM, &mut attributes).context("write into a map").map(drop)
    }

    /// Deletes an entry, as a third party may.
    pub fn delete(&self, key: &[u8]) -> Result<()> {
        ensure!(key.len() == self.key, "a key has {} octets", self.key);
        let mut attributes = self.attributes();
        attributes[1] = key.as_ptr().addr() as u64;
        bpf(MAP_DELETE_ELEM, &mut attributes).context("delete from a map").map(drop)
    }

    fn attributes(&self) -> Attributes {
        let mut attributes = [0; 16];
        attributes[0] = pair(self.object.fd.as_raw_fd().cast_unsigned(), 0);
        attributes
    }
}
