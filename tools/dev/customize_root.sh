#!/bin/bash
# mmdebstrap's last step, run on the machine with the new root as its argument and MIRROR in the environment: CRIU from
# Debian's newer suite, mount points, and a check that the root is what the project needs.
set -euo pipefail
root=$1

in_chroot() { chroot "$root" env DEBIAN_FRONTEND=noninteractive "$@"; }

# Debian 13's CRIU 4.1 cannot dump TCP sockets on kernels from 6.16 on; 4.2 can. The pin takes CRIU and the libraries it
# comes with from unstable, and nothing else. Frozen mirrors serve an old index, hence no Check-Valid-Until.
cat >"$root/etc/apt/sources.list.d/unstable.sources" <<TEXT
Types: deb
URIs: $MIRROR
Suites: sid
Components: main
Check-Valid-Until: no
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
TEXT
cat >"$root/etc/apt/preferences.d/criu" <<TEXT
Package: *
Pin: release n=sid
Pin-Priority: -10

Package: criu libcompel1 libnet9 libnl-3-200 libnl-genl-3-200 libnl-route-3-200
Pin: release n=sid
Pin-Priority: 990
TEXT
in_chroot apt-get update
in_chroot apt-get install -y --no-install-recommends criu

# Debian's package makes a database at once, which nobody here asks for anything.
rm -rf "$root"/etc/postgresql/17 "$root"/var/lib/postgresql/17

# Where ./dev mounts things; see its head.
mkdir -p "$root"/src "$root"/var/cache/ccache "$root"/var/lib/transship-{lab,root,images}
# The machine's names and resolvers are not part of a pristine root.
echo transship >"$root/etc/hostname"
rm -f "$root/etc/resolv.conf"
: >"$root/etc/resolv.conf"

at_least() { # WHAT HAVE WANT
  [[ $(printf '%s\n' "$2" "$3" | sort -V | head -n 1) == "$3" ]] || {
    echo "E: $1 is version $2, but $3 or newer is needed: this mirror is too old" >&2
    exit 1
  }
}
# What does not go together with a newer library is removed without a word.
mapfile -t packages < <(sed 's/#.*//' "${BASH_SOURCE[0]%/*}/packages.txt" | tr -s ' ' '\n' | sed '/^$/d')
for package in "${packages[@]}"; do
  # shellcheck disable=SC2016  # dpkg's variable, not the shell's
  in_chroot dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || {
    echo "E: $package was to be installed, and is not in the root: look for 'Removing' above" >&2
    exit 1
  }
done
# shellcheck disable=SC2016  # dpkg's variable, not the shell's
version_of() { in_chroot dpkg-query -W -f '${Version}' "$1"; }
at_least criu "$(version_of criu)" 4.2
at_least podman "$(version_of podman)" 5
at_least g++ "$(in_chroot g++ -dumpfullversion)" 14
