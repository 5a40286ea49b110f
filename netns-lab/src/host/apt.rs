//! A private apt: own sources, lists, cache and an empty dpkg status.
//!
//! The machine's apt configuration (proxy, credentials, keys) is read and stays as it is; nothing
//! is ever installed by it. With an empty status every dependency counts as missing, so what is
//! resolved here is a whole root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};

use super::equipment::Unsupported;
use super::sources::{self, Source, Stanza};

/// Where the machines' tools come from, whatever Debian the host itself runs: the oldest suite
/// whose QEMU is fit for use. They bring their own C library.
pub const TOOLS_SUITE: &str = "trixie";
/// Suites that hold the kernels, beside the tools' suite.
const KERNEL_SUITES: [&str; 2] = ["bookworm", "trixie-backports"];
/// Package lists older than this are fetched again.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// A private apt below one folder.
#[derive(Debug)]
pub struct Apt {
    dir: PathBuf,
    codename: String,
}

/// A package as resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture, `all` included.
    pub architecture: String,
}

impl Package {
    /// The name apt gives the package's file in its cache.
    fn file_name(&self) -> String {
        let quote = |text: &str| text.replace('_', "%5f").replace(':', "%3a");
        format!("{}_{}_{}.deb", quote(&self.name), quote(&self.version), quote(&self.architecture))
    }
}

impl std::fmt::Display for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}={}", self.name, self.architecture, self.version)
    }
}

impl Apt {
    /// Writes the private configuration into `dir`, from the machine's own.
    pub fn new(dir: &Path) -> Result<Apt> {
        let release = fs::read_to_string("/etc/os-release").context("cannot read os-release")?;
        let field = |name: &str| {
            let line = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches('"').to_owned()
        };
        if field("ID") != "debian" {
            let name = field("PRETTY_NAME");
            let reason = format!("the lab sets itself up from Debian's archive, this is {name}");
            return Err(Unsupported(reason).into());
        }
        let apt = Apt { dir: dir.to_owned(), codename: field("VERSION_CODENAME") };
        apt.configure()?;
        Ok(apt)
    }

    /// The machine's own Debian.
    pub fn codename(&self) -> &str {
        &self.codename
    }

    fn configure(&self) -> Result<()> {
        let extra = KERNEL_SUITES.into_iter().chain([TOOLS_SUITE]);
        let extra: Vec<_> =
            extra.filter(|suite| *suite != self.codename).map(str::to_owned).collect();
        let sources =
            sources::derive(&machine_sources()?, &self.codename, &extra).with_context(|| {
                format!("no enabled apt source of this machine offers {} main", self.codename)
            })?;
        for folder in ["lists/partial", "cache/archives/partial", "sources.list.d", "log"] {
            let folder = self.dir.join(folder);
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let stanzas: Vec<_> = sources.iter().map(Source::to_deb822).collect();
        self.write("sources.list.d/lab.sources", &stanzas.join("\n"))?;
        // Known, but used only by name or as the target release.
        let pin =
            |suite: &String| format!("Package: *\nPin: release n={suite}\nPin-Priority: 50\n");
        self.write("preferences", &extra.iter().map(pin).collect::<Vec<_>>().join("\n"))?;
        self.write("status", "")?;
        self.write("apt.conf", &self.configuration())
    }

    fn configuration(&self) -> String {
        let dir = self.dir.display();
        format!(
            r##"Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{dir}/sources.list.d";
Dir::Etc::preferences "{dir}/preferences";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "{dir}/lists";
Dir::State::status "{dir}/status";
Dir::State::extended_states "{dir}/extended_states";
Dir::Cache "{dir}/cache";
Dir::Cache::archives "archives";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
Dir::Log "{dir}/log";
APT::Architecture "amd64";
#clear APT::Architectures;
APT::Architectures {{ "amd64"; }};
APT::Default-Release "";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Sandbox::User "root";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
"##
        )
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let file = self.dir.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Whether the package lists are recent enough to be used as they are.
    pub fn is_fresh(&self) -> bool {
        let stamp = fs::metadata(self.dir.join("updated")).and_then(|file| file.modified());
        stamp.is_ok_and(|time| SystemTime::now().duration_since(time).unwrap_or_default() < FRESH)
    }

    /// Fetches the package lists.
    pub fn update(&self) -> Result<()> {
        self.run(self.tool("apt-get").args(["-qq", "--error-on=any", "update"]))?;
        self.write("updated", "")
    }

    /// The packages that `names` and their dependencies come to.
    pub fn resolve(&self, names: &[&str], suite: &str) -> Result<Vec<Package>> {
        let mut command = self.tool("apt-get");
        command.args(["--simulate", "--yes", "--target-release", suite, "install"]).args(names);
        let packages = parse_simulation(&self.run(&mut command)?);
        ensure!(!packages.is_empty(), "apt resolved {} to nothing", names.join(" "));
        Ok(packages)
    }

    /// Downloads what [`Apt::resolve`] found, checked by apt, and gives the files.
    pub fn fetch(&self, names: &[&str], suite: &str, packages: &[Package]) -> Result<Vec<PathBuf>> {
        let mut command = self.tool("apt-get");
        command
            .args(["-qq", "--yes", "--download-only", "--target-release", suite, "install"])
            .args(names);
        self.run(&mut command)?;
        let archives = self.dir.join("cache/archives");
        let files: Vec<_> = packages.iter().map(|one| archives.join(one.file_name())).collect();
        match files.iter().find(|file| !file.exists()) {
            Some(missing) => bail!("apt did not leave {}", missing.display()),
            None => Ok(files),
        }
    }

    /// Downloads these packages, without their dependencies, into `folder`.
    pub fn download(&self, names: &[String], folder: &Path) -> Result<()> {
        let mut command = self.tool("apt-get");
        self.run(command.args(["-qq", "download"]).args(names).current_dir(folder)).map(drop)
    }

    /// Forgets downloaded packages.
    pub fn clean(&self) -> Result<()> {
        self.run(self.tool("apt-get").arg("clean")).map(drop)
    }

    /// Every package whose name matches the regular expression.
    pub fn show(&self, pattern: &str) -> Result<Vec<Stanza>> {
        let found = self.run(self.tool("apt-cache").args(["search", "--names-only", pattern]))?;
        let names: Vec<_> = found.lines().filter_map(|line| line.split(' ').next()).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        Ok(sources::stanzas(&self.run(self.tool("apt-cache").arg("show").args(names))?))
    }

    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        // `-c` is read after the machine's own files and so has the last word; APT_CONFIG is not.
        command.arg("-c").arg(self.dir.join("apt.conf"));
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    fn run(&self, command: &mut Command) -> Result<String> {
        let program = command.get_program().to_string_lossy().into_owned();
        let output = command.output().with_context(|| format!("cannot start {program}"))?;
        ensure!(
            output.status.success(),
            "{program} ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn machine_sources() -> Result<Vec<Source>> {
    let mut found = Vec::new();
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(folder) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(folder.filter_map(|entry| Some(entry.ok()?.path())));
    }
    files.sort();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => found.extend(sources::from_list(&text)),
            Some("sources") => found.extend(sources::from_deb822(&text)),
            _ => {}
        }
    }
    ensure!(!found.is_empty(), "this machine has no apt sources to learn a Debian mirror from");
    Ok(found)
}

/// Reads `Inst NAME (VERSION RELEASE... [ARCHITECTURE])` lines of a simulated installation.
fn parse_simulation(text: &str) -> Vec<Package> {
    let parse = |line: &str| {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
        let (version, rest) = rest.split_once(' ')?;
        let (_, rest) = rest.split_once('[')?;
        let (architecture, _) = rest.split_once(']')?;
        let [name, version, architecture] = [name, version, architecture].map(str::to_owned);
        Some(Package { name, version, architecture })
    };
    let mut packages: Vec<_> = text.lines().filter_map(parse).collect();
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulated_installation() {
        let text = "\
Reading package lists...
Inst iputils-ping (3:20221126-1+deb12u1 Debian:12.12/oldstable [amd64])
Inst bird2 (2.0.12-7 Debian:12.12/oldstable, Debian-Security:12/oldstable-security [amd64]) []
Inst adduser (3.134 Debian:12.12/oldstable [all])
Conf bird2 (2.0.12-7 Debian:12.12/oldstable [amd64])
";
        let packages = parse_simulation(text);
        let names: Vec<_> = packages.iter().map(|package| package.name.as_str()).collect();
        assert_eq!(names, ["adduser", "bird2", "iputils-ping"]);
        assert_eq!(packages[2].file_name(), "iputils-ping_3%3a20221126-1+deb12u1_amd64.deb");
        assert_eq!(packages[0].file_name(), "adduser_3.134_all.deb");
        assert_eq!(packages[1].to_string(), "bird2:amd64=2.0.12-7");
    }
}
