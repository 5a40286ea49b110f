//! A report for people.

use std::io::{self, Write};

use crate::core::doctor::finding::{Count, Finding, Level, Report};

/// Prints a report: a line for each finding, and below what is wrong why it matters and what to do.
/// `verbose` shows what is right too, and remedies for what is merely worth knowing.
pub fn print(out: &mut impl Write, report: &Report, verbose: bool) -> io::Result<()> {
    let mut area = None;
    for finding in &report.findings {
        if finding.level == Level::Ok && !verbose {
            continue;
        }
        if area != Some(finding.area) {
            area = Some(finding.area);
            writeln!(out, "{}", finding.area)?;
        }
        writeln!(out, "  {:<4}  {}", word(finding.level), finding.found)?;
        if verbose || finding.level >= Level::Warning {
            explain(out, finding)?;
        }
    }
    let Count { ok, warnings, failures, not_checked } = report.count;
    let plural = |count| if count == 1 { "" } else { "s" };
    writeln!(
        out,
        "{ok} ok, {warnings} warning{}, {failures} failure{}, {not_checked} not checked",
        plural(warnings),
        plural(failures)
    )
}

const fn word(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Info => "info",
        Level::NotChecked => "?",
        Level::Warning => "WARN",
        Level::Failure => "FAIL",
    }
}

fn explain(out: &mut impl Write, finding: &Finding) -> io::Result<()> {
    let Finding { why, remedy, advice, .. } = finding;
    if !why.is_empty() {
        writeln!(out, "        why:   {why}")?;
    }
    for (at, command) in remedy.iter().enumerate() {
        writeln!(out, "        {}  {command}", if at == 0 { "do:  " } else { "     " })?;
    }
    if !advice.is_empty() {
        writeln!(out, "        note:  {advice}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::doctor::finding::Area;

    #[test]
    fn what_is_wrong_is_explained_and_what_is_right_is_counted() {
        let report = Report::of(vec![
            Finding::new(Area::Kernel, "a", Level::Ok, "Linux 7.3"),
            Finding::new(Area::Kernel, "b", Level::Info, "no tcx").why("old").run("x"),
            Finding::not_checked(Area::Ports, "c", "ports", "you are nobody"),
            Finding::new(Area::Mtu, "d", Level::Warning, "wg0: MTU 1500")
                .why("too large")
                .run("ip link set dev wg0 mtu 1440")
                .run("true")
                .advise("keep it"),
        ]);
        let text = |verbose| {
            let mut out = Vec::new();
            print(&mut out, &report, verbose).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            text(false),
            "kernel\n\
             \x20 info  no tcx\n\
             ports\n\
             \x20 ?     ports: not checked, you are nobody\n\
             mtu\n\
             \x20 WARN  wg0: MTU 1500\n\
             \x20       why:   too large\n\
             \x20       do:    ip link set dev wg0 mtu 1440\n\
             \x20              true\n\
             \x20       note:  keep it\n\
             2 ok, 1 warning, 0 failures, 1 not checked\n"
        );
        assert!(text(true).contains("  ok    Linux 7.3\n"));
        assert!(text(true).contains("why:   old\n"));
    }
}
