//! One look at the links, and what it takes to make them as configured.
//!
//! Here lives [`Maker`], which reads files, resolves names, asks for paths, and takes the steps that
//! the core plans. Invariants: a link about which not everything is known is left as it is; of two
//! links that fail, neither keeps the other from being made.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    path::Path,
};

use tracing::{error, info, warn};

use super::{keys, names::Names};
use crate::{
    core::{
        links::{
            address::{InterfaceAddress, link_local},
            mtu,
            plan::{Plan, Step, Task, plan},
            rule::{DeviceRule, LinkLocal, LinkRule, MtuRule, PeerLinkRule, ShapeRule, Tunnel},
            state::{
                Have, HaveDevice, HaveShape, Known, KnownPeer, Want, WantDevice, WantEndpoint,
                WantPeer, WantShape,
            },
        },
        peer::PublicKey,
        prefix::Family,
        route::IfIndex,
    },
    daemon::memory::Memory,
    target::{
        links::{KernelLinks, LinkError, Mark, Read, Secrets},
        wireguard::Secret,
    },
};

/// Makes links.
#[derive(Debug)]
pub(super) struct Maker {
    rules: Vec<LinkRule>,
    kernel: KernelLinks,
    memory: Memory,
    known: Known,
    names: Names,
    /// Settings of devices as they were read last, unless we have changed them since.
    settings: HashMap<IfIndex, HaveDevice>,
    /// What is wrong with a link, as it was said last.
    told: HashMap<String, String>,
    /// What was found to be exposed, and said.
    warned: BTreeSet<String>,
}

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// At links, their addresses, and the settings of devices that are new. Reading settings takes
    /// time on a device with a full table.
    Links,
    /// At settings too.
    Settings,
    /// At these and at what names stand for, which can take long.
    All,
}

/// What came of a look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Steps taken.
    pub steps: usize,
    /// Links that are not as configured.
    pub failed: usize,
}

/// A link with all that had to be looked up.
struct Prepared {
    want: Want,
    secrets: Secrets,
}

impl Maker {
    /// Makes nothing yet.
    pub(super) fn new(runtime_dir: &Path) -> Result<Maker, LinkError> {
        let memory = Memory::new(runtime_dir);
        let known = memory.recall_links().unwrap_or_else(|error| {
            warn!(%error, "what was remembered of managed links could not be read: peers that were \
                added count as somebody else's; remove the file to silence this");
            Known::new()
        });
        Ok(Maker {
            rules: Vec::new(),
            kernel: KernelLinks::open(Mark::new(runtime_dir))?,
            memory,
            known,
            names: Names::default(),
            settings: HashMap::new(),
            told: HashMap::new(),
            warned: BTreeSet::new(),
        })
    }

    /// From now on these links are configured.
    pub(super) fn configure(&mut self, rules: Vec<LinkRule>) {
        self.rules = rules;
    }

    /// Whether there is anything to look after.
    pub(super) fn is_idle(&self) -> bool {
        self.rules.is_empty() && self.known.is_empty()
    }

    /// Looks at all links and takes the steps that are needed.
    pub(super) fn round(&mut self, depth: Depth) -> Outcome {
        if depth != Depth::Links {
            self.settings.clear();
        }
        let ask = depth == Depth::All;
        let mut problems: Vec<(String, String)> = Vec::new();
        let outcome = match self.look(ask, &mut problems) {
            Ok(steps) => Outcome { steps, failed: problems.len() },
            Err(error) => {
                problems.push((String::new(), error.to_string()));
                Outcome { steps: 0, failed: self.rules.len().max(1) }
            }
        };
        self.tell(problems);
        outcome
    }

    /// Takes away whatever is ours. Nothing may be configured.
    pub(super) fn clean(&mut self, dry: bool) -> Result<(Vec<String>, Vec<String>), LinkError> {
        let known = &self.known;
        let Read { links: mut have, unread } =
            self.kernel.read(|name, _| known.contains_key(name))?;
        have.retain(|link| unread.iter().all(|(name, _)| *name != link.name));
        let tasks = plan(&[], &have, &self.known).tasks;
        let steps =
            tasks.into_iter().map(|Task { link, step }| format!("{link}: {step}")).collect();
        let mut problems = Vec::new();
        if !dry {
            self.look(false, &mut problems)?;
        }
        let problems = problems.into_iter().map(|(link, problem)| format!("{link}: {problem}"));
        Ok((steps, problems.collect()))
    }

    fn look(
        &mut self,
        ask: bool,
        problems: &mut Vec<(String, String)>,
    ) -> Result<usize, LinkError> {
        let rules = std::mem::take(&mut self.rules);
        let result = self.look_at(&rules, ask, problems);
        self.rules = rules;
        result
    }

    fn look_at(
        &mut self,
        rules: &[LinkRule],
        ask: bool,
        problems: &mut Vec<(String, String)>,
    ) -> Result<usize, LinkError> {
        let configured = rules.iter().map(|rule| rule.name.as_str());
        let remembered: Vec<String> = self.known.keys().cloned().collect();
        let deep: BTreeSet<&str> =
            configured.chain(remembered.iter().map(String::as_str)).collect();
        let settings = &self.settings;
        let unknown = |name: &str, index| deep.contains(name) && !settings.contains_key(&index);
        let Read { links: mut have, unread } = self.kernel.read(unknown)?;
        for link in &mut have {
            match &mut link.shape {
                HaveShape::Wireguard(Some(read)) => {
                    self.settings.insert(link.index, read.clone());
                }
                HaveShape::Wireguard(known) => *known = self.settings.get(&link.index).cloned(),
                _ => {}
            }
        }
        let mut left_alone: BTreeSet<String> = BTreeSet::new();
        for (name, error) in unread {
            problems.push((name.clone(), error.to_string()));
            left_alone.insert(name);
        }
        let mut prepared: BTreeMap<&str, Prepared> = BTreeMap::new();
        let mut wanted = Vec::new();
        for rule in rules.iter().filter(|rule| !left_alone.contains(&rule.name)) {
            let found = have.iter().find(|found| found.name == rule.name);
            match self.prepare(rule, found, &have, &prepared, ask, problems) {
                Ok(link) => {
                    wanted.push(link.want.clone());
                    prepared.insert(&rule.name, link);
                }
                Err(error) => problems.push((rule.name.clone(), error)),
            }
        }
        // What cannot be made is left as it is.
        left_alone.extend(
            rules
                .iter()
                .map(|rule| &rule.name)
                .filter(|n| !prepared.contains_key(n.as_str()))
                .cloned(),
        );
        have.retain(|link| !left_alone.contains(&link.name));

        let mut plan = plan(&wanted, &have, &self.known);
        problems.extend(plan.conflicts.drain(..).map(|(link, why)| (link, why.to_string())));
        let kept = self.known.iter().filter(|(name, _)| left_alone.contains(*name));
        plan.known.extend(kept.map(|(name, known)| (name.clone(), known.clone())));
        let ours: BTreeSet<&str> =
            have.iter().filter(|link| link.ours).map(|link| link.name.as_str()).collect();
        Ok(self.follow(plan, &prepared, &ours, problems))
    }

    /// Takes the steps of a plan, and returns how many were taken. A link's steps end at the first
    /// that fails.
    fn follow(
        &mut self,
        plan: Plan,
        prepared: &BTreeMap<&str, Prepared>,
        ours: &BTreeSet<&str>,
        problems: &mut Vec<(String, String)>,
    ) -> usize {
        // Before anything is done: a peer that is added must be known as ours even if we end here.
        let mut known = begun(&plan.known, &self.known);
        self.remember(&known);
        let none = Secrets::default();
        let mut broken: BTreeSet<String> = BTreeSet::new();
        let mut steps = 0;
        for Task { link, step } in plan.tasks {
            if broken.contains(&link) {
                continue;
            }
            let secrets = prepared.get(link.as_str()).map_or(&none, |prepared| &prepared.secrets);
            // Whatever comes of it.
            if let Ok(index) = self.kernel.index(&link) {
                self.settings.remove(&index);
            }
            match self.kernel.take(&link, &step, secrets) {
                Ok(()) => {
                    steps += 1;
                    info!(link, "{step}");
                    if matches!(step, Step::Create(_))
                        && let (Ok(index), Some(made)) =
                            (self.kernel.index(&link), known.get_mut(&link))
                    {
                        made.index = index;
                        self.remember(&known);
                    }
                }
                Err(error) => {
                    problems.push((link.clone(), error.to_string()));
                    // What the kernel does not change in place is made anew, at the next look.
                    if matches!(step, Step::Retunnel(_))
                        && ours.contains(link.as_str())
                        && self.kernel.take(&link, &Step::Delete, secrets).is_ok()
                    {
                        steps += 1;
                        info!(link, "{}", Step::Delete);
                    }
                    broken.insert(link);
                }
            }
        }
        known.retain(|name, _| plan.known.contains_key(name) || broken.contains(name));
        for (name, mut done) in plan.known {
            if let Some(begun) = known.get_mut(&name).filter(|_| !broken.contains(&name)) {
                done.index = begun.index;
                *begun = done;
            }
        }
        self.remember(&known);
        steps
    }

    fn remember(&mut self, known: &Known) {
        if *known == self.known {
            return;
        }
        self.known.clone_from(known);
        if let Err(error) = self.memory.remember_links(known) {
            warn!(%error, "peers of managed links could not be remembered: after a restart they \
                count as somebody else's");
        }
    }

    fn prepare(
        &mut self,
        rule: &LinkRule,
        found: Option<&Have>,
        have: &[Have],
        prepared: &BTreeMap<&str, Prepared>,
        ask: bool,
        problems: &mut Vec<(String, String)>,
    ) -> Result<Prepared, String> {
        let mut addresses = rule.addresses.clone();
        let mut secrets = Secrets::default();
        let (shape, mtu, seed) = match &rule.shape {
            ShapeRule::Wireguard(device) => {
                let settings = match found.map(|found| &found.shape) {
                    Some(HaveShape::Wireguard(Some(settings))) => settings.clone(),
                    _ => HaveDevice::default(),
                };
                let want =
                    self.device(&rule.name, device, &settings, &mut secrets, ask, problems)?;
                let index = found.map(|found| found.index);
                let mtu = match rule.mtu {
                    MtuRule::Given(mtu) => mtu,
                    MtuRule::Auto => self.device_mtu(&want, &settings, index, have),
                };
                let seed = want.public_key.0.to_vec();
                (WantShape::Wireguard(want), mtu, seed)
            }
            ShapeRule::Tunnel(tunnel) => {
                let over = prepared.get(tunnel.over.as_str()).map(|over| over.want.mtu);
                let there = have.iter().find(|link| link.name == tunnel.over);
                let over = over.or_else(|| there.map(|over| over.mtu)).ok_or_else(|| {
                    format!("{} is not there, in which it shall be; it is waited for", tunnel.over)
                })?;
                let mtu = match rule.mtu {
                    MtuRule::Given(mtu) => mtu,
                    MtuRule::Auto => mtu::tunnel(tunnel, over),
                };
                (WantShape::Tunnel(tunnel.clone()), mtu, ends(tunnel))
            }
        };
        match rule.link_local {
            LinkLocal::Off => {}
            LinkLocal::Auto => addresses.push(link_local(&[&seed])),
            LinkLocal::Given(address) => {
                addresses.push(InterfaceAddress { address: address.into(), length: 64 });
            }
        }
        Ok(Prepared { want: Want { name: rule.name.clone(), shape, addresses, mtu }, secrets })
    }

    fn device(
        &mut self,
        name: &str,
        rule: &DeviceRule,
        found: &HaveDevice,
        secrets: &mut Secrets,
        ask: bool,
        problems: &mut Vec<(String, String)>,
    ) -> Result<WantDevice, String> {
        let key = self.key(name, &rule.private_key_file)?;
        let public_key = key.public_key();
        secrets.private_key = Some(key);
        let mut peers = Vec::with_capacity(rule.peers.len());
        for peer in &rule.peers {
            let mut preshared = None;
            if let Some(file) = &peer.preshared_key_file {
                let key = self.key(name, file)?;
                preshared = Some(key.fingerprint());
                secrets.preshared.insert(peer.public_key, key);
            }
            peers.push(WantPeer {
                public_key: peer.public_key,
                preshared,
                endpoint: self.endpoint(name, peer, found, ask, problems),
                keepalive: peer.keepalive,
                allowed_ips: peer.allowed_ips.clone(),
            });
        }
        let (listen_port, fwmark) = (rule.listen_port, rule.fwmark);
        Ok(WantDevice { public_key, listen_port, fwmark, peers })
    }

    fn key(&mut self, link: &str, path: &Path) -> Result<Secret, String> {
        let key = keys::read(path).map_err(|error| error.to_string())?;
        if key.exposed && self.warned.insert(path.display().to_string()) {
            warn!(link, file = %path.display(), "everybody can read this key: take that right away with `chmod o=`");
        }
        Ok(key.secret)
    }

    fn endpoint(
        &mut self,
        link: &str,
        peer: &PeerLinkRule,
        found: &HaveDevice,
        ask: bool,
        problems: &mut Vec<(String, String)>,
    ) -> Option<WantEndpoint> {
        let endpoint = peer.endpoint.as_ref()?;
        let silent = found.peers.get(&peer.public_key).is_none_or(|found| found.silent);
        let ask = ask && (silent || self.names.is_unknown(endpoint));
        let addresses = self.names.resolve(endpoint, ask).unwrap_or_else(|error| {
            problems.push((link.to_owned(), error));
            Vec::new()
        });
        let is_name = endpoint.address().is_none();
        Some(WantEndpoint { text: endpoint.to_string(), addresses, is_name })
    }

    /// What the paths to the peers leave: to where they are, or shall be.
    fn device_mtu(
        &mut self,
        want: &WantDevice,
        found: &HaveDevice,
        own: Option<u32>,
        have: &[Have],
    ) -> u32 {
        let fwmark = want.fwmark.unwrap_or(found.fwmark);
        let port = want.listen_port.unwrap_or(found.listen_port);
        let ends: Vec<SocketAddr> = want
            .peers
            .iter()
            .filter_map(|peer| {
                let there = found.peers.get(&peer.public_key).and_then(|found| found.endpoint);
                let wanted = peer.endpoint.as_ref().and_then(|end| end.addresses.first().copied());
                there.or(wanted)
            })
            .collect();
        let mut paths = Vec::new();
        for end in ends {
            let Some((through, mtu)) = self.kernel.path(end, port, fwmark) else { continue };
            let link = have.iter().find(|link| link.index == through).map(|link| link.mtu);
            // A path through the device itself is none.
            let mtu = mtu.or(link).filter(|_| Some(through) != own);
            let family = if end.is_ipv4() { Family::V4 } else { Family::V6 };
            paths.extend(mtu.map(|mtu| (family, mtu)));
        }
        mtu::wireguard(paths)
    }

    /// Says what is new.
    fn tell(&mut self, problems: Vec<(String, String)>) {
        let mut told = HashMap::new();
        for (link, problem) in problems {
            if self.told.get(&link) != Some(&problem) {
                error!(link, "{problem}");
            }
            told.insert(link, problem);
        }
        for link in self.told.keys().filter(|link| !told.contains_key(*link)) {
            info!(link, "as configured again");
        }
        self.told = told;
    }
}

/// The ends of a tunnel, which are the other way round at the other end.
fn ends(tunnel: &Tunnel) -> Vec<u8> {
    let Tunnel { kind, local, remote, key, .. } = tunnel;
    format!("{kind} {local} {remote} {key:?}").into_bytes()
}

/// What is to be remembered before a plan's steps are taken: which peers are about to be ours, but
/// not yet what they are set to.
fn begun(planned: &Known, before: &Known) -> Known {
    let mut known = planned.clone();
    for (name, link) in &mut known {
        let same = before.get(name).filter(|old| old.index == link.index);
        for (key, peer) in &mut link.peers {
            let old: Option<&KnownPeer> = same.and_then(|old| old.peers.get::<PublicKey>(key));
            peer.endpoint = old.and_then(|old| old.endpoint.clone());
        }
        // Peers that are about to be removed are ours until they are gone.
        for (key, old) in same.iter().flat_map(|old| &old.peers) {
            link.peers.entry(*key).or_insert_with(|| old.clone());
        }
    }
    for (name, old) in before {
        known.entry(name.clone()).or_insert_with(|| old.clone());
    }
    known
}
