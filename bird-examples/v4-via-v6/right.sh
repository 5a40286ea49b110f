# Keys: `wg genkey | tee right.key | wg pubkey > right.pub`; the .pub files go to the others.
ip link add wg0 type wireguard
wg set wg0 private-key right.key listen-port 51820
# A peer has its tunnel addresses as AllowedIPs; what is routed to it, wgrouted adds.
wg set wg0 peer "$(cat left.pub)" endpoint 192.0.2.1:51820 allowed-ips fd00::1/128,fe80::1/128
ip address add fd00::2/64 dev wg0
ip address add fe80::2/64 dev wg0
ip link set wg0 up
# Stands for the network behind this router.
ip address add 172.16.2.1/32 dev lo
ip address add 2001:db8:2::1/128 dev lo
