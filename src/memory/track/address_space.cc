#include "memory/track/address_space.h"

#include <dirent.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>

#include <array>
#include <charconv>
#include <memory>

#include "base/fd.h"
#include "sys/file.h"
#include "sys/proc_text.h"

namespace transship::memory {
namespace {

// 64 thousand mappings are the kernel's default limit; each line has a path of 4096 bytes at most, nearly always none.
constexpr size_t kMaxMapsBytes = 256U << 20;

bool number(std::string_view text, auto& value, int base) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return error == std::errc() && end == text.data() + text.size();
}

// The next word of `line`, which is cut off it.
std::string_view next_word(std::string_view& line) {
  line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
  auto word = line.substr(0, line.find(' '));
  line.remove_prefix(word.size());
  return word;
}

// "7f00-7f10 rw-p 00000000 fd:01 123   /path"
bool parse_line(std::string_view line, Vma& vma) {
  auto range = next_word(line);
  auto rights = next_word(line);
  auto offset = next_word(line);
  auto device = next_word(line);
  auto inode = next_word(line);
  auto dash = range.find('-');
  auto colon = device.find(':');
  if (dash == std::string_view::npos || colon == std::string_view::npos || rights.size() < 4) return false;
  line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
  vma.path = line;
  vma.readable = rights[0] == 'r';
  vma.writable = rights[1] == 'w';
  vma.executable = rights[2] == 'x';
  vma.shared = rights[3] == 's';
  return number(range.substr(0, dash), vma.start, 16) && number(range.substr(dash + 1), vma.end, 16) &&
         number(offset, vma.offset, 16) && number(device.substr(0, colon), vma.device_major, 16) &&
         number(device.substr(colon + 1), vma.device_minor, 16) && number(inode, vma.inode, 10) && vma.start < vma.end;
}

Result<std::string> read_of(pid_t pid, std::string_view name, size_t limit) {
  auto text = sys::read_file(fmt::format("/proc/{}/{}", pid, name), limit);
  if (!text && (text.error().sys_errno() == ESRCH || text.error().sys_errno() == ENOENT))
    return fail(Errc::kNotFound, "process {} has ended", pid);
  return text;
}

struct CloseDir {
  void operator()(DIR* dir) const { ::closedir(dir); }
};

}  // namespace

std::vector<Vma> parse_vmas(std::string_view maps) {
  std::vector<Vma> vmas;
  while (!maps.empty()) {
    auto end = maps.find('\n');
    Vma vma;
    if (parse_line(maps.substr(0, end), vma)) vmas.push_back(std::move(vma));
    maps = end == std::string_view::npos ? std::string_view{} : maps.substr(end + 1);
  }
  return vmas;
}

Result<std::vector<Vma>> read_vmas(pid_t pid) {
  TS_TRY_ASSIGN(std::string text, read_of(pid, "maps", kMaxMapsBytes));
  return parse_vmas(text);
}

bool is_kernel_area(const Vma& vma) {
  return vma.path == "[vvar]" || vma.path == "[vvar_vclock]" || vma.path == "[vsyscall]" || vma.path == "[vectors]" ||
         vma.path == "[uprobes]" || vma.path == "[sigpage]";
}

bool is_always_dumped(const Vma& vma) { return vma.path == "[vdso]" || vma.path.starts_with("/[aio]"); }

bool is_private_memory(const Vma& vma) { return !vma.shared && !is_kernel_area(vma) && !is_always_dumped(vma); }

uint64_t parse_innermost_pid(std::string_view status) {
  auto fields = sys::parse_fields(status);
  auto found = fields.find("NSpid");
  if (found == fields.end()) return 0;
  auto last = found->second.find_last_of(" \t");
  return sys::leading_number(std::string_view(found->second).substr(last == std::string::npos ? 0 : last + 1));
}

Result<uint64_t> innermost_pid(pid_t pid) {
  TS_TRY_ASSIGN(std::string status, read_of(pid, "status", 65536));
  uint64_t inner = parse_innermost_pid(status);
  if (inner == 0)
    return fail(Errc::kNotFound, "/proc/{}/status names no pid in a namespace: the process has ended", pid);
  return inner;
}

Result<std::map<uint64_t, pid_t>> tasks_by_inner_pid(const sys::Cgroup& cgroup) {
  TS_TRY_ASSIGN(auto pids, cgroup.processes());
  std::map<uint64_t, pid_t> tasks;
  for (pid_t pid : pids) {
    if (auto inner = innermost_pid(pid); inner) tasks[*inner] = pid;
  }
  return tasks;
}

MemoryDescriptors memory_descriptors(pid_t pid) {
  MemoryDescriptors found;
  std::string path = fmt::format("/proc/{}/fd", pid);
  std::unique_ptr<DIR, CloseDir> dir(::opendir(path.c_str()));
  if (!dir) return found;
  while (const dirent* entry = ::readdir(dir.get())) {
    if (entry->d_name[0] == '.') continue;
    std::array<char, 64> target;
    ssize_t n = ::readlinkat(::dirfd(dir.get()), entry->d_name, target.data(), target.size());
    if (n <= 0) continue;
    std::string_view link(target.data(), static_cast<size_t>(n));
    if (link == "anon_inode:[io_uring]") found.io_uring = true;
    if (link == "anon_inode:[userfaultfd]") found.userfaultfd = true;
    // Only files have the flag, or can have it: the others need no second look.
    if (found.direct_io || !link.starts_with('/')) continue;
    auto info = sys::read_file(fmt::format("/proc/{}/fdinfo/{}", pid, entry->d_name), 1U << 20);
    if (!info) continue;
    auto fields = sys::parse_fields(*info);
    uint64_t flags = 0;
    if (number(fields["flags"], flags, 8) && (flags & O_DIRECT) != 0) found.direct_io = true;
  }
  return found;
}

bool same_address_space(pid_t a, pid_t b) { return ::syscall(SYS_kcmp, a, b, KCMP_VM, 0UL, 0UL) == 0; }

}  // namespace transship::memory
