# Keys: `wg genkey | tee left.key | wg pubkey > left.pub`; the .pub files go to the others.
ip link add wg0 type wireguard
wg set wg0 private-key left.key listen-port 51820
# A peer has its tunnel address as AllowedIPs; what is routed to it, wgrouted adds.
wg set wg0 peer "$(cat right.pub)" endpoint 192.0.2.2:51820 allowed-ips 10.0.0.2/32
ip address add 10.0.0.1/24 dev wg0
ip link set wg0 up
# Stands for the network behind this router.
ip address add 172.16.1.1/32 dev lo
