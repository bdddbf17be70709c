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
  rm -rf --one-file-system "$SRC/build"
  if [[ $all == yes ]]; then clean_caches; fi
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

# Processes that have something of the cache mounted: commands of ./dev and everything that a lab runs. A mount table
# names it as the bind mount's root (as the file system sees it) or as the lower directory of an overlay.
cache_users() {
  local table pid users=''
  for table in /proc/[0-9]*/mountinfo; do
    pid=${table#/proc/} pid=${pid%/mountinfo}
    if grep -qsF "lowerdir=$CACHE/root-" "$table" 2>/dev/null; then
      users+="${users:+, }$pid ($(cat "/proc/$pid/comm" 2>/dev/null))"
    fi
  done
  echo "$users"
}
