#include "sys/cgroup.h"

#include <poll.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "base/fd.h"
#include "base/text.h"
#include "sys/file.h"

namespace transship::sys {
namespace {

constexpr milliseconds kLookAgain{5};

}  // namespace

Result<std::string> cgroup2_mount(const std::string& mountinfo) {
  TS_TRY_ASSIGN(std::string text, read_file(mountinfo));
  for (const auto& line : split(text, '\n')) {
    auto dash = line.find(" - cgroup2 ");
    auto fields = split(line, ' ');
    if (dash != std::string::npos && fields.size() > 5) return fields[4];
  }
  return fail(Errc::kKernelFeatureMissing, "no cgroup2 file system is mounted on this host");
}

void remove_empty_cgroup(const std::string& path, Deadline deadline, const std::string& mountinfo) {
  auto text = read_file(mountinfo);
  if (!text || path.size() < 2 || !path.starts_with('/') || path.contains("..")) return;
  for (const auto& line : split(*text, '\n')) {
    auto fields = split(line, ' ');
    if (fields.size() <= 5 || (!line.contains(" - cgroup2 ") && !line.contains(" - cgroup "))) continue;
    while (::rmdir((fields[4] + path).c_str()) != 0 && errno == EBUSY && !deadline.passed())
      std::this_thread::sleep_for(kLookAgain);
  }
}

Result<Cgroup> Cgroup::of_process(pid_t pid) {
  TS_TRY_ASSIGN(std::string text, read_file(fmt::format("/proc/{}/cgroup", pid), 65536));
  TS_TRY_ASSIGN(std::string mount, cgroup2_mount());
  for (const auto& line : split(text, '\n')) {
    if (line.starts_with("0::/")) return at(mount + line.substr(3));
  }
  return fail(Errc::kKernelFeatureMissing, "process {} is in no cgroup v2", pid);
}

Result<Cgroup> Cgroup::at(std::string path) {
  if (!std::filesystem::exists(path + "/cgroup.freeze"))
    return fail(Errc::kKernelFeatureMissing, "{} has no cgroup.freeze: the root cgroup, or not a cgroup v2", path);
  return Cgroup(std::move(path));
}

Result<bool> Cgroup::event(std::string_view name) const {
  TS_TRY_ASSIGN(std::string text, read_file(path_ + "/cgroup.events", 4096));
  for (const auto& line : split(text, '\n')) {
    if (line.starts_with(name) && line.size() > name.size() && line[name.size()] == ' ') return line.ends_with('1');
  }
  return fail(Errc::kCorrupt, "{}/cgroup.events has no \"{}\"", path_, name);
}

Result<bool> Cgroup::frozen() const { return event("frozen"); }
Result<bool> Cgroup::populated() const { return event("populated"); }

Result<> Cgroup::set_frozen(bool wanted, Deadline deadline) const {
  // Opened before the write: the kernel reports a change of the file to whoever had read it before.
  TS_TRY_ASSIGN(Fd events, open_file(path_ + "/cgroup.events", O_RDONLY));
  TS_TRY(write_control(path_ + "/cgroup.freeze", wanted ? "1" : "0"));
  return await(events.get(), wanted, deadline);
}

Result<> Cgroup::await_frozen(Deadline deadline) const {
  TS_TRY_ASSIGN(Fd events, open_file(path_ + "/cgroup.events", O_RDONLY));
  return await(events.get(), true, deadline);
}

Result<> Cgroup::await(int events, bool wanted, Deadline deadline) const {
  while (true) {
    std::byte buffer[256];
    (void)::lseek(events, 0, SEEK_SET);
    TS_TRY(read_some(events, buffer));
    TS_TRY_ASSIGN(bool now, frozen());
    if (now == wanted) return {};
    if (deadline.passed()) return fail(Errc::kTimeout, "{} {}: not there in time", wanted ? "freeze" : "thaw", path_);
    pollfd p{events, POLLPRI, 0};
    // Capped: a notification can come between our read and the poll.
    (void)::poll(&p, 1, static_cast<int>(std::min<long>(deadline.remaining().count(), 5)));
  }
}

Result<> Cgroup::freeze(Deadline deadline) const { return set_frozen(true, deadline); }
Result<> Cgroup::thaw(Deadline deadline) const { return set_frozen(false, deadline); }

Result<std::vector<pid_t>> Cgroup::processes() const {
  std::vector<pid_t> pids;
  std::error_code error;
  auto read_one = [&](const std::string& dir) -> Result<> {
    TS_TRY_ASSIGN(std::string text, read_file(dir + "/cgroup.procs"));
    for (const auto& line : split(trim(text), '\n')) {
      if (line.empty()) continue;
      TS_TRY_ASSIGN(uint64_t pid, parse_u64(line, "cgroup.procs"));
      pids.push_back(static_cast<pid_t>(pid));
    }
    return {};
  };
  TS_TRY(read_one(path_));
  for (auto it = std::filesystem::recursive_directory_iterator(path_, error); !error && it != end(it);
       it.increment(error)) {
    if (it->is_directory(error)) TS_TRY(read_one(it->path().string()));
  }
  return pids;
}

Result<> Cgroup::kill_all() const { return write_control(path_ + "/cgroup.kill", "1"); }

}  // namespace transship::sys
