//! Keys for devices that the daemon makes.

use anyhow::Result;

use super::node::Node;

/// A key pair; the private half lies in a file on the node.
#[derive(Clone, Debug)]
pub struct Key {
    /// The path of the file.
    pub file: String,
    /// The public half.
    pub public: String,
}

impl Key {
    /// Makes a key, in a file of this name that only root can read.
    pub fn new(node: &Node, name: &str) -> Result<Key> {
        let private = node.run("wg", ["genkey"])?;
        let public = node.run_input("wg", ["pubkey"], private.as_bytes())?.trim().to_owned();
        let path = node.write_file(name, &private)?;
        node.run("chmod", ["600", &path.display().to_string()])?;
        Ok(Key { file: path.display().to_string(), public })
    }
}
