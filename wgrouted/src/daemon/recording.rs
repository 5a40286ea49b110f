//! Recordings of everything that happened to the core.
//!
//! Here live the writer (`run --record`) and the reader (`replay`): one JSON object a line. The
//! first line holds the configuration, the others an event each with its time. The core is a pure
//! state machine, so a recording decides again what the daemon decided.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::core::{
    engine::Engine,
    event::{Event, Output},
    rule::InterfaceRule,
    time::Time,
};

#[derive(Serialize, Deserialize)]
struct Header {
    resync_interval: Duration,
    interfaces: Vec<InterfaceRule>,
}

#[derive(Serialize)]
struct LineOut<'a> {
    at: Time,
    event: &'a Event,
}

#[derive(Deserialize)]
struct LineIn {
    at: Time,
    event: Event,
}

/// Writes a recording.
#[derive(Debug)]
pub struct Recorder {
    file: BufWriter<File>,
}

impl Recorder {
    /// Begins a recording.
    pub fn create(
        path: &Path,
        interfaces: &[InterfaceRule],
        resync_interval: Duration,
    ) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        let header = Header { resync_interval, interfaces: interfaces.to_vec() };
        serde_json::to_writer(&mut file, &header)?;
        file.write_all(b"\n")?;
        Ok(Recorder { file })
    }

    /// Adds an event.
    pub fn record(&mut self, event: &Event, at: Time) -> io::Result<()> {
        serde_json::to_writer(&mut self.file, &LineOut { at, event })?;
        self.file.write_all(b"\n")
    }

    /// Writes out what is buffered.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Feeds a recording to a fresh core and writes what it decides, one line an output.
pub fn replay(path: &Path, out: &mut impl Write) -> io::Result<()> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let bad = |number: usize, error: serde_json::Error| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}:{number}: not a line of a recording: {error}", path.display()),
        )
    };
    let mut lines = BufReader::new(File::open(path).map_err(named)?).lines().enumerate();
    let Some((_, first)) = lines.next() else {
        return Err(named(io::Error::new(io::ErrorKind::InvalidData, "the recording is empty")));
    };
    let header: Header = serde_json::from_str(&first.map_err(named)?).map_err(|e| bad(1, e))?;
    let mut engine = Engine::new(header.interfaces, header.resync_interval);
    let mut now = Time::ZERO;
    loop {
        for output in engine.poll(now) {
            match output {
                Output::Request(request) => writeln!(out, "{:?} request {request:?}", now.0)?,
                Output::Notice(notice) => writeln!(out, "{:?} notice {notice:?}", now.0)?,
            }
        }
        let Some((number, line)) = lines.next() else { return Ok(()) };
        let line: LineIn =
            serde_json::from_str(&line.map_err(named)?).map_err(|e| bad(number + 1, e))?;
        // What was due before the event was decided before it.
        while let Some(deadline) = engine.deadline().filter(|at| *at > now && *at < line.at) {
            now = deadline;
            for output in engine.poll(now) {
                writeln!(out, "{:?} {output:?}", now.0)?;
            }
        }
        now = line.at;
        engine.handle(line.event, now);
    }
}
