#include "criu/confined_images.h"

#include <algorithm>
#include <array>
#include <optional>

#include "base/text.h"
#include "criu/image_file.h"

namespace transship::criu {
namespace {

constexpr const char* kInventory = "inventory.img";
constexpr const char* kTree = "pstree.img";
constexpr const char* kFiles = "files.img";

// File systems that engines mount in a container, by CRIU's numbers: proc, sysfs, tmpfs, devpts, cgroup, mqueue,
// cgroup2.
constexpr std::array<uint32_t, 7> kFileSystems = {1, 2, 5, 6, 12, 14, 23};

// Keys of CRIU's own stand for what was found, not for what was handed over.
constexpr std::string_view kOwnKeys = "CRIU:";

bool leads_up(std::string_view path) {
  auto parts = split(path, '/');
  return std::ranges::contains(parts, "..");
}

std::string shown(std::string_view text) {
  std::string clean;
  for (unsigned char c : text.substr(0, 100)) clean += c < 0x20 || c == 0x7f ? '?' : static_cast<char>(c);
  return clean;
}

template <class... A>
std::unexpected<Error> refused(fmt::format_string<A...> format, A&&... args) {
  return fail(Errc::kPeerProtocol, "the images of the source would {}: refused",
              fmt::format(format, std::forward<A>(args)...));
}

class Checker {
 public:
  Checker(int directory, const OwnNamespaces& own) : directory_(directory), own_(own) {}

  Result<> run() {
    TS_TRY_ASSIGN(img::Shared host, of_host());
    TS_TRY_ASSIGN(auto bytes, read_image(directory_, kTree));
    TS_TRY_ASSIGN(auto pids, parse_process_tree(bytes, kTree));
    if (pids.empty()) return refused("restore no process");
    TS_TRY_ASSIGN(auto first, of_process(pids.front()));
    if (!first) return refused("restore process {} in the host's namespaces", pids.front());
    TS_TRY(check_own(*first, host));
    for (pid_t pid : pids) {
      TS_TRY_ASSIGN(auto other, of_process(pid));
      if (other && !same(*first, *other)) return refused("restore process {} in namespaces of its own", pid);
    }
    TS_TRY(check_mounts(fmt::format("mountpoints-{}.img", first->mnt_ns_id())));
    return check_files();
  }

 private:
  Result<img::Shared> of_host() {
    TS_TRY_ASSIGN(auto bytes, read_image(directory_, kInventory));
    TS_TRY_ASSIGN(auto records, parse_image(bytes, ImageMagic::kInventory, kInventory));
    if (records.size() != 1) return fail(Errc::kCorrupt, "{} has {} records", kInventory, records.size());
    TS_TRY_ASSIGN(auto inventory, decode_record<img::Inventory>(records[0], kInventory));
    if (!inventory.has_root_ids()) return refused("not tell the host's namespaces");
    return inventory.root_ids();
  }

  // Nothing: it has those of its parent.
  Result<std::optional<img::Shared>> of_process(pid_t pid) {
    auto name = fmt::format("ids-{}.img", pid);
    auto bytes = read_image(directory_, name);
    if (!bytes && bytes.error().code() == Errc::kNotFound) return std::nullopt;
    if (!bytes) return std::unexpected(std::move(bytes).error());
    if (bytes->empty()) return std::nullopt;
    TS_TRY_ASSIGN(auto records, parse_image(*bytes, ImageMagic::kShared, name));
    if (records.empty()) return std::nullopt;
    TS_TRY_ASSIGN(auto ids, decode_record<img::Shared>(records[0], name));
    return ids;
  }

  Result<> check_own(const img::Shared& of_first, const img::Shared& host) const {
    auto apart = [](bool wanted, uint32_t own, uint32_t hosts) { return !wanted || (own != 0 && own != hosts); };
    if (!apart(true, of_first.mnt_ns_id(), host.mnt_ns_id())) return refused("see the host's mounts");
    if (!apart(own_.pid, of_first.pid_ns_id(), host.pid_ns_id())) return refused("share the host's pid namespace");
    if (!apart(own_.network, of_first.net_ns_id(), host.net_ns_id())) return refused("use the host's network");
    if (!apart(own_.ipc, of_first.ipc_ns_id(), host.ipc_ns_id())) return refused("share the host's IPC namespace");
    if (!apart(own_.uts, of_first.uts_ns_id(), host.uts_ns_id())) return refused("share the host's UTS namespace");
    if (of_first.user_ns_id() != host.user_ns_id()) return refused("make a user namespace");
    return {};
  }

  static bool same(const img::Shared& a, const img::Shared& b) {
    return a.mnt_ns_id() == b.mnt_ns_id() && a.pid_ns_id() == b.pid_ns_id() && a.net_ns_id() == b.net_ns_id() &&
           a.ipc_ns_id() == b.ipc_ns_id() && a.uts_ns_id() == b.uts_ns_id() && a.user_ns_id() == b.user_ns_id();
  }

  Result<> check_mounts(const std::string& name) {
    TS_TRY_ASSIGN(auto bytes, read_image(directory_, name));
    TS_TRY_ASSIGN(auto records, parse_image(bytes, ImageMagic::kMounts, name));
    size_t roots = 0;
    for (auto record : records) {
      TS_TRY_ASSIGN(auto mount, decode_record<img::MountEntry>(record, name));
      if (leads_up(mount.root()) || leads_up(mount.mountpoint()))
        return refused("mount \"{}\" on \"{}\"", shown(mount.root()), shown(mount.mountpoint()));
      if (mount.with_plugin() || mount.ext_mount() || mount.ext_key().starts_with(kOwnKeys))
        return refused("mount something of the host on {}", shown(mount.mountpoint()));
      // The container's own root, which the runtime has put there.
      bool root = mount.mountpoint() == "/" || mount.mountpoint() == "./";
      if (root && ++roots == 1) continue;
      // Handed over by the runtime under this key, or nothing at all.
      if (!mount.ext_key().empty()) continue;
      if (!std::ranges::contains(kFileSystems, mount.fstype()))
        return refused("mount a file system of kind {} on {}", mount.fstype(), shown(mount.mountpoint()));
    }
    return {};
  }

  Result<> check_files() {
    TS_TRY_ASSIGN(auto bytes, read_image(directory_, kFiles));
    TS_TRY_ASSIGN(auto records, parse_image(bytes, ImageMagic::kFiles, kFiles));
    for (auto record : records) {
      TS_TRY_ASSIGN(auto file, decode_record<img::File>(record, kFiles));
      const auto& name = file.has_reg() ? file.reg().name() : file.usk().name_dir();
      if (leads_up(name) || (file.usk().name().starts_with('/') && leads_up(file.usk().name())))
        return refused("open \"{}\"", shown(name));
    }
    return {};
  }

  int directory_;
  const OwnNamespaces& own_;
};

}  // namespace

Result<> check_confined(const std::string& images_dir, const OwnNamespaces& own) {
  TS_TRY_ASSIGN(Fd directory, open_file(images_dir, O_RDONLY | O_DIRECTORY));
  return Checker(directory.get(), own).run();
}

}  // namespace transship::criu
