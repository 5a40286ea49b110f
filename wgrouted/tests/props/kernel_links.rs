//! What links and addresses do to the routes of the kernel's model.
//!
//! Here live going up and down, coming and going, and all that dies or revives with it, most of it
//! in silence. Invariant: what is announced and not yet done is done before anything else happens.

use super::*;

impl Kernel {
    /// `ip link add`, down and without a master.
    pub fn add_link(&mut self, name: &str, kind: LinkKind) -> IfIndex {
        self.finish();
        let index = self.next_index;
        self.next_index += 1;
        let link = Link { index, name: name.to_owned(), up: false, master: None, kind };
        self.links.insert(index, link);
        self.addressed.insert(index, false);
        self.say_link(index);
        index
    }

    /// `ip link set up`: the news come first, then dead hops come back to life silently.
    pub fn up(&mut self, index: IfIndex) {
        self.finish();
        let Some(link) = self.links.get_mut(&index).filter(|link| !link.up) else { return };
        link.up = true;
        self.say_link(index);
        self.rest = Some(Rest::Up(index, None));
    }

    /// `ip link set down`: the news come first, then routes go.
    pub fn down(&mut self, index: IfIndex) {
        self.finish();
        let Some(link) = self.links.get_mut(&index).filter(|link| link.up) else { return };
        link.up = false;
        self.say_link(index);
        self.rest = Some(Rest::Down(index, false));
    }

    /// `ip link del`.
    pub fn delete_link(&mut self, index: IfIndex) {
        self.finish();
        let Some(link) = self.links.get_mut(&index) else { return };
        if std::mem::take(&mut link.up) {
            self.say_link(index);
        }
        self.rest = Some(Rest::Down(index, true));
    }

    /// `ip address add`: a link's first IPv4 address brings dead hops back to life silently.
    pub fn add_address(&mut self, index: IfIndex) {
        self.finish();
        let Some(addressed) = self.addressed.get_mut(&index) else { return };
        if std::mem::replace(addressed, true) {
            return;
        }
        self.said.push(NetEvent::AddressAdded { index, family: Family::V4 });
        if self.links[&index].up {
            self.rest = Some(Rest::Up(index, Some(Family::V4)));
        }
    }

    /// `ip address del` of a link's last IPv4 address.
    pub fn delete_address(&mut self, index: IfIndex) {
        self.finish();
        if self.addressed.get_mut(&index).is_some_and(std::mem::take) {
            self.said.push(NetEvent::AddressGone { index, family: Family::V4 });
            self.rest = Some(Rest::NoAddress(index));
        }
    }

    /// `ip link set master|nomaster`: routes go first, then the news come.
    pub fn enslave(&mut self, index: IfIndex, master: Option<IfIndex>) {
        self.finish();
        let known = master.is_none_or(|master| self.links.contains_key(&master));
        if !known || self.links.get(&index).is_none_or(|link| link.master == master) {
            return;
        }
        if master.is_some() {
            self.flush4(index, false);
            self.flush6(index, false, false);
        }
        self.links.get_mut(&index).expect("looked up above").master = master;
        self.say_link(index);
    }

    /// Finishes what was announced.
    pub fn finish(&mut self) {
        match self.rest.take() {
            None => {}
            Some(Rest::Up(index, only)) => self.revive(index, only),
            Some(Rest::NoAddress(index)) => self.flush4(index, false),
            Some(Rest::NoNexthop(id)) => self.let_go_of_nexthop(id, false),
            Some(Rest::Down(index, delete)) => {
                self.flush_nexthops(index);
                self.flush4(index, delete);
                self.flush6(index, delete, self.quiet);
                if delete {
                    self.links.remove(&index);
                    self.addressed.remove(&index);
                    for link in self.links.values_mut().filter(|l| l.master == Some(index)) {
                        link.master = None;
                        self.said.push(NetEvent::Link(link.clone()));
                    }
                    self.said.push(NetEvent::LinkGone { index });
                }
            }
        }
    }

    fn revive(&mut self, index: IfIndex, only: Option<Family>) {
        let families = |family| only.is_none_or(|only| only == family);
        let lists = self.routes.iter_mut().filter(|((prefix, _), _)| families(prefix.family()));
        for entry in lists.flat_map(|(_, list)| list) {
            for hop in entry.path.hops.iter_mut().filter(|hop| hop.oif == index) {
                hop.dead = false;
            }
        }
    }

    /// `nexthop_flush_dev`: objects go without a word, and so do they from their groups.
    fn flush_nexthops(&mut self, index: IfIndex) {
        let through = |kind: &NexthopKind| match kind {
            NexthopKind::Hop { oif, .. } => *oif == index,
            _ => false,
        };
        let gone: Vec<NexthopId> =
            self.nexthops.iter().filter(|(_, kind)| through(kind)).map(|(id, _)| *id).collect();
        for id in gone {
            self.nexthops.remove(&id);
            self.let_go_of_nexthop(id, true);
        }
    }

    /// `fib_sync_down_dev`, all silent: a hop dies, a route without a living hop goes; a route
    /// with one hop through a device that is deleted goes altogether.
    fn flush4(&mut self, index: IfIndex, unregister: bool) {
        for ((prefix, _), list) in &mut self.routes {
            if prefix.family() == Family::V4 {
                list.retain_mut(|entry| {
                    let hops = &mut entry.path.hops;
                    if !hops.iter().any(|hop| hop.oif == index) {
                        return true;
                    }
                    hops.iter_mut().filter(|hop| hop.oif == index).for_each(|hop| hop.dead = true);
                    !unregister && hops.iter().any(|hop| !hop.dead)
                });
            }
        }
        self.routes.retain(|_, list| !list.is_empty());
    }

    /// `fib6_ifdown`: a lone hop's route goes; of several, those through the link die, or go if
    /// it is deleted.
    fn flush6(&mut self, index: IfIndex, unregister: bool, silent: bool) {
        let mut news = Vec::new();
        for ((prefix, _), list) in &mut self.routes {
            if prefix.family() == Family::V6 {
                list.retain_mut(|entry| {
                    if !entry.path.hops.iter().any(|hop| hop.oif == index) {
                        return true;
                    }
                    for hop in entry.path.hops.iter_mut().filter(|hop| hop.oif == index) {
                        hop.dead = true;
                    }
                    let all = entry.path.hops.iter().all(|hop| hop.dead);
                    while let Some(at) =
                        entry.path.hops.iter().position(|hop| all || unregister && hop.oif == index)
                    {
                        news.push((*prefix, without_hop(entry, at)));
                    }
                    !all
                });
            }
        }
        self.routes.retain(|_, list| !list.is_empty());
        if !silent {
            for (prefix, path) in news {
                self.say(RouteOp::Delete, prefix, path);
            }
        }
    }
}
