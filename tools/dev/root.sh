# shellcheck shell=bash
# Makes the Debian 13 root and keeps it in the cache. Sourced by ./dev.
#
# The root is made in a directory of its own and renamed when it is complete, under a lock: it is there as a whole or not
# at all, and of two callers at once the second waits for the first.

readonly SUITE=trixie
readonly DEFAULT_MIRROR=http://deb.debian.org/debian
# Deadlines in seconds. Making the root takes one to three minutes; a slow mirror may need many.
readonly SETUP_DEADLINE=2400 LOCK_DEADLINE=2700 FETCH_DEADLINE=60

# The name changes with anything that would make a different root.
ROOT_HASH=$(cat "$SRC"/tools/dev/{packages.txt,recipe.sh,customize_root.sh} | sha256sum | cut -c1-12)
ROOT=$CACHE/root-$ROOT_HASH
readonly ROOT_HASH ROOT

setup() {
  if [[ ! -d $ROOT ]]; then
    check_before_setup
    choose_mirror
    mkdir -p "$CACHE"
    make_root_locked
  fi
  # One call for all, and none when they are there: this is on the path of every command.
  [[ -d $CACHE/mnt && -d $CACHE/ccache && -d $CACHE/lab && -d $CACHE/images ]] ||
    mkdir -p "$CACHE"/{mnt,ccache,lab,images}
}

# Sets MIRROR to the first Debian mirror that answers and has what we need, or refuses.
choose_mirror() {
  local candidates=() reason='' candidate
  use_apt_proxy
  if [[ -n ${TRANSSHIP_MIRROR:-} ]]; then
    candidates=("${TRANSSHIP_MIRROR%/}")
  else
    mapfile -t candidates < <(machine_mirrors)
    candidates+=("$DEFAULT_MIRROR")
  fi
  for candidate in "${candidates[@]}"; do
    if reason=$(mirror_answers "$candidate"); then
      MIRROR=$candidate
      return
    fi
  done
  refuse "cannot fetch from the Debian mirror $candidate (${reason:-no answer}): check the network and http_proxy, or set TRANSSHIP_MIRROR to a mirror you can reach"
}

# mmdebstrap does not read this machine's apt configuration; a proxy set there reaches it by environment.
use_apt_proxy() {
  local http='' https=''
  eval "$(apt-config shell http Acquire::http::Proxy https Acquire::https::Proxy)"
  if [[ -z ${http_proxy:-} && -n $http && $http != DIRECT ]]; then export http_proxy=$http; fi
  if [[ -z ${https_proxy:-} && -n $https && $https != DIRECT ]]; then export https_proxy=$https; fi
}

# The Debian mirrors in this machine's own sources, whatever their format: apt itself reads them.
machine_mirrors() {
  # shellcheck disable=SC2016  # $(REPO_URI) is apt's, not the shell's
  timeout 20 apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    sed -n 's#/$##; /security/d; \#^https\?://.*debian#p' | sort -u
}

# Prints why not. apt's own downloader is on every Debian and Ubuntu, and knows proxies and certificates.
mirror_answers() {
  local dir suite output status
  dir=$(mktemp -d)
  for suite in "$SUITE" sid; do
    status=0
    output=$(timeout $FETCH_DEADLINE /usr/lib/apt/apt-helper -o Acquire::Retries=1 -o Acquire::http::Timeout=15 \
      -o Acquire::https::Timeout=15 download-file "$1/dists/$suite/InRelease" "$dir/$suite" 2>&1) || status=$?
    ((status == 0)) || break
    # Others have suites of these names too.
    if ! grep -qx 'Origin: Debian' "$dir/$suite"; then output=$'Err:\nnot a mirror of Debian' status=1 && break; fi
  done
  rm -r "$dir"
  if ((status == 124)); then
    echo "no answer in $FETCH_DEADLINE s"
  elif ((status != 0)); then
    # The line after "Err:" is the reason; those that begin with "E:" repeat the address and may leave the reason out.
    echo "$suite: $(sed -n '/^Err:/ { n; s/^ *//p; q }' <<<"$output")"
  fi
  return $status
}

make_root_locked() {
  local lock
  exec {lock}>"$CACHE/setup.lock"
  if ! flock -n "$lock"; then
    say "another ./dev is making the root: waiting for it (at most $((LOCK_DEADLINE / 60)) minutes)"
    flock -w $LOCK_DEADLINE "$lock" || fail "another ./dev held $CACHE/setup.lock for $LOCK_DEADLINE s: see if it hangs, end it, and try again"
  fi
  if [[ ! -d $ROOT ]]; then
    # What a killed call left behind; we hold the lock, so nobody works in it.
    rm -rf --one-file-system "$CACHE"/new-*
    install_host_tools
    make_root
  fi
  exec {lock}>&-
}

install_host_tools() {
  if command -v mmdebstrap >/dev/null && [[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]]; then return; fi
  say "installing mmdebstrap and debian-archive-keyring on this machine"
  # On a machine whose package lists are missing or old the first try fails; a second one with new lists decides.
  if ! apt_install &>"$CACHE/setup.log"; then
    with_deadline 600 apt-get update &>>"$CACHE/setup.log" || true
    apt_install &>>"$CACHE/setup.log" ||
      setup_failed "apt-get could not install mmdebstrap and debian-archive-keyring on this machine (on Ubuntu they are in 'universe')"
  fi
}

apt_install() {
  with_deadline 900 env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 mmdebstrap debian-archive-keyring
}

make_root() {
  local dir start=$SECONDS
  dir=$(mktemp -d "$CACHE/new-XXXXXX")
  # shellcheck disable=SC2064  # the directory of now
  trap "rm -rf --one-file-system '$dir'" EXIT
  chmod 755 "$dir"
  say "making the Debian 13 root from $MIRROR: once, one to three minutes (log: $CACHE/setup.log)"
  with_deadline $SETUP_DEADLINE bash "$SRC/tools/dev/recipe.sh" "$dir/root" "$MIRROR" "$SUITE" &>"$CACHE/setup.log" ||
    setup_failed "mmdebstrap could not make the Debian 13 root from $MIRROR"
  mv -T "$dir/root" "$ROOT"
  rm -rf --one-file-system "$dir"
  trap - EXIT
  say "made the Debian 13 root in $((SECONDS - start)) s"
}

setup_failed() {
  tail -n 15 "$CACHE/setup.log" | sed 's/^/  | /' >&2
  fail "$1: see above and $CACHE/setup.log; calling ./dev again starts from the beginning"
}

# Runs a command that may hang. In the background, so that Ctrl-C and TERM end it at once and everything it started:
# timeout makes a process group of its own for it.
with_deadline() {
  local seconds=$1 pid
  shift
  timeout --kill-after=30 "$seconds" "$@" </dev/null &
  pid=$!
  local status=0 signal
  for signal in HUP:129 INT:130 TERM:143; do
    # shellcheck disable=SC2064  # the process of now
    trap "kill $pid 2>/dev/null; wait $pid || true; exit ${signal#*:}" "${signal%:*}"
  done
  wait "$pid" || status=$?
  trap - HUP INT TERM
  return $status
}
