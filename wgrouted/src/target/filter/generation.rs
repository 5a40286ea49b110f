//! A generation: maps of one version and size, and the programs that use them.
//!
//! Here lives how one is adopted or made. Invariant: a generation is made beside the others and
//! touches none of them.

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use super::{
    error::failed,
    pins::{self, Pins, cannot},
    programs::{self, Programs},
    sys::{self, Pinned},
    tables::{self, CONVERSATIONS, Fit, IDENTITIES, Shape, Tables},
};
use crate::core::filter::table::{FilterError, FilterPlan, Identity};

/// An open generation.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) number: u32,
    pub(super) directory: PathBuf,
    pub(super) tables: Tables,
    pub(super) programs: Programs,
    /// Nobody has written into its maps yet.
    pub(super) fresh: bool,
}

impl Generation {
    /// Adopts one that fits, of several the one that is in force, else the latest; or makes one.
    pub(super) fn open(
        pins: &Pins,
        plan: &FilterPlan,
        object: &[u8],
    ) -> Result<Generation, FilterError> {
        pins.check()?;
        pins::remove_tree(&pins.half_made())?;
        let mut numbers = pins.generations()?;
        let latest = numbers.last().copied();
        let current = pins.current();
        // Stable: what is in force comes last, where the search begins.
        numbers.sort_by_key(|number| Some(*number) == current);
        for number in numbers.into_iter().rev() {
            let directory = pins.generation(number);
            if let Fit::Fits(tables) = Tables::adopt(&directory, &plan.sizes)? {
                return Generation::adopt(number, directory, *tables, plan, object);
            }
        }
        let number = latest.map_or(1, |latest| latest.wrapping_add(1));
        make(pins, number, plan, object)?;
        let directory = pins.generation(number);
        let tables = Tables::open(&directory)?;
        let mut generation = Generation::adopt(number, directory, tables, plan, object)?;
        generation.fresh = true;
        Ok(generation)
    }

    fn adopt(
        number: u32,
        directory: PathBuf,
        tables: Tables,
        plan: &FilterPlan,
        object: &[u8],
    ) -> Result<Generation, FilterError> {
        tables
            .configure(&plan.sizes, plan.samples_per_second)
            .map_err(|error| failed("write the filter's settings", &error))?;
        let programs = match Programs::open(&directory, object)? {
            Some(programs) => programs,
            None => {
                programs::load(&directory, object, &tables::shapes(&plan.sizes))?;
                Programs::open(&directory, object)?.ok_or_else(|| {
                    cannot("find", &directory, &std::io::ErrorKind::NotFound.into())
                })?
            }
        };
        Ok(Generation { number, directory, tables, programs, fresh: false })
    }
}

/// Makes a generation. It keeps what outlives one: conversations, and the peers' numbers, by which
/// these remember who began.
fn make(pins: &Pins, number: u32, plan: &FilterPlan, object: &[u8]) -> Result<(), FilterError> {
    let new = pins.half_made();
    fs::create_dir(&new).map_err(|error| cannot("make", &new, &error))?;
    let shapes = tables::shapes(&plan.sizes);
    let old = pins.current().map(|number| pins.generation(number));
    let old_sizes = old.as_deref().filter(|old| Tables::is_of_this_version(old));
    if let Some(old) = old_sizes {
        for shape in shapes.iter().filter(|shape| CONVERSATIONS.contains(&shape.name)) {
            inherit(old, &new, shape)?;
        }
    }
    let made = (|| {
        let identities = shapes.iter().find(|shape| shape.name == IDENTITIES);
        let Some(identities) = identities else { return Ok(()) };
        let map = sys::create_map(identities.kind, IDENTITIES)?;
        sys::pin(map.as_fd(), &new.join(IDENTITIES))
    })();
    made.map_err(|error| failed("make the filter's maps", &error))?;
    programs::load(&new, object, &shapes)?;
    let tables = Tables::open(&new)?;
    let written = tables.configure(&plan.sizes, plan.samples_per_second).and_then(|()| {
        let known = old_sizes.map(read_identities).unwrap_or_default();
        for (id, identity) in known {
            if id < tables.identities.entries() {
                tables.identities.set(&id, &tables::Who::from(Some(identity)))?;
            }
        }
        Ok(())
    });
    written.map_err(|error| failed("write the filter's maps", &error))?;
    let whole = pins.generation(number);
    fs::rename(&new, &whole).map_err(|error| cannot("make", &whole, &error))
}

/// Who the peers of an older generation are; nobody, if that cannot be read.
fn read_identities(directory: &Path) -> Vec<(u32, Identity)> {
    Tables::open(directory).ok().and_then(|tables| tables.identities().ok()).unwrap_or_default()
}

/// Pins an older generation's map in the new one, if it is what that wants.
fn inherit(old: &Path, new: &Path, shape: &Shape) -> Result<(), FilterError> {
    let Ok(fd) = sys::open(&old.join(shape.name), Pinned::Map) else { return Ok(()) };
    let fits = sys::map_info(fd.as_fd()).is_ok_and(|info| {
        (info.kind, info.key, info.value, info.entries)
            == (shape.kind.kind, shape.kind.key, shape.kind.value, shape.kind.entries)
    });
    if !fits {
        return Ok(());
    }
    let path = new.join(shape.name);
    sys::pin(fd.as_fd(), &path).map_err(|error| cannot("make", &path, &error))
}
