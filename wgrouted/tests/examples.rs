//! The configurations in `bird-examples` and `babel-examples` are valid. That they do what their
//! READMEs say is shown by the lab.

#![allow(clippy::unwrap_used, reason = "test helpers")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use wgrouted::config::check;

/// The files of a folder, subfolders included, that end in `.toml`.
fn configurations(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(configurations(&path));
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
    found
}

#[test]
fn shipped_configurations_are_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for folder in ["bird-examples", "babel-examples"] {
        let files = configurations(&root.join(folder));
        assert!(!files.is_empty(), "{folder}");
        for file in files {
            let verdict = check(&file);
            assert!(verdict.is_ok(), "{}: {}", file.display(), verdict.unwrap_err());
        }
    }
}
