//! Where the programs are attached.
//!
//! Here lives the comparison of what is attached with what shall be. How a classifier is attached
//! on kernels before 6.6 is [`super::clsact`]'s business. Invariant: what takes something's place
//! is attached before that is detached, so a packet never meets no program; and whatever is
//! attached is noted among the pins, where the next daemon finds it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::symlink,
    },
    path::{Path, PathBuf},
};

use super::{
    clsact::{Clsact, Direction, Found},
    error::refuse,
    pins::{self, cannot, foreign, gone},
    programs::{Loaded, Programs},
    sys::{self, Pinned},
};
use crate::core::{
    filter::{
        rule::Hook,
        table::{FilterError, HookKind, LinkPlan, LinkState},
    },
    route::IfIndex,
};

/// A place of a device that holds a `bpf_link`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Xdp,
    Tcx(Direction),
}

impl Place {
    const ALL: [(Place, &'static str); 3] = [
        (Place::Xdp, "xdp"),
        (Place::Tcx(Direction::Ingress), "in"),
        (Place::Tcx(Direction::Egress), "out"),
    ];

    fn attach_type(self) -> u32 {
        match self {
            Place::Xdp => sys::ATTACH_XDP,
            Place::Tcx(Direction::Ingress) => sys::ATTACH_TCX_INGRESS,
            Place::Tcx(Direction::Egress) => sys::ATTACH_TCX_EGRESS,
        }
    }

    fn kind(self) -> u32 {
        if self == Place::Xdp { sys::LINK_XDP } else { sys::LINK_TCX }
    }
}

/// Name of the note about classifiers on a device, after its number.
const NOTE: &str = "clsact";
/// What the note says if the queueing discipline is ours to remove.
const MADE: &str = "made";
/// What it says if it was there before.
const SHARED: &str = "shared";

/// Everything of ours that is attached in this network namespace.
#[derive(Debug)]
pub(super) struct Attachments {
    directory: PathBuf,
    links: BTreeMap<(IfIndex, Place), OwnedFd>,
    /// Devices with classifiers, and the programs that were last seen in them.
    classifiers: BTreeMap<IfIndex, BTreeMap<Direction, u32>>,
    /// This kernel has tcx; unknown as long as nobody has tried.
    tcx: Option<bool>,
    clsact: Option<Clsact>,
}

/// What became of one program at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Kept,
    Attached,
    /// It had been attached, and was found detached.
    Again,
}

impl Attachments {
    /// Reads what an earlier daemon noted.
    pub(super) fn read(directory: PathBuf) -> Result<Attachments, FilterError> {
        let mut found = Attachments {
            links: BTreeMap::new(),
            classifiers: BTreeMap::new(),
            tcx: None,
            clsact: None,
            directory,
        };
        for name in pins::names(&found.directory)? {
            let path = found.directory.join(&name);
            let parts = name
                .split_once('_')
                .and_then(|(ifindex, what)| Some((ifindex.parse::<IfIndex>().ok()?, what)));
            let Some((ifindex, what)) = parts else { return Err(foreign(&path)) };
            if what == NOTE {
                found.classifiers.insert(ifindex, BTreeMap::new());
                continue;
            }
            let place = Place::ALL.into_iter().find(|(_, name)| *name == what);
            let Some((place, _)) = place else { return Err(foreign(&path)) };
            let link = sys::open(&path, Pinned::Link).map_err(|_| foreign(&path))?;
            let info =
                sys::link_info(link.as_fd()).map_err(|error| cannot("use", &path, &error))?;
            if info.kind != place.kind() {
                return Err(foreign(&path));
            }
            found.links.insert((ifindex, place), link);
        }
        Ok(found)
    }

    /// Attaches the programs to exactly these links. One state a link, in the order given.
    pub(super) fn attach(
        &mut self,
        programs: &Programs,
        hook: Hook,
        plans: &[LinkPlan],
    ) -> Vec<LinkState> {
        let states = plans
            .iter()
            .map(|plan| {
                let ifindex = plan.ifindex;
                match self.attach_one(programs, hook, plan) {
                    Ok((kind, reattached)) => LinkState { ifindex, hook: Ok(kind), reattached },
                    Err(error) => LinkState { ifindex, hook: Err(error), reattached: false },
                }
            })
            .collect();
        let wanted: BTreeSet<IfIndex> = plans.iter().map(|plan| plan.ifindex).collect();
        for ifindex in self.devices() {
            if !wanted.contains(&ifindex) {
                // What cannot be detached is still noted, and tried again next time.
                let _ = self.detach_all(ifindex);
            }
        }
        states
    }

    /// Whether something of ours is on a device.
    pub(super) fn holds(&self, ifindex: IfIndex) -> bool {
        self.devices().contains(&ifindex)
    }

    /// Detaches everything.
    pub(super) fn remove(&mut self) -> Result<(), FilterError> {
        for ifindex in self.devices() {
            self.detach_all(ifindex)?;
        }
        Ok(())
    }

    /// The devices that something of ours is on.
    pub(super) fn devices(&self) -> BTreeSet<IfIndex> {
        let links = self.links.keys().map(|(ifindex, _)| *ifindex);
        links.chain(self.classifiers.keys().copied()).collect()
    }

    fn attach_one(
        &mut self,
        programs: &Programs,
        hook: Hook,
        plan: &LinkPlan,
    ) -> Result<(HookKind, bool), FilterError> {
        let ifindex = plan.ifindex;
        if !sys::has_device(ifindex) {
            self.detach_all(ifindex)?;
            return Err(refuse(format!("there is no device {ifindex} any more")));
        }
        let mut done = Vec::new();
        let kind = if hook == Hook::Xdp {
            done.push(self.put_link(&programs.xdp, ifindex, Place::Xdp)?);
            HookKind::Xdp
        } else {
            let (kind, put) = self.put_tc(&programs.ingress, ifindex, Direction::Ingress)?;
            done.push(put);
            kind
        };
        if plan.egress {
            done.push(self.put_tc(&programs.egress, ifindex, Direction::Egress)?.1);
        } else {
            self.drop_tc(ifindex, Direction::Egress)?;
        }
        if hook == Hook::Xdp {
            self.drop_tc(ifindex, Direction::Ingress)?;
        } else {
            self.drop_link(ifindex, Place::Xdp)?;
        }
        self.tidy_clsact(ifindex)?;
        Ok((kind, done.contains(&Done::Again)))
    }

    /// Attaches by tcx, or by clsact where there is no tcx.
    fn put_tc(
        &mut self,
        program: &Loaded,
        ifindex: IfIndex,
        direction: Direction,
    ) -> Result<(HookKind, Done), FilterError> {
        if self.tcx != Some(false) {
            match self.put_link(program, ifindex, Place::Tcx(direction)) {
                Err(Refused { errno: Some(errno), .. })
                    if self.tcx.is_none() && is_unknown(errno) =>
                {
                    self.tcx = Some(false);
                }
                other => {
                    let done = other?;
                    self.tcx = Some(true);
                    return Ok((HookKind::Tcx, done));
                }
            }
        }
        let done = self.put_classifier(program, ifindex, direction)?;
        Ok((HookKind::Clsact, done))
    }

    fn drop_tc(&mut self, ifindex: IfIndex, direction: Direction) -> Result<(), FilterError> {
        self.drop_link(ifindex, Place::Tcx(direction))?;
        self.drop_classifier(ifindex, direction)
    }

    fn pin_of(&self, ifindex: IfIndex, place: Place) -> PathBuf {
        let name =
            Place::ALL.iter().find(|(other, _)| *other == place).map_or("", |(_, name)| name);
        self.directory.join(format!("{ifindex}_{name}"))
    }

    fn put_link(
        &mut self,
        program: &Loaded,
        ifindex: IfIndex,
        place: Place,
    ) -> Result<Done, Refused> {
        let pin = self.pin_of(ifindex, place);
        let mut done = Done::Attached;
        if let Some(link) = self.links.get(&(ifindex, place)) {
            let refused = |error| Refused::of("look at", ifindex, place, &error);
            let info = sys::link_info(link.as_fd()).map_err(refused)?;
            if info.ifindex == ifindex {
                if info.program != program.id {
                    sys::update_link(link.as_fd(), program.as_fd())
                        .map_err(|error| Refused::of("replace", ifindex, place, &error))?;
                }
                // Somebody removed the pin, which is all that would outlive us.
                if !pin.exists() {
                    sys::pin(link.as_fd(), &pin)
                        .map_err(|error| Refused::of("pin", ifindex, place, &error))?;
                }
                return Ok(Done::Kept);
            }
            // Somebody else has detached it, or it was of an older device of this number.
            self.links.remove(&(ifindex, place));
            gone(fs::remove_file(&pin))
                .map_err(|error| Refused::of("unpin", ifindex, place, &error))?;
            done = Done::Again;
        }
        let create = |flags| sys::create_link(program.as_fd(), ifindex, place.attach_type(), flags);
        let link = match create(0) {
            // The driver's own XDP may refuse (EOPNOTSUPP, or ERANGE for a large MTU) what generic
            // XDP can do.
            Err(error)
                if place == Place::Xdp
                    && matches!(
                        error.raw_os_error(),
                        Some(libc::EOPNOTSUPP | libc::ERANGE | libc::EINVAL)
                    ) =>
            {
                create(sys::XDP_GENERIC).map_err(|_| error)
            }
            other => other,
        };
        let link = link.map_err(|error| Refused::of("attach", ifindex, place, &error))?;
        sys::pin(link.as_fd(), &pin).map_err(|error| Refused::of("pin", ifindex, place, &error))?;
        self.links.insert((ifindex, place), link);
        Ok(done)
    }

    fn drop_link(&mut self, ifindex: IfIndex, place: Place) -> Result<(), FilterError> {
        let Some(link) = self.links.get(&(ifindex, place)) else { return Ok(()) };
        let pin = self.pin_of(ifindex, place);
        // Closing it would not do as long as somebody else has it open. ENOLINK: it is detached.
        let _ = sys::detach_link(link.as_fd());
        gone(fs::remove_file(&pin)).map_err(|error| cannot("remove", &pin, &error))?;
        self.links.remove(&(ifindex, place));
        Ok(())
    }

    fn note(&self, ifindex: IfIndex) -> PathBuf {
        self.directory.join(format!("{ifindex}_{NOTE}"))
    }

    fn clsact(&mut self) -> io::Result<&mut Clsact> {
        match &mut self.clsact {
            Some(clsact) => Ok(clsact),
            empty => Ok(empty.insert(Clsact::open()?)),
        }
    }

    fn put_classifier(
        &mut self,
        program: &Loaded,
        ifindex: IfIndex,
        direction: Direction,
    ) -> Result<Done, Refused> {
        let refused = |error| Refused::classifier("attach", ifindex, &error);
        let known = self.classifiers.get(&ifindex).map(|seen| seen.get(&direction).copied());
        let found = match known {
            Some(_) => self.clsact().and_then(|clsact| clsact.find(ifindex, direction)),
            None => Ok(Found::Nothing),
        };
        let found = found.map_err(refused)?;
        if found == Found::Program(program.id) {
            self.seen(ifindex, direction, program.id);
            return Ok(Done::Kept);
        }
        let note = self.note(ifindex);
        if known.is_none() {
            // The note comes first: what is not noted is never found again.
            write_note(&note, SHARED).map_err(refused)?;
            self.classifiers.insert(ifindex, BTreeMap::new());
        }
        let made = self.clsact().and_then(|clsact| clsact.add_qdisc(ifindex)).map_err(refused)?;
        if made {
            write_note(&note, MADE).map_err(refused)?;
        }
        let put = self.clsact().and_then(|clsact| clsact.put(ifindex, direction, program.as_fd()));
        put.map_err(refused)?;
        self.seen(ifindex, direction, program.id);
        // A program that this process has seen there and that is not there now was taken away.
        let expected = known.flatten();
        Ok(match (expected, found) {
            (Some(expected), Found::Program(id)) if id == expected => Done::Kept,
            (Some(_), _) => Done::Again,
            (None, Found::Program(_)) => Done::Kept,
            (None, Found::Nothing) => Done::Attached,
        })
    }

    fn seen(&mut self, ifindex: IfIndex, direction: Direction, program: u32) {
        self.classifiers.entry(ifindex).or_default().insert(direction, program);
    }

    fn drop_classifier(
        &mut self,
        ifindex: IfIndex,
        direction: Direction,
    ) -> Result<(), FilterError> {
        if !self.classifiers.contains_key(&ifindex) {
            return Ok(());
        }
        let removed = self.clsact().and_then(|clsact| clsact.remove(ifindex, direction));
        removed.map_err(|error| Refused::classifier("detach", ifindex, &error))?;
        if let Some(seen) = self.classifiers.get_mut(&ifindex) {
            seen.remove(&direction);
        }
        Ok(())
    }

    /// Removes the queueing discipline if it is ours and empty, and the note.
    fn tidy_clsact(&mut self, ifindex: IfIndex) -> Result<(), FilterError> {
        if !self.classifiers.get(&ifindex).is_some_and(BTreeMap::is_empty) {
            return Ok(());
        }
        let note = self.note(ifindex);
        if fs::read_link(&note).is_ok_and(|text| text == Path::new(MADE)) {
            let removed = self.clsact().and_then(|clsact| clsact.remove_empty_qdisc(ifindex));
            removed.map_err(|error| Refused::classifier("detach", ifindex, &error))?;
        }
        gone(fs::remove_file(&note)).map_err(|error| cannot("remove", &note, &error))?;
        self.classifiers.remove(&ifindex);
        Ok(())
    }

    fn detach_all(&mut self, ifindex: IfIndex) -> Result<(), FilterError> {
        for (place, _) in Place::ALL {
            self.drop_link(ifindex, place)?;
        }
        for direction in Direction::ALL {
            self.drop_classifier(ifindex, direction)?;
        }
        self.tidy_clsact(ifindex)
    }
}

/// Notes are the targets of symbolic links: a BPF file system has no files of text.
fn write_note(path: &Path, text: &str) -> io::Result<()> {
    gone(fs::remove_file(path))?;
    symlink(text, path)
}

/// tcx is not known to kernels before 6.6, or not built in.
fn is_unknown(errno: i32) -> bool {
    matches!(errno, libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP)
}

/// Why a program is not where it shall be.
struct Refused {
    errno: Option<i32>,
    error: FilterError,
}

impl From<Refused> for FilterError {
    fn from(refused: Refused) -> FilterError {
        refused.error
    }
}

impl Refused {
    fn of(verb: &str, ifindex: IfIndex, place: Place, error: &io::Error) -> Refused {
        let errno = error.raw_os_error();
        let what = if place == Place::Xdp { "the XDP program" } else { "the tcx program" };
        let remedy = match (place, errno) {
            (Place::Xdp, Some(libc::EBUSY | libc::EEXIST)) => {
                ": another XDP program holds the device, detach it or choose hook = \"tcx\""
            }
            (Place::Xdp, Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
                ": the device takes no XDP program, choose hook = \"tcx\""
            }
            (_, Some(libc::EPERM)) => ": CAP_BPF and CAP_NET_ADMIN are needed",
            _ => "",
        };
        let error = refuse(format!("cannot {verb} {what} of device {ifindex}: {error}{remedy}"));
        Refused { errno, error }
    }

    fn classifier(verb: &str, ifindex: IfIndex, error: &io::Error) -> Refused {
        let errno = error.raw_os_error();
        let remedy = match errno {
            Some(libc::EPERM) => ": CAP_NET_ADMIN is needed",
            Some(libc::ENOENT | libc::EOPNOTSUPP) => {
                ": the kernel needs the modules sch_ingress and cls_bpf"
            }
            Some(libc::EINVAL | libc::EEXIST) => {
                ": another tc filter or an ingress qdisc is in the way, see `tc qdisc` and `tc \
                 filter`"
            }
            _ => "",
        };
        let error =
            refuse(format!("cannot {verb} the tc classifier of device {ifindex}: {error}{remedy}"));
        Refused { errno, error }
    }
}
