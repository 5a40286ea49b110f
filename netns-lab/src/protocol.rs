//! What the host and the guest say to each other.
//!
//! The host leaves one [`Job`] as a JSON file in the guest's `/lab`; the guest answers with one
//! [`Message`] a line on the report port. Human output travels elsewhere: a line here is either
//! a whole message or the sign of a dying guest, never prose.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::demo;

/// Where job, binaries and fixtures lie inside the guest.
pub const DIR: &str = "/lab";
/// The job's file there.
pub const JOB: &str = "job.json";
/// The prefix file's name there, if the user gave one.
pub const PREFIXES: &str = "prefixes";
/// The name there of what a shell without a terminal reads.
pub const INPUT: &str = "input";
/// The folder there that holds test programs.
pub const TESTS: &str = "tests";

/// What a guest is booted for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// Does these, in this order.
    Tasks(Vec<Task>),
    /// Runs the demo.
    Demo(demo::Options),
    /// Builds this topology and gives a shell.
    Shell(String),
    /// Reports that the guest is up, and ends: proves that an accelerator boots this kernel.
    Probe,
}

impl Job {
    /// The test programs it needs, each once.
    pub fn programs(&self) -> BTreeSet<&Path> {
        let Job::Tasks(tasks) = self else { return BTreeSet::new() };
        tasks.iter().filter_map(|task| Some(&*task.test.as_ref()?.program)).collect()
    }
}

/// One thing that must work, as the runner sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its name: a scenario's, or one made of a test's.
    pub name: String,
    /// After this long it has failed.
    pub timeout: Duration,
    /// The test to run, if it is no scenario.
    pub test: Option<Test>,
}

/// One test of a test program that cargo built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Test {
    /// The program's path on the host; in the guest its file name lies below [`TESTS`].
    pub program: PathBuf,
    /// The test's name in that program.
    pub name: String,
}

/// One line of the guest's report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// The guest is up and has read its job.
    Ready {
        /// Its kernel's release.
        kernel: String,
        /// Seconds since that kernel started.
        uptime: f64,
    },
    /// A scenario begins.
    Started {
        /// Which.
        name: String,
    },
    /// A file of a failed scenario's working folder.
    File {
        /// Which scenario.
        name: String,
        /// Path within its working folder.
        path: String,
        /// Content, base64.
        content: String,
    },
    /// A scenario has ended.
    Finished {
        /// Which.
        name: String,
        /// How.
        verdict: Verdict,
        /// Seconds it took.
        seconds: f64,
    },
    /// Nothing follows; the whole job was done.
    Done,
}

/// How a scenario or check ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it must.
    Passed,
    /// With this error.
    Failed(String),
    /// It could not run, for this reason.
    Skipped(String),
}

impl Message {
    /// The message as one line, newline included.
    pub fn to_line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("strings and numbers always serialize");
        line.push('\n');
        line
    }

    /// Reads one line; `None` for anything that is not a whole message.
    pub fn from_line(line: &str) -> Option<Message> {
        serde_json::from_str(line.trim()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_line() {
        let messages = [
            Message::Ready { kernel: "6.1.0-cloud".into(), uptime: 1.5 },
            Message::File { name: "a".into(), path: "x/bird.log".into(), content: "AA==".into() },
            Message::Finished {
                name: "a".into(),
                verdict: Verdict::Failed("two\nlines \"quoted\"".into()),
                seconds: 2.0,
            },
            Message::Done,
        ];
        for message in messages {
            let line = message.to_line();
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert_eq!(Message::from_line(&line), Some(message));
        }
    }

    #[test]
    fn a_torn_line_is_no_message() {
        let line = Message::Started { name: "link-failure".into() }.to_line();
        for cut in 0..line.len() - 2 {
            assert_eq!(Message::from_line(&line[..cut]), None);
        }
        assert_eq!(Message::from_line("[  1.305710] Kernel panic - not syncing"), None);
    }
}
