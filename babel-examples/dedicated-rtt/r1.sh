# Keys: `wg genkey | tee r1.key | wg pubkey > r1.pub`; the .pub files go to the others.
# The link to r2. wgrouted opens its AllowedIPs once the filter checks sources.
ip link add wg-r2 type wireguard
wg set wg-r2 private-key r1.key listen-port 51822
wg set wg-r2 peer "$(cat r2.pub)" endpoint 192.0.2.2:51821 allowed-ips fe80::2/128
ip address add fe80::1/64 dev wg-r2
ip link set wg-r2 up
# The link to r3. wgrouted opens its AllowedIPs once the filter checks sources.
ip link add wg-r3 type wireguard
wg set wg-r3 private-key r1.key listen-port 51823
wg set wg-r3 peer "$(cat r3.pub)" endpoint 192.0.2.3:51821 allowed-ips fe80::3/128
ip address add fe80::1/64 dev wg-r3
ip link set wg-r3 up
# Stands for the network behind this router.
ip address add 172.16.1.1/32 dev lo
ip address add 2001:db8:1::1/128 dev lo
