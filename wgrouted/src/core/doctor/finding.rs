//! What was found out, and what to do about it.
//!
//! Here live [`Finding`] and [`Report`]. A command of a remedy can be run as it stands; what needs
//! thought is advice, in words.

use std::fmt;

use serde::Serialize;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing to do.
    Info,
    /// Could not be looked at; the finding says why.
    NotChecked,
    /// Works, but not well or not always.
    Warning,
    /// Does not work.
    Failure,
}

/// What a finding is about. Findings are shown in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Area {
    /// The configuration and who runs with it.
    Daemon,
    /// What the kernel can do.
    Kernel,
    /// What the process may do.
    Privileges,
    /// Settings below `/proc/sys`.
    Sysctl,
    /// Rules, routes and the ways of WireGuard's own packets.
    Routing,
    /// UDP and TCP ports.
    Ports,
    /// How large packets may be.
    Mtu,
    /// The time.
    Clock,
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Area::Daemon => "daemon",
            Area::Kernel => "kernel",
            Area::Privileges => "privileges",
            Area::Sysctl => "sysctl",
            Area::Routing => "routing",
            Area::Ports => "ports",
            Area::Mtu => "mtu",
            Area::Clock => "clock",
        })
    }
}

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub area: Area,
    /// The check's name, which never changes.
    pub check: &'static str,
    /// How it ended.
    pub level: Level,
    /// What was found, in a line.
    pub found: String,
    /// Why it matters; empty where nothing is wrong.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Commands that mend it, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remedy: Vec<String>,
    /// What a command cannot do, or how to keep it mended.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

impl Finding {
    /// A finding without reasons and remedies.
    pub fn new(area: Area, check: &'static str, level: Level, found: impl Into<String>) -> Self {
        Finding {
            area,
            check,
            level,
            found: found.into(),
            why: String::new(),
            remedy: Vec::new(),
            advice: String::new(),
        }
    }

    /// Something that could not be looked at.
    pub fn not_checked(area: Area, check: &'static str, what: &str, because: &str) -> Self {
        Finding::new(area, check, Level::NotChecked, format!("{what}: not checked, {because}"))
    }

    /// Says why it matters.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// Adds a command to the remedy.
    #[must_use]
    pub fn run(mut self, command: impl Into<String>) -> Self {
        self.remedy.push(command.into());
        self
    }

    /// Adds advice.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }

    /// The same with commands that work from outside the network namespace that a file stands for.
    #[must_use]
    pub fn from_outside(mut self, namespace: &str) -> Self {
        /// What looks at the network; other commands are about the machine.
        const NETWORK: [&str; 4] = ["ip ", "sysctl ", "nft ", "wg "];
        for command in &mut self.remedy {
            if NETWORK.iter().any(|network| command.starts_with(network)) {
                *command = format!("nsenter --net={namespace} {command}");
            }
        }
        self
    }
}

/// A word of a command, quoted where a shell would read something into it.
pub(super) fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.,:@/=+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// How many findings there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// As it should be, or merely worth knowing.
    pub ok: usize,
    /// Works, but not well or not always.
    pub warnings: usize,
    /// Does not work.
    pub failures: usize,
    /// Could not be looked at.
    pub not_checked: usize,
}

/// All findings, by area.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How many of each kind.
    pub count: Count,
    /// In the order in which they are shown.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Puts findings in order and counts them.
    pub fn of(mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| finding.area);
        let mut count = Count::default();
        for finding in &findings {
            *match finding.level {
                Level::Ok | Level::Info => &mut count.ok,
                Level::NotChecked => &mut count.not_checked,
                Level::Warning => &mut count.warnings,
                Level::Failure => &mut count.failures,
            } += 1;
        }
        Report { count, findings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_counted_and_grouped() {
        let finding = |area, level| Finding::new(area, "x", level, "found");
        let report = Report::of(vec![
            finding(Area::Mtu, Level::Failure),
            finding(Area::Daemon, Level::Info),
            finding(Area::Kernel, Level::Ok),
            finding(Area::Daemon, Level::Warning),
            Finding::not_checked(Area::Ports, "x", "ports", "you are nobody"),
        ]);
        let want = Count { ok: 2, warnings: 1, failures: 1, not_checked: 1 };
        assert_eq!(report.count, want);
        let areas: Vec<_> = report.findings.iter().map(|finding| finding.area).collect();
        assert_eq!(areas, [Area::Daemon, Area::Daemon, Area::Kernel, Area::Ports, Area::Mtu]);
        assert_eq!(report.findings[3].found, "ports: not checked, you are nobody");
    }

    #[test]
    fn no_name_says_anything_to_a_shell() {
        assert_eq!(word("wg-b.1"), "wg-b.1");
        assert_eq!(word("a;b"), "'a;b'");
        assert_eq!(word(r"dev-a\x2db.service"), r"'dev-a\x2db.service'");
        assert_eq!(word("it's"), r"'it'\''s'");
    }

    #[test]
    fn commands_about_the_network_enter_its_namespace() {
        let finding = Finding::new(Area::Sysctl, "x", Level::Warning, "found")
            .run("sysctl -w a=1")
            .run("modprobe wireguard")
            .from_outside("/run/netns/blue");
        assert_eq!(
            finding.remedy,
            ["nsenter --net=/run/netns/blue sysctl -w a=1", "modprobe wireguard"]
        );
    }
}
