# Keys: `wg genkey | tee core.key | wg pubkey > core.pub`; the .pub files go to the others.
# The link between hub and core, which Babel has to itself: one peer, any address.
ip link add wg1 type wireguard
wg set wg1 private-key core.key listen-port 51821
wg set wg1 peer "$(cat hub.pub)" endpoint 192.0.2.2:51821 allowed-ips 0.0.0.0/0,::/0
ip address add fe80::1/64 dev wg1
ip link set wg1 up
# Stands for the network behind this router.
ip address add 172.16.1.1/32 dev lo
