//! The packet filter's object file: built from its sources, and compared with what is committed.
//!
//! Stable Rust suffices. What it lacks is fetched into the cache: the source of `core`, from the
//! Debian package that matches this rustc, and bpf-linker, which is built on the LLVM that rustc
//! brings. The toolchain itself is left as it was. The same sources give the same bytes wherever
//! they lie (`rustc.sh`), so the committed file can be verified by building it again.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::protocol::Verdict;

use super::apt::Apt;
use super::equipment::Unsupported;
use super::object::differences;
use super::root;
use super::workspace::Workspace;

/// The linker's version; a later one must still know the LLVM of the supported rustc.
const BPF_LINKER: &str = "0.13.0";
const TARGET: &str = "bpfel-unknown-none";
const PACKAGE: &str = "ebpf-xdp";
const BINARY: &str = "wgrouted-filter";
const OBJECT: &str = "ebpf-xdp/object/wgrouted.bpf.o";
const BUILDINFO: &str = "ebpf-xdp/object/BUILDINFO";
/// Stands between cargo and rustc.
const WRAPPER: &str = include_str!("rustc.sh");
const REMEDY: &str = "run `cargo lab bpf` and commit what it writes";
/// Both are meant for Rust's own build and tests; they are what there is on stable.
const BOOTSTRAP: (&str, &str) = ("RUSTC_BOOTSTRAP", "1");
const CORE_PLACE: &str = "__CARGO_TESTS_ONLY_SRC_ROOT";

/// Builds the object file and puts it, and what it was built from, in their places.
pub fn build(workspace: &Workspace, say: &dyn Fn(&str)) -> Result<()> {
    let object = Toolchain::obtain(workspace, say)?.build(workspace, say)?;
    let info = Buildinfo::of(&workspace.root, &rustc_version()?, &object)?;
    for (name, bytes) in [(OBJECT, object.as_slice()), (BUILDINFO, info.to_string().as_bytes())] {
        let file = workspace.root.join(name);
        if fs::read(&file).is_ok_and(|old| old == bytes) {
            say(&format!("{name} is up to date"));
        } else {
            fs::write(&file, bytes).with_context(|| format!("cannot write {name}"))?;
            say(&format!("{name} written ({} bytes)", bytes.len()));
        }
    }
    Ok(())
}

/// Builds the object file and compares it with the committed one.
pub fn check(workspace: &Workspace, say: &dyn Fn(&str)) -> Result<Verdict> {
    let read = |name: &str| {
        fs::read(workspace.root.join(name)).with_context(|| format!("cannot read {name}"))
    };
    let (committed, text) = (read(OBJECT)?, read(BUILDINFO)?);
    let text = String::from_utf8(text).context("BUILDINFO is no text")?;
    let built_by = text.lines().find(|line| line.starts_with("rustc ")).unwrap_or_default();
    // This takes no toolchain.
    let now = Buildinfo::of(&workspace.root, built_by, &committed)?.to_string();
    if now != text {
        let missing = now.lines().find(|line| !text.lines().any(|other| other == *line));
        let missing = missing.unwrap_or("this and no more");
        let reason = format!("{BUILDINFO} does not say `{missing}`: {REMEDY}");
        return Ok(Verdict::Failed(reason));
    }
    let rustc = rustc_version()?;
    if built_by != rustc {
        return Ok(Verdict::Skipped(format!(
            "the object was built by {built_by}, this is {rustc}"
        )));
    }
    let toolchain = match Toolchain::obtain(workspace, say) {
        Ok(toolchain) => toolchain,
        Err(error) => return Ok(Verdict::Skipped(format!("no BPF toolchain: {error:#}"))),
    };
    let differences = differences(&committed, &toolchain.build(workspace, say)?)?;
    if differences.is_empty() {
        return Ok(Verdict::Passed);
    }
    let differences = differences.join("\n");
    Ok(Verdict::Failed(format!("{OBJECT} is not what its sources give: {REMEDY}\n{differences}")))
}

/// What rustc lacks for this target.
struct Toolchain {
    sysroot: PathBuf,
    /// The folder `library` of Rust's source.
    core: PathBuf,
    linker: PathBuf,
    wrapper: PathBuf,
    cache: PathBuf,
}

impl Toolchain {
    fn obtain(workspace: &Workspace, say: &dyn Fn(&str)) -> Result<Toolchain> {
        let cache = workspace.cache.join("bpf");
        fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
        let lock = File::create(workspace.cache.join("lock")).context("cannot make a lock")?;
        lock.lock().context("cannot lock the cache")?;
        let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?);
        let core = core_source(&sysroot, workspace, &cache, say)?;
        let linker = linker(&sysroot, workspace, &cache, say)?;
        let wrapper = cache.join("rustc.sh");
        fs::write(&wrapper, WRAPPER).context("cannot write a wrapper of rustc")?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))
            .context("cannot open a wrapper of rustc to be run")?;
        let toolchain = Toolchain { sysroot, core, linker, wrapper, cache };
        // The crates that `core` is locked to are a part of it.
        let mut fetch = toolchain.cargo(workspace, "fetch");
        root::check(&mut fetch).context("cannot fetch the crates")?;
        Ok(toolchain)
    }

    /// A cargo command that also knows how to build `core`.
    fn cargo(&self, workspace: &Workspace, command: &str) -> Command {
        let mut cargo = workspace.cargo();
        cargo.args([command, "--quiet", "--locked", "--target", TARGET, "-Zbuild-std=core"]);
        cargo.env(BOOTSTRAP.0, BOOTSTRAP.1).env(CORE_PLACE, &self.core);
        cargo
    }

    /// The object's bytes.
    fn build(&self, workspace: &Workspace, say: &dyn Fn(&str)) -> Result<Vec<u8>> {
        say("building the packet filter's programs");
        let target = self.cache.join("target");
        let mut cargo = self.cargo(workspace, "build");
        cargo.args(["--profile", "bpf", "--package", PACKAGE, "--bin", BINARY]);
        cargo.args(["--features", "program", "--target-dir"]).arg(&target);
        cargo.env("RUSTC_WRAPPER", &self.wrapper).env_remove("RUSTC_WORKSPACE_WRAPPER");
        cargo.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", self.flags(workspace)?);
        root::check(&mut cargo)?;
        let linked = target.join(TARGET).join("bpf").join(BINARY);
        let stripped = self.cache.join("wgrouted.bpf.o");
        let host = rustc(&["-vV"])?;
        let host = host.lines().find_map(|line| line.strip_prefix("host: "));
        let host = host.context("rustc does not name its host")?;
        let objcopy = self.sysroot.join("lib/rustlib").join(host).join("bin/rust-objcopy");
        let mut strip = Command::new(objcopy);
        strip.env("LD_LIBRARY_PATH", self.sysroot.join("lib"));
        root::check(strip.arg("--strip-debug").arg(linked).arg(&stripped))?;
        fs::read(&stripped).context("cannot read the object file")
    }

    /// Compiler flags. No path of this machine may get into the object: BTF holds file names.
    fn flags(&self, workspace: &Workspace) -> Result<OsString> {
        let mut linker = OsString::from("-Clinker=");
        linker.push(&self.linker);
        let rust = self.core.parent().context("no folder above Rust's source")?;
        let mut flags = vec![
            OsString::from("--cfg=bpf_target_arch=\"x86_64\""),
            OsString::from("-Clink-arg=--btf"),
            linker,
            remap(&workspace.root, "."),
            remap(rust, "/rust"),
        ];
        // By this name cargo calls what lies below the root.
        flags.extend(rust.strip_prefix(&workspace.root).map(|rust| remap(rust, "/rust")));
        let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| {
            let home = PathBuf::from(env::var_os("HOME")?);
            Some(home.join(".cargo"))
        });
        let registries = home.context("neither CARGO_HOME nor HOME is set")?.join("registry/src");
        let listed = fs::read_dir(&registries)
            .with_context(|| format!("cannot list {}", registries.display()))?;
        for registry in listed {
            flags.push(remap(&registry.context("cannot list the registries")?.path(), "/crates"));
        }
        Ok(flags.join(&OsString::from("\x1f")))
    }
}

fn remap(from: &Path, to: &str) -> OsString {
    let mut flag = OsString::from("--remap-path-prefix=");
    flag.push(from);
    flag.push(format!("={to}"));
    flag
}

fn rustc(arguments: &[&str]) -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or("rustc".into());
    let output = root::check(Command::new(rustc).args(arguments))?;
    Ok(String::from_utf8(output).context("rustc answers no text")?.trim().to_owned())
}

fn rustc_version() -> Result<String> {
    rustc(&["--version"])
}

/// The source of `core`, of this very rustc: rustup's component, or Debian's package.
fn core_source(
    sysroot: &Path,
    workspace: &Workspace,
    cache: &Path,
    say: &dyn Fn(&str),
) -> Result<PathBuf> {
    let component = sysroot.join("lib/rustlib/src/rust/library");
    if component.join("Cargo.lock").exists() {
        return Ok(component);
    }
    let version = rustc_version()?;
    let number = version.split(' ').nth(1).context("rustc tells no version")?;
    let folder = cache.join(format!("rust-{number}"));
    let library = folder.join(format!("usr/src/rustc-{number}/library"));
    if library.join("Cargo.lock").exists() {
        return Ok(library);
    }
    let apt = Apt::new(&workspace.cache.join("apt"))?;
    if !apt.is_fresh() {
        say("fetching package lists");
        apt.update()?;
    }
    let prefix = format!("{number}+");
    let offers = apt.show("^rust-src$")?;
    let offered = offers.iter().filter_map(|offer| offer.get("version"));
    let Some(package) = offered.clone().find(|version| version.starts_with(&prefix)) else {
        let offered: Vec<_> = offered.map(String::as_str).collect();
        bail!(Unsupported(format!(
            "Debian has no source of Rust {number} (it has {}); `rustup component add rust-src` \
             would do",
            offered.join(", ")
        )));
    };
    say(&format!("fetching the source of Rust {package}"));
    let new = cache.join("rust.new");
    root::remove(&new)?;
    fs::create_dir_all(&new).context("cannot make a folder for Rust's source")?;
    apt.download(&[format!("rust-src={package}")], &new)?;
    let files = fs::read_dir(&new).context("cannot list what was downloaded")?;
    let files: Vec<_> = files.collect::<Result<_, _>>().context("cannot list what came")?;
    let is_package = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
    let file = files.iter().map(|file| file.path()).find(is_package);
    root::unpack(&file.context("apt left no package")?, &new)?;
    root::remove(&folder)?;
    fs::rename(&new, &folder).context("cannot put Rust's source in its place")?;
    ensure!(library.join("Cargo.lock").exists(), "rust-src {package} has no library in it");
    Ok(library)
}

/// bpf-linker, built on rustc's own LLVM, so that both read the same bitcode.
fn linker(
    sysroot: &Path,
    workspace: &Workspace,
    cache: &Path,
    say: &dyn Fn(&str),
) -> Result<PathBuf> {
    let version = rustc(&["-vV"])?;
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "));
    let llvm = llvm.context("rustc does not tell its LLVM")?;
    let major = llvm.split('.').next().context("rustc does not tell its LLVM")?;
    let folder = cache.join(format!("bpf-linker-{BPF_LINKER}-{llvm}"));
    let program = folder.join("bin/bpf-linker");
    if program.exists() {
        return Ok(program);
    }
    let prefix = format!("libLLVM.so.{major}.");
    let libraries = sysroot.join("lib");
    let listed = fs::read_dir(&libraries).context("cannot list rustc's libraries")?;
    let library = listed
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.starts_with(&prefix))
        .with_context(|| format!("rustc has no {prefix}* of its own"))?;
    let shown = cache.join("llvm");
    root::remove(&shown)?;
    fs::create_dir_all(shown.join("lib")).context("cannot make a folder for LLVM")?;
    for name in ["libLLVM.so", library.as_str()] {
        symlink(libraries.join(&library), shown.join("lib").join(name))
            .context("cannot link LLVM")?;
    }
    say(&format!("building bpf-linker {BPF_LINKER}"));
    let mut cargo = workspace.cargo();
    cargo.args(["install", "--quiet", "bpf-linker", "--version", BPF_LINKER, "--locked"]);
    cargo.args(["--no-default-features", "--features", &format!("llvm-{major}")]);
    cargo.arg("--root").arg(&folder).env("LLVM_PREFIX", &shown);
    root::check(&mut cargo)?;
    Ok(program)
}

/// What the object was built from.
struct Buildinfo(String);

impl Buildinfo {
    fn of(root: &Path, rustc: &str, object: &[u8]) -> Result<Buildinfo> {
        let mut text = format!("{rustc}\nbpf-linker {BPF_LINKER}\n");
        let lock = fs::read_to_string(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
        for name in [PACKAGE, "aya-ebpf"] {
            let _ = writeln!(text, "{name} {}", locked(&lock, name)?);
        }
        let _ = writeln!(text, "sources sha256 {}", sources(root)?);
        let _ = writeln!(text, "object sha256 {}", hex(&Sha256::digest(object)));
        Ok(Buildinfo(text))
    }
}

impl std::fmt::Display for Buildinfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The version that a lock file has of a package.
fn locked<'a>(lock: &'a str, name: &str) -> Result<&'a str> {
    let start = format!("name = \"{name}\"\nversion = \"");
    let rest = lock.split_once(&start).with_context(|| format!("{name} is not locked"))?.1;
    rest.split('"').next().context("a version without end")
}

/// A hash of all that the object is made of in this repository: names and contents.
fn sources(root: &Path) -> Result<String> {
    let mut files = BTreeMap::new();
    collect(root, &root.join(PACKAGE).join("src"), &mut files)?;
    let name = "ebpf-xdp/Cargo.toml";
    let bytes = fs::read(root.join(name)).with_context(|| format!("cannot read {name}"))?;
    files.insert(name.to_owned(), bytes);
    let mut hash = Sha256::new();
    for (name, bytes) in files {
        hash.update(format!("{name}\0{}\0", bytes.len()));
        hash.update(bytes);
    }
    Ok(hex(&hash.finalize()))
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    let listed =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in listed {
        let path = entry.context("cannot list the sources")?.path();
        if path.is_dir() {
            collect(root, &path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let bytes =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let name = path.strip_prefix(root).context("a source outside the repository")?;
            files.insert(name.display().to_string(), bytes);
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without any BPF toolchain: an object that is older than its sources is noticed.
    #[test]
    fn the_committed_object_is_that_of_the_sources() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
        let read = |name: &str| fs::read(root.join(name)).expect(name);
        let info = String::from_utf8(read(BUILDINFO)).expect("a text");
        let rustc = info.lines().next().expect("a first line");
        let now = Buildinfo::of(root, rustc, &read(OBJECT)).expect("readable sources");
        assert_eq!(info, now.to_string(), "{REMEDY}");
    }

    /// What cargo derives from the places of sources does not reach the compiler.
    #[test]
    fn the_compiler_does_not_know_where_crates_lie() {
        let run = |metadata: &str| {
            let mut sh = Command::new("sh");
            sh.args(["-c", WRAPPER, "rustc.sh", "printf", r"%s\n", "a b", "", "-C", metadata]);
            sh.env("CARGO_PKG_NAME", "core").env("CARGO_PKG_VERSION", "0.0.0");
            String::from_utf8(root::check(&mut sh).expect("sh")).expect("a text")
        };
        assert_eq!(run("metadata=24bd5dbf04cc6697"), "a b\n\n-C\nmetadata=core-0.0.0\n");
        assert_eq!(run("metadata=24bd5dbf04cc6697"), run("metadata=016fbb88c4c1637f"));
    }

    #[test]
    fn locked_versions() {
        let lock = "[[package]]\nname = \"a-b\"\nversion = \"1.2.3\"\n";
        assert_eq!(locked(lock, "a-b").expect("locked"), "1.2.3");
        assert!(locked(lock, "b").is_err());
    }
}
