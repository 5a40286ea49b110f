//! The calling thread's namespace and a far one, a cable between them, and somebody who asks.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    process,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{sleep, timeout},
};
use wgrouted::{
    core::{
        reach::{
            event::{ProbeId, ReachEvent, ReachRequest, SubjectId, Target},
            rule::ProbeKind,
        },
        route::IfIndex,
        time::Time,
    },
    reach::prober::Prober,
};

use crate::support::netns::{self, index, ip, sysctl};

pub(crate) const PORT: u16 = 6696;
pub(crate) const NEAR: &str = "10.0.0.1";
pub(crate) const NEAR_V6: &str = "fd00::1";
pub(crate) const FAR: &str = "10.0.0.2";
pub(crate) const FAR_V6: &str = "fd00::2";
pub(crate) const FAR_LINK_LOCAL: &str = "fe80::2";
pub(crate) const ALL_NODES: &str = "ff02::1";
/// How long something may take that happens: it may run under emulation.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing must happen.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a namespace of its own. What it starts is there too.
pub(crate) struct Far {
    jobs: mpsc::Sender<Job>,
    space: String,
}

impl Far {
    fn new() -> Far {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            assert!(netns::fresh(), "needs root");
            // SAFETY: no pointers are passed.
            let thread = unsafe { libc::gettid() };
            tell.send(format!("/proc/{}/task/{thread}/ns/net", process::id())).unwrap();
            queue.into_iter().for_each(|job| job());
        });
        Far { jobs, space: told.recv().unwrap() }
    }

    /// Does something there, and waits for it.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        self.jobs.send(Box::new(move || drop(tell.send(job())))).unwrap();
        told.recv().unwrap()
    }

    pub(crate) fn ip(&self, args: impl Into<String>) {
        let args = args.into();
        self.run(move || ip(&args));
    }

    /// Starts a prober there, which carries these out and tells what happens.
    pub(crate) fn prober(&self, requests: Vec<ReachRequest>) -> FarProber {
        let (tell, events) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (ready, is_ready) = mpsc::channel();
        self.run(move || {
            thread::spawn(move || {
                runtime().block_on(async {
                    let (sender, mut receiver) = unbounded_channel();
                    let mut prober = Prober::new(sender, Instant::now());
                    requests.into_iter().for_each(|request| prober.carry_out(request));
                    ready.send(()).unwrap();
                    let pass_on = async {
                        while let Some(event) = receiver.recv().await {
                            let _ = tell.send(event);
                        }
                    };
                    tokio::select! {
                        () = pass_on => {}
                        _ = stopped => {}
                    }
                });
            })
        });
        is_ready.recv().unwrap();
        FarProber { events, _stop: stop }
    }
}

/// Ends when it is dropped.
pub(crate) struct FarProber {
    pub(crate) events: mpsc::Receiver<ReachEvent>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

/// Both ends of the cable.
pub(crate) struct Lab {
    pub(crate) far: Far,
}

impl Lab {
    pub(crate) fn new() -> Lab {
        assert!(netns::fresh(), "needs root");
        let far = Far::new();
        sysctl("net/ipv6/conf/default/accept_dad", "0");
        far.run(|| sysctl("net/ipv6/conf/default/accept_dad", "0"));
        let lab = Lab { far };
        lab.connect();
        lab
    }

    /// Makes the cable.
    pub(crate) fn connect(&self) {
        self.connect_as("");
    }

    /// The same, with more to say about the near end.
    pub(crate) fn connect_as(&self, more: &str) {
        let space = &self.far.space;
        ip(&format!("link add name near0 {more} type veth peer name far0 netns {space}"));
        ip(&format!("addr add {NEAR}/24 dev near0"));
        ip(&format!("addr add {NEAR_V6}/64 dev near0 nodad"));
        ip("link set near0 addrgenmode none");
        ip("link set near0 up");
        ip("addr add fe80::1/64 dev near0 nodad");
        self.far.ip(format!("addr add {FAR}/24 dev far0"));
        self.far.ip(format!("addr add {FAR_V6}/64 dev far0 nodad"));
        self.far.ip("link set far0 addrgenmode none");
        self.far.ip("link set far0 up");
        self.far.ip(format!("addr add {FAR_LINK_LOCAL}/64 dev far0 nodad"));
        // Until then packets are dropped, and who asks for a neighbour asks again in a second.
        wait_up("near0");
        self.far.run(|| wait_up("far0"));
    }

    pub(crate) fn near_link(&self) -> IfIndex {
        index("near0")
    }

    pub(crate) fn far_link(&self) -> IfIndex {
        self.far.run(|| index("far0"))
    }

    /// Answers there.
    pub(crate) fn answer(&self) -> FarProber {
        self.far.prober(vec![answer(vec![self.far_link()])])
    }
}

/// Waits until a link carries packets and its addresses are ours: IPv6's are added before they are
/// routed (`addrconf_dad_work`, net/ipv6/addrconf.c).
fn wait_up(name: &str) {
    let limit = Instant::now() + PATIENCE;
    let local = |prefix: &str| ip("-6 route show table local").contains(&format!("local {prefix}"));
    while !ip(&format!("link show {name}")).contains("state UP") || !local("fd") || !local("fe80") {
        assert!(Instant::now() < limit, "{name} stays down");
        thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

pub(crate) fn answer(links: Vec<IfIndex>) -> ReachRequest {
    ReachRequest::Answer { links, port: PORT }
}

pub(crate) fn target(ifindex: IfIndex, address: &str, kind: ProbeKind) -> Target {
    Target { ifindex, address: address.parse().unwrap(), kind }
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) probe: ProbeId,
    pub(crate) received: Time,
    pub(crate) rtt: Duration,
}

/// A prober here, and what it tells.
pub(crate) struct Asker {
    pub(crate) prober: Prober,
    pub(crate) events: UnboundedReceiver<ReachEvent>,
    pub(crate) started: Instant,
    sequence: u64,
}

impl Asker {
    /// Must be called in a runtime.
    pub(crate) fn new() -> Asker {
        let (sender, events) = unbounded_channel();
        let started = Instant::now();
        Asker { prober: Prober::new(sender, started), events, started, sequence: 0 }
    }

    /// Asks that links be answered, and by that, names the port.
    pub(crate) fn answer(&mut self, links: Vec<IfIndex>) {
        self.prober.carry_out(answer(links));
    }

    /// Sends a probe.
    pub(crate) fn ask(&mut self, target: Target) -> ProbeId {
        self.sequence += 1;
        let probe = ProbeId { subject: SubjectId(7), address: 1, sequence: self.sequence };
        self.prober.carry_out(ReachRequest::Probe { probe, target });
        probe
    }

    /// The next event, which comes.
    pub(crate) async fn event(&mut self) -> ReachEvent {
        timeout(PATIENCE, self.events.recv()).await.expect("an event").unwrap()
    }

    /// The answer to a probe, which comes next.
    pub(crate) async fn answered(&mut self, to: ProbeId) -> Answered {
        match self.event().await {
            ReachEvent::Answered { probe, sent, received } => {
                assert_eq!(probe, to);
                assert!(received >= sent && received <= Time(self.started.elapsed()));
                Answered { probe, received, rtt: received.since(sent) }
            }
            other => panic!("{other:?}"),
        }
    }

    /// The error of a probe, which comes next.
    pub(crate) async fn unsent(&mut self, of: ProbeId) -> i32 {
        match self.event().await {
            ReachEvent::Unsent { probe, errno } => {
                assert_eq!(probe, of);
                errno
            }
            other => panic!("{other:?}"),
        }
    }

    /// Nothing comes.
    pub(crate) async fn silence(&mut self) {
        sleep(SILENCE).await;
        assert_eq!(self.events.try_recv().ok(), None);
    }

    /// Asks all of these, once, and expects each to answer.
    pub(crate) async fn all_answer(
        &mut self,
        ifindex: IfIndex,
        addresses: &[&str],
        kind: ProbeKind,
    ) {
        for address in addresses {
            let probe = self.ask(target(ifindex, address, kind));
            let answered = self.answered(probe).await;
            println!("{kind:?} {address}: {:?}", answered.rtt);
            assert!(answered.rtt < Duration::from_secs(1));
        }
    }
}

/// The far side's addresses.
pub(crate) fn far_addresses() -> [&'static str; 4] {
    let all = [FAR, FAR_V6, FAR_LINK_LOCAL, ALL_NODES];
    let different: BTreeSet<IpAddr> = all.iter().map(|address| address.parse().unwrap()).collect();
    assert_eq!(different.len(), all.len());
    all
}
