# Keys: `wg genkey | tee hub.key | wg pubkey > hub.pub`; the .pub files go to the others.
ip link add wg0 type wireguard
wg set wg0 private-key hub.key listen-port 51820
# A peer has its tunnel address as AllowedIPs; what is routed to it, wgrouted adds.
wg set wg0 peer "$(cat s1.pub)" endpoint 192.0.2.3:51820 allowed-ips 10.0.0.3/32
wg set wg0 peer "$(cat s2.pub)" endpoint 192.0.2.4:51820 allowed-ips 10.0.0.4/32
ip address add 10.0.0.2/24 dev wg0
ip link set wg0 up
