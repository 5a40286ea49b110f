//! What survives a restart: the pinned prefixes that were learned, the links that were made, and which
//! numbers of the kernel's exits have used.
//!
//! AllowedIPs carry no origin. A daemon that restarts finds on the device what is the peers' own
//! together with what it synced itself; only this file tells the two apart. Nor do peers say who
//! added them. It lives in the runtime directory, which ends with the boot, and it is void for a device with another link
//! number, which was made anew.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::core::{
    exits::object::Owned, links::state::Known, peers::RememberedPins, route::IfIndex,
};

/// Reads and writes remembered pins in one directory.
#[derive(Clone, Debug)]
pub struct Memory {
    directory: PathBuf,
    links: PathBuf,
    exits: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct File {
    ifindex: IfIndex,
    pins: RememberedPins,
}

/// Why something could not be remembered.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct MemoryError {
    path: PathBuf,
    source: io::Error,
}

impl Memory {
    /// Remembers in this directory.
    pub fn new(runtime_dir: &Path) -> Self {
        Memory {
            directory: runtime_dir.join("pinned"),
            links: runtime_dir.join("links.json"),
            exits: runtime_dir.join("exits.json"),
        }
    }

    fn path(&self, interface: &str) -> PathBuf {
        self.directory.join(format!("{interface}.json"))
    }

    /// What is remembered of an interface; nothing if its device is another one.
    pub fn recall(&self, interface: &str, ifindex: IfIndex) -> Result<RememberedPins, MemoryError> {
        let Some(file) = read::<File>(&self.path(interface))? else { return Ok(Vec::new()) };
        Ok(if file.ifindex == ifindex { file.pins } else { Vec::new() })
    }

    /// Remembers, in one step: a crash leaves the old file or the new one.
    pub fn remember(
        &self,
        interface: &str,
        ifindex: IfIndex,
        pins: RememberedPins,
    ) -> Result<(), MemoryError> {
        write(&self.path(interface), &File { ifindex, pins })
    }

    /// What is remembered of links that we made or adopted.
    pub fn recall_links(&self) -> Result<Known, MemoryError> {
        Ok(read(&self.links)?.unwrap_or_default())
    }

    /// Remembers links, in one step.
    pub fn remember_links(&self, known: &Known) -> Result<(), MemoryError> {
        write(&self.links, known)
    }

    /// Which numbers exits have used.
    pub fn recall_exits(&self) -> Result<Owned, MemoryError> {
        Ok(read(&self.exits)?.unwrap_or_default())
    }

    /// Remembers these numbers, in one step.
    pub fn remember_exits(&self, owned: &Owned) -> Result<(), MemoryError> {
        write(&self.exits, owned)
    }
}

/// `None` if there is no such file.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, MemoryError> {
    let failed = |source| MemoryError { path: path.to_owned(), source };
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

fn write(path: &Path, content: &impl Serialize) -> Result<(), MemoryError> {
    let write = || {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let fresh = path.with_extension("new");
        let mut file = fs::File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(content)?)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    write().map_err(|source| MemoryError { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::peer::PublicKey;

    #[test]
    fn pins_are_recalled_for_the_same_device_only() {
        let directory =
            std::env::temp_dir().join(format!("wgrouted-memory-{}", std::process::id()));
        let memory = Memory::new(&directory);
        assert_eq!(memory.recall("wg0", 7).unwrap(), []);
        let pins = vec![(PublicKey([3; 32]), vec!["10.0.0.2/32".parse().unwrap()])];
        memory.remember("wg0", 7, pins.clone()).unwrap();
        assert_eq!(memory.recall("wg0", 7).unwrap(), pins);
        assert_eq!(memory.recall("wg0", 8).unwrap(), []);
        fs::write(directory.join("pinned/wg0.json"), "{").unwrap();
        assert!(memory.recall("wg0", 7).unwrap_err().to_string().contains("wg0.json"));
        fs::remove_dir_all(directory).unwrap();
    }
}
