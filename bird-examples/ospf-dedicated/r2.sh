# Keys: `wg genkey | tee r2.key | wg pubkey > r2.pub`; the .pub files go to the others.
# The link to r1. wgrouted opens its AllowedIPs once the filter checks sources.
ip link add wg-r1 type wireguard
wg set wg-r1 private-key r2.key listen-port 51821
wg set wg-r1 peer "$(cat r1.pub)" endpoint 192.0.2.1:51822 allowed-ips 10.0.0.1/32,fe80::1/128
ip address add 10.0.0.2 peer 10.0.0.1 dev wg-r1
ip address add fe80::2/64 dev wg-r1
ip link set wg-r1 up
# The link to r3. wgrouted opens its AllowedIPs once the filter checks sources.
ip link add wg-r3 type wireguard
wg set wg-r3 private-key r2.key listen-port 51823
wg set wg-r3 peer "$(cat r3.pub)" endpoint 192.0.2.3:51822 allowed-ips 10.0.0.3/32,fe80::3/128
ip address add 10.0.0.2 peer 10.0.0.3 dev wg-r3
ip address add fe80::2/64 dev wg-r3
ip link set wg-r3 up
# Stands for the network behind this router.
ip address add 172.16.2.1/32 dev lo
ip address add 2001:db8:2::1/128 dev lo
