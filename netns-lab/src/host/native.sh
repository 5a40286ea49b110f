# Puts the private root together ($1: the guest's root, $2: the run's folder) and starts the job.
set -e
new=$2/root
mkdir -p "$new"
mount -t tmpfs tmpfs "$new"
mkdir "$new/data" "$new/work" "$new/root"
mount -t overlay -o "lowerdir=$1,upperdir=$new/data,workdir=$new/work" overlay "$new/root"
new=$new/root
mount --rbind /dev "$new/dev"
mount -t proc proc "$new/proc"
mount -t sysfs sysfs "$new/sys"
mount -t bpf bpf "$new/sys/fs/bpf" || echo "native: no bpffs" >&2
for dir in run tmp lab; do mount -t tmpfs tmpfs "$new/$dir"; done
mkdir -p "$new/run/netns" "$new/run/lock" "$new/lab/port"
cp -r "$2"/lab/* "$new/lab/"
mount --bind "$2" "$new/lab/port"
if [ -d /lib/modules ]; then
    mkdir -p "$new/usr/lib/modules"
    mount --rbind /lib/modules "$new/usr/lib/modules"
fi
exec chroot "$new" /bin/bash /lab/start
