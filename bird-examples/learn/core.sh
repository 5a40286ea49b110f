# core has no tunnel: it is the hub's neighbour on eth0.
# Stands for the network behind this router.
ip address add 172.16.1.1/32 dev lo
