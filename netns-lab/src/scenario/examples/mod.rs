//! The shipped examples, as they stand.
//!
//! Here live scenarios that run the files of `bird-examples` and `babel-examples`, a file for each
//! family. Invariant: what is run is what is shipped, set up by the script that is shipped with it,
//! and nothing is shipped that is not run. Examples for BIRD run on BIRD 2 and on BIRD 3.

mod babel;
mod bgp;
mod exits;
mod links;
mod reach;
mod support;

use super::Scenario;

/// All of them. They show the ways of daemons; those of kernels are other scenarios' business.
pub(super) fn scenarios() -> Vec<Scenario> {
    [bgp::SCENARIOS, exits::SCENARIOS, links::SCENARIOS, babel::SCENARIOS, reach::SCENARIOS]
        .concat()
        .into_iter()
        .map(Scenario::on_newest)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::{scenarios, support::file};

    const SOURCES: [&str; 5] = [
        include_str!("babel.rs"),
        include_str!("bgp.rs"),
        include_str!("exits.rs"),
        include_str!("links.rs"),
        include_str!("reach.rs"),
    ];
    const TABLES: [(&str, &str); 2] = [
        ("bird-examples", file!("bird-examples/README.md")),
        ("babel-examples", file!("babel-examples/README.md")),
    ];

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder of examples");
        let names = entries.map(|entry| entry.expect("an entry").file_name().into_string());
        names.map(|name| name.expect("a plain name")).collect()
    }

    #[test]
    fn every_shipped_file_is_run_and_every_example_is_in_the_table() {
        for (family, table) in TABLES {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(family);
            for example in names(&folder).iter().filter(|name| *name != "README.md") {
                assert!(table.contains(&format!("[{example}]({example})")), "{family}/{example}");
                let files = names(&folder.join(example));
                assert!(files.contains(&"README.md".to_owned()), "{family}/{example}");
                for file in files.iter().filter(|name| *name != "README.md") {
                    let path = format!("\"{family}/{example}/{file}\"");
                    assert!(SOURCES.iter().any(|source| source.contains(&path)), "{path}");
                }
            }
        }
    }

    #[test]
    fn the_tables_name_every_scenario() {
        let mut told = BTreeSet::new();
        for row in TABLES.iter().flat_map(|(_, table)| table.lines()) {
            // The last column of a row: "`example-x-2`, `-3`" is short for both.
            let cell = row.trim_end_matches(" |").rsplit("| ").next().unwrap_or_default();
            let mut stem = "";
            for word in cell.split('`').skip(1).step_by(2).filter(|_| row.starts_with("| ")) {
                match word.strip_prefix('-') {
                    Some(number) => told.insert(format!("{stem}-{number}")),
                    None => told.insert(word.to_owned()),
                };
                stem = word.rsplit_once('-').map_or(word, |(stem, _)| stem);
            }
        }
        let have: BTreeSet<_> = scenarios().iter().map(|one| one.name.to_owned()).collect();
        assert_eq!(told, have);
    }
}
