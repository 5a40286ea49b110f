//! The archive format of an initial RAM file system ("newc": kernel
//! Documentation/driver-api/early-userspace/buffer-format.rst), written only.
//!
//! The kernel takes several archives one after the other, so a boot's own files are simply
//! appended to what its kernel always needs.

use std::collections::BTreeSet;

/// An archive being written.
#[derive(Debug, Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    inode: u32,
    folders: BTreeSet<String>,
}

impl Cpio {
    /// Adds a folder, and those above it; one that is there already is left alone.
    pub fn folder(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
        if self.folders.insert(path.to_owned()) {
            self.entry(path, 0o040_755, &[]);
        }
    }

    /// Adds an executable file and the folders above it.
    pub fn file(&mut self, path: &str, content: &[u8]) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
        self.entry(path, 0o100_755, content);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        let size = u32::try_from(content.len()).expect("files in an initramfs are below 4 GiB");
        let name_size = u32::try_from(path.len() + 1).expect("paths are short");
        self.inode += 1;
        // magic, inode, mode, uid, gid, links, mtime, size, four device numbers, name, checksum
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        let mut cpio = Cpio::default();
        cpio.file("lab/job.json", b"{}x");
        cpio.folder("lab");
        let bytes = cpio.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).expect("all of it is text here");
        let entries: Vec<_> = text.split("070701").skip(1).collect();
        assert_eq!(entries.len(), 3, "the folder once, the file, the trailer");
        assert!(entries[0].starts_with("00000001000041ED") && entries[0].contains("lab\0"));
        assert!(entries[1].contains("lab/job.json\0") && entries[1].ends_with("{}x\0"));
        assert_eq!(&entries[1][48..56], "00000003", "the file's size");
        assert!(entries[2].contains("TRAILER!!!\0"));
    }
}
