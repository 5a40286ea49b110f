//! babeld.
//!
//! Here lives a running babeld with its own control socket.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{node::Node, process::Process, wait::PATIENCE};

/// A running babeld.
#[derive(Debug)]
pub struct Babeld {
    socket: PathBuf,
    process: Process,
}

impl Babeld {
    /// Starts babeld on these interfaces and waits until it answers. `config` holds lines of its
    /// configuration file.
    pub fn start(node: &Node, interfaces: &[&str], config: &str) -> Result<Babeld> {
        let socket = node.dir().join("babeld.ctl");
        let config = format!("local-path-readwrite {}\n{config}\n", socket.display());
        let config = node.write_file("babeld.conf", &config)?;
        let mut command = Command::new("babeld");
        command.arg("-c").arg(config).arg("-S").arg(node.dir().join("babeld.state"));
        command.arg("-I").arg(node.dir().join("babeld.pid")).args(interfaces);
        let mut process = node.spawn("babeld", &mut command)?;
        process.wait_answer(PATIENCE, || ask(&socket, "dump").map(|_| true))?;
        Ok(Babeld { socket, process })
    }

    /// Sends a line to the control socket and returns the answer.
    pub fn ask(&self, line: &str) -> Result<String> {
        ask(&self.socket, line)
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn ask(socket: &Path, line: &str) -> Result<String> {
    let stream = UnixStream::connect(socket).context("babeld's control socket")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(&stream);
    answer(&mut reader)?; // the greeting
    (&stream).write_all(format!("{line}\n").as_bytes())?;
    answer(&mut reader).with_context(|| format!("`{line}`"))
}

/// Reads up to the line that ends an answer.
fn answer(reader: &mut impl BufRead) -> Result<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            bail!("babeld closed the connection after `{text}`");
        }
        match line.trim_end() {
            "ok" => return Ok(text),
            refusal if refusal == "bad" || refusal.starts_with("no") => {
                bail!("babeld answered `{refusal}`");
            }
            _ => text.push_str(&line),
        }
    }
}
