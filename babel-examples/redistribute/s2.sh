# Keys: `wg genkey | tee s2.key | wg pubkey > s2.pub`; the .pub files go to the others.
ip link add wg0 type wireguard
wg set wg0 private-key s2.key listen-port 51820
# A branch runs no daemon: all networks are behind the hub.
wg set wg0 peer "$(cat hub.pub)" endpoint 192.0.2.2:51820 allowed-ips 10.0.0.0/24,172.16.0.0/16
ip address add 10.0.0.4/24 dev wg0
ip link set wg0 up
ip route add 172.16.0.0/16 dev wg0
# Stands for the network behind this router.
ip address add 172.16.4.1/32 dev lo
