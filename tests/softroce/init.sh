#!/bin/busybox sh
# shellcheck shell=dash
# The guest's first process. Its root is the host's file system with a layer in memory over it: all
# of it can be written, and nothing that is written reaches the host. The one folder that the host
# shares for results is mounted at its own path. What goes wrong is said on the console, which the
# host keeps.

/bin/busybox --install -s /bin
export PATH=/bin

die() {
    echo "softroce: $*"
    poweroff -f
}

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev

while read -r module; do
    insmod "/modules/$module.ko" || echo "softroce: module $module did not load"
done < /modules/order

mkdir /host /layer /new
options=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o "ro,$options,cache=loose" root /host || die "the host's file system did not mount"
mount -t tmpfs -o size=75% layer /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work root /new ||
    die "the layer over the host's file system did not mount"

for folder in proc sys dev; do
    mount --move "/$folder" "/new/$folder"
done
mkdir -p /new/dev/pts /new/dev/shm
mount -t devpts devpts /new/dev/pts
mount -t tmpfs -o mode=1777 shm /new/dev/shm
mount -t tmpfs -o mode=755 run /new/run
for link in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do
    ln -s "/proc/self/${link#*:}" "/new/dev/${link%%:*}"
done

# softroce_share and softroce_modules are on the kernel command line, hence in the environment.
mkdir -p "/new${softroce_share:?}"
mount -t 9p -o "rw,$options,cache=none" share "/new$softroce_share" ||
    die "the results folder did not mount"
mkdir -p /new/lib/modules
ln -sfn "${softroce_modules:?}" "/new/lib/modules/$(uname -r)"

# The old root goes away with switch_root, but busybox itself keeps running.
cp /bin/busybox /new/run/busybox
exec switch_root /new /bin/sh "$softroce_share/start.sh"
