# Keys: `wg genkey | tee s2.key | wg pubkey > s2.pub`; the .pub files go to the others.
ip link add wg0 type wireguard
wg set wg0 private-key s2.key listen-port 51820
# A peer has its tunnel address as AllowedIPs; what is routed to it, wgrouted adds.
wg set wg0 peer "$(cat hub-a.pub)" endpoint 192.0.2.1:51820 allowed-ips 10.0.0.1/32
wg set wg0 peer "$(cat hub-b.pub)" endpoint 192.0.2.2:51820 allowed-ips 10.0.0.2/32
ip address add 10.0.0.4/24 dev wg0
ip link set wg0 up
# Stands for the network behind this router.
ip address add 172.16.4.1/32 dev lo
