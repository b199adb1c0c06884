# shellcheck shell=dash disable=SC3045
# Runs in the guest once its root is mounted: makes the Soft-RoCE device, says that the guest is
# ready, runs the command, and leaves its exit code. `softroce_share` is the folder that the host
# sees; the host puts this script there, beside environment.sh and command.sh.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cd "${softroce_share:?}" || exit 1

address=10.9.9.1
address6=fd09:9::1
hostname=softroce

echo "$hostname" > /proc/sys/kernel/hostname
printf '%s\n' "127.0.0.1 localhost" "::1 localhost" "$address $hostname" > /etc/hosts
# Nothing answers name queries here: a look-up must fail at once.
rm -f /etc/resolv.conf
echo "options timeout:1 attempts:1" > /etc/resolv.conf
ulimit -l unlimited
ulimit -c 0

device=
if [ -e without-device ]; then
    ip link set lo up
else
    # rdma_cm does not work over Soft-RoCE on the loopback interface, hence the dummy one.
    ip -batch - << END
link set lo up

link set dummy0 up
address add $address/24 dev dummy0
address add $address6/64 dev dummy0 nodad
END
    rdma link add rxe0 type rxe netdev dummy0 && device=rxe0
    [ -e /sys/class/infiniband/rxe0 ] || echo "softroce: no device rxe0"
fi

dax=
if [ -e persistent ]; then
    ndctl create-namespace --force --reconfig=namespace0.0 --mode=devdax > /dev/null
    dax=/dev/dax0.0
    if [ ! -c $dax ]; then
        echo "softroce: no persistent memory $dax"
        dax=
    fi
fi

cat > facts << END
device=$device
address=$address
address6=$address6
dax=$dax
kernel=$(uname -r)
END
: > ready

/run/busybox setsid /bin/sh -c '. ./environment.sh; exec /bin/sh ./command.sh' < /dev/null
code=$?

[ "$code" = 0 ] || dmesg > kernel.log
echo "$code" > exit.new
mv exit.new exit
/run/busybox poweroff -f
