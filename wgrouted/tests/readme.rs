//! What the README shows works as it stands.

use std::path::Path;

use wgrouted::config::{Config, Names};

const README: &str = include_str!("../../README.md");

/// The blocks of a language.
fn blocks(language: &str) -> Vec<&'static str> {
    let opening = format!("```{language}\n");
    README
        .split(opening.as_str())
        .skip(1)
        .map(|rest| rest.split("```").next().expect("split yields at least one part"))
        .collect()
}

#[test]
fn the_configuration_is_valid() {
    let blocks = blocks("toml");
    assert_eq!(blocks.len(), 1);
    let config = Config::from_bytes(blocks[0].as_bytes(), Path::new("README"), &Names::built_in());
    let config = config.expect("the README's configuration is valid");
    assert_eq!(config.interfaces.len(), 1);
    assert_eq!(config.interfaces[0].peers.len(), 2);
}

#[test]
fn the_commands_exist() {
    use clap::CommandFactory as _;
    let cli = wgrouted::cli::Cli::command();
    let known: Vec<&str> = cli.get_subcommands().map(clap::Command::get_name).collect();
    let mut seen = 0;
    for line in README.lines().filter(|line| line.starts_with("| `wgrouted ")) {
        let word = line.trim_start_matches("| `wgrouted ").split(['`', ' ']).next();
        assert!(known.contains(&word.unwrap_or_default()), "{line}");
        seen += 1;
    }
    assert!(seen > 5, "the table of commands is gone");
}
