#include "sys/confinement.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>

#include "base/text.h"
#include "sys/file.h"
#include "sys/proc_text.h"

namespace transship::sys {
namespace {

// By number.
constexpr auto kCapabilities = std::to_array<std::string_view>({"CHOWN",
                                                                "DAC_OVERRIDE",
                                                                "DAC_READ_SEARCH",
                                                                "FOWNER",
                                                                "FSETID",
                                                                "KILL",
                                                                "SETGID",
                                                                "SETUID",
                                                                "SETPCAP",
                                                                "LINUX_IMMUTABLE",
                                                                "NET_BIND_SERVICE",
                                                                "NET_BROADCAST",
                                                                "NET_ADMIN",
                                                                "NET_RAW",
                                                                "IPC_LOCK",
                                                                "IPC_OWNER",
                                                                "SYS_MODULE",
                                                                "SYS_RAWIO",
                                                                "SYS_CHROOT",
                                                                "SYS_PTRACE",
                                                                "SYS_PACCT",
                                                                "SYS_ADMIN",
                                                                "SYS_BOOT",
                                                                "SYS_NICE",
                                                                "SYS_RESOURCE",
                                                                "SYS_TIME",
                                                                "SYS_TTY_CONFIG",
                                                                "MKNOD",
                                                                "LEASE",
                                                                "AUDIT_WRITE",
                                                                "AUDIT_CONTROL",
                                                                "SETFCAP",
                                                                "MAC_OVERRIDE",
                                                                "MAC_ADMIN",
                                                                "SYSLOG",
                                                                "WAKE_ALARM",
                                                                "BLOCK_SUSPEND",
                                                                "AUDIT_READ",
                                                                "PERFMON",
                                                                "BPF",
                                                                "CHECKPOINT_RESTORE"});
constexpr std::array<const char*, 5> kSets = {"CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"};
constexpr std::array<const char*, 7> kNamespaces = {"mnt", "pid", "net", "ipc", "uts", "user", "cgroup"};

std::string names_of(uint64_t mask) {
  std::vector<std::string> names;
  for (size_t n = 0; n < 64; ++n)
    if ((mask >> n & 1) != 0)
      names.push_back(n < kCapabilities.size() ? std::string(kCapabilities[n]) : fmt::format("number {}", n));
  return join(names, ", ");
}

uint64_t hex_field(const std::string& text) {
  uint64_t value = ~uint64_t{0};  // what cannot be read has everything
  (void)std::from_chars(text.data(), text.data() + text.size(), value, 16);
  return value;
}

std::string link_of(const std::string& path) {
  std::array<char, 128> target{};
  ssize_t n = ::readlink(path.c_str(), target.data(), target.size());
  return n > 0 ? std::string(target.data(), static_cast<size_t>(n)) : std::string();
}

class Checker {
 public:
  Checker(pid_t init, const Confinement& wanted, const std::string& proc) : init_(init), wanted_(wanted), proc_(proc) {}

  Result<> namespaces_of_init() const {
    for (const char* kind : kNamespaces) {
      auto its = link_of(fmt::format("{}/{}/ns/{}", proc_, init_, kind));
      auto ours = link_of(fmt::format("{}/self/ns/{}", proc_, kind));
      if (its.empty()) return fail(Errc::kUnavailable, "process {} is gone", init_);
      bool own = std::ranges::contains(wanted_.own_namespaces, kind);
      if (own == (its != ours)) continue;
      return fail(Errc::kRefused, "process {} has {} {} namespace", init_, own ? "the host's" : "another", kind);
    }
    return network_of_init();
  }

  Result<> process(pid_t pid) const {
    auto dir = fmt::format("{}/{}", proc_, pid);
    if (pid != init_)
      for (const char* kind : kNamespaces) {
        auto its = link_of(fmt::format("{}/ns/{}", dir, kind));
        if (its.empty()) return {};  // it has ended
        if (its != link_of(fmt::format("{}/{}/ns/{}", proc_, init_, kind)))
          return fail(Errc::kRefused, "process {} has another {} namespace than its container", pid, kind);
      }
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(dir + "/task", error))
      TS_TRY(thread(entry.path().string(), pid));
    return apparmor(dir, pid);
  }

 private:
  Result<> network_of_init() const {
    if (wanted_.network_path.empty()) return {};
    struct stat file = {};
    struct stat its = {};
    if (::stat(wanted_.network_path.c_str(), &file) != 0) return fail_errno(errno, "look at {}", wanted_.network_path);
    if (::stat(fmt::format("{}/{}/ns/net", proc_, init_).c_str(), &its) != 0)
      return fail_errno(errno, "look at the network namespace of process {}", init_);
    if (file.st_ino == its.st_ino && file.st_dev == its.st_dev) return {};
    return fail(Errc::kRefused, "process {} is not in the network namespace {}", init_, wanted_.network_path);
  }

  Result<> thread(const std::string& dir, pid_t pid) const {
    auto text = read_file(dir + "/status", 1U << 16);
    if (!text) return {};
    auto fields = parse_fields(*text);
    if (fields["State"].starts_with('Z') || fields["State"].starts_with('X')) return {};
    for (const char* set : kSets)
      if (auto more = hex_field(fields[set]) & ~wanted_.capabilities; more != 0)
        return fail(Errc::kRefused, "process {} has capabilities that it may not have ({}): {}", pid, set,
                    names_of(more));
    if (wanted_.seccomp && fields["Seccomp"] != "2")
      return fail(Errc::kRefused, "process {} has no seccomp filter", pid);
    if (wanted_.no_new_privileges && fields["NoNewPrivs"] != "1")
      return fail(Errc::kRefused, "process {} may gain privileges", pid);
    return {};
  }

  Result<> apparmor(const std::string& dir, pid_t pid) const {
    if (wanted_.apparmor_profile.empty()) return {};
    auto label = read_file(dir + "/attr/current", 4096);
    if (!label || label->starts_with(wanted_.apparmor_profile)) return {};
    return fail(Errc::kRefused, "process {} has the AppArmor label {} instead of {}", pid, trim(*label),
                wanted_.apparmor_profile);
  }

  pid_t init_;
  const Confinement& wanted_;
  const std::string& proc_;
};

}  // namespace

uint64_t capability_mask(std::string_view name) {
  if (name == "ALL") return ~uint64_t{0};
  if (name.starts_with("CAP_")) name.remove_prefix(4);
  auto it = std::ranges::find(kCapabilities, name);
  return it == kCapabilities.end() ? 0 : uint64_t{1} << (it - kCapabilities.begin());
}

Result<> check_confinement(pid_t init, const std::vector<pid_t>& pids, const Confinement& wanted,
                           const std::string& proc) {
  Checker checker(init, wanted, proc);
  TS_TRY(checker.namespaces_of_init());
  for (pid_t pid : pids) TS_TRY(checker.process(pid));
  return {};
}

}  // namespace transship::sys
