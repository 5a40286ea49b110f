//! Tables of prefixes.
//!
//! Here live the reading of a list of prefixes and the generator that stands in for one.
//! Invariants: no prefix comes twice, host bits are zero, and a generated prefix never overlaps
//! the lab's own addresses. The same numbers always generate the same table.

use std::{
    collections::HashSet,
    fs::File,
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::{Context, Result};
use flate2::bufread::MultiGzDecoder;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// How many IPv4 prefixes a full table of the Internet holds.
pub const FULL_V4: usize = 900_000;
/// How many IPv6 prefixes a full table of the Internet holds.
pub const FULL_V6: usize = 160_000;

/// What every gzip file begins with (RFC 1952, section 2.3.1).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Prefixes of each length among 100,000 of an Internet routing table, IPv4: what
/// [`read`] finds in a real one, without the few whose share rounds to zero.
#[rustfmt::skip]
const SHARES_V4: &[(u8, u64)] = &[
    (8, 2), (9, 1), (10, 4), (11, 11), (12, 33), (13, 64), (14, 133), (15, 233), (16, 1_496),
    (17, 913), (18, 1_530), (19, 2_758), (20, 4_725), (21, 5_627), (22, 12_044), (23, 10_701),
    (24, 59_618), (25, 2), (27, 1), (28, 2), (29, 2), (32, 100),
];

/// The same for IPv6.
#[rustfmt::skip]
const SHARES_V6: &[(u8, u64)] = &[
    (20, 10), (24, 25), (26, 10), (28, 130), (29, 2_730), (30, 406), (31, 177), (32, 14_080),
    (33, 1_827), (34, 1_625), (35, 651), (36, 3_744), (37, 550), (38, 1_010), (39, 860),
    (40, 8_379), (41, 564), (42, 1_437), (43, 625), (44, 8_970), (45, 970), (46, 1_898),
    (47, 1_969), (48, 47_150), (56, 15), (58, 13), (64, 118), (126, 14), (127, 33), (128, 10),
];

/// Special-purpose IPv4 networks (RFC 6890), rounded up; the lab's addresses lie in them.
const RESERVED_V4: [Ipv4Net; 11] = [
    Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15),
    Ipv4Net::new_assert(Ipv4Addr::new(198, 51, 100, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24),
];

/// The first 16 bits of the blocks (/12 each) out of which the regional registries assign IPv6
/// networks. The lab's own 2001:db8::/32 and fd00::/8 lie elsewhere.
const REGISTRIES_V6: [u16; 6] = [0x2400, 0x2600, 0x2610, 0x2800, 0x2a00, 0x2c00];

/// Reads a list with one prefix a line, plain or compressed by gzip. Empty lines and lines that
/// begin with `#` are skipped, repeated prefixes too.
pub fn read(path: &Path) -> Result<Vec<IpNet>> {
    let text = read_text(path).with_context(|| path.display().to_string())?;
    let mut known = HashSet::new();
    let mut prefixes = Vec::new();
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let prefix: IpNet = line
            .parse()
            .with_context(|| format!("{}:{number}: `{line}` is not a prefix", path.display()))?;
        if known.insert(prefix.trunc()) {
            prefixes.push(prefix.trunc());
        }
    }
    Ok(prefixes)
}

fn read_text(path: &Path) -> std::io::Result<String> {
    let mut file = BufReader::new(File::open(path)?);
    let mut text = String::new();
    if file.fill_buf()?.starts_with(&GZIP_MAGIC) {
        MultiGzDecoder::new(file).read_to_string(&mut text)?;
    } else {
        file.read_to_string(&mut text)?;
    }
    Ok(text)
}

/// Generates a table of this many prefixes with the Internet's distribution of lengths.
pub fn generate(v4: usize, v6: usize) -> Vec<IpNet> {
    let mut random = Random(0x5eed);
    let mut known = HashSet::with_capacity(v4 + v6);
    let mut prefixes = Vec::with_capacity(v4 + v6);
    for (count, shares, draw) in [
        (v4, SHARES_V4, random_v4 as fn(&mut Random, u8) -> Option<IpNet>),
        (v6, SHARES_V6, random_v6),
    ] {
        let all: u64 = shares.iter().map(|(_, share)| share).sum();
        let goal = prefixes.len() + count;
        while prefixes.len() < goal {
            let mut point = random.next() % all;
            let length = shares.iter().find_map(|(length, share)| {
                let hit = point < *share;
                point = point.saturating_sub(*share);
                hit.then_some(*length)
            });
            let length = length.expect("the point is below the sum of the shares");
            if let Some(prefix) = draw(&mut random, length).filter(|prefix| known.insert(*prefix)) {
                prefixes.push(prefix);
            }
        }
    }
    prefixes.sort_unstable();
    prefixes
}

/// A network of this length, unless it would be special or multicast.
fn random_v4(random: &mut Random, length: u8) -> Option<IpNet> {
    let address = Ipv4Addr::from_bits(random.next() as u32);
    let prefix = Ipv4Net::new(address, length).expect("a table length").trunc();
    let overlaps = |net: &Ipv4Net| net.contains(&prefix) || prefix.contains(net);
    (address.octets()[0] < 224 && !RESERVED_V4.iter().any(overlaps)).then_some(prefix.into())
}

/// A network of this length in one of the registries' blocks.
fn random_v6(random: &mut Random, length: u8) -> Option<IpNet> {
    let block = REGISTRIES_V6[(random.next() % REGISTRIES_V6.len() as u64) as usize];
    let low = u128::from(random.next()) << 64 | u128::from(random.next());
    let address = Ipv6Addr::from_bits(u128::from(block) << 112 | low >> 12);
    Some(Ipv6Net::new(address, length).expect("a table length").trunc().into())
}

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    #[test]
    fn a_generated_table_has_the_size_and_the_lengths_that_were_asked_for() {
        let table = generate(20_000, 4_000);
        assert_eq!(table, generate(20_000, 4_000));
        assert_eq!(table.iter().filter(|prefix| matches!(prefix, IpNet::V4(_))).count(), 20_000);
        assert_eq!(table.iter().collect::<HashSet<_>>().len(), 24_000);
        assert!(table.iter().all(|prefix| prefix.trunc() == *prefix));
        let share = |v4: bool, length: u8| {
            let same = |p: &&IpNet| matches!(p, IpNet::V4(_)) == v4 && p.prefix_len() == length;
            table.iter().filter(same).count()
        };
        assert!((11_000..13_000).contains(&share(true, 24)), "{}", share(true, 24));
        assert!((1_700..2_100).contains(&share(false, 48)), "{}", share(false, 48));
    }

    #[test]
    fn a_generated_table_leaves_the_labs_own_addresses_alone() {
        let own =
            ["10.99.0.1", "172.31.0.1", "198.51.100.1", "2001:db8:1::1", "fd99::1", "fe80::1"];
        let own = own.map(|address| address.parse::<std::net::IpAddr>().unwrap());
        let table = generate(50_000, 10_000);
        assert!(!table.iter().any(|prefix| own.iter().any(|address| prefix.contains(address))));
    }

    #[test]
    fn lists_are_read_plain_and_compressed() {
        let text = "# two\n192.0.2.0/24\n\n2001:db8::/32\n192.0.2.0/24\n";
        let dir = std::env::temp_dir().join(format!("netns-lab-table-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let plain = dir.join("plain");
        std::fs::write(&plain, text).unwrap();
        let packed = dir.join("packed.gz");
        let mut encoder = GzEncoder::new(File::create(&packed).unwrap(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap();
        let want: Vec<IpNet> =
            vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        assert_eq!(read(&plain).unwrap(), want);
        assert_eq!(read(&packed).unwrap(), want);
        std::fs::write(&plain, "192.0.2.0/24\nnonsense\n").unwrap();
        let error = read(&plain).unwrap_err().to_string();
        assert!(error.ends_with("plain:2: `nonsense` is not a prefix"), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
