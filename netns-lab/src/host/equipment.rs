//! All a run needs from outside, found or made: the guest's root, the tools, kernels, QEMU.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::apt::{Apt, TOOLS_SUITE};
use super::birds;
use super::kernel::{self, Kernel, Missing, Wanted};
use super::root::{self, Recipe, Root};

/// What scenarios and labbers find in the guest.
const GUEST_PACKAGES: &[&str] = &[
    "babeld",
    "base-passwd",
    "bash",
    "bird2",
    "dash",
    "debianutils",
    "coreutils",
    "diffutils",
    "dpkg",
    "ethtool",
    "findutils",
    "frr",
    "gawk",
    "grep",
    "hostname",
    "gzip",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "jq",
    "kmod",
    "less",
    "libc-bin",
    "mount",
    "ncurses-base",
    "nftables",
    "procps",
    "sed",
    "socat",
    "strace",
    "systemd",
    "tcpdump",
    "traceroute",
    "util-linux",
    "vim-tiny",
    "wireguard-tools",
];
/// What prepares and runs machines.
const TOOLS_PACKAGES: &[&str] = &[
    "busybox-static",
    "kmod",
    "libc-bin",
    "qemu-system-x86",
    "squashfs-tools",
    "xz-utils",
    "zstd",
];
/// Users that maintainer scripts would have made.
const USERS: &[(&str, u32)] = &[("bird", 901), ("frr", 902), ("frrvty", 903), ("tcpdump", 904)];
/// QEMU before this is not trusted: 7.2 corrupts guests, nothing between was tested.
const QEMU_MINIMUM: u32 = 8;

/// The lab cannot run on this kind of machine at all.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unsupported(pub String);

/// The parts of the lab that lie in the cache.
#[derive(Debug)]
pub struct Equipment {
    /// The guest's root, with the host's own C library, so that what was built here runs there.
    pub guest: Root,
    tools: Root,
    apt: Apt,
    cache: PathBuf,
    /// Keeps other runs from changing the cache while this one sets it up.
    lock: Option<File>,
}

impl Equipment {
    /// Sets the cache up.
    pub fn obtain(cache: &Path, say: &dyn Fn(&str)) -> Result<Equipment> {
        if !cfg!(target_arch = "x86_64") {
            return Err(Unsupported("the lab's machines are x86-64 only".to_owned()).into());
        }
        fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
        let lock = File::create(cache.join("lock")).context("cannot make the cache's lock")?;
        lock.lock().context("cannot lock the cache")?;
        let apt = Apt::new(&cache.join("apt"))?;
        if !apt.is_fresh() {
            say("fetching package lists");
            if let Err(error) = apt.update() {
                // Perhaps offline: what was set up before still serves.
                ensure!(cache.join("guest").exists(), "cannot fetch package lists: {error:#}");
                say(&format!(
                    "using what is in the cache, for package lists cannot be fetched: {error:#}"
                ));
            }
        }
        let recipe = Recipe {
            name: "tools",
            packages: TOOLS_PACKAGES,
            suite: TOOLS_SUITE.to_owned(),
            parts: &[],
        };
        let tools = Root::obtain(cache, &recipe, &apt, say, |_| Ok(()))?;
        let suite = apt.codename().to_owned();
        let birds = birds::obtain(cache, &apt, say)?;
        let recipe = Recipe { name: "guest", packages: GUEST_PACKAGES, suite, parts: &birds };
        let guest = Root::obtain(cache, &recipe, &apt, say, |root| {
            complete(&root.path())?;
            birds::install(&birds, &root.path())?;
            tools.squash(&root.path(), &root.beside("image.squashfs"))
        })?;
        Ok(Equipment { guest, tools, apt, cache: cache.to_owned(), lock: Some(lock) })
    }

    /// The kernels wanted, each once, oldest first; and those that Debian does not offer.
    pub fn kernels(
        &self,
        wanted: &[Wanted],
        say: &dyn Fn(&str),
    ) -> Result<(Vec<Kernel>, Vec<Missing>)> {
        if wanted.is_empty() {
            return Ok(Default::default());
        }
        let offers = kernel::offers(&self.apt.show(kernel::PACKAGES)?);
        let (chosen, missing) = kernel::choose_all(&offers, wanted);
        let cache = self.cache.join("kernels");
        let obtain = |offer| Kernel::obtain(&cache, offer, &self.apt, &self.tools, say);
        let kernels: Result<_> = chosen.into_iter().map(obtain).collect();
        Ok((kernels?, missing))
    }

    /// A command that starts QEMU.
    pub fn qemu(&self) -> Command {
        if host_qemu().is_some_and(|major| major >= QEMU_MINIMUM) {
            return Command::new("qemu-system-x86_64");
        }
        let mut command = self.tools.command("usr/bin/qemu-system-x86_64");
        for folder in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(self.tools.path().join(folder));
        }
        command
    }

    /// A file or folder of the cache that something else keeps.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.cache.join(name)
    }

    /// The guest root's image.
    pub fn image(&self) -> PathBuf {
        self.guest.beside("image.squashfs")
    }

    /// Lets other runs set the cache up again. Images in use stay alive without their names.
    pub fn unlock(&mut self) {
        self.lock = None;
    }
}

/// Does what the maintainer scripts of a root's packages would have done and the lab needs.
fn complete(root: &Path) -> Result<()> {
    let etc = root.join("etc");
    let read = |name: &str| {
        let file = root.join("usr/share/base-passwd").join(name);
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    };
    let (mut passwd, mut group) = (read("passwd.master")?, read("group.master")?);
    for (name, id) in USERS {
        passwd.push_str(&format!("{name}:x:{id}:{id}::/nonexistent:/usr/sbin/nologin\n"));
        // zebra and its kin insist that whoever they run as is in frrvty.
        let members = if *name == "frrvty" { "root,frr" } else { "" };
        group.push_str(&format!("{name}:x:{id}:{members}\n"));
    }
    // `*` in the master copy means no password; without a shadow file that is what is wanted.
    let files = [
        ("passwd", passwd),
        ("group", group),
        ("hosts", "127.0.0.1 localhost lab\n::1 localhost lab\n".to_owned()),
        ("hostname", "lab\n".to_owned()),
    ];
    for (name, text) in files {
        fs::write(etc.join(name), text).with_context(|| format!("cannot write /etc/{name}"))?;
    }
    // What pam-auth-update(8) would have written; vtysh asks for it.
    for kind in ["auth", "account", "password", "session"] {
        let file = etc.join("pam.d").join(format!("common-{kind}"));
        fs::write(&file, format!("{kind} required pam_permit.so\n"))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    for folder in ["dev", "proc", "sys", "run", "tmp", "lab", "root", "var/log/frr"] {
        let folder = root.join(folder);
        if !folder.exists() {
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {folder:?}"))?;
        }
    }
    let temporary = fs::Permissions::from_mode(0o1777);
    fs::set_permissions(root.join("tmp"), temporary).context("cannot open /tmp to everybody")?;
    // Debian makes these by script: the alternatives system, and base-files.
    let links = [
        ("usr/bin/awk", "gawk"),
        ("usr/bin/vi", "vim.tiny"),
        ("usr/bin/which", "which.debianutils"),
        ("var/run", "/run"),
        ("var/lock", "/run/lock"),
    ];
    for (name, target) in links {
        let link = root.join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(target, &link).context("cannot link an alternative")?;
        }
    }
    root::check(Command::new(root.join("usr/sbin/ldconfig")).arg("-r").arg(root)).map(drop)
}

/// The major version of the QEMU installed on this machine, if one is.
fn host_qemu() -> Option<u32> {
    let output = Command::new("qemu-system-x86_64").arg("--version").output().ok()?;
    parse_qemu_version(&String::from_utf8_lossy(&output.stdout))
}

fn parse_qemu_version(text: &str) -> Option<u32> {
    text.split_once("version ")?.1.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_version() {
        let text = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright";
        assert_eq!(parse_qemu_version(text), Some(7));
        assert_eq!(parse_qemu_version("QEMU emulator version 10.0.13"), Some(10));
        assert_eq!(parse_qemu_version("not found"), None);
    }
}
