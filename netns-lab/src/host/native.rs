//! Running a guest on the host's own kernel, when that has WireGuard.
//!
//! A private root (the guest's, under a layer of memory) in private mount, process and network
//! namespaces: no file, process, device or route of the host is within reach, and all of it
//! vanishes with its first process.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::equipment::Equipment;
use super::machine::{Face, Machine, Payload};

/// Why scenarios cannot run on this kernel, or `None` if they can. Asks the kernel by making a
/// device in a namespace that nobody sees, which also loads the module.
pub fn obstacle(equipment: &Equipment) -> Option<String> {
    let ip = equipment.guest.command("usr/bin/ip");
    let probe = Command::new("unshare")
        .arg("--net")
        .arg(ip.get_program())
        .args(ip.get_args())
        .args(["link", "add", "lab0", "type", "wireguard"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output();
    match probe {
        Err(error) => Some(format!("cannot start unshare(1): {error}")),
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            Some(text.lines().next().unwrap_or("no reason given").trim().to_owned())
        }
    }
}

/// Whether this process may make namespaces and mounts at all.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Starts `payload` in a private root on this kernel; files of this run go to `dir`.
pub fn start(equipment: &Equipment, payload: &Payload, dir: &Path) -> Result<Machine> {
    let lab = dir.join("lab");
    fs::create_dir_all(&lab).with_context(|| format!("cannot make {}", lab.display()))?;
    let run = "/lab/netns-lab guest /lab/port/report";
    let command = match payload.face {
        Face::Terminal => format!("exec {run}\n"),
        Face::Hidden | Face::Output => format!("exec {run} < {} 2>&1\n", payload.stdin()),
    };
    for (name, content) in payload.files(&command)? {
        let file = lab.join(name);
        let folder = file.parent().unwrap_or(&lab);
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot open {} to be run", file.display()))?;
    }
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"])
        .args(["sh", "-c", include_str!("native.sh"), "native"])
        .arg(equipment.guest.path())
        .arg(dir);
    Machine::start(&unshare, dir, payload.face)
}
