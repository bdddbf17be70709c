#include "sys/node_facts.h"

#include <elf.h>
#include <sys/auxv.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/fd.h"
#include "base/text.h"
#include "base/wall_clock.h"
#include "sys/cgroup.h"
#include "sys/file.h"
#include "sys/proc_text.h"
#include "sys/process.h"
#include "sys/program_version.h"

namespace transship::sys {

namespace {

// The oldest that writes and reads the page maps that a move relies on, and that knows the vDSO of today's kernels.
constexpr std::string_view kOldestCriu = "4.2";

struct Digest {
  uint64_t value = 0xcbf29ce484222325;  // FNV-1a's offset basis
  void add(const void* data, size_t size) {
    for (size_t i = 0; i < size; ++i) {
      value ^= static_cast<const unsigned char*>(data)[i];
      value *= 0x100000001b3;  // FNV-1a's prime
    }
  }
};

// Program headers and sections of an ELF image in memory; only for the one that the kernel itself maps.
struct ElfImage {
  const char* base;
  Elf64_Ehdr header;
  Elf64_Shdr section(unsigned i) const {
    Elf64_Shdr s;
    std::memcpy(&s, base + header.e_shoff + i * size_t{header.e_shentsize}, sizeof s);
    return s;
  }
};

void add_symbols(const ElfImage& image, const Elf64_Shdr& symbols, Digest& digest) {
  Elf64_Shdr strings = image.section(symbols.sh_link);
  for (size_t at = 0; at + sizeof(Elf64_Sym) <= symbols.sh_size; at += sizeof(Elf64_Sym)) {
    Elf64_Sym s;
    std::memcpy(&s, image.base + symbols.sh_offset + at, sizeof s);
    if (s.st_shndx == SHN_UNDEF || s.st_name >= strings.sh_size) continue;
    const char* name = image.base + strings.sh_offset + s.st_name;
    digest.add(name, std::strlen(name) + 1);
    digest.add(&s.st_value, sizeof s.st_value);
    digest.add(&s.st_size, sizeof s.st_size);
  }
}

void probe_criu(const NodeFactsOptions& options, NodeFacts& facts) {
  auto r = version_output(options.criu, options.deadline);
  if (!r) {
    facts.missing.push_back(
        fmt::format("CRIU does not run here ({}): install CRIU {} or newer", r.error().message(), kOldestCriu));
    return;
  }
  facts.criu_version = version_in(*r);
  if (!version_at_least(facts.criu_version, kOldestCriu))
    facts.missing.push_back(fmt::format("CRIU {} is too old: install {} or newer", facts.criu_version, kOldestCriu));
}

void probe_runc(const NodeFactsOptions& options, NodeFacts& facts) {
  auto r = version_output(options.runc, options.deadline);
  if (r)
    facts.runc_version = version_in(*r);
  else
    facts.missing.push_back(fmt::format(
        "runc does not run here ({}): containers that arrive run under it, install runc", r.error().message()));
}

void probe_cgroup(const std::string& mountinfo, NodeFacts& facts) {
  auto text = read_file(mountinfo);
  facts.cgroup_mode = text ? cgroup_mode_of(*text) : "";
  // A hybrid host will do as long as its containers have a v2 cgroup: that is where the freezer is.
  if (auto mount = cgroup2_mount(mountinfo); !mount)
    facts.missing.push_back(
        fmt::format("cgroup v2 with its freezer is needed ({}): boot with "
                    "systemd.unified_cgroup_hierarchy=1",
                    mount.error().message()));
}

// Storage that is not there yet will be made on the file system of its nearest parent.
std::string nearest_existing(std::string path) {
  while (path.size() > 1 && ::access(path.c_str(), F_OK) != 0) {
    auto slash = path.rfind('/');
    path = slash == std::string::npos || slash == 0 ? "/" : path.substr(0, slash);
  }
  return path;
}

double load_average(const std::string& proc) {
  auto text = read_file(proc + "/loadavg", 4096);
  return text ? std::strtod(text->c_str(), nullptr) : 0;
}

}  // namespace

std::string cgroup_mode_of(const std::string& mountinfo_text) {
  bool v1 = false;
  bool v2 = false;
  for (const auto& m : parse_mountinfo(mountinfo_text)) {
    v1 = v1 || m.type == "cgroup";
    v2 = v2 || m.type == "cgroup2";
  }
  if (v1) return v2 ? "hybrid" : "v1";
  return v2 ? "v2" : "none";
}

std::string vdso_digest() {
  // NOLINTNEXTLINE(performance-no-int-to-ptr): the kernel gives an address as a number
  const auto* base = reinterpret_cast<const char*>(::getauxval(AT_SYSINFO_EHDR));
  if (base == nullptr) return {};
  ElfImage image{base, {}};
  std::memcpy(&image.header, base, sizeof image.header);
  if (std::memcmp(image.header.e_ident, ELFMAG, SELFMAG) != 0 || image.header.e_ident[EI_CLASS] != ELFCLASS64)
    return {};
  Digest digest;
  for (unsigned i = 0; i < image.header.e_shnum; ++i) {
    Elf64_Shdr section = image.section(i);
    if (section.sh_type == SHT_DYNSYM) add_symbols(image, section, digest);
  }
  return fmt::format("{:016x}", digest.value);
}

std::string version_in(std::string_view text) {
  auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  for (size_t i = 0; i < text.size(); ++i) {
    if (!is_digit(text[i])) continue;
    size_t end = i;
    while (end < text.size() && (is_digit(text[end]) || text[end] == '.')) ++end;
    auto found = text.substr(i, end - i);
    while (found.ends_with('.')) found.remove_suffix(1);
    if (found.contains('.')) return std::string(found);
    i = end;
  }
  return {};
}

bool version_at_least(std::string_view version, std::string_view wanted) {
  auto have = split(version, '.');
  auto need = split(wanted, '.');
  for (size_t i = 0; i < need.size(); ++i) {
    uint64_t a = i < have.size() ? leading_number(have[i]) : 0;
    uint64_t b = leading_number(need[i]);
    if (a != b) return a > b;
  }
  return true;
}

Result<NodeFacts> collect_node_facts(const NodeFactsOptions& options) {
  NodeFacts facts;
  facts.node = options.node;
  facts.program_version = options.program_version;
  utsname system{};
  if (::uname(&system) != 0) return fail_errno(errno, "ask for the kernel's version");
  facts.kernel = system.release;
  facts.architecture = system.machine;
  facts.cpus = static_cast<uint32_t>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
  facts.load_1m = load_average(options.proc);
  TS_TRY_ASSIGN(facts.memory_total, memory_total(options.proc + "/meminfo"));
  TS_TRY_ASSIGN(facts.memory_available, memory_available(options.proc + "/meminfo"));
  TS_TRY_ASSIGN(Space space, space_of(nearest_existing(options.storage_path)));
  facts.storage_total = space.total_bytes;
  facts.storage_free = space.free_bytes;
  facts.storage_free_inodes = space.free_inodes;
  facts.images_free = facts.memory_available;
  if (options.images_limit != 0) facts.images_free = std::min(facts.images_free, options.images_limit);
  facts.clock_unix_ms = unix_ms_now();
  facts.vdso_digest = vdso_digest();
  probe_cgroup(options.proc + "/self/mountinfo", facts);
  probe_criu(options, facts);
  probe_runc(options, facts);
  if (::access(options.runtime.c_str(), X_OK) != 0)
    facts.missing.push_back(
        fmt::format("{} is not there: install Transship here, or set `runtime` in its configuration", options.runtime));
  if (::geteuid() != 0) facts.missing.emplace_back("the daemon does not run as root here: start it as root");
  return facts;
}

}  // namespace transship::sys
