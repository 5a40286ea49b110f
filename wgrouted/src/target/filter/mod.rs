//! The packet filter in the kernel as a target.
//!
//! Here lives what the daemon asks of it: to open or adopt the maps, to change them, to attach the
//! programs, to read what they counted. What the maps shall hold is decided in
//! [`crate::core::filter`].

mod apply;
mod attach;
mod clsact;
mod error;
pub mod fake;
pub mod features;
mod generation;
mod kernel;
mod map;
mod pins;
mod policies;
mod programs;
mod read;
mod regions;
mod sys;
mod tables;
mod trivial;

pub use kernel::KernelFilter;
pub use pins::DIRECTORY;
pub use read::{Count, Events, FilterReader, Room, Samples, age_of};

use crate::core::filter::table::{
    Contents, FilterChange, FilterError, FilterPlan, FilterReport, LinkPlan, LinkState,
};

/// The maps and programs. Calls block.
pub trait FilterTarget {
    /// Adopts what an earlier daemon left in force, if it fits the plan, and gives what it holds.
    /// Otherwise makes new maps beside it, which know who the peers are (their numbers stay theirs,
    /// for flows name them) and are empty otherwise: what is attached stays in force until
    /// [`FilterTarget::attach`] puts the new programs in its place, at once.
    ///
    /// Fails, and changes nothing, if the kernel cannot do it or pins are wrong or foreign.
    fn open(&mut self, plan: &FilterPlan) -> Result<Contents, FilterError>;

    /// Applies changes in their order. One that fails costs only itself.
    fn apply(&mut self, changes: &[FilterChange]) -> Result<FilterReport, FilterError>;

    /// Attaches the programs to exactly these links: what is missing is attached, what is there
    /// but of an older object or of other maps is replaced in one step, what is ours elsewhere is
    /// detached. Costs little when nothing is to be done: it is also how a detached program is
    /// noticed. One state a link, in the order given.
    fn attach(&mut self, links: &[LinkPlan]) -> Vec<LinkState>;

    /// Reads the maps.
    fn dump(&mut self) -> Result<Contents, FilterError>;

    /// Detaches the programs and removes the pins: nothing is left.
    fn remove(&mut self) -> Result<(), FilterError>;
}
