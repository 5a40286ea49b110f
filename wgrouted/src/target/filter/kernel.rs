//! The packet filter of the running kernel.
//!
//! Here lives [`KernelFilter`], which puts the parts together: pins, a generation of maps and
//! programs, what writes the maps, what is attached. It decides nothing about packets.

use std::{collections::BTreeSet, path::PathBuf};

use super::{
    FilterTarget,
    apply::Writer,
    attach::Attachments,
    error::{failed, refuse},
    generation::Generation,
    pins::{self, Pins},
    programs::Programs,
    sys,
};
use crate::core::{
    filter::{
        rule::Hook,
        table::{
            Contents, FilterChange, FilterError, FilterPlan, FilterReport, LinkPlan, LinkState,
        },
    },
    route::IfIndex,
};

/// The filter. Of the network namespace of the thread that calls.
#[derive(Debug)]
pub struct KernelFilter {
    directory: PathBuf,
    object: &'static [u8],
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    pins: Pins,
    hook: Hook,
    generation: Generation,
    writer: Writer,
    attachments: Attachments,
    /// Nothing is left of other generations and objects.
    tidy: bool,
}

impl KernelFilter {
    /// A filter whose pins are below that directory, [`super::DIRECTORY`] as a rule. Does nothing
    /// yet.
    pub fn new(directory: impl Into<PathBuf>) -> KernelFilter {
        KernelFilter::with_object(directory, ebpf_xdp::object::file())
    }

    /// The same with programs of another object file.
    pub fn with_object(directory: impl Into<PathBuf>, object: &'static [u8]) -> KernelFilter {
        KernelFilter { directory: directory.into(), object, open: None }
    }

    /// Whether there is anything of an earlier daemon's.
    pub fn exists(&self) -> Result<bool, FilterError> {
        Ok(Pins::of(&self.directory)?.exist())
    }

    /// The devices that an earlier daemon's programs are attached to.
    pub fn devices(&self) -> Result<BTreeSet<IfIndex>, FilterError> {
        let pins = Pins::of(&self.directory)?;
        if !pins.exist() {
            return Ok(BTreeSet::new());
        }
        Ok(Attachments::read(pins.links())?.devices())
    }

    fn opened(&mut self) -> Result<&mut Open, FilterError> {
        self.open.as_mut().ok_or_else(|| refuse("the filter is not open".to_owned()))
    }
}

impl FilterTarget for KernelFilter {
    fn open(&mut self, plan: &FilterPlan) -> Result<Contents, FilterError> {
        sys::probe().map_err(|error| failed("use BPF", &error))?;
        let pins = Pins::of(&self.directory)?;
        let opened = Open::new(&pins, plan, self.object);
        let (open, contents) = opened.inspect_err(|_| pins.sweep())?;
        self.open = Some(open);
        Ok(contents)
    }

    fn apply(&mut self, changes: &[FilterChange]) -> Result<FilterReport, FilterError> {
        let open = self.opened()?;
        Ok(open.writer.apply(&open.generation.tables, changes))
    }

    fn attach(&mut self, links: &[LinkPlan]) -> Vec<LinkState> {
        let object = self.object;
        let open = match self.opened() {
            Ok(open) => open,
            Err(error) => {
                let state = |plan: &LinkPlan| LinkState {
                    ifindex: plan.ifindex,
                    hook: Err(error.clone()),
                    reattached: false,
                };
                return links.iter().map(state).collect();
            }
        };
        let states = open.attachments.attach(&open.generation.programs, open.hook, links);
        // A link whose program could not be replaced may still run an older one: that one's maps
        // are in use, and their pins are kept until it works.
        let replaced =
            |state: &LinkState| state.hook.is_ok() || !open.attachments.holds(state.ifindex);
        if !open.tidy && states.iter().all(replaced) {
            // What fails here is tried again next time; what is attached is attached.
            open.tidy = open.drop_others(object).is_ok();
        }
        states
    }

    fn dump(&mut self) -> Result<Contents, FilterError> {
        let contents = self.opened()?.generation.tables.contents();
        contents.map_err(|error| failed("read the filter's maps", &error))
    }

    fn remove(&mut self) -> Result<(), FilterError> {
        self.open = None;
        let pins = Pins::of(&self.directory)?;
        if !pins.exist() {
            return Ok(());
        }
        pins.check()?;
        Attachments::read(pins.links())?.remove()?;
        pins.remove()
    }
}

impl Open {
    fn new(pins: &Pins, plan: &FilterPlan, object: &[u8]) -> Result<(Open, Contents), FilterError> {
        pins.make()?;
        let attachments = Attachments::read(pins.links())?;
        let generation = Generation::open(pins, plan, object)?;
        let unread = |error| failed("read the filter's maps", &error);
        let contents = generation.tables.contents().map_err(unread)?;
        let writer = Writer::new(&generation.tables, generation.fresh).map_err(unread)?;
        let (pins, hook) = (pins.clone(), plan.hook);
        Ok((Open { pins, hook, generation, writer, attachments, tidy: false }, contents))
    }

    /// Says that this generation is in force, and drops the others.
    fn drop_others(&self, object: &[u8]) -> Result<(), FilterError> {
        let ours = self.generation.number;
        if self.pins.current() != Some(ours) {
            self.pins.set_current(ours)?;
        }
        for number in self.pins.generations()? {
            if number != ours {
                pins::remove_tree(&self.pins.generation(number))?;
            }
        }
        Programs::remove_others(&self.generation.directory, object)
    }
}
