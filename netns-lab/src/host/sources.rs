//! The machine's apt sources: both file formats read, one written.
//!
//! Pure text. The mirror, its key and its options are taken from the machine as they are, so that
//! no host name is ever written into this project, and only the suites are changed.

use std::collections::BTreeMap;

/// One stanza of a deb822 file (apt's `*.sources`, `Packages`, `apt-cache show`): fields by
/// lower-case name; continuation lines keep their newline and indentation.
pub type Stanza = BTreeMap<String, String>;

/// One place packages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Base addresses, as apt knows them (`http:`, `https:`, `mirror+file:`, `file:` ...).
    pub uris: Vec<String>,
    /// Suites or code names.
    pub suites: Vec<String>,
    /// Components, `main` and others.
    pub components: Vec<String>,
    /// Every other field (`signed-by`, `trusted` ...), kept as it is.
    pub options: Stanza,
}

/// Splits deb822 text into stanzas. Comment lines vanish, wherever they stand.
pub fn stanzas(text: &str) -> Vec<Stanza> {
    let mut stanzas = Vec::new();
    let mut stanza = Stanza::new();
    let mut field = None;
    for line in text.lines().filter(|line| !line.starts_with('#')).chain([""]) {
        if line.trim().is_empty() {
            if !stanza.is_empty() {
                stanzas.push(std::mem::take(&mut stanza));
            }
            field = None;
        } else if line.starts_with([' ', '\t']) {
            if let Some(value) = field.as_ref().and_then(|name| stanza.get_mut(name)) {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            let name = name.trim().to_ascii_lowercase();
            stanza.insert(name.clone(), value.trim().to_owned());
            field = Some(name);
        }
    }
    stanzas
}

/// Reads a `*.sources` file: the enabled binary-package sources.
pub fn from_deb822(text: &str) -> Vec<Source> {
    let words = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut sources = Vec::new();
    for mut stanza in stanzas(text) {
        let mut take = |name: &str| words(stanza.remove(name).unwrap_or_default());
        let (types, enabled) = (take("types"), take("enabled"));
        let (uris, suites, components) = (take("uris"), take("suites"), take("components"));
        let disabled = enabled.iter().any(|word| word.eq_ignore_ascii_case("no"));
        if types.iter().any(|kind| kind == "deb") && !disabled {
            sources.push(Source { uris, suites, components, options: stanza });
        }
    }
    sources
}

/// Reads a `sources.list` file: `deb [option=value ...] URI SUITE COMPONENT...`.
pub fn from_list(text: &str) -> Vec<Source> {
    text.lines().filter_map(from_list_line).collect()
}

fn from_list_line(line: &str) -> Option<Source> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let rest = line.strip_prefix("deb")?;
    let mut rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let mut options = Stanza::new();
    if let Some(bracketed) = rest.strip_prefix('[') {
        let (inside, after) = bracketed.split_once(']')?;
        rest = after;
        for (name, value) in inside.split_whitespace().filter_map(|word| word.split_once('=')) {
            // sources.list(5): these three have another name in the deb822 format.
            let name = match name.to_ascii_lowercase().as_str() {
                "arch" => "architectures".to_owned(),
                "lang" => "languages".to_owned(),
                "target" => "targets".to_owned(),
                other => other.to_owned(),
            };
            options.insert(name, value.replace(',', " "));
        }
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    let (uri, suite) = (words.next()?, words.next()?);
    Some(Source { uris: vec![uri], suites: vec![suite], components: words.collect(), options })
}

impl Source {
    /// The source as a deb822 stanza.
    pub fn to_deb822(&self) -> String {
        let mut text = format!(
            "Types: deb\nURIs: {}\nSuites: {}\nComponents: {}\n",
            self.uris.join(" "),
            self.suites.join(" "),
            self.components.join(" ")
        );
        for (name, value) in &self.options {
            text.push_str(&format!("{name}: {value}\n"));
        }
        text
    }

    fn offers(&self, suite: &str) -> bool {
        self.suites.iter().any(|own| own == suite)
            && self.components.iter().any(|own| own == "main")
    }
}

/// The private source list: `codename` with its updates and security fixes as the machine has
/// them, and `extra` suites through the same mirror. `None` if the machine has no source for
/// `codename` itself.
pub fn derive(machine: &[Source], codename: &str, extra: &[String]) -> Option<Vec<Source>> {
    let main = vec!["main".to_owned()];
    let mirror = machine.iter().find(|source| source.offers(codename))?;
    let mut derived = vec![Source {
        suites: [codename.to_owned()].into_iter().chain(extra.iter().cloned()).collect(),
        components: main.clone(),
        ..mirror.clone()
    }];
    for suite in [format!("{codename}-updates"), format!("{codename}-security")] {
        if let Some(source) = machine.iter().find(|source| source.offers(&suite)) {
            let components = main.clone();
            derived.push(Source { suites: vec![suite], components, ..source.clone() });
        }
    }
    Some(derived)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb deb-src
# a comment inside a stanza
URIs: mirror+file:/etc/apt/mirrors/debian.list
Suites: trixie trixie-updates
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBGPL0BUBEADmW5NdOOHwPIJlgPu6JDcKw/NZJPR8lsD3K87ZM18gzyQZJD+w
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://mirror.example/debian-security
Suites: trixie-security
Components: main

Types: deb
Enabled: no
URIs: http://mirror.example/other
Suites: trixie
Components: main

Types: deb-src
URIs: http://mirror.example/debian
Suites: trixie
Components: main
";

    #[test]
    fn deb822_sources() {
        let sources = from_deb822(DEB822);
        assert_eq!(sources.len(), 2, "disabled and source-only stanzas are not ours");
        assert_eq!(sources[0].uris, ["mirror+file:/etc/apt/mirrors/debian.list"]);
        assert_eq!(sources[0].suites, ["trixie", "trixie-updates"]);
        let key = &sources[0].options["signed-by"];
        assert!(
            key.starts_with("\n -----BEGIN") && key.ends_with("-----END PGP PUBLIC KEY BLOCK-----")
        );
        assert_eq!(from_deb822(&sources[0].to_deb822()), sources[..1]);
    }

    #[test]
    fn one_line_sources() {
        let text = "\
# deb http://mirror.example/debian sid main
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64,i386 signed-by=/usr/share/keyrings/a.gpg] http://mirror.example/debian bookworm main contrib # own
deb\thttp://mirror.example/debian-security bookworm-security main
";
        let sources = from_list(text);
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[0].options["architectures"], "amd64 i386");
        assert_eq!(sources[0].options["signed-by"], "/usr/share/keyrings/a.gpg");
        assert_eq!(sources[0].components, ["main", "contrib"]);
        assert_eq!(sources[1].suites, ["bookworm-security"]);
    }

    #[test]
    fn only_the_suites_change() {
        let machine = from_deb822(DEB822);
        let extra = ["trixie-backports".to_owned(), "bookworm".to_owned()];
        let derived = derive(&machine, "trixie", &extra).expect("the machine has trixie");
        assert_eq!(derived.len(), 3);
        assert_eq!(derived[0].suites, ["trixie", "trixie-backports", "bookworm"]);
        assert_eq!(derived[0].uris, machine[0].uris);
        assert_eq!(derived[0].options, machine[0].options);
        assert_eq!(derived[1].suites, ["trixie-updates"]);
        assert_eq!(derived[2].suites, ["trixie-security"]);
        assert_eq!(derived[2].uris, machine[1].uris);
        assert_eq!(derive(&machine, "forky", &extra), None);
    }
}
