# shellcheck shell=bash
# What must be true of this machine before ./dev changes anything on it. Each check refuses with one sentence.

# Cheap checks, on every call.
check_machine() {
  check_user
  check_distro
  check_cache_path
}

# The rest, only before a root is made.
check_before_setup() {
  check_disk
  check_kernel
}

check_user() {
  [[ $EUID == 0 ]] || refuse "needs root (it makes namespaces and mounts), but runs as uid $EUID: try sudo ./dev"
}

check_distro() {
  local file=${TRANSSHIP_OS_RELEASE:-/etc/os-release} id name
  [[ -r $file ]] || refuse "cannot tell which system this is, $file is missing: use Debian 12, Debian 13 or Ubuntu 24.04"
  # shellcheck source=/dev/null
  id=$(. "$file" && echo "${ID:-unknown}-${VERSION_ID:-}")
  # shellcheck source=/dev/null
  name=$(. "$file" && echo "${PRETTY_NAME:-$id}")
  case $id in
    debian-12 | debian-13 | ubuntu-24.04) ;;
    *) refuse "$name is not supported: use Debian 12, Debian 13 or Ubuntu 24.04 (a VM of one will do)" ;;
  esac
  local tool
  for tool in apt-get flock unshare mount perl; do
    command -v "$tool" >/dev/null || refuse "$tool is missing on this $name: install apt, util-linux, mount and perl-base"
  done
}

# Overlay options separate paths by ':' and ','; a relative path would mean another place for every caller.
check_cache_path() {
  [[ $CACHE =~ ^/[A-Za-z0-9._/+@-]+$ ]] ||
    refuse "TRANSSHIP_CACHE=$CACHE will not do: give an absolute path of letters, digits and . _ - + @ only"
}

# The nearest directory above a path that exists.
existing_parent() {
  local dir=$1
  while [[ ! -d $dir ]]; do dir=$(dirname "$dir"); done
  echo "$dir"
}

check_disk() {
  # The root takes about 2.5 GB; with the packages while it is made, compiler cache and lab storage, 6 GB.
  local need=${TRANSSHIP_MIN_FREE_GB:-6} dir free
  dir=$(existing_parent "$CACHE")
  free=$(df -Pk "$dir" | awk 'NR == 2 { print int($4 / 1000 / 1000) }')
  ((free >= need)) ||
    refuse "$dir has $free GB free but about $need GB are needed: free some, or set TRANSSHIP_CACHE to a directory on another disk"
}

# Tries each thing in namespaces of its own, so that the machine sees none of it.
check_kernel() {
  local missing
  check_capabilities
  missing=$(unshare --mount --propagation private --net --ipc --uts --cgroup bash -c "$(declare -f probe_kernel probe_nftables); probe_kernel" 2>&1) ||
    refuse "this kernel ($(uname -r)) or container lacks what Transship needs: ${missing//$'\n'/; }; use a VM or a privileged container with a kernel that has it"
}

check_capabilities() {
  local effective missing='' name bit
  effective=0x$(awk '/^CapEff/ { print $2 }' /proc/self/status)
  for name in NET_ADMIN:12 SYS_CHROOT:18 SYS_PTRACE:19 SYS_ADMIN:21 MKNOD:27 CHECKPOINT_RESTORE:40; do
    bit=${name#*:}
    (((effective >> bit) & 1)) || missing+=" CAP_${name%:*}"
  done
  [[ -z $missing ]] ||
    refuse "root lacks${missing} here: run on the machine itself, or in a container started with --privileged"
}

# Prints what is missing, one item a line; runs in fresh mount, network, IPC, UTS and cgroup namespaces.
probe_kernel() {
  local ok=0 dir
  missing() {
    echo "$*"
    ok=1
  }
  # Over a directory that exists everywhere: nothing is made on the machine's disk.
  dir=/mnt
  mount -t tmpfs tmpfs $dir || { missing "tmpfs cannot be mounted"; return 1; }
  mkdir $dir/{lower,upper,work,merged,cgroup,proc}
  mount -t overlay overlay -o lowerdir=$dir/lower,upperdir=$dir/upper,workdir=$dir/work $dir/merged 2>/dev/null ||
    missing "no overlay file system (CONFIG_OVERLAY_FS)"
  if mount -t cgroup2 cgroup2 $dir/cgroup 2>/dev/null; then
    local group=$dir/cgroup/transship-probe-$$
    if mkdir "$group" 2>/dev/null; then
      [[ -e $group/cgroup.freeze ]] || missing "no cgroup v2 freezer (kernel 5.2 or newer)"
      rmdir "$group"
    else
      missing "cgroups cannot be made in the cgroup v2 tree"
    fi
  else
    missing "no cgroup v2"
  fi
  unshare --pid --fork true 2>/dev/null || missing "no PID namespaces"
  { [[ -c /dev/net/tun ]] && : </dev/net/tun; } 2>/dev/null || missing "/dev/net/tun does not open (CONFIG_TUN)"
  local reason
  reason=$(probe_nftables 2>&1) || missing "no nftables ($reason)"
  return $ok
}

# Asks the kernel for the generation of its nftables rules, over netlink: works before any nft program is installed.
probe_nftables() {
  perl -e '
    socket(my $s, 16, 3, 12) or die "no netfilter netlink: $!\n";           # AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER
    my $getgen = (10 << 8) | 16;                                             # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN
    send($s, pack("LSSLLCCn", 20, $getgen, 1, 1, 0, 0, 0, 0), 0) or die "send: $!\n";
    vec(my $ready = "", fileno($s), 1) = 1;
    select($ready, undef, undef, 5) > 0 or die "no answer in 5 s\n";
    recv($s, my $answer = "", 4096, 0);
    my ($length, $type) = unpack("LS", $answer);
    if ($type == 2) { $! = -unpack("x16 l", $answer); die "$!\n"; }          # NLMSG_ERROR
  '
}
