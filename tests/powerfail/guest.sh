# shellcheck shell=dash
# Runs in the guest: loads what the storage and the network need, formats both kinds of storage at
# the first boot, mounts them, and becomes the target.
set -eu

export PATH="$PATH:/usr/sbin:/sbin"
share=${POWERFAIL_SHARE:?}
for module in "$share"/modules/*.ko; do
    /run/busybox insmod "$module"
done

ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up

wait_for() {
    tries=100
    until [ -b "$1" ]; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || { echo "there is no $1" >&2; exit 1; }
        /run/busybox sleep 0.1
    done
}

[ -z "${POWERFAIL_FORMAT:-}" ] || ndctl create-namespace -f -e namespace0.0 --mode=fsdax > /dev/null
wait_for /dev/pmem0
wait_for /dev/vda
if [ -n "${POWERFAIL_FORMAT:-}" ]; then
    mkfs.ext4 -q -b 4096 /dev/pmem0
    mkfs.ext4 -q -b 4096 /dev/vda
fi
mkdir -p /run/dax /run/disk
mount -t ext4 -o dax=always /dev/pmem0 /run/dax
mount -t ext4 /dev/vda /run/disk
mkdir -p /run/dax/pools /run/disk/pools
cat /sys/block/vda/queue/write_cache > "$share/write_cache"

# The shared folder cannot be mapped.
cp "$share/stubs.so" /run
export LD_PRELOAD=/run/stubs.so POWERFAIL_TOLD="$share/told"
exec "$POWERFAIL_PYTHON" "$share/serve.py"
