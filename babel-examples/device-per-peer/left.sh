# Keys: `wg genkey | tee left.key | wg pubkey > left.pub`; the .pub files go to the others.
ip link add wg0 type wireguard
wg set wg0 private-key left.key listen-port 51820
# What Babel itself needs: the peer's link-local address, and Babel's group.
wg set wg0 peer "$(cat right.pub)" endpoint 192.0.2.2:51820 allowed-ips fe80::2/128,ff02::1:6/128
ip address add fe80::1/64 dev wg0
ip address add 10.0.0.1/32 dev wg0
ip link set wg0 up
# Stands for the network behind this router.
ip address add 172.16.1.1/32 dev lo
ip address add 2001:db8:1::1/128 dev lo
