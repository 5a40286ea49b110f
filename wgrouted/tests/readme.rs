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
fn the_configurations_are_valid() {
    let parse = |text: &str| {
        let config = Config::from_bytes(text.as_bytes(), Path::new("README"), &Names::built_in());
        config.expect("the README's configuration is valid")
    };
    let configs: Vec<Config> = blocks("toml").into_iter().map(parse).collect();
    let [first, made, filtered, inside, told, announced, asked, sent, ..] = configs.as_slice()
    else {
        panic!("{} blocks", configs.len())
    };
    assert_eq!(first.interfaces.len(), 1);
    assert_eq!(first.interfaces[0].peers.len(), 2);
    assert_eq!(made.links.len(), 2);
    assert!(filtered.interfaces.iter().all(|interface| interface.filter.is_some()));
    assert_eq!(filtered.filter.rule.policies.len(), 1);
    let tunnels = &inside.interfaces[0].tunnels;
    assert_eq!((inside.links.len(), tunnels.len()), (1, 2));
    assert!(told.reach.bird.is_some() && told.reach.babeld.is_some());
    let interface = &announced.interfaces[0];
    assert!(interface.reach.as_ref().is_some_and(|reach| reach.announce.is_some()));
    assert!(interface.peers[0].reach.as_ref().is_some_and(|reach| !reach.announce.is_empty()));
    assert_eq!((asked.api.listen.len(), asked.reach.hooks.len()), (1, 1));
    assert_eq!((sent.flows.exits.len(), sent.flows.flows.len()), (2, 3));
}

#[test]
fn the_command_lines_are_understood() {
    use clap::Parser as _;
    let mut seen = 0;
    for line in blocks("sh").into_iter().flat_map(str::lines) {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(at) = line.find("wgrouted ").filter(|_| !line.starts_with("cargo")) else {
            continue;
        };
        // `wgrouted man | man -l -` and the like.
        let command = line[at..].split('|').next().unwrap_or_default();
        let parsed = wgrouted::cli::Cli::try_parse_from(command.split_whitespace());
        assert!(parsed.is_ok(), "{line}: {}", parsed.expect_err("just asked"));
        seen += 1;
    }
    assert!(seen > 5, "the command lines are gone");
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
