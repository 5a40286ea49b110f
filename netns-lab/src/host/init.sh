#!/bin/busybox sh
# First process of the guest, in the initial RAM file system: puts the root together (image below,
# memory above, so that nothing reaches the host), then hands over to /lab/start in it.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev

die() {
    echo "lab: $*" > /dev/kmsg
    poweroff -f
}

for module in /modules/*.ko; do
    insmod "$module" || die "cannot load $module"
done
mount -t squashfs -o ro /dev/vda /image || die "cannot mount the root image"
mount -t tmpfs -o size=90% upper /upper && mkdir /upper/data /upper/work || die "no memory"
mount -t overlay -o lowerdir=/image,upperdir=/upper/data,workdir=/upper/work root /new ||
    die "cannot mount the overlay"

modules=/new/usr/lib/modules/$(uname -r)
mkdir -p "$modules" && mount -t squashfs -o ro /dev/vdb "$modules" || die "cannot mount modules"
for dir in dev proc sys; do mkdir -p /new/$dir && mount --move /$dir /new/$dir; done
for dir in run tmp dev/shm; do mkdir -p /new/$dir && mount -t tmpfs tmpfs /new/$dir; done
mkdir -p /new/dev/pts /new/run/netns /new/run/lock
mount -t devpts -o ptmxmode=666 devpts /new/dev/pts
mount -t bpf bpf /new/sys/fs/bpf
mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
ln -s /proc/self/fd /new/dev/fd
for stream in 0,stdin 1,stdout 2,stderr; do ln -s fd/${stream%,*} /new/dev/${stream#*,}; done
ip link set lo up
mv /lab/* /new/lab/ || die "no job"

# Ports get their names some time after their driver.
mkdir /new/dev/lab
for try in $(seq 100); do
    for port in /new/sys/class/virtio-ports/*; do
        [ -s $port/name ] && ln -sf ../${port##*/} /new/dev/lab/$(cat $port/name)
    done
    [ -e /new/dev/lab/report ] && break
    sleep 0.05
done
exec switch_root /new /lab/start
