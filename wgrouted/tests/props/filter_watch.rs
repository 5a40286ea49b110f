//! What was legal when, and whether the maps ever said otherwise.
//!
//! Here lives [`Watch`], which remembers what the oracle said since when, over restarts of the
//! daemon too, and looks at the maps after every single change made in them.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use wgrouted::core::{
    filter::table::{FilterChange, Identity},
    time::Time,
};

use crate::{
    filter_maps::{Maps, Mask},
    filter_oracle::Oracle,
    sim::Sim,
};

type Admitted = BTreeMap<Identity, Mask>;

#[derive(Debug, Default)]
pub struct Watch {
    /// How late the daemon may be with what nothing disturbs.
    pub lag: Option<Duration>,
    /// When the daemon was last started, on a clock that goes on.
    base: Duration,
    /// When a route changed last.
    rerouted: Duration,
    /// What the oracle admits, since when.
    timeline: VecDeque<(Duration, Admitted)>,
    /// Something went wrong then, and the daemon has not caught up yet.
    disturbed: Option<Duration>,
    /// What the maps hold is not known before they are read.
    pub doubt: bool,
    /// Somebody else changed the maps, and they are not right again.
    pub spoiled: bool,
    /// The operator changed the rules: sources and words are changed one after the other, and what
    /// the new ones make of the old others may be legal for nobody.
    mixed: bool,
    /// Until then graces of the old rules run.
    blurred: Duration,
    /// Since then something had gone wrong, and until then graces run that began before the daemon
    /// caught up.
    easing: (Duration, Duration),
    /// What the maps admit, by peer number.
    masks: BTreeMap<u32, Mask>,
}

impl Watch {
    /// From here on the daemon needs more time.
    pub fn disturb(&mut self, now: Time) {
        self.disturbed.get_or_insert(self.base + now.0);
    }

    /// The rules are others.
    pub fn mix(&mut self, now: Time) {
        self.disturb(now);
        self.mixed = true;
    }

    /// The maps may hold something of the rules before.
    pub fn is_mixed(&self) -> bool {
        self.mixed
    }

    pub fn restart(&mut self, at: Time) {
        self.disturb(at);
        self.doubt = true;
        self.base += at.0;
    }

    /// Forgets what was before, and admits nothing to have been so far.
    pub fn begin(&mut self, lag: Duration, now: Time) {
        self.lag = Some(lag);
        self.timeline = VecDeque::from([(Duration::ZERO, Admitted::new())]);
        self.disturb(now);
    }

    fn during(&self, start: Duration) -> impl Iterator<Item = &Admitted> {
        let after = self.timeline.iter().skip(1).map(|(at, _)| *at).chain([Duration::MAX]);
        let spans = self.timeline.iter().zip(after);
        spans.filter(move |(_, end)| *end >= start).map(|((_, admitted), _)| admitted)
    }
}

impl Sim {
    /// The routes changed.
    pub(crate) fn note_routes(&mut self) {
        self.filter.watch.rerouted = self.filter.watch.base + self.now.0;
        self.note();
    }

    /// The world changed: what is legal now?
    pub(crate) fn note(&mut self) {
        if self.filter.watch.lag.is_none() {
            return;
        }
        let admitted = Oracle::new(&self.kernel, &self.devices, &self.rules).admitted();
        let watch = &mut self.filter.watch;
        if watch.timeline.back().is_none_or(|(_, last)| *last != admitted) {
            watch.timeline.push_back((watch.base + self.now.0, admitted));
        }
    }

    /// The maps were changed a little.
    pub(crate) fn look(&mut self, change: &FilterChange) {
        self.check_references(change);
        let Some(lag) = self.filter.watch.lag else { return };
        let grace = self.filter.rule.as_ref().map_or(Duration::ZERO, |rule| rule.grace);
        let watch = &mut self.filter.watch;
        let now = watch.base + self.now.0;
        let since = watch.disturbed.unwrap_or(now).saturating_sub(lag);
        let (wrong, eases) = watch.easing;
        let eased = if now <= eases { since.min(wrong.saturating_sub(lag)) } else { since };
        // Who is gone sends nothing, whatever the maps say as long as the daemon does not know.
        let sends =
            |who| watch.timeline.back().is_some_and(|(_, admitted)| admitted.contains_key(who));
        let mixed = watch.mixed || since <= watch.blurred;
        let maps = Maps(&self.filter.maps);
        watch.masks.retain(|id, _| maps.0.peers.contains_key(id));
        for (id, (who, _)) in &maps.0.peers {
            if watch.spoiled || maps.concerns(change, *id) || !watch.masks.contains_key(id) {
                watch.masks.insert(*id, maps.admitted(*id));
            }
            let mask = watch.masks[id];
            let masks = |since| watch.during(since).map(|all| all.get(who).copied());
            let once = masks(eased.saturating_sub(grace)).flatten().fold(0, |all, mask| all | mask);
            // Of a peer that was not there so long it is known what it would have been allowed, if
            // no route has changed since.
            let steady = watch.rerouted < since;
            let always = masks(since).filter(|mask| !steady || mask.is_some());
            let always = always.map(Option::unwrap_or_default).reduce(|all, mask| all & mask);
            let always = always.unwrap_or(0);
            assert_eq!(
                if mixed || !sends(who) { 0 } else { mask & !once },
                0,
                "{change:?} lets {who:?} use what was not legal since {:?} (now {now:?}): {:#?}",
                eased.saturating_sub(grace),
                self.filter.maps,
            );
            assert_eq!(
                always & !mask,
                0,
                "{change:?} keeps {who:?} from using what was legal since {since:?} (now {now:?}): {:#?}",
                self.filter.maps,
            );
        }
    }

    /// What names something names what is there.
    fn check_references(&self, change: &FilterChange) {
        let maps = &self.filter.maps;
        if self.filter.watch.spoiled {
            return;
        }
        for (ifindex, link) in &maps.links {
            let there = maps.peers.get(&link.peer).is_some_and(|(who, _)| who.ifindex == *ifindex);
            assert!(
                link.peer == 0 || there,
                "{change:?}: {ifindex} names a peer that is not there"
            );
        }
        for (key, tunnel) in &maps.tunnels {
            let there = maps.peers.get(&tunnel.peer).is_some_and(|(who, _)| who.tunnel.is_some());
            assert!(
                tunnel.peer == 0 || there,
                "{change:?}: {key:?} names a tunnel that is not there"
            );
        }
    }

    /// The daemon may have caught up.
    pub(crate) fn watch_settles(&mut self) {
        let idle = self.filter.open_requests == 0 && self.engine.is_in_sync();
        let done = self.engine.filter().is_none_or(|filter| {
            filter.pending() == 0 && filter.sources().refused().0 == 0 && filter.error().is_none()
        });
        let grace = self.filter.rule.as_ref().map_or(Duration::ZERO, |rule| rule.grace);
        let watch = &mut self.filter.watch;
        if let Some(wrong) = watch.disturbed
            && !watch.doubt
            && idle
            && done
        {
            let now = watch.base + self.now.0;
            if std::mem::take(&mut watch.mixed) {
                watch.blurred = now + grace;
            }
            watch.easing = (wrong, now + grace + watch.lag.unwrap_or_default());
            (watch.disturbed, watch.spoiled) = (None, false);
        }
    }
}
