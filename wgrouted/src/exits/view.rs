//! Exits and flows as text.
//!
//! Here lives what `wgrouted exits` prints.

use std::io::{self, Write};

use crate::{
    core::exits::status::{ExitLinkStatus, ExitState, ExitsStatus},
    reach::{list::age, view::word},
    show::table,
};

/// `exits`.
pub fn print(out: &mut impl Write, status: &ExitsStatus) -> io::Result<()> {
    if status.exits.is_empty() && status.flows.is_empty() {
        writeln!(out, "no exits and no flows are configured")?;
    } else {
        table(
            out,
            ["EXIT", "STATE", "SINCE", "TABLE", "LINKS", "FLOWS"],
            status.exits.iter().map(|exit| {
                let flows = status.flows.iter().filter(|flow| flow.exit == exit.name);
                [
                    exit.name.clone(),
                    word(&exit.state),
                    age(exit.age_seconds),
                    exit.table.map_or_else(|| "-".to_owned(), |table| table.to_string()),
                    links(&exit.links, exit.state),
                    flows.count().to_string(),
                ]
            }),
        )?;
        writeln!(out)?;
        table(
            out,
            ["FLOW", "EXIT", "PRIORITY", "RULE"],
            status.flows.iter().flat_map(|flow| {
                flow.rules.iter().map(|rule| {
                    let priority = format!("{} {}", rule.family, rule.priority);
                    [flow.name.clone(), flow.exit.clone(), priority, rule.rule.clone()]
                })
            }),
        )?;
    }
    for fault in &status.faults {
        writeln!(out, "in trouble: {fault}")?;
    }
    Ok(())
}

/// Links in order: those in use in brackets, each with what is known of it.
fn links(links: &[ExitLinkStatus], state: ExitState) -> String {
    if links.is_empty() {
        let text = if state == ExitState::Fed { "by its table" } else { "none" };
        return text.to_owned();
    }
    let link = |link: &ExitLinkStatus| {
        let name = format!("{} {}", link.link, word(&link.health));
        if link.used { format!("[{name}]") } else { name }
    };
    links.iter().map(link).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::exits::choice::Health;

    #[test]
    fn links_in_use_stand_in_brackets() {
        let link = |name: &str, used, health| ExitLinkStatus {
            link: name.to_owned(),
            peer: None,
            health,
            used,
            weight: 1,
        };
        let all = [link("wg-b", false, Health::Bad), link("wg-c", true, Health::Good)];
        assert_eq!(links(&all, ExitState::Up), "wg-b bad, [wg-c good]");
        assert_eq!(links(&[], ExitState::Fed), "by its table");
    }
}
