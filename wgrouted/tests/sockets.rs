//! The sinks of BIRD and babeld against the real daemons, each test in a network namespace of its own.
//!
//! Here pictures of reachability are made by hand; how they come about is the lab's business.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "sockets/babeld.rs"]
mod babeld;
#[path = "sockets/bird.rs"]
mod bird;
#[path = "support/pictures.rs"]
mod pictures;
mod support;

use std::{
    fs,
    future::Future,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{
        broadcast,
        mpsc::{self, UnboundedReceiver},
        watch,
    },
    task::{JoinHandle, LocalSet},
    time::sleep,
};
use wgrouted::{
    core::reach::{
        event::ReachEvent,
        rule::{BabeldSocket, ReachRule},
        status::{PeerStatus, Reachability},
    },
    reach::{Feed, board::Board, board::SinkStatus},
};

/// How long something may take that has no limit of its own: it may run under emulation.
const PATIENCE: Duration = Duration::from_secs(150);

/// The other end of a sink.
struct Desk {
    picture: watch::Sender<Arc<Reachability>>,
    rule: watch::Sender<Arc<ReachRule>>,
    stop: watch::Sender<bool>,
    events: UnboundedReceiver<ReachEvent>,
    feed: Feed,
    revision: u64,
}

impl Desk {
    fn new(bird: Option<&Path>, babeld: Option<&Path>) -> Desk {
        let rule = ReachRule {
            port: 6697,
            bird: bird.map(Path::to_owned),
            babeld: babeld.map(|path| BabeldSocket::Path(path.to_owned())),
            hooks: Vec::new(),
        };
        let (picture, pictures) = watch::channel(Arc::new(Reachability::default()));
        let (rule, rules) = watch::channel(Arc::new(rule));
        let (stop, stopping) = watch::channel(false);
        let (events, incoming) = mpsc::unbounded_channel();
        let feed = Feed {
            picture: pictures,
            rule: rules,
            stopping,
            news: broadcast::channel(16).0,
            events,
            board: Board::default(),
            started: Instant::now(),
        };
        Desk { picture, rule, stop, events: incoming, feed, revision: 0 }
    }

    fn show(&mut self, peers: Vec<PeerStatus>) {
        self.revision += 1;
        self.picture.send_replace(Arc::new(pictures::picture(self.revision, true, peers)));
    }

    fn board(&self, sink: &str) -> Option<SinkStatus> {
        self.feed.board.read().remove(sink)
    }

    /// Waits until the board says something of a sink.
    async fn wait_board(&self, sink: &str, is: impl Fn(&SinkStatus) -> bool) -> SinkStatus {
        let what = || self.board(sink).filter(|status| is(status));
        until(format!("the board to be right, not {:?}", self.board(sink)), what).await.0
    }

    /// Ends the sink as the daemon does.
    async fn finish(self, sink: JoinHandle<()>) {
        self.stop.send_replace(true);
        tokio::time::timeout(Duration::from_secs(5), sink).await.unwrap().unwrap();
    }
}

/// Waits for something; also says for how long.
async fn until<T>(
    what: impl std::fmt::Display,
    mut look: impl FnMut() -> Option<T>,
) -> (T, Duration) {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return (found, begun.elapsed());
        }
        assert!(begun.elapsed() < PATIENCE, "waited too long for {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Runs a test on this thread, which is in its own namespace.
fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(LocalSet::new().run_until(test));
}

/// A folder of its own, gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("wgrouted-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.file(name), text).unwrap();
        self.file(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A program that is killed with the test.
struct Program(Child);

impl Program {
    fn start(command: &mut Command) -> Program {
        Program(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a program can be started here.
fn exists(program: &str) -> bool {
    let command = format!("command -v {program} > /dev/null");
    Command::new("sh").args(["-c", &command]).status().unwrap().success()
}

/// Asks over a control socket, on a connection of its own, and reads until `end` says that it is all.
fn ask(socket: &Path, command: &str, end: impl Fn(&str) -> bool) -> Option<String> {
    let stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let read = || -> Option<String> {
        let (mut text, mut bytes) = (String::new(), [0; 4096]);
        while !text.ends_with('\n') || !end(text.lines().last()?) {
            let length = (&stream).read(&mut bytes).ok().filter(|length| *length > 0)?;
            text.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
        }
        Some(text)
    };
    read()?;
    (&stream).write_all(format!("{command}\n").as_bytes()).ok()?;
    read()
}
