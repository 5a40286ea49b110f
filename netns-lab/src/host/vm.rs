//! Booting a Debian kernel in QEMU.
//!
//! Two read-only disks (root image, modules), one initial RAM file system with the job, virtio
//! serial ports for output and report, the kernel's own messages in a file. Nothing of the host's
//! file tree is visible inside, and nothing written inside survives.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::equipment::Equipment;
use super::kernel::Kernel;
use super::machine::{Face, Machine, Payload};

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor, by `/dev/kvm`.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl std::fmt::Display for Accelerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Accelerator::Kvm => "KVM",
            Accelerator::Tcg => "emulation",
        })
    }
}

/// How large a machine is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Virtual processors.
    pub cpus: usize,
    /// Memory; only what the guest touches is taken from the host.
    pub mebibytes: u64,
}

/// Boots `kernel` with `payload`; files of this boot go to `dir`.
pub fn boot(
    equipment: &Equipment,
    kernel: &Kernel,
    payload: &Payload,
    accelerator: Accelerator,
    size: Size,
    dir: &Path,
) -> Result<Machine> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let run = "/lab/netns-lab guest /dev/lab/report";
    let end = "echo o > /proc/sysrq-trigger\nsleep 60\n";
    let command = match payload.face {
        Face::Terminal => format!(
            "stty rows ${{LINES:-24}} columns ${{COLUMNS:-80}} < /dev/hvc0\n\
             setsid --ctty --wait {run} < /dev/hvc0 > /dev/hvc0 2>&1\n{end}"
        ),
        Face::Hidden | Face::Output => {
            format!("{run} < {} > /dev/lab/output 2>&1\n{end}", payload.stdin())
        }
    };
    let initramfs = dir.join("initramfs");
    let mut file = File::create(&initramfs).context("cannot make a boot's initramfs")?;
    file.write_all(&fs::read(kernel.initramfs()).context("cannot read a kernel's initramfs")?)?;
    file.write_all(&payload.archive(&command)?)?;

    let mut qemu = equipment.qemu();
    qemu.args(["-M", "q35", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    match accelerator {
        Accelerator::Kvm => qemu.args(["-accel", "kvm", "-cpu", "host"]),
        // qemu64 lacks AVX, and so the guest's cryptography does not wade through its emulation.
        Accelerator::Tcg => qemu.args(["-accel", "tcg,thread=multi", "-cpu", "qemu64"]),
    };
    qemu.args(["-smp", &size.cpus.to_string(), "-m", &size.mebibytes.to_string()]);
    qemu.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(initramfs);
    // panic=-1: a panic reboots at once, which -no-reboot turns into the end.
    qemu.args([
        "-append",
        "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nokaslr tsc=reliable",
    ]);
    qemu.arg("-serial").arg(format!("file:{}", dir.join("console").display()));
    for image in [equipment.image(), kernel.modules()] {
        let image = image.display();
        qemu.args(["-drive", &format!("if=virtio,format=raw,readonly=on,file={image}")]);
    }
    qemu.args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
    let report = dir.join("report");
    qemu.args(["-chardev", &format!("file,id=report,append=on,path={}", report.display())]);
    qemu.args(["-device", "virtserialport,chardev=report,name=report"]);
    match payload.face {
        Face::Terminal => {
            qemu.args(["-chardev", "stdio,id=output,signal=off"]);
            qemu.args(["-device", "virtconsole,chardev=output"]);
        }
        // Not `stdio`: an input at its end would count as a port that nobody listens to, and block
        // the guest's first write for ever.
        Face::Hidden | Face::Output => {
            qemu.args(["-chardev", "file,id=output,append=on,path=/dev/stdout"]);
            qemu.args(["-device", "virtserialport,chardev=output,name=output"]);
        }
    }
    Machine::start(&qemu, dir, payload.face)
}
