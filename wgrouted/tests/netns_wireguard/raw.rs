//! One allowed IP on its way to the kernel without any code of ours, so that a mistake of ours
//! cannot confirm itself.

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_generic::{
    GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAllowedIpFlags,
    WireguardAttribute, WireguardCmd, WireguardMessage, WireguardPeer, WireguardPeerAttribute,
    WireguardPeerFlags,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use wgrouted::core::{peer::PublicKey, prefix::Prefix};

/// Sends one allowed IP and returns the error number.
pub(crate) fn raw(ifindex: u32, key: PublicKey, prefix: Prefix, flags: Option<u32>) -> i32 {
    let mut socket = Socket::new(NETLINK_GENERIC).unwrap();
    socket.bind_auto().unwrap();
    socket.connect(&SocketAddr::new(0, 0)).unwrap();
    let mut family = NetlinkMessage::from(GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName("wireguard".to_owned())],
    }));
    family.header.flags = NLM_F_REQUEST;
    family.finalize();
    let mut bytes = vec![0; family.buffer_len()];
    family.serialize(&mut bytes);
    socket.send(&bytes, 0).unwrap();
    let (answer, _) = socket.recv_from_full().unwrap();
    let answer = NetlinkMessage::<GenlMessage<GenlCtrl>>::deserialize(&answer).unwrap();
    let NetlinkPayload::InnerMessage(answer) = answer.payload else { panic!("{answer:?}") };
    let id = answer.payload.nlas.iter().find_map(|attribute| match attribute {
        GenlCtrlAttrs::FamilyId(id) => Some(*id),
        _ => None,
    });

    let mut ip = vec![
        WireguardAllowedIpAttr::Family(match prefix {
            Prefix::V4(_) => WireguardAddressFamily::Ipv4,
            Prefix::V6(_) => WireguardAddressFamily::Ipv6,
        }),
        WireguardAllowedIpAttr::IpAddr(prefix.addr()),
        WireguardAllowedIpAttr::Cidr(prefix.prefix_len()),
    ];
    ip.extend(flags.map(|bits| {
        WireguardAllowedIpAttr::Flags(WireguardAllowedIpFlags::from_bits_retain(bits))
    }));
    let mut message = GenlMessage::from_payload(WireguardMessage {
        cmd: WireguardCmd::SetDevice,
        attributes: vec![
            WireguardAttribute::IfIndex(ifindex),
            WireguardAttribute::Peers(vec![WireguardPeer(vec![
                WireguardPeerAttribute::PublicKey(key.0),
                WireguardPeerAttribute::Flags(WireguardPeerFlags::UpdateOnly),
                WireguardPeerAttribute::AllowedIps(vec![WireguardAllowedIp(ip)]),
            ])]),
        ],
    });
    message.set_resolved_family_id(id.unwrap());
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).unwrap();
    let (answer, _) = socket.recv_from_full().unwrap();
    match NetlinkMessage::<GenlMessage<WireguardMessage>>::deserialize(&answer).unwrap().payload {
        NetlinkPayload::Error(error) => -error.raw_code(),
        other => panic!("{other:?}"),
    }
}
