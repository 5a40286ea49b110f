//! The names that iproute2 gives to routing tables, protocols and realms.
//!
//! Here lives the reader of `rt_tables`, `rt_protos` and `rt_realms`. A file that is missing,
//! unreadable or malformed costs its names and nothing else, as with `ip route`; the names that
//! the kernel's headers define are always known.

use std::{collections::HashMap, fmt, fs, path::Path};

use crate::core::reach::route::PROTOCOL;

/// The name of our own protocol: `dist/rt_protos.d/wgrouted.conf` tells iproute2.
pub(super) const OWN_PROTOCOL: &str = "wgrouted";

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    /// A routing table.
    Table,
    /// A routing protocol (`rtm_protocol`).
    Protocol,
    /// A realm (`RTA_FLOW`).
    Realm,
}

impl NameKind {
    /// The file that defines such names, and with `.d` the directory.
    pub const fn file(self) -> &'static str {
        match self {
            NameKind::Table => "rt_tables",
            NameKind::Protocol => "rt_protos",
            NameKind::Realm => "rt_realms",
        }
    }

    /// Names that need no file: `RT_TABLE_*` and `RTPROT_*` (include/uapi/linux/rtnetlink.h), and
    /// our own.
    pub(super) const fn built_in(self) -> &'static [(&'static str, u32)] {
        match self {
            NameKind::Table => &[("default", 253), ("main", 254), ("local", 255)],
            NameKind::Protocol => &[
                ("unspec", 0),
                ("redirect", 1),
                ("kernel", 2),
                ("boot", 3),
                ("static", 4),
                ("gated", 8),
                ("ra", 9),
                ("mrt", 10),
                ("zebra", 11),
                ("bird", 12),
                ("dnrouted", 13),
                ("xorp", 14),
                ("ntk", 15),
                ("dhcp", 16),
                ("mrouted", 17),
                ("keepalived", 18),
                ("babel", 42),
                ("ovn", 84),
                ("openr", 99),
                (OWN_PROTOCOL, PROTOCOL as u32),
                ("bgp", 186),
                ("isis", 187),
                ("ospf", 188),
                ("rip", 189),
                ("eigrp", 192),
            ],
            NameKind::Realm => &[],
        }
    }
}

impl fmt::Display for NameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NameKind::Table => "routing table",
            NameKind::Protocol => "routing protocol",
            NameKind::Realm => "realm",
        })
    }
}

/// Names and their numbers.
#[derive(Clone, Debug)]
pub struct Names {
    tables: HashMap<String, u32>,
    protocols: HashMap<String, u32>,
    realms: HashMap<String, u32>,
}

impl Names {
    /// The names that need no file.
    pub fn built_in() -> Self {
        Self::of(|_| Vec::new())
    }

    /// The names that `ip route` knows on this machine.
    pub fn system() -> Self {
        Self::from_dirs(Path::new("/etc/iproute2"), Path::new("/usr/share/iproute2"))
    }

    /// The names defined in the administrator's and the distribution's directory, in iproute2's
    /// order (`rtnl_tab_initialize` and `rtnl_tab_initialize_dir`, lib/rt_names.c): the main file
    /// of `usr` counts only if `etc` has none, a `.d/*.conf` of `usr` only if `etc` has none of
    /// the same name. Later definitions win.
    pub fn from_dirs(etc: &Path, usr: &Path) -> Self {
        Self::of(|kind| {
            let main = fs::read_to_string(etc.join(kind.file()))
                .or_else(|_| fs::read_to_string(usr.join(kind.file())));
            let directory = format!("{}.d", kind.file());
            let (etc, usr) = (etc.join(&directory), usr.join(&directory));
            let local = conf_files(&etc);
            let shipped = conf_files(&usr).into_iter().filter(|name| !local.contains(name));
            let paths = shipped.map(|name| usr.join(name));
            let paths = paths.chain(local.iter().map(|name| etc.join(name)));
            main.into_iter().chain(paths.filter_map(|path| fs::read_to_string(path).ok())).collect()
        })
    }

    fn of(texts: impl Fn(NameKind) -> Vec<String>) -> Self {
        let table = |kind: NameKind| {
            let mut names: HashMap<_, _> =
                kind.built_in().iter().map(|&(name, number)| (name.to_owned(), number)).collect();
            for text in texts(kind) {
                names.extend(definitions(&text).map(|(name, number)| (name.to_owned(), number)));
            }
            names
        };
        Names {
            tables: table(NameKind::Table),
            protocols: table(NameKind::Protocol),
            realms: table(NameKind::Realm),
        }
    }

    /// The number behind a name.
    pub fn number(&self, kind: NameKind, name: &str) -> Option<u32> {
        self.table(kind).get(name).copied()
    }

    /// The name of a number, or the number itself where it has none. Of several names the first
    /// in the alphabet counts.
    pub fn name(&self, kind: NameKind, number: u32) -> String {
        let named = self.table(kind).iter().filter(|(_, known)| **known == number);
        named.map(|(name, _)| name.clone()).min().unwrap_or_else(|| number.to_string())
    }

    fn table(&self, kind: NameKind) -> &HashMap<String, u32> {
        match kind {
            NameKind::Table => &self.tables,
            NameKind::Protocol => &self.protocols,
            NameKind::Realm => &self.realms,
        }
    }
}

/// The `*.conf` files of a directory, sorted; iproute2 skips hidden ones.
fn conf_files(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".conf") && !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

/// The lines `NUMBER NAME [#comment]`, with the number in decimal or `0x` hexadecimal
/// (`fread_id_name`, lib/rt_names.c).
fn definitions(text: &str) -> impl Iterator<Item = (&str, u32)> {
    text.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let number = words.next()?;
        let number = match number.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok()?,
            None => number.parse().ok()?,
        };
        Some((words.next()?, number))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_read_as_iproute2_reads_them() {
        let text = "#\n# reserved\n255\tlocal\n 0x64 uplink # by hand\n\nbroken\n7\n#1 inr\n";
        assert_eq!(definitions(text).collect::<Vec<_>>(), [("local", 255), ("uplink", 100)]);
    }

    #[test]
    fn the_administrators_files_come_before_the_distributions() {
        let root = std::env::temp_dir().join(format!("wgrouted-names-{}", std::process::id()));
        let (etc, usr) = (root.join("etc"), root.join("usr"));
        for directory in [etc.join("rt_protos.d"), usr.join("rt_protos.d"), usr.join("rt_tables.d")]
        {
            fs::create_dir_all(directory).unwrap();
        }
        let files = [
            (etc.join("rt_tables"), "100 uplink\n"),
            (usr.join("rt_tables"), "101 never\n"),
            (usr.join("rt_tables.d/x.conf"), "102 extra\n"),
            (usr.join("rt_tables.d/x.txt"), "103 never\n"),
            (usr.join("rt_protos"), "150 mine\n"),
            (usr.join("rt_protos.d/x.conf"), "151 never\n"),
            (etc.join("rt_protos.d/x.conf"), "152 other\n"),
        ];
        for (path, text) in files {
            fs::write(path, text).unwrap();
        }
        let names = Names::from_dirs(&etc, &usr);
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(names.number(NameKind::Table, "uplink"), Some(100));
        assert_eq!(names.number(NameKind::Table, "extra"), Some(102));
        assert_eq!(names.number(NameKind::Table, "main"), Some(254));
        assert_eq!(names.number(NameKind::Protocol, "mine"), Some(150));
        assert_eq!(names.number(NameKind::Protocol, "other"), Some(152));
        assert_eq!(names.number(NameKind::Table, "never"), None);
        assert_eq!(names.number(NameKind::Protocol, "never"), None);
    }
}
