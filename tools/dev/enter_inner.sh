#!/bin/bash
# Second half of enter.sh: already in the new mount namespace, makes the mounts and becomes the command.
set -euo pipefail
cache=$TRANSSHIP_ENTER_CACHE root=$TRANSSHIP_ENTER_ROOT src=$TRANSSHIP_ENTER_SRC

# The upper layer is a tmpfs of this namespace: it vanishes with the last process, also after SIGKILL.
scratch=$cache/mnt new=$cache/mnt/root
mount -t tmpfs -o mode=755 transship "$scratch"
mkdir "$scratch"/{upper,work,root}
chmod 755 "$scratch/upper"
mount -t overlay -o "lowerdir=$root,upperdir=$scratch/upper,workdir=$scratch/work" transship "$new"

mount --bind "$src" "$new/src"
mount --bind "$cache/ccache" "$new/var/cache/ccache"
mount --bind "$cache/lab" "$new/var/lib/transship-lab"
mount --bind "$cache/images" "$new/var/lib/transship-images"
mount --bind "$root" "$new/var/lib/transship-root"
mount -o remount,bind,ro "$new/var/lib/transship-root"
mount --rbind /dev "$new/dev"
mount -t proc proc "$new/proc"
mount --rbind /sys "$new/sys"
mount -t tmpfs -o mode=1777 tmpfs "$new/tmp"
mount -t tmpfs -o mode=755 tmpfs "$new/run"
mkdir -m 1777 "$new/run/lock"
# `./dev shell` may want names; the pristine root has none.
cat /etc/resolv.conf >"$new/etc/resolv.conf" 2>/dev/null || true
cat /etc/hosts >"$new/etc/hosts" 2>/dev/null || true

environment=(
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  HOME=/root LANG=C.UTF-8 "TERM=${TERM:-dumb}" "TRANSSHIP_ROOT_ID=${root##*-}"
  CCACHE_DIR=/var/cache/ccache CCACHE_MAXSIZE=3G
  # The checkout may belong to the user who called sudo.
  GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory "GIT_CONFIG_VALUE_0=*"
)
for name in CI http_proxy https_proxy no_proxy NO_COLOR "${!TRANSSHIP_@}"; do
  case $name in
    TRANSSHIP_ENTER_* | TRANSSHIP_CACHE | TRANSSHIP_OS_RELEASE | TRANSSHIP_MIN_FREE_GB) ;; # mean this side
    *) [[ -z ${!name+set} ]] || environment+=("$name=${!name}") ;;
  esac
done
# A session of the machine's own root directory would still see the old one; chroot is enough, as everything here is root.
exec chroot "$new" env -i "${environment[@]}" bash -c 'cd /src && exec "$@"' command "$@"
