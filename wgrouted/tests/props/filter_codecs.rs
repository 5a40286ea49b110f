//! What happens to the filter can be recorded: strategies for its events and rules.

use std::time::Duration;

use proptest::prelude::*;
use wgrouted::core::{
    filter::{
        policy::{PolicyRule, RuleSpec},
        rule::{Ends, FilterRule, Hook, LinkFilter, PeerFilter, Sizes, SourceMode, TunnelRule},
        table::{
            Contents, FilterError, FilterEvent, FilterReport, HookKind, Identity, LinkState,
            SourceKey, TunnelKey, TunnelName,
        },
    },
    prefix::Prefix,
    rule::{Audit, OnExit},
};

use crate::codecs::{key, prefix};

fn duration() -> impl Strategy<Value = Duration> {
    (any::<u32>(), 0..1_000_000_000u32).prop_map(|(s, ns)| Duration::new(s.into(), ns))
}

fn prefixes() -> impl Strategy<Value = Vec<Prefix>> {
    prop::collection::vec(prefix(), 0..3)
}

pub fn peer_filter() -> impl Strategy<Value = PeerFilter> {
    let source = prop_oneof![
        Just(SourceMode::Off),
        Just(SourceMode::Strict),
        Just(SourceMode::Feasible),
        Just(SourceMode::Loose),
        Just(SourceMode::List),
        Just(SourceMode::Group),
    ];
    let name = || prop::option::of(".{0,9}");
    (source, prefixes(), name(), name(), any::<[bool; 5]>()).prop_map(
        |(source, list, group, policy, flags)| {
            let [monitor, link_local, unspecified, control, ignore_default] = flags;
            PeerFilter {
                source,
                monitor,
                list,
                group,
                policy,
                link_local,
                unspecified,
                control,
                ignore_default,
            }
        },
    )
}

pub fn link_filter() -> impl Strategy<Value = LinkFilter> {
    (peer_filter(), any::<bool>()).prop_map(|(peers, open)| LinkFilter { peers, open })
}

fn policy() -> impl Strategy<Value = PolicyRule> {
    let ports = || prop::collection::vec(any::<(u16, u16)>(), 0..2);
    let nets = (prefixes(), prefixes(), prop::option::of(any::<u8>()), ports(), ports());
    let rule = (".{0,20}", any::<u32>(), any::<bool>(), nets).prop_map(
        |(text, line, accept, (from, to, protocol, src_ports, dst_ports))| RuleSpec {
            text,
            line,
            accept,
            from,
            to,
            protocol,
            src_ports,
            dst_ports,
        },
    );
    let rules = prop::collection::vec(rule, 0..2);
    (".{0,9}", any::<bool>(), any::<bool>(), rules)
        .prop_map(|(name, accept, stateful, rules)| PolicyRule { name, accept, stateful, rules })
}

fn filter_rule() -> impl Strategy<Value = FilterRule> {
    let hook = prop_oneof![Just(Hook::Auto), Just(Hook::Xdp), Just(Hook::Tcx)];
    let sizes = any::<[u32; 5]>().prop_map(|[sources_v4, sources_v6, peers, rules, flows]| Sizes {
        sources_v4,
        sources_v6,
        peers,
        rules,
        flows,
    });
    let audit = prop_oneof![Just(Audit::Auto), duration().prop_map(Audit::Every), Just(Audit::Off)];
    let on_exit = prop_oneof![Just(OnExit::Keep), Just(OnExit::Remove)];
    let policies = prop::collection::vec(policy(), 0..2);
    (hook, sizes, any::<u32>(), duration(), audit, on_exit, policies).prop_map(
        |(hook, sizes, samples_per_second, grace, audit, on_exit, policies)| FilterRule {
            hook,
            sizes,
            samples_per_second,
            grace,
            audit,
            on_exit,
            policies,
        },
    )
}

fn failure() -> impl Strategy<Value = FilterError> {
    ".{0,40}".prop_map(|message| FilterError { message })
}

fn contents() -> impl Strategy<Value = Contents> {
    let source = (any::<u32>(), prefix(), any::<u32>())
        .prop_map(|(domain, prefix, value)| (SourceKey { domain, prefix }, value));
    let name = prop::option::of("[a-z0-9-]{1,15}");
    let identity = (any::<u32>(), key(), name).prop_map(|(ifindex, public_key, name)| {
        let tunnel = name.as_deref().map(TunnelName::from);
        Identity { ifindex, public_key, tunnel }
    });
    let peer = (any::<u32>(), identity);
    let tunnel = (any::<u32>(), prop::option::of(ends()));
    let tunnel = tunnel.prop_map(|(peer, ends)| TunnelKey { peer, ends });
    (
        prop::collection::vec(source, 0..3),
        prop::collection::vec(any::<(u32, u32)>(), 0..3),
        prop::collection::vec(peer, 0..3),
        prop::collection::vec(any::<u32>(), 0..3),
        prop::collection::vec(tunnel, 0..3),
    )
        .prop_map(|(sources, members, peers, links, tunnels)| Contents {
            sources,
            members,
            peers,
            links,
            tunnels,
        })
}

pub fn ends() -> impl Strategy<Value = Ends> {
    let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(a, b)| (a.into(), b.into()));
    let v6 = (any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(a, b)| (a.into(), b.into()));
    let ends = prop_oneof![v4, v6];
    let protocol = prop_oneof![Just(4), Just(47)];
    (ends, protocol, prop::option::of(any::<u32>()))
        .prop_map(|((local, remote), protocol, key)| Ends { local, remote, protocol, key })
}

fn tunnel_rule() -> impl Strategy<Value = TunnelRule> {
    let address = prop::option::of(ends().prop_map(|ends| ends.remote));
    (prop::option::of(key()), address, prop::option::of(ends()), link_filter()).prop_map(
        |(peer, remote, ends, filter)| TunnelRule {
            name: "gre-a".into(),
            peer,
            remote,
            ends,
            tables: vec![1],
            pinned: Vec::new(),
            filter: filter.peers,
        },
    )
}

pub fn tunnel_rules() -> impl Strategy<Value = Vec<TunnelRule>> {
    prop::collection::vec(tunnel_rule(), 0..3)
}

proptest! {
    /// A key of the table of tunnels is what it was made of.
    #[test]
    fn keys_of_tunnels_survive(peer in any::<u32>(), ends in prop::option::of(ends())) {
        let key = TunnelKey { peer, ends };
        prop_assert_eq!(TunnelKey::from_layout(&key.to_layout()), key);
    }
}

pub fn event() -> impl Strategy<Value = FilterEvent> {
    let read = || prop::result::maybe_ok(contents(), failure());
    let report = prop::collection::vec(any::<(usize, i32)>(), 0..3)
        .prop_map(|failed| FilterReport { failed });
    let kind = prop_oneof![Just(HookKind::Xdp), Just(HookKind::Tcx), Just(HookKind::Clsact)];
    let state = (any::<u32>(), prop::result::maybe_ok(kind, failure()), any::<bool>())
        .prop_map(|(ifindex, hook, reattached)| LinkState { ifindex, hook, reattached });
    let links = prop::collection::vec(state, 0..3);
    prop_oneof![
        prop::option::of(filter_rule()).prop_map(FilterEvent::Configure),
        (any::<u64>(), read()).prop_map(|(token, result)| FilterEvent::Opened { token, result }),
        (any::<u64>(), prop::result::maybe_ok(report, failure()))
            .prop_map(|(token, result)| FilterEvent::Applied { token, result }),
        (any::<u64>(), links).prop_map(|(token, links)| FilterEvent::Attached { token, links }),
        (any::<u64>(), duration(), read()).prop_map(|(token, cost, result)| FilterEvent::Dumped {
            token,
            cost,
            result
        }),
        (any::<u64>(), prop::result::maybe_ok(Just(()), failure()))
            .prop_map(|(token, result)| FilterEvent::Removed { token, result }),
    ]
}
