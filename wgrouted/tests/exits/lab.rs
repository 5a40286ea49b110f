//! A namespace with links, a configuration, and flows that are looked after.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    runtime,
    sync::{broadcast, mpsc, watch},
};
use wgrouted::{
    config::{Config, Names},
    core::{
        exits::{rule::FlowsRule, status::ExitsStatus},
        peer::PublicKey,
        reach::{
            rule::ReachRule,
            status::{PeerStatus, Reachability, State},
        },
    },
    exits::{self, Exits, ExitsError, cleanup},
    reach::{Feed, board::Board},
};

use crate::{
    pictures::{picture, unheard},
    support::netns::{fresh, index, ip, try_ip},
};

/// How long a test may wait for one thing.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What each configuration begins with: three dedicated links.
const LINKS: &str = r#"
[[interface]]
name = "d1"
link = "dedicated"
[[interface]]
name = "d2"
link = "dedicated"
[[interface]]
name = "d3"
link = "dedicated"
"#;

/// What a configuration says about flows.
pub fn rule(text: &str) -> FlowsRule {
    let text = format!("{text}\n{LINKS}");
    Config::from_bytes(text.as_bytes(), "test.toml".as_ref(), &Names::built_in()).unwrap().flows
}

/// A namespace with an uplink and three links, and a runtime directory.
pub struct Lab {
    pub directory: PathBuf,
}

impl Lab {
    /// `None` where namespaces cannot be made, which is told.
    pub fn new() -> Option<Lab> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !fresh() {
            return None;
        }
        for (number, name) in ["eth", "d1", "d2", "d3"].into_iter().enumerate() {
            ip(&format!("link add {name} type veth peer name {name}-far"));
            // Without link-local addresses, which come when they please.
            for end in [name, &format!("{name}-far")] {
                ip(&format!("link set {end} addrgenmode none"));
            }
            ip(&format!("link set {name}-far up"));
            ip(&format!("addr add 10.{number}.0.1/24 dev {name}"));
            ip(&format!("addr add fd00:{number}::1/64 dev {name} nodad"));
            ip(&format!("link set {name} up"));
        }
        ip("route add default dev eth");
        ip("-6 route add default dev eth");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("wgrouted-exits-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        Some(Lab { directory })
    }

    pub fn start(&self, text: &str) -> Running {
        self.try_start(text).unwrap()
    }

    pub fn try_start(&self, text: &str) -> Result<Running, ExitsError> {
        let (exits, begun) = Exits::start(&self.directory, rule(text))?;
        let status = begun.status();
        let (publish, picture) = watch::channel(Arc::new(Reachability::default()));
        let reach = ReachRule { port: 6697, bird: None, babeld: None, hooks: Vec::new() };
        let (_, reach) = watch::channel(Arc::new(reach));
        let (stop, stopping) = watch::channel(false);
        let (news, _) = broadcast::channel(1);
        let (events, _) = mpsc::unbounded_channel();
        let (board, started) = (Board::default(), Instant::now());
        let feed = Feed { picture, rule: reach, stopping, news, events, board, started };
        // Threads inherit the namespace.
        let done = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(exits::run(feed, begun));
        });
        let done = Some(done);
        Ok(Running { exits, status, publish, stop, revision: 0, done })
    }

    pub fn cleanup(&self, dry: bool) -> Vec<String> {
        cleanup(&self.directory, dry).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Flows that are looked after.
pub struct Running {
    pub exits: Exits,
    status: watch::Receiver<Arc<ExitsStatus>>,
    publish: watch::Sender<Arc<Reachability>>,
    stop: watch::Sender<bool>,
    revision: u64,
    done: Option<thread::JoinHandle<()>>,
}

impl Running {
    /// Says which peers can be reached.
    pub fn tell(&mut self, states: &[(&str, State)]) {
        self.revision += 1;
        let peer = |(link, state): &(&str, State)| PeerStatus {
            dedicated: true,
            state: *state,
            ..unheard(link, index(link), &format!("peer-{link}"), PublicKey([1; 32]))
        };
        let peers = states.iter().map(peer).collect();
        self.publish.send_replace(Arc::new(picture(self.revision, true, peers)));
    }

    pub fn status(&self) -> ExitsStatus {
        (**self.status.borrow()).clone()
    }

    /// Waits until the kernel sends such packets by this link.
    pub fn wait_way(&self, packet: &str, link: &str) {
        eventually(&format!("{packet} by {link}"), || way(packet) == link);
    }
}

impl Drop for Running {
    /// As a daemon that stops, or dies: nothing is undone.
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let ended = self.done.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking());
    }
}

/// The link that the kernel chooses (`ip route get PACKET`), or its refusal.
pub fn way(packet: &str) -> String {
    let family = if packet.contains(':') { "-6" } else { "-4" };
    match try_ip(&format!("{family} route get {packet}")) {
        Ok(text) if text.contains("unreachable") => "unreachable".to_owned(),
        Ok(text) => {
            let mut words = text.split_whitespace().skip_while(|word| *word != "dev");
            words.nth(1).unwrap_or("no link").to_owned()
        }
        Err(text) if text.contains("No route to host") || text.contains("unreachable") => {
            "unreachable".to_owned()
        }
        Err(text) => text,
    }
}

#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Everything that exits could have left or broken.
pub fn everything() -> String {
    let all = ["rule", "-6 rule", "route show table all", "-6 route show table all", "nexthop"];
    let lines = |what: &&str| {
        let text = ip(what);
        // The kernel's own multicast and anycast routes come and go with addresses' state.
        let stable = |line: &&str| !line.contains("expires");
        format!("{what}:\n{}\n", text.lines().filter(stable).collect::<Vec<_>>().join("\n"))
    };
    all.iter().map(lines).collect()
}
