#!/bin/sh
# In the guest: programs on Linux's siw and the same programs on the soft RNIC, each in either role.
#
#   siw_guest.sh MODULE FOLDER     siw.ko; the soft RNIC's libraries
#
# There is no ib_send_bw: it paces itself by credits on some iWARP devices and not on siw, so its two
# sides have to be on the same kind.
set -u

module=$1
soft=$2
address=10.8.8.1
port=7300
failed=0

modprobe -q libcrc32c || true # not a module in later kernels
insmod "$module" || exit 1
ip link add siwnet type dummy
ip address add $address/24 dev siwnet
ip link set siwnet up
rdma link add siw0 type siw netdev siwnet || exit 1

# on DEVICE COMMAND...: run it there
on() {
    if [ "$1" = soft ]; then
        shift
        LD_LIBRARY_PATH=$soft timeout 60 "$@"
    else
        shift
        timeout 60 "$@"
    fi
}

# pair SERVER CLIENT COMMAND...
pair() {
    server=$1
    client=$2
    shift 2
    port=$((port + 1))
    if [ "$1" = rping ]; then
        on "$server" "$@" -s -a $address -p $port > /tmp/server.log 2>&1 &
        set -- "$@" -c -a $address -p $port
    else
        on "$server" "$@" -R -F -p $port > /tmp/server.log 2>&1 &
        set -- "$@" -R -F -p $port $address
    fi
    sleep 2
    if on "$client" "$@" > /tmp/client.log 2>&1 && wait $!; then
        echo "ok      crc $SOFTRNIC_CRC  $server server  $client client  $*"
    else
        failed=1
        echo "FAILED  crc $SOFTRNIC_CRC  $server server  $client client  $*"
        sed 's/^/    server: /' /tmp/server.log
        sed 's/^/    client: /' /tmp/client.log
    fi
}

for SOFTRNIC_CRC in 0 1; do
    export SOFTRNIC_CRC
    for roles in "siw soft" "soft siw"; do
        # shellcheck disable=SC2086 # two words
        while read -r command; do
            pair $roles $command < /dev/null
        done << END
rping -C 50 -S 1000 -V
rping -C 10 -S 65000 -V
ib_write_lat -s 64 -n 200
ib_write_bw -s 64 -n 500
ib_write_bw -s 65536 -n 200
ib_write_bw -s 1048576 -n 20
ib_read_lat -s 64 -n 100
ib_read_bw -s 65536 -n 200 -o 8
ib_send_lat -s 64 -n 200
ib_send_lat -s 64 -n 200 -e
ib_send_lat -s 4096 -n 100
END
    done
done
exit $failed
