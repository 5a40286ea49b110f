# Keys: `wg genkey | tee exit-b.key | wg pubkey > exit-b.pub`; the .pub files go to the others.
ip link add wg0 type wireguard
wg set wg0 private-key exit-b.key listen-port 51820
# A peer has its tunnel address as AllowedIPs; what is routed to it, wgrouted adds.
wg set wg0 peer "$(cat client.pub)" endpoint 192.0.2.1:51820 allowed-ips 10.0.0.1/32
ip address add 10.0.0.3/24 dev wg0
ip link set wg0 up
# The client's network. wgrouted makes it the client's AllowedIPs.
ip route add 172.16.1.0/24 via 10.0.0.1
# Stands for the Internet behind this exit.
ip address add 203.0.113.1/32 dev lo
