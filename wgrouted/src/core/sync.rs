//! When the network is read again.
//!
//! Here lives [`Sync`], the schedule of dumps and the dump that is under way. Invariants: one dump
//! at a time; what the kernel announces while a dump runs is kept and applied again on top of it,
//! because a dump is no snapshot of one moment; a dump that lost notifications is void.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    event::{NetEvent, Request, Scope, SyncPart},
    prefix::Family,
    route::{Link, Nexthop, TableId},
    snapshot::Snapshot,
    time::Time,
};

/// More announcements than this during one dump, and it is begun anew: replaying them would cost
/// more.
const JOURNAL: usize = 1 << 20;

/// A dump under way.
#[derive(Debug)]
pub struct Running {
    /// Its number.
    pub epoch: u64,
    /// Whether it brings all links and nexthop objects.
    pub objects: bool,
    /// The routes that it brings.
    pub scopes: Vec<Scope>,
    /// Links so far.
    pub links: Vec<Link>,
    /// Nexthop objects so far.
    pub nexthops: Vec<Nexthop>,
    /// Routes so far.
    pub snapshot: Snapshot,
    /// What was announced since it began.
    pub journal: Vec<NetEvent>,
}

/// The schedule.
#[derive(Debug)]
pub struct Sync {
    interval: Duration,
    epoch: u64,
    /// When links and nexthop objects are to be read.
    objects_due: BTreeSet<Time>,
    due: BTreeSet<(Time, Scope)>,
    /// When everything is to be read.
    full_due: Option<Time>,
    running: Option<Running>,
    last_full: Option<Time>,
}

impl Sync {
    /// Everything is due at once. After losses, full dumps are at least `interval` apart.
    pub fn new(interval: Duration) -> Self {
        Sync {
            interval,
            epoch: 0,
            objects_due: BTreeSet::from([Time::ZERO]),
            due: BTreeSet::new(),
            full_due: Some(Time::ZERO),
            running: None,
            last_full: None,
        }
    }

    /// The dump under way, if it has this number.
    pub fn running(&mut self, epoch: u64) -> Option<&mut Running> {
        self.running.as_mut().filter(|running| running.epoch == epoch)
    }

    /// Ends the dump under way, if it has this number.
    pub fn finish(&mut self, epoch: u64) -> Option<Running> {
        self.running.take_if(|running| running.epoch == epoch)
    }

    /// Whether a dump is under way or due.
    pub fn is_idle(&self) -> bool {
        self.running.is_none() && self.objects_due.is_empty() && self.due.is_empty()
    }

    /// Keeps an announcement for the end of the dump under way. Returns a dump that has become
    /// void because of too many of them.
    pub fn journal(&mut self, event: &NetEvent, now: Time) -> Option<Running> {
        let running = self.running.as_mut()?;
        if running.journal.len() < JOURNAL {
            running.journal.push(event.clone());
            return None;
        }
        let void = self.running.take()?;
        self.again(&void, now);
        Some(void)
    }

    /// The scopes of a dump that failed are due again.
    pub fn again(&mut self, failed: &Running, at: Time) {
        if failed.objects {
            self.objects_due.insert(at);
        }
        self.due.extend(failed.scopes.iter().map(|scope| (at, *scope)));
    }

    /// A scope is to be read at a time.
    pub fn schedule(&mut self, scope: Scope, at: Time) {
        self.due.insert((at, scope));
    }

    /// A scope is to be read once until a time.
    pub fn require(&mut self, scope: Scope, until: Time) {
        if !self.due.iter().any(|(at, due)| *due == scope && *at <= until) {
            self.due.insert((until, scope));
        }
    }

    /// Links and nexthop objects are to be read at a time.
    pub fn schedule_objects(&mut self, at: Time) {
        self.objects_due.insert(at);
    }

    /// Scopes that are no longer of interest need not be read, not even the rest of them.
    pub fn retain(&mut self, keep: impl Fn(&Scope) -> bool) {
        self.due.retain(|(_, scope)| keep(scope));
        if let Some(running) = &mut self.running {
            running.scopes.retain(|scope| keep(scope));
        }
    }

    /// Everything is to be read again, because something was lost or the operator wants it; not
    /// more often than the interval allows. What is due besides stays so: it was put off for a
    /// reason. Returns the dump that has become void, and when everything will be read.
    pub fn restart(
        &mut self,
        loaded: impl IntoIterator<Item = Scope>,
        now: Time,
    ) -> (Option<Running>, Time) {
        let void = self.running.take();
        let at = self.last_full.map_or(now, |last| (last + self.interval).max(now));
        self.full_due = Some(at);
        self.objects_due.insert(at);
        let lost = void.iter().flat_map(|running| running.scopes.clone());
        self.due.extend(loaded.into_iter().chain(lost).map(|scope| (at, scope)));
        (void, at)
    }

    /// Begins the next dump, if one is due.
    pub fn poll(&mut self, now: Time) -> Option<Request> {
        if self.running.is_some() || self.deadline().is_none_or(|at| at > now) {
            return None;
        }
        let before = self.objects_due.len();
        self.objects_due.retain(|at| *at > now);
        let objects = self.objects_due.len() < before;
        let later = self.due.split_off(&(now + Duration::from_nanos(1), FIRST_SCOPE));
        let ripe = std::mem::replace(&mut self.due, later);
        let scopes = self.without_overlap(ripe);
        self.epoch += 1;
        if self.full_due.take_if(|at| *at <= now).is_some() {
            self.last_full = Some(now);
        }
        self.running = Some(Running {
            epoch: self.epoch,
            objects,
            scopes: scopes.clone(),
            links: Vec::new(),
            nexthops: Vec::new(),
            snapshot: Snapshot::default(),
            journal: Vec::new(),
        });
        Some(Request::Sync { epoch: self.epoch, objects, scopes })
    }

    /// The scopes that one dump can bring: a route with hops on two links would come twice, were
    /// both links asked for. The others wait for the next dump.
    fn without_overlap(&mut self, ripe: BTreeSet<(Time, Scope)>) -> Vec<Scope> {
        let mut chosen: BTreeMap<(Family, Option<TableId>), Scope> = BTreeMap::new();
        let (whole, parts): (Vec<_>, Vec<_>) =
            ripe.into_iter().partition(|(_, scope)| scope.oif.is_none());
        chosen.extend(whole.into_iter().map(|(_, scope)| ((scope.family, scope.table), scope)));
        for (at, scope) in parts {
            let one = *chosen.entry((scope.family, scope.table)).or_insert(scope);
            if one.oif.is_some() && one != scope {
                self.due.insert((at, scope));
            }
        }
        chosen.into_values().collect()
    }

    /// When [`Sync::poll`] has something to do.
    pub fn deadline(&self) -> Option<Time> {
        if self.running.is_some() {
            return None;
        }
        self.objects_due
            .first()
            .copied()
            .into_iter()
            .chain(self.due.first().map(|(at, _)| *at))
            .min()
    }
}

const FIRST_SCOPE: Scope = Scope { family: Family::V4, table: None, oif: None };

impl Running {
    /// Takes in a part that is not routes, which go into the snapshot by way of the RIB.
    pub fn take(&mut self, part: SyncPart) {
        match part {
            SyncPart::Links(links) => self.links.extend(links),
            SyncPart::Nexthops(nexthops) => self.nexthops.extend(nexthops),
            SyncPart::Routes(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: Scope = Scope { family: Family::V4, table: Some(254), oif: None };

    fn ms(n: u64) -> Time {
        Time(Duration::from_millis(n))
    }

    #[test]
    fn one_dump_at_a_time_and_the_rest_waits() {
        let mut sync = Sync::new(Duration::from_secs(1));
        sync.schedule(MAIN, ms(0));
        let Some(Request::Sync { epoch, objects: true, scopes }) = sync.poll(ms(0)) else {
            panic!("a full dump is due at the start")
        };
        assert_eq!(scopes, [MAIN]);
        sync.schedule(MAIN, ms(50));
        sync.schedule(MAIN, ms(60));
        assert_eq!(sync.poll(ms(50)), None);
        assert!(sync.finish(epoch).is_some());
        assert_eq!(
            sync.poll(ms(60)),
            Some(Request::Sync { epoch: epoch + 1, objects: false, scopes: vec![MAIN] })
        );
        assert!(sync.finish(epoch).is_none() && sync.finish(epoch + 1).is_some());
        assert!(sync.is_idle());
    }

    #[test]
    fn full_dumps_after_losses_keep_their_distance() {
        let mut sync = Sync::new(Duration::from_secs(1));
        sync.poll(ms(0));
        let (void, at) = sync.restart([MAIN], ms(10));
        assert!(void.is_some(), "the dump under way is void");
        assert_eq!(at, ms(1000));
        assert_eq!(sync.deadline(), Some(ms(1000)));
        assert_eq!(sync.poll(ms(999)), None);
        assert!(sync.poll(ms(1000)).is_some());
    }

    #[test]
    fn the_links_of_a_table_are_read_one_by_one_and_not_besides_the_table() {
        let link = |oif| Scope { oif: Some(oif), ..MAIN };
        let mut sync = Sync::new(Duration::from_secs(1));
        sync.schedule(link(1), ms(0));
        sync.schedule(link(2), ms(0));
        let Some(Request::Sync { epoch, scopes, .. }) = sync.poll(ms(0)) else { panic!("due") };
        assert_eq!(scopes, [link(1)]);
        sync.finish(epoch);
        sync.schedule(MAIN, ms(0));
        let Some(Request::Sync { scopes, .. }) = sync.poll(ms(0)) else { panic!("due") };
        assert_eq!(scopes, [MAIN]);
    }

    #[test]
    fn what_was_put_off_survives_a_loss() {
        let mut sync = Sync::new(Duration::from_secs(1));
        let Some(Request::Sync { epoch, .. }) = sync.poll(ms(0)) else { panic!("due") };
        sync.finish(epoch);
        sync.schedule(MAIN, ms(1500));
        sync.restart([MAIN], ms(1200));
        let Some(Request::Sync { epoch, .. }) = sync.poll(ms(1200)) else { panic!("due") };
        sync.finish(epoch);
        assert_eq!(sync.deadline(), Some(ms(1500)));
    }

    #[test]
    fn what_is_of_no_interest_any_more_is_not_taken_from_the_dump_under_way() {
        let mut sync = Sync::new(Duration::from_secs(1));
        sync.schedule(MAIN, ms(0));
        let Some(Request::Sync { epoch, .. }) = sync.poll(ms(0)) else { panic!("due") };
        sync.schedule(MAIN, ms(5));
        sync.retain(|_| false);
        assert_eq!(sync.finish(epoch).map(|done| done.scopes), Some(vec![]));
        assert_eq!(sync.deadline(), None);
    }
}
