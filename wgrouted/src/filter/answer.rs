//! A verdict for people and scripts.
//!
//! Here lives what is said about a packet: what becomes of it, why, and the rule that decided. How
//! the verdict came about is the business of those who ask.

use std::{borrow::Cow, fmt};

use ebpf_xdp::{layout::Reason, verdict::Verdict};
use serde::{Deserialize, Serialize};

use crate::core::filter::{policy::PolicyRule, table::CompiledPolicy};

/// What becomes of a packet, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What becomes of it.
    pub fate: Fate,
    /// The reason's word, [`Reason::name`].
    pub reason: Cow<'static, str>,
    /// The reason in a sentence.
    pub why: Cow<'static, str>,
    /// The rule that decided.
    pub rule: Option<Deciding>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It passes.
    Pass,
    /// It is dropped.
    Drop,
    /// It passes although it should not, for the peer is monitored.
    Monitor,
}

/// The rule that decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deciding {
    /// Name of its policy.
    pub policy: String,
    /// Its line in the file.
    pub line: u32,
    /// As the operator wrote it.
    pub text: String,
}

impl Answer {
    /// What this verdict says; `policy` is the peer's, as configured and as compiled.
    pub fn new(verdict: &Verdict, policy: Option<(&PolicyRule, &CompiledPolicy)>) -> Self {
        let fate = match (verdict.reason.is_drop(), verdict.monitored) {
            (false, _) => Fate::Pass,
            (true, false) => Fate::Drop,
            (true, true) => Fate::Monitor,
        };
        let rule = policy.and_then(|(policy, compiled)| {
            let place = usize::try_from(verdict.rule.checked_sub(1)?).ok()?;
            let tag = usize::try_from(compiled.rules.get(place)?.tag).ok()?;
            let spec = policy.rules.get(tag)?;
            let (policy, text) = (policy.name.clone(), spec.text.clone());
            Some(Deciding { policy, line: spec.line, text })
        });
        Answer { fate, reason: verdict.reason.name().into(), why: why(verdict.reason).into(), rule }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Answer { fate, reason, why, rule } = self;
        f.write_str(match fate {
            Fate::Pass => "pass",
            Fate::Drop => "drop",
            Fate::Monitor => "pass, but only because the peer is monitored",
        })?;
        write!(f, ": {why} ({reason})")?;
        if let Some(Deciding { policy, line, text }) = rule {
            write!(f, "\n  policy {policy}, line {line}: {text}")?;
        }
        Ok(())
    }
}

/// A reason in a sentence.
pub const fn why(reason: Reason) -> &'static str {
    match reason {
        Reason::Source => "the peer may use this source, and no policy speaks against it",
        Reason::Control => "it stays on the link, where the policy does not apply",
        Reason::Flow => "it belongs to a flow, or to a packet, that passed before",
        Reason::Related => "it is an ICMP error about a known flow",
        Reason::Accept => "a rule accepts it",
        Reason::AcceptDefault => "no rule matches, and the policy accepts by default",
        Reason::Unguarded => "neither this link nor this peer is filtered",
        Reason::Arp => "it is ARP",
        Reason::NotIp => "it is neither IPv4 nor IPv6",
        Reason::Malformed => "it is truncated or contradicts itself",
        Reason::Unconfigured => "nobody has configured this link or this peer",
        Reason::UnknownPeer => "no peer owns the source that WireGuard let through",
        Reason::Martian => "no packet may have this source",
        Reason::NoRoute => "there is no route to the source that counts in the peer's mode",
        Reason::OtherPeer => "the route to the source leads to another peer",
        Reason::NotListed => "the source is not in the peer's list",
        Reason::Rule => "a rule drops it",
        Reason::Default => "no rule accepts it, and the policy drops by default",
        Reason::Fragment => "the first fragment of its packet did not pass here",
        Reason::TunnelFragment => "it is a later fragment, which is nothing without the first",
        Reason::Encapsulation => "its GRE is of a version, or with fields, that cannot be read",
        Reason::TunnelPayload => "its tunnel carries no IP, or not the IP that it announces",
        Reason::TunnelTruncated => "it ends before the headers of what its tunnel carries",
        Reason::NoTunnel => "it is between the ends of tunnels, but its key is none of theirs",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::filter::parse, core::filter::policy::compile};

    fn policy() -> PolicyRule {
        let rules = [(7, "accept tcp to 10.0.0.0/8 port 22,80"), (9, "drop from 192.0.2.0/24")];
        let rules = rules
            .into_iter()
            .flat_map(|(line, text)| parse(text, line, |_| panic!("no peer is named")).unwrap());
        PolicyRule { name: "p".into(), accept: false, stateful: true, rules: rules.collect() }
    }

    fn answer(reason: Reason, monitored: bool, rule: u32) -> Answer {
        let (policy, compiled) = (policy(), compile(&policy()));
        assert_eq!(compiled.rules.len(), 3);
        Answer::new(&Verdict { reason, monitored, peer: 1, rule }, Some((&policy, &compiled)))
    }

    #[test]
    fn the_deciding_rule_is_named_as_it_was_written() {
        assert_eq!(
            answer(Reason::Accept, false, 2).to_string(),
            "pass: a rule accepts it (accept-rule)\n  \
             policy p, line 7: accept tcp to 10.0.0.0/8 port 22,80"
        );
        assert_eq!(
            answer(Reason::Rule, true, 3).to_string(),
            "pass, but only because the peer is monitored: a rule drops it (drop-rule)\n  \
             policy p, line 9: drop from 192.0.2.0/24"
        );
        let default = answer(Reason::Default, false, 0);
        assert_eq!((default.fate, default.rule), (Fate::Drop, None));
        // A verdict of other tables than these.
        assert_eq!(answer(Reason::Rule, false, 4).rule, None);
    }

    #[test]
    fn answers_are_json() {
        let json = serde_json::to_value(answer(Reason::NoRoute, false, 0)).unwrap();
        assert_eq!((&json["fate"], &json["reason"]), (&"drop".into(), &"no-route".into()));
        assert!(json["rule"].is_null());
    }

    #[test]
    fn every_reason_has_its_own_sentence() {
        let mut sentences: Vec<_> = Reason::ALL.into_iter().map(why).collect();
        sentences.sort_unstable();
        sentences.dedup();
        assert_eq!(sentences.len(), Reason::ALL.len());
    }
}
