//! WireGuard peers as the core names them.
//!
//! Here live [`PublicKey`] and [`PeerIdx`]. No secret ever has a type here: private and preshared
//! keys are dropped by the parsers at the edge.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A peer's Curve25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

/// Why a text is not a public key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a WireGuard public key: expected 44 characters of base64, as `wg show` prints them")]
pub struct ParseKeyError;

impl FromStr for PublicKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = STANDARD.decode(text).map_err(|_| ParseKeyError)?;
        Ok(PublicKey(bytes.try_into().map_err(|_| ParseKeyError)?))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A peer's number on one interface: a compact stand-in for its public key in tables with a
/// million rows. Numbers are given out by the interface's state machine, are never reused for
/// another key during its life, and mean nothing outside it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PeerIdx(pub u32);

impl fmt::Debug for PeerIdx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer#{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_printing_and_parsing() {
        let key = PublicKey(std::array::from_fn(|i| i as u8));
        assert_eq!(key.to_string().parse::<PublicKey>().unwrap(), key);
        assert!("c2hvcnQ=".parse::<PublicKey>().is_err());
    }
}
