# Keys: `wg genkey | tee a-border.key | wg pubkey > a-border.pub`; the .pub files go to the others.
ip link add wg0 type wireguard
wg set wg0 private-key a-border.key listen-port 51820
# A peer has its tunnel address as AllowedIPs; what is routed to it, wgrouted adds.
wg set wg0 peer "$(cat b-border.pub)" endpoint 192.0.2.3:51820 allowed-ips 10.0.0.3/32
ip address add 10.0.0.1/24 dev wg0
ip link set wg0 up
# The island's own link, which Babel has to itself: one peer, any address.
ip link add wg1 type wireguard
wg set wg1 private-key a-border.key listen-port 51821
wg set wg1 peer "$(cat a-inner.pub)" endpoint 192.0.2.2:51821 allowed-ips 0.0.0.0/0,::/0
ip address add fe80::1/64 dev wg1
ip link set wg1 up
