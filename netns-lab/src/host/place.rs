//! Where scenarios run: the host's kernel, or a Debian kernel in a virtual machine.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::protocol::{Job, Message};

use super::equipment::Equipment;
use super::kernel::{Kernel, Missing, Wanted};
use super::machine::{Event, Face, Machine, Payload};
use super::vm::{self, Accelerator, Size};
use super::{native, root};

/// What continuous integration covers: the oldest supported kernel, and the newest, which can
/// remove a single AllowedIP (since Linux 6.16).
const DEFAULT_KERNELS: [&str; 2] = ["6.1", "newest"];
/// What `--all-kernels` stands for.
const ALL_KERNELS: [&str; 4] = ["6.1", "6.12", "6.18", "newest"];
/// How long a kernel may take to boot under KVM before that counts as useless.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// A kernel to run scenarios on, and how to get there.
#[derive(Clone, Debug)]
pub enum Place {
    /// The host's own.
    Host {
        /// Whether it has WireGuard.
        wireguard: bool,
    },
    /// A Debian kernel in a machine.
    Vm(Kernel, Accelerator),
}

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The host's kernel if it will do, else machines with the default kernels.
    Auto,
    /// These.
    Kernels {
        /// Whether the host's is among them.
        host: bool,
        /// The others.
        wanted: Vec<Wanted>,
        /// Whether one of them may be missing: Debian drops old kernels.
        lenient: bool,
    },
}

impl Choice {
    /// Reads the values of `--kernel`; none means [`Choice::Auto`].
    pub fn parse(values: &[String], all: bool) -> Result<Choice, String> {
        let mut words: Vec<&str> = values.iter().flat_map(|value| value.split(',')).collect();
        if all {
            words.extend(ALL_KERNELS);
        }
        if words.is_empty() {
            return Ok(Choice::Auto);
        }
        let host = words.contains(&"host");
        let others = words.into_iter().filter(|word| *word != "host");
        let wanted = others.map(str::parse).collect::<Result<_, _>>()?;
        Ok(Choice::Kernels { host, wanted, lenient: all })
    }
}

impl Place {
    /// The places for `choice`, the newest kernel last, and the kernels that it does without. Says
    /// what it chose and why. With `single`, only the one that represents them best: the last.
    pub fn choose(
        equipment: &Equipment,
        payload: &Payload,
        choice: &Choice,
        single: bool,
        say: &dyn Fn(&str),
    ) -> Result<(Vec<Place>, Vec<Missing>)> {
        let (host, wanted, lenient) = match choice {
            Choice::Auto => match native::obstacle(equipment) {
                None => (true, Vec::new(), false),
                Some(reason) => {
                    say(&format!("this kernel has no usable WireGuard ({reason}): using machines"));
                    let wanted = DEFAULT_KERNELS.iter().skip(usize::from(single));
                    let parse = |text: &&str| text.parse().expect("constants of the right form");
                    (false, wanted.map(parse).collect(), false)
                }
            },
            Choice::Kernels { host, wanted, lenient } => (*host, wanted.clone(), *lenient),
        };
        let mut places = Vec::new();
        if host {
            say("running on this machine's own kernel, in private namespaces");
            places.push(Place::Host { wireguard: true });
        }
        let (kernels, missing) = equipment.kernels(&wanted, say)?;
        if let Some(Missing { reason, .. }) = missing.first().filter(|_| !lenient) {
            bail!("{reason}");
        }
        if let Some(kernel) = kernels.last() {
            let accelerator = accelerator(equipment, kernel, payload)?;
            for kernel in kernels {
                say(&format!("kernel {} in QEMU, by {accelerator}", kernel.release));
                places.push(Place::Vm(kernel, accelerator));
            }
        }
        if single {
            places.drain(..places.len().saturating_sub(1));
        }
        Ok((places, missing))
    }

    /// Whether WireGuard is there.
    pub fn has_wireguard(&self) -> bool {
        matches!(self, Place::Vm(..) | Place::Host { wireguard: true })
    }

    /// A short name, also used for folders.
    pub fn name(&self) -> String {
        match self {
            Place::Host { .. } => "host".to_owned(),
            Place::Vm(kernel, _) => kernel.release.trim_end_matches("-cloud-amd64").to_owned(),
        }
    }

    /// Starts a guest here.
    pub fn start(
        &self,
        equipment: &Equipment,
        payload: &Payload,
        size: Size,
        dir: &Path,
    ) -> Result<Machine> {
        match self {
            Place::Host { .. } => native::start(equipment, payload, dir),
            Place::Vm(kernel, accelerator) => {
                vm::boot(equipment, kernel, payload, *accelerator, size, dir)
            }
        }
    }
}

/// The best accelerator that boots `kernel`, and so any. `/dev/kvm` may be there and still be of no use for a
/// stock kernel (nested, restricted), so it is tried; the answer holds until the host reboots.
fn accelerator(equipment: &Equipment, kernel: &Kernel, payload: &Payload) -> Result<Accelerator> {
    if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accelerator::Tcg);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("no boot id")?;
    let cache = equipment.beside("kvm");
    let known = fs::read_to_string(&cache).unwrap_or_default();
    let boots = match known.strip_prefix(boot.trim()) {
        Some(answer) => answer == " yes",
        None => {
            let boots = boots_by_kvm(equipment, kernel, payload)?;
            let answer = if boots { "yes" } else { "no" };
            fs::write(&cache, format!("{} {answer}", boot.trim()))
                .context("cannot keep whether KVM is of use")?;
            boots
        }
    };
    Ok(if boots { Accelerator::Kvm } else { Accelerator::Tcg })
}

fn boots_by_kvm(equipment: &Equipment, kernel: &Kernel, payload: &Payload) -> Result<bool> {
    let dir = equipment.beside("kvm-probe");
    let payload =
        Payload { job: Job::Probe, face: Face::Hidden, prefixes: None, ..payload.clone() };
    let size = Size { cpus: 1, mebibytes: 512 };
    let mut machine = vm::boot(equipment, kernel, &payload, Accelerator::Kvm, size, &dir)?;
    let deadline = Instant::now() + PROBE_LIMIT;
    let booted = loop {
        match machine.next(deadline)? {
            Event::Message(Message::Done) => break true,
            Event::Message(_) => {}
            Event::Ended(_) | Event::Silent => break false,
        }
    };
    drop(machine);
    root::remove(&dir)?;
    Ok(booted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_options() {
        let parse = |values: &[&str], all| {
            Choice::parse(&values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>(), all)
        };
        assert_eq!(parse(&[], false), Ok(Choice::Auto));
        let wanted = vec![Wanted::Version(vec![6, 1]), Wanted::Newest];
        assert_eq!(
            parse(&["6.1,newest"], false),
            Ok(Choice::Kernels { host: false, wanted: wanted.clone(), lenient: false })
        );
        assert_eq!(
            parse(&["host", "6.1", "newest"], false),
            Ok(Choice::Kernels { host: true, wanted, lenient: false })
        );
        assert!(matches!(
            parse(&[], true),
            Ok(Choice::Kernels { wanted, lenient: true, .. }) if wanted.len() == 4
        ));
        assert!(parse(&["6.x"], false).is_err());
    }
}
