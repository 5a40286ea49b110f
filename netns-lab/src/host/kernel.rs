//! Debian's cloud kernels: which are on offer, and making one bootable.
//!
//! The compressed image is booted as it is: QEMU's PVH entry for a bare ELF image would save
//! 0.4 s a boot and cost four decompressors. All modules travel as an image of their own and load
//! on demand; the initial RAM file system holds only what it takes to mount that.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::apt::Apt;
use super::cpio::Cpio;
use super::root::{self, Root};
use super::sources::Stanza;

/// What the initial RAM file system loads, dependencies aside.
const BOOT_MODULES: [&str; 6] =
    ["virtio_pci", "virtio_rng", "virtio_blk", "virtio_console", "squashfs", "overlay"];
/// Every package a kernel may be made of.
pub const PACKAGES: &str = r"^linux-(image|binary|modules|base)-[0-9].*-cloud-amd64$";
/// Counts changes of how a kernel is prepared.
const REVISION: u32 = 2;
const MANIFEST: &str = "manifest";

/// A kernel somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The newest on offer.
    Newest,
    /// The newest whose version begins with these numbers.
    Version(Vec<u64>),
}

/// A kernel on offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its release, as uname(1) will say.
    pub release: String,
    /// The packages to unpack, with their versions.
    pub packages: Vec<(String, String)>,
}

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its release.
    pub release: String,
    dir: PathBuf,
}

impl std::str::FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Wanted, String> {
        if text == "newest" {
            return Ok(Wanted::Newest);
        }
        let numbers: Result<Vec<_>, _> = text.split('.').map(str::parse).collect();
        numbers
            .map(Wanted::Version)
            .map_err(|_| format!("`{text}` is not `newest`, `host` or a version such as 6.12"))
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wanted::Newest => f.write_str("newest"),
            Wanted::Version(numbers) => {
                let numbers: Vec<_> = numbers.iter().map(u64::to_string).collect();
                f.write_str(&numbers.join("."))
            }
        }
    }
}

/// The numbers of a kernel release, for comparison.
fn numbers(release: &str) -> Vec<u64> {
    let version = release.trim_end_matches("-cloud-amd64");
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// The kernels that can be put together from the packages listed, oldest first. Debian removes
/// parts of old kernels from the index before others, and splits an image from 6.19 on.
pub fn offers(packages: &[Stanza]) -> Vec<Offer> {
    let field = |stanza: &Stanza, name: &str| stanza.get(name).cloned().unwrap_or_default();
    let mut known = BTreeMap::new();
    for stanza in packages {
        // The first version listed is the candidate.
        known.entry(field(stanza, "package")).or_insert(stanza);
    }
    let mut offers = Vec::new();
    for (name, stanza) in &known {
        let Some(release) = name.strip_prefix("linux-image-") else { continue };
        let depends = field(stanza, "depends");
        let parts: Vec<_> = depends
            .split([',', '|'])
            .filter_map(|one| one.split_whitespace().next())
            .filter(|one| one.starts_with("linux-") && one.ends_with(release))
            .map(str::to_owned)
            .collect();
        let needed = if parts.is_empty() { vec![name.clone()] } else { parts };
        let versions = needed.into_iter().map(|one| {
            let version = known.get(&one).map(|stanza| field(stanza, "version"))?;
            Some((one, version))
        });
        if let Some(packages) = versions.collect() {
            offers.push(Offer { release: release.to_owned(), packages });
        }
    }
    offers.sort_by_key(|offer| numbers(&offer.release));
    offers
}

/// The newest offer that is `wanted`; `offers` are sorted.
pub fn choose<'a>(offers: &'a [Offer], wanted: &Wanted) -> Option<&'a Offer> {
    offers.iter().rev().find(|offer| match wanted {
        Wanted::Newest => true,
        Wanted::Version(prefix) => numbers(&offer.release).starts_with(prefix),
    })
}

/// A kernel that is wanted and not on offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The kernel.
    pub wanted: Wanted,
    /// What there is instead.
    pub reason: String,
}

/// For each that is wanted its newest offer, each once, oldest first; and what has none. `offers`
/// are sorted.
pub fn choose_all<'a>(offers: &'a [Offer], wanted: &[Wanted]) -> (Vec<&'a Offer>, Vec<Missing>) {
    let mut chosen = Vec::new();
    let mut missing = Vec::new();
    for one in wanted {
        if let Some(offer) = choose(offers, one) {
            chosen.push(offer);
        } else {
            let releases: Vec<_> = offers.iter().map(|offer| offer.release.as_str()).collect();
            let releases = releases.join(", ");
            let reason =
                format!("Debian offers no cloud kernel {one} that is whole (it offers {releases})");
            missing.push(Missing { wanted: one.clone(), reason });
        }
    }
    chosen.sort_by_key(|offer| offers.iter().position(|own| own == *offer));
    chosen.dedup();
    (chosen, missing)
}

impl Kernel {
    /// Finds the kernel in `cache`, or downloads and prepares it.
    pub fn obtain(
        cache: &Path,
        offer: &Offer,
        apt: &Apt,
        tools: &Root,
        say: &dyn Fn(&str),
    ) -> Result<Kernel> {
        let kernel = Kernel { release: offer.release.clone(), dir: cache.join(&offer.release) };
        let manifest = format!("{REVISION} {:?}\n", offer.packages);
        if fs::read_to_string(kernel.dir.join(MANIFEST)).is_ok_and(|text| text == manifest) {
            return Ok(kernel);
        }
        say(&format!("kernel {}: unpacking", offer.release));
        let new = Kernel { dir: cache.join(format!("{}.new", offer.release)), ..kernel.clone() };
        root::remove(&new.dir)?;
        let unpacked = new.dir.join("unpacked");
        fs::create_dir_all(unpacked.join("usr/lib")).context("cannot make a kernel's folder")?;
        std::os::unix::fs::symlink("usr/lib", unpacked.join("lib")).context("cannot link")?;
        let names: Vec<_> = offer.packages.iter().map(|(name, _)| name.clone()).collect();
        apt.download(&names, &new.dir)?;
        for entry in fs::read_dir(&new.dir)? {
            let file = entry?.path();
            if file.extension().is_some_and(|extension| extension == "deb") {
                root::unpack(&file, &unpacked)?;
                fs::remove_file(&file)?;
            }
        }
        new.assemble(&unpacked, tools)?;
        root::remove(&unpacked)?;
        fs::write(new.dir.join(MANIFEST), manifest).context("cannot write a manifest")?;
        root::remove(&kernel.dir)?;
        fs::rename(&new.dir, &kernel.dir).context("cannot put a kernel in its place")?;
        Ok(kernel)
    }

    /// The compressed kernel image.
    pub fn image(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// The image of its modules.
    pub fn modules(&self) -> PathBuf {
        self.dir.join("modules.squashfs")
    }

    /// The initial RAM file system.
    pub fn initramfs(&self) -> PathBuf {
        self.dir.join("initramfs")
    }

    fn assemble(&self, unpacked: &Path, tools: &Root) -> Result<()> {
        let modules = unpacked.join("usr/lib/modules").join(&self.release);
        let places =
            [unpacked.join(format!("boot/vmlinuz-{}", self.release)), modules.join("vmlinuz")];
        let image = places.iter().find(|place| place.exists());
        let image = image.with_context(|| format!("{} came without a kernel", self.release))?;
        fs::rename(image, self.image()).context("cannot keep the kernel image")?;
        let mut depmod = tools.applet("usr/bin/kmod", "depmod");
        root::check(depmod.arg("--basedir").arg(unpacked).arg(&self.release))?;
        let dependencies =
            fs::read_to_string(modules.join("modules.dep")).context("no modules.dep")?;
        let mut cpio = Cpio::default();
        for folder in ["proc", "sys", "dev", "image", "upper", "new"] {
            cpio.folder(folder);
        }
        cpio.file("init", include_bytes!("init.sh"));
        let busybox = fs::read(tools.path().join("usr/bin/busybox")).context("no busybox")?;
        cpio.file("bin/busybox", &busybox);
        for (index, path) in load_order(&dependencies, &BOOT_MODULES).iter().enumerate() {
            let module = plain(&modules.join(path), tools)?;
            let name = path.rsplit('/').next().unwrap_or(path);
            let name = name.split('.').next().unwrap_or(name);
            cpio.file(&format!("modules/{index:02}-{name}.ko"), &module);
        }
        fs::write(self.initramfs(), cpio.finish()).context("cannot write the initramfs")?;
        tools.squash(&modules, &self.modules())
    }
}

/// The paths of `wanted` modules and all they depend on, in the order to load them. Modules that
/// are built in are not listed in `modules.dep`, and not needed.
fn load_order(dependencies: &str, wanted: &[&str]) -> Vec<String> {
    let name = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        file.split('.').next().unwrap_or(file).replace('-', "_")
    };
    let mut order: Vec<String> = Vec::new();
    for module in wanted {
        let Some((path, needs)) = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(path, _)| name(path) == *module)
        else {
            continue;
        };
        // modules.dep(5) lists what must be loaded first last.
        for path in needs.split_whitespace().rev().chain([path]) {
            if !order.iter().any(|own| own == path) {
                order.push(path.to_owned());
            }
        }
    }
    order
}

/// A module's content, decompressed if need be.
fn plain(module: &Path, tools: &Root) -> Result<Vec<u8>> {
    let program = match module.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "usr/bin/xz",
        Some("zst") => "usr/bin/zstd",
        _ => return fs::read(module).with_context(|| format!("cannot read {}", module.display())),
    };
    root::check(tools.command(program).args(["--decompress", "--stdout"]).arg(module))
}

#[cfg(test)]
mod tests {
    use super::super::sources::stanzas;
    use super::*;

    const INDEX: &str = "\
Package: linux-image-6.1.0-50-cloud-amd64
Version: 6.1.176-1
Depends: kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.120+deb11u2) | linux-initramfs-tool

Package: linux-image-6.1.0-9-cloud-amd64
Version: 6.1.27-1
Depends: kmod

Package: linux-image-6.12.107+deb13-cloud-amd64
Version: 6.12.107-1
Depends: kmod

Package: linux-image-6.19.10+deb13-cloud-amd64
Version: 6.19.10-1
Depends: linux-base-6.19.10+deb13-cloud-amd64 (= 6.19.10-1), linux-binary-6.19.10+deb13-cloud-amd64, linux-modules-6.19.10+deb13-cloud-amd64 (= 6.19.10-1)

Package: linux-binary-6.19.10+deb13-cloud-amd64
Version: 6.19.10-1

Package: linux-image-7.2.12+deb13-cloud-amd64
Version: 7.2.12-1
Depends: linux-binary-7.2.12+deb13-cloud-amd64 (= 7.2.12-1), linux-modules-7.2.12+deb13-cloud-amd64 (= 7.2.12-1), linux-base (>= 4.3~)

Package: linux-modules-7.2.12+deb13-cloud-amd64
Version: 7.2.12-1

Package: linux-binary-7.2.12+deb13-cloud-amd64
Version: 7.2.12-1

Package: linux-modules-7.3.4+deb13-cloud-amd64
Version: 7.3.4-1
";

    fn release(wanted: &str) -> Option<String> {
        let offers = offers(&stanzas(INDEX));
        let wanted = wanted.parse().expect("a version");
        Some(choose(&offers, &wanted)?.release.clone())
    }

    #[test]
    fn the_newest_that_is_whole_is_chosen() {
        assert_eq!(release("newest").as_deref(), Some("7.2.12+deb13-cloud-amd64"));
        assert_eq!(release("6.1").as_deref(), Some("6.1.0-50-cloud-amd64"));
        assert_eq!(release("6.12").as_deref(), Some("6.12.107+deb13-cloud-amd64"));
        assert_eq!(release("6.19"), None, "its modules are gone");
        assert_eq!(release("7.3"), None, "its image is gone");
        assert!("six".parse::<Wanted>().is_err());
    }

    #[test]
    fn a_split_kernel_needs_its_parts() {
        let offers = offers(&stanzas(INDEX));
        let names: Vec<_> =
            offers.last().expect("some").packages.iter().map(|one| &*one.0).collect();
        assert_eq!(
            names,
            ["linux-binary-7.2.12+deb13-cloud-amd64", "linux-modules-7.2.12+deb13-cloud-amd64"]
        );
    }

    #[test]
    fn a_kernel_that_is_gone_is_told_and_the_others_stay() {
        let offers = offers(&stanzas(INDEX));
        let wanted = ["newest", "6.18", "6.1", "7.2"].map(|one| one.parse().expect("a version"));
        let (chosen, missing) = choose_all(&offers, &wanted);
        let releases: Vec<_> = chosen.iter().map(|offer| offer.release.as_str()).collect();
        assert_eq!(releases, ["6.1.0-50-cloud-amd64", "7.2.12+deb13-cloud-amd64"]);
        assert!(
            matches!(&missing[..], [one] if one.wanted == wanted[1] && one.reason.contains("6.18")),
            "{missing:?}"
        );
    }

    #[test]
    fn dependencies_are_loaded_first() {
        let dependencies = "\
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/fs/overlayfs/overlay.ko.xz:
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
";
        let order = load_order(dependencies, &["virtio_pci", "virtio_blk", "absent", "overlay"]);
        let names: Vec<_> = order.iter().filter_map(|path| path.rsplit('/').next()).collect();
        assert_eq!(
            names,
            ["virtio.ko", "virtio_ring.ko", "virtio_pci.ko", "virtio_blk.ko", "overlay.ko.xz"]
        );
    }
}
