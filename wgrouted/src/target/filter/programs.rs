//! The programs of one object, loaded for one generation's maps.
//!
//! Here lives what aya is for: the object file turned into programs that the kernel has verified.

use std::{
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, ProgramError},
};
use sha2::{Digest, Sha256};

use super::{
    error::{failed, refuse},
    pins::{self, cannot},
    sys::{self, Pinned},
    tables::{IDENTITIES, Shape},
};
use crate::core::filter::table::FilterError;

const XDP: &str = "wgr_xdp";
const PROBE: &str = "wgr_probe";
const INGRESS: &str = "wgr_ingress";
const EGRESS: &str = "wgr_egress";

const NEW: &str = "new";

/// Whether a name within a generation is one of programs.
pub(super) fn is_name(name: &str) -> bool {
    let is_hash = |text: &str| text.len() == 16 && text.bytes().all(|c| c.is_ascii_hexdigit());
    name == NEW || name.strip_prefix('p').is_some_and(is_hash)
}

/// The name of an object's programs: objects of different bytes differ in it.
pub(super) fn name_of(object: &[u8]) -> String {
    let hash = Sha256::digest(object);
    let text: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("p{text}")
}

/// A loaded program.
#[derive(Debug)]
pub(super) struct Loaded {
    fd: OwnedFd,
    /// The kernel's number of it.
    pub(super) id: u32,
}

impl AsFd for Loaded {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Loaded {
    fn open(directory: &Path, name: &str) -> Result<Loaded, FilterError> {
        let path = directory.join(name);
        let open = || {
            let fd = sys::open(&path, Pinned::Program)?;
            let id = sys::program_id(fd.as_fd())?;
            Ok(Loaded { fd, id })
        };
        open().map_err(|error| cannot("use", &path, &error))
    }
}

/// The programs.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) xdp: Loaded,
    pub(super) ingress: Loaded,
    pub(super) egress: Loaded,
}

impl Programs {
    /// Opens the object's programs of a generation; `None` if it has only others.
    pub(super) fn open(generation: &Path, object: &[u8]) -> Result<Option<Programs>, FilterError> {
        let directory = generation.join(name_of(object));
        if !directory.exists() {
            return Ok(None);
        }
        let program = |name| Loaded::open(&directory, name);
        Ok(Some(Programs {
            xdp: program(XDP)?,
            ingress: program(INGRESS)?,
            egress: program(EGRESS)?,
        }))
    }

    /// Removes the programs of other objects.
    pub(super) fn remove_others(generation: &Path, object: &[u8]) -> Result<(), FilterError> {
        let ours = name_of(object);
        for name in pins::names(generation)? {
            if is_name(&name) && name != ours {
                pins::remove_tree(&generation.join(name))?;
            }
        }
        Ok(())
    }
}

/// The program that answers what would become of a packet, of whichever object there is.
pub(super) fn open_probe(generation: &Path) -> Result<Loaded, FilterError> {
    let name = pins::names(generation)?.into_iter().find(|name| name != NEW && is_name(name));
    let Some(name) = name else {
        return Err(refuse(format!("no programs in {}: start the daemon", generation.display())));
    };
    Loaded::open(&generation.join(name), PROBE)
}

/// Loads the object with the maps of a directory, making those that are not there, and pins its
/// programs in it.
pub(super) fn load(directory: &Path, object: &[u8], shapes: &[Shape]) -> Result<(), FilterError> {
    let mut loader = EbpfLoader::new();
    for shape in shapes.iter().filter(|shape| shape.name != IDENTITIES) {
        loader.map_max_entries(shape.name, shape.kind.entries);
        loader.map_pin_path(shape.name, directory.join(shape.name));
    }
    let mut object_file =
        loader.load(object).map_err(|error| refuse(line("load the filter", &error)))?;
    let new = directory.join(NEW);
    pins::remove_tree(&new)?;
    fs::create_dir(&new).map_err(|error| cannot("make", &new, &error))?;
    for name in [XDP, PROBE, INGRESS, EGRESS] {
        verify(&mut object_file, name, &new.join(name))?;
    }
    let whole = directory.join(name_of(object));
    fs::rename(&new, &whole).map_err(|error| cannot("make", &whole, &error))
}

fn verify(object: &mut Ebpf, name: &str, path: &Path) -> Result<(), FilterError> {
    let missing = || refuse(format!("the filter's object has no program {name}: build it anew"));
    let program = object.program_mut(name).ok_or_else(missing)?;
    let verified = match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => return Err(missing()),
    };
    let refused = |error: &ProgramError| refuse(line(&format!("load the program {name}"), error));
    verified.map_err(|error| refused(&error))?;
    let fd = program.fd().map_err(|error| refused(&error))?;
    sys::pin(fd.as_fd(), path).map_err(|error| failed(&format!("pin {}", path.display()), &error))
}

/// An error and its causes in one line; of the verifier's log the last words.
fn line(what: &str, error: &dyn std::error::Error) -> String {
    let mut text = format!("cannot {what}: {error}");
    let mut cause = error.source();
    let mut errno = None;
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            errno = error.raw_os_error();
        }
        text = format!("{text}: {error}");
        cause = error.source();
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default().to_owned();
    let text = lines.next_back().map_or(first.clone(), |last| format!("{first} … {last}"));
    match errno {
        Some(libc::EPERM | libc::EACCES) => format!("{text}: CAP_BPF and CAP_NET_ADMIN are needed"),
        Some(libc::ENOMEM | libc::E2BIG) => format!("{text}: choose smaller sizes for the filter"),
        _ => text,
    }
}
