# Keys: `wg genkey | tee r3.key | wg pubkey > r3.pub`; the .pub files go to the others.
# The link to r1. wgrouted opens its AllowedIPs once the filter checks sources.
ip link add wg-r1 type wireguard
wg set wg-r1 private-key r3.key listen-port 51821
wg set wg-r1 peer "$(cat r1.pub)" endpoint 192.0.2.1:51823 allowed-ips fe80::1/128
ip address add fe80::3/64 dev wg-r1
ip link set wg-r1 up
# The link to r2. wgrouted opens its AllowedIPs once the filter checks sources.
ip link add wg-r2 type wireguard
wg set wg-r2 private-key r3.key listen-port 51822
wg set wg-r2 peer "$(cat r2.pub)" endpoint 192.0.2.2:51823 allowed-ips fe80::2/128
ip address add fe80::3/64 dev wg-r2
ip link set wg-r2 up
# Stands for the network behind this router.
ip address add 172.16.3.1/32 dev lo
ip address add 2001:db8:3::1/128 dev lo
