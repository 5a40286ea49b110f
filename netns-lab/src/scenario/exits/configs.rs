//! Configurations of a client with four exits, and of the exits.
//!
//! Here live their texts only. The client's are files, written to be read: `dedicated.toml` and
//! `tunnel.toml`.

use std::fmt::Write as _;

use anyhow::Result;

use crate::lab::{Exit, Exits, Key};

/// Where a device for the client listens; for exit N, N ports above.
const PORT: u16 = 51820;

/// What the links between the nodes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Links {
    /// A WireGuard interface each, with the filter in place of WireGuard's check.
    Dedicated,
    /// A tunnel each inside one WireGuard interface, which the filter looks into.
    Tunnels,
}

impl Links {
    /// The link to a node.
    pub(super) fn name(self, to: &str) -> String {
        match self {
            Links::Dedicated => format!("wg-{to}"),
            Links::Tunnels => format!("gre-{to}"),
        }
    }

    /// The client's configuration.
    pub(super) fn client(self, net: &Exits) -> String {
        let text = match self {
            Links::Dedicated => include_str!("dedicated.toml"),
            Links::Tunnels => include_str!("tunnel.toml"),
        };
        let mut text = text.replace("@KEY@", &net.key.file);
        for exit in &net.exits {
            let name = exit.name().to_uppercase();
            text = text.replace(&format!("@{name}-KEY@"), &exit.key.public);
            text = text.replace(&format!("@{name}@"), &exit.endpoint(0));
        }
        text
    }

    /// An exit's configuration: links to the client and to all other exits.
    pub(super) fn exit(self, net: &Exits, exit: &Exit) -> Result<String> {
        let others = net.exits.iter().filter(|other| other.number != exit.number);
        let node = |exit| Other::exit(exit);
        let others: Vec<_> = std::iter::once(Other::client(net)).chain(others.map(node)).collect();
        match self {
            Links::Dedicated => dedicated(exit, &others),
            Links::Tunnels => tunnels(exit, &others),
        }
    }
}

/// A node as another one sees it.
struct Other<'a> {
    number: u16,
    name: &'a str,
    key: &'a Key,
    address: &'a str,
}

impl Other<'_> {
    fn client(net: &Exits) -> Other<'_> {
        Other { number: 0, name: "client", key: &net.key, address: &net.uplink.a.address }
    }

    fn exit(exit: &Exit) -> Other<'_> {
        let address = &exit.underlay.a.address;
        Other { number: exit.number, name: exit.name(), key: &exit.key, address }
    }
}

fn dedicated(exit: &Exit, others: &[Other<'_>]) -> Result<String> {
    let mut text = String::new();
    for Other { number, name, key, address } in others {
        write!(
            text,
            "[[interface]]\n\
             name = \"wg-{name}\"\n\
             link = \"dedicated\"\n\
             manage = true\n\
             private_key_file = \"{}\"\n\
             listen_port = {}\n\
             filter = {{ source = \"strict\", open = true }}\n\
             [[interface.peer]]\n\
             name = \"{name}\"\n\
             public_key = \"{}\"\n\
             endpoint = \"{address}:{}\"\n",
            exit.key.file,
            PORT + number,
            key.public,
            PORT + exit.number
        )?;
    }
    Ok(text)
}

fn tunnels(exit: &Exit, others: &[Other<'_>]) -> Result<String> {
    let mut text = format!(
        "[[interface]]\n\
         name = \"wg0\"\n\
         link = \"shared\"\n\
         manage = true\n\
         private_key_file = \"{}\"\n\
         listen_port = {PORT}\n\
         addresses = [\"10.99.0.{}/24\"]\n\
         filter = {{ source = \"strict\" }}\n",
        exit.key.file, exit.number
    );
    for Other { number, name, key, address } in others {
        let host = if *number == 0 { 100 } else { *number };
        write!(
            text,
            "[[interface.peer]]\n\
             name = \"{name}\"\n\
             public_key = \"{}\"\n\
             endpoint = \"{address}:{PORT}\"\n\
             pinned = [\"10.99.0.{host}/32\"]\n",
            key.public
        )?;
    }
    for Other { name, .. } in others {
        write!(
            text,
            "[[tunnel]]\nname = \"gre-{name}\"\nkind = \"gre\"\nover = \"wg0\"\npeer = \"{name}\"\n"
        )?;
    }
    Ok(text)
}
