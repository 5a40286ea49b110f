# Keys: `wg genkey | tee r3.key | wg pubkey > r3.pub`; the .pub files go to the others.
ip link add wg0 type wireguard
wg set wg0 private-key r3.key listen-port 51820
# A peer has its tunnel address as AllowedIPs, and nothing is ever added: all else travels in GRE.
wg set wg0 peer "$(cat r1.pub)" endpoint 192.0.2.1:51820 allowed-ips 10.0.0.1/32
wg set wg0 peer "$(cat r2.pub)" endpoint 192.0.2.2:51820 allowed-ips 10.0.0.2/32
ip address add 10.0.0.3/24 dev wg0
ip link set wg0 up
# One tunnel a peer inside that one interface. Each is a link of its own to Babel.
ip link add gre-r1 type gre local 10.0.0.3 remote 10.0.0.1 ttl 64
ip address add fe80::3/64 dev gre-r1
ip link set gre-r1 up
ip link add gre-r2 type gre local 10.0.0.3 remote 10.0.0.2 ttl 64
ip address add fe80::3/64 dev gre-r2
ip link set gre-r2 up
# Stands for the network behind this router.
ip address add 172.16.3.1/32 dev lo
ip address add 2001:db8:3::1/128 dev lo
