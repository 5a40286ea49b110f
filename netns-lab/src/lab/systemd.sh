# Boots systemd as the first process of a container ($1: files to lay over the root).
set -e
echo $$ > "$2/cgroup.procs"
exec unshare --pid --fork --kill-child --mount --mount-proc --cgroup --uts --ipc \
    bash -ec '
        mount -t tmpfs none /run
        mount -t tmpfs none /tmp
        for folder in /etc /usr/bin /var; do
            mkdir -p /run/over$folder/{data,work}
            over=/run/over$folder
            mount -t overlay none -o "lowerdir=$folder,upperdir=$over/data,workdir=$over/work" $folder
        done
        cp -r "$1"/. /
        umount /sys/fs/cgroup
        mount -t cgroup2 none /sys/fs/cgroup
        systemd-sysusers
        : > /etc/machine-id
        container=lab exec /lib/systemd/systemd --unit=lab.target --show-status=no
    ' bash "$1"
