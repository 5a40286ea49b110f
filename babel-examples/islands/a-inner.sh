# Keys: `wg genkey | tee a-inner.key | wg pubkey > a-inner.pub`; the .pub files go to the others.
# The link to the border, which Babel has to itself: one peer, any address.
ip link add wg1 type wireguard
wg set wg1 private-key a-inner.key listen-port 51821
wg set wg1 peer "$(cat a-border.pub)" endpoint 192.0.2.1:51821 allowed-ips 0.0.0.0/0,::/0
ip address add fe80::2/64 dev wg1
ip link set wg1 up
# Stands for the network behind this router.
ip address add 172.16.2.1/32 dev lo
