#!/bin/sh
# Run tests/interop/siw_guest.sh in the Soft-RoCE guest, with Linux's siw: iWARP in the kernel, which
# Debian's kernels lack. Its source and the headers come from Debian's packages for the same kernel;
# they are unpacked into a folder, and nothing is installed.
#
#   siw.sh PYTHON FOLDER     the Python that rpma is installed in, a folder to keep the module in
set -eu

# Not realpath: a virtual environment's python is a link.
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
mkdir -p "$2"
folder=$(realpath "$2")
here=$(dirname "$(realpath "$0")")
soft=$("$(dirname "$python")/rpma" soft-path)

version=$("$python" "$here/../softroce" -- uname -r)
module=$folder/$version/siw.ko

make_module() {
    work=$folder/$version.work
    rm -rf "$work"
    mkdir -p "$work/packages" "$folder/$version"
    cd "$work/packages"
    common=${version%-*}-common
    apt-get -q download "linux-headers-$version" "linux-headers-$common" \
        "linux-kbuild-${version%-*}" "linux-source-$(echo "$version" | cut -d. -f1,2)"
    for package in *.deb; do
        dpkg-deb -x "$package" "$work"
    done
    cd "$work"
    # The packages name each other by absolute paths.
    headers=$work/usr/src/linux-headers-$version
    sed -i "s#/usr/src/#$work/usr/src/#g" "$headers/Makefile"
    find usr -type l -lname '/usr/*' | while read -r link; do
        ln -sfn "$work$(readlink "$link")" "$link"
    done
    # Only for type information, which takes a tool of its own.
    rm -f "$headers/vmlinux"
    tar -xf usr/src/linux-source-*.tar.xz --wildcards '*/drivers/infiniband/sw/siw'
    cp -r linux-source-*/drivers/infiniband/sw/siw siw
    # shellcheck disable=SC2016 # make expands it
    sed -i 's/obj-$(CONFIG_RDMA_SIW)/obj-m/' siw/Makefile
    make -s -C "$headers" M="$work/siw" modules
    cp siw/siw.ko "$module"
    cd /
    rm -rf "$work"
}

[ -f "$module" ] || (make_module)
exec "$python" "$here/../softroce" -- sh "$here/siw_guest.sh" "$module" "$soft"
