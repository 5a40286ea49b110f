//! The numbers of include/uapi/linux/wireguard.h and a reader of netlink attributes.
//!
//! Here lives what the encoder and the decoder share. No I/O and no meaning.

/// Room for `struct nlmsghdr` and `struct genlmsghdr` in front of the attributes.
pub(super) const HEADERS: usize = 20;
/// Where `struct genlmsghdr` begins.
pub(super) const GENL_HEADER: usize = 16;

pub(super) const WG_GENL_NAME: &str = "wireguard";
pub(super) const WG_GENL_VERSION: u8 = 1;
pub(super) const WG_CMD_SET_DEVICE: u8 = 1;

pub(super) const WGDEVICE_A_IFINDEX: u16 = 1;
pub(super) const WGDEVICE_A_IFNAME: u16 = 2;
pub(super) const WGDEVICE_A_PRIVATE_KEY: u16 = 3;
pub(super) const WGDEVICE_A_PUBLIC_KEY: u16 = 4;
pub(super) const WGDEVICE_A_LISTEN_PORT: u16 = 6;
pub(super) const WGDEVICE_A_FWMARK: u16 = 7;
pub(super) const WGDEVICE_A_PEERS: u16 = 8;

pub(super) const WGPEER_A_PUBLIC_KEY: u16 = 1;
pub(super) const WGPEER_A_PRESHARED_KEY: u16 = 2;
pub(super) const WGPEER_A_FLAGS: u16 = 3;
pub(super) const WGPEER_A_ENDPOINT: u16 = 4;
pub(super) const WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL: u16 = 5;
pub(super) const WGPEER_A_LAST_HANDSHAKE_TIME: u16 = 6;
pub(super) const WGPEER_A_RX_BYTES: u16 = 7;
pub(super) const WGPEER_A_TX_BYTES: u16 = 8;
pub(super) const WGPEER_A_ALLOWEDIPS: u16 = 9;

pub(super) const WGPEER_F_REMOVE_ME: u32 = 1;
pub(super) const WGPEER_F_REPLACE_ALLOWEDIPS: u32 = 2;
pub(super) const WGPEER_F_UPDATE_ONLY: u32 = 4;

pub(super) const WGALLOWEDIP_A_FAMILY: u16 = 1;
pub(super) const WGALLOWEDIP_A_IPADDR: u16 = 2;
pub(super) const WGALLOWEDIP_A_CIDR_MASK: u16 = 3;
pub(super) const WGALLOWEDIP_A_FLAGS: u16 = 4;

/// Since Linux 6.16.
pub(super) const WGALLOWEDIP_F_REMOVE_ME: u32 = 1;

const TYPE_MASK: u16 = 0x3fff;

/// Bytes that are not what they should be; says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// Reads a run of netlink attributes: type without its flag bits, and value. Ends after the first
/// error.
pub(super) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Attributes<'a> {
        Attributes(bytes)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let [l0, l1, t0, t1, ..] = *self.0 else {
            let rest = std::mem::take(&mut self.0);
            return (!rest.is_empty()).then_some(Err(Malformed("a cut attribute header")));
        };
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let Some(value) = self.0.get(4..length) else {
            self.0 = &[];
            return Some(Err(Malformed("an attribute longer than what holds it")));
        };
        // The last attribute need not be padded.
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Ok((u16::from_ne_bytes([t0, t1]) & TYPE_MASK, value)))
    }
}

/// A value of fixed size.
#[inline]
pub(super) fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], Malformed> {
    value.try_into().map_err(|_| Malformed("an attribute of the wrong size"))
}
