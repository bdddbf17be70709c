# shellcheck shell=bash
# ./dev clean. Sourced by ./dev.

clean() {
  local all=no argument
  for argument in "$@"; do
    case $argument in
      --all) all=yes ;;
      *) usage_error "clean does not know '$argument'" ;;
    esac
  done
  # First, as it may refuse, and then nothing is to be gone.
  if [[ $all == yes ]]; then clean_caches; fi
  rm -rf --one-file-system "$SRC/build"
}

clean_caches() {
  local lock users
  [[ -d $CACHE ]] || return 0
  exec {lock}>"$CACHE/setup.lock"
  flock -n "$lock" || refuse "another ./dev is making a root in $CACHE: wait until it is done"
  users=$(cache_users)
  [[ -z $users ]] || refuse "$CACHE is in use by $users: end them first (./dev lab down takes a lab down)"
  # Only what we made: the directory may hold other things when somebody chose an existing one.
  rm -rf --one-file-system "${CACHE:?}"/{root-*,new-*,ccache,lab,images,mnt,setup.log,setup.lock}
  rmdir --ignore-fail-on-non-empty "$CACHE"
}

# "process 12 (sshd), process 34 (podman)", the first few.
cache_users() {
  local pids pid users=''
  mapfile -t pids < <(cache_user_pids)
  for pid in "${pids[@]:0:3}"; do
    users+="${users:+, }process $pid ($(cat "/proc/$pid/comm" 2>/dev/null || echo ended))"
  done
  ((${#pids[@]} <= 3)) || users+=" and $((${#pids[@]} - 3)) more"
  echo "$users"
}

# Processes that have lab state or the compiler cache mounted: every lab host and every command of ./dev does. Their paths
# differ from ours (lab hosts have roots of their own), so they are told by what each line of a mount table starts with:
# the device, and the directory as the file system itself sees it.
cache_user_pids() {
  local patterns=() dir table pid place
  for dir in lab ccache; do
    [[ -d $CACHE/$dir ]] || continue
    place=$(directory_on_device "$CACHE/$dir")
    patterns+=(-e " $place " -e " $place/")
  done
  ((${#patterns[@]})) || return 0
  for table in /proc/[0-9]*/mountinfo; do
    # A process that just ended has no table any more.
    grep -qF "${patterns[@]}" "$table" 2>/dev/null || continue
    pid=${table#/proc/}
    echo "${pid%/mountinfo}"
  done
}

# "8:1 /var/cache/transship/lab": how mount tables name a bind mount of the directory. Tried out in a namespace of its own.
directory_on_device() {
  # shellcheck disable=SC2016  # the inner shell's variables
  unshare --mount --propagation private bash -c '
    mount --bind "$1" "$1"
    awk -v at="$1" "\$5 == at { found = \$3 \" \" \$4 } END { print found }" /proc/self/mountinfo' _ "$(readlink -f "$1")"
}
