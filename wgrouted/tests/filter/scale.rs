//! A full table.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{FromRawFd, OwnedFd},
    time::Instant,
};

use wgrouted::{
    core::{
        filter::table::{FilterChange, SourceKey},
        prefix::Prefix,
    },
    target::filter::{FilterTarget, KernelFilter},
};

use crate::{
    lab::{DIRECTORY, ROUTES, isolate, plan, space},
    oracle::packets::Random,
};

/// As many as a full table of both families has.
const PREFIXES: usize = 1_062_046;

fn prefix(random: &mut Random) -> Prefix {
    let bits = random.next();
    if bits.is_multiple_of(5) {
        let addr = Ipv6Addr::from((u128::from(bits) << 64) >> 3 | 0x2 << 124);
        Prefix::new(IpAddr::V6(addr), 32 + (random.next() % 17) as u8).unwrap()
    } else {
        let addr = Ipv4Addr::from((bits >> 16) as u32);
        Prefix::new(IpAddr::V4(addr), 16 + (random.next() % 9) as u8).unwrap()
    }
}

#[test]
#[ignore = "needs root"]
fn a_full_table_is_loaded_churned_and_read() {
    isolate();
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut table = BTreeMap::new();
    while table.len() < PREFIXES {
        let key = SourceKey { domain: ROUTES, prefix: prefix(&mut random) };
        table.insert(key, 1 + (table.len() % 500) as u32);
    }
    let v4 = table.keys().filter(|key| matches!(key.prefix, Prefix::V4(_))).count();
    let mut large = plan();
    large.sizes.sources_v4 = v4 as u32;
    large.sizes.sources_v6 = (PREFIXES - v4) as u32;
    let mut filter = KernelFilter::new(DIRECTORY);
    filter.open(&large).unwrap();
    // In random order, as routes come.
    let mut keys: Vec<_> = table.keys().copied().collect();
    for at in (1..keys.len()).rev() {
        keys.swap(at, random.below(at + 1));
    }
    let mut timed = |what: &str, changes: &[FilterChange]| {
        let start = Instant::now();
        let report = filter.apply(changes).unwrap();
        assert_eq!(report.failed, [], "{what}");
        println!("{what}: {} changes in {:?}", changes.len(), start.elapsed());
    };
    let set = |table: &BTreeMap<SourceKey, u32>, key: &SourceKey| FilterChange::Source {
        key: *key,
        value: table.get(key).copied(),
    };
    timed("load", &keys.iter().map(|key| set(&table, key)).collect::<Vec<_>>());
    // A tenth moves, a tenth goes; as they come, and then sorted by kind.
    let mut churned = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        match at % 10 {
            0 => drop(table.insert(*key, 777)),
            1 => drop(table.remove(key)),
            _ => continue,
        }
        churned.push(*key);
    }
    timed("churn, mixed", &churned.iter().map(|key| set(&table, key)).collect::<Vec<_>>());
    churned.retain(|key| !table.contains_key(key));
    for key in &churned {
        table.insert(*key, 3);
    }
    timed("come back", &churned.iter().map(|key| set(&table, key)).collect::<Vec<_>>());
    for key in &churned {
        table.remove(key);
    }
    timed("go again", &churned.iter().map(|key| set(&table, key)).collect::<Vec<_>>());
    let start = Instant::now();
    let contents = filter.dump().unwrap();
    println!("dump: {} entries in {:?}", contents.sources.len(), start.elapsed());
    assert!(contents.sources.iter().map(|(key, owner)| (key, owner)).eq(&table));
    for map in ["WGR_SOURCES_V4", "WGR_SOURCES_V6", "WGR_COUNTERS", "WGR_FLOWS"] {
        println!("{map}: {} KiB", memory(map) / 1024);
    }
    drop(filter);
    let start = Instant::now();
    let mut filter = KernelFilter::new(DIRECTORY);
    assert_eq!(filter.open(&large).unwrap().sources.len(), table.len());
    println!("adopt: {:?}", start.elapsed());
    let start = Instant::now();
    filter.remove().unwrap();
    println!("remove: {:?}", start.elapsed());
}

/// What the kernel says a map takes.
fn memory(map: &str) -> u64 {
    let path = space().unwrap().join("g1").join(map);
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let mut get = [path.as_ptr().addr() as u64, 0];
    // SAFETY: BPF_OBJ_GET reads a path that ends with a zero.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, 7, get.as_mut_ptr(), 16) };
    assert!(fd >= 0);
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    // SAFETY: a new descriptor.
    drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:")).unwrap();
    line.trim().parse().unwrap()
}
