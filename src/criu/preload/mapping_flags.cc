// Loaded into somebody else's program: C library calls only. One thread.
#include "criu/preload/mapping_flags.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace transship::criu_preload {
namespace {

constexpr unsigned long kPage = 4096;
constexpr size_t kMostText = 256U << 20;

struct Record {
  uint64_t start, end, flags;
};

// Grows; freed at its end.
struct Buffer {
  char* data = nullptr;
  size_t size = 0;
  size_t room = 0;
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data); }
  bool reserve(size_t more) {
    if (size + more + 1 <= room) return true;
    size_t wanted = (size + more) * 2 + (64U << 10);
    if (wanted > kMostText) return false;
    auto* grown = static_cast<char*>(std::realloc(data, wanted));
    if (grown == nullptr) return false;
    data = grown;
    room = wanted;
    return true;
  }
  bool add(const char* text, size_t length) {
    if (!reserve(length)) return false;
    std::memcpy(data + size, text, length);
    size += length;
    return true;
  }
  bool read_all(int fd) {
    while (reserve(64U << 10)) {
      auto n = ::read(fd, data + size, room - size - 1);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return data[size] = '\0', n == 0;
      size += static_cast<size_t>(n);
    }
    return false;
  }
};

struct Layout {
  unsigned iterator = 0, start = 0, end = 0, flags = 0;
};
int program = -1;
uint64_t tried = 0;  // flags that came out as the kernel prints them

int bpf(bpf_cmd command, bpf_attr* attr) { return static_cast<int>(::syscall(SYS_bpf, command, attr, sizeof *attr)); }

constexpr bpf_insn instruction(int code, int to, int from, int offset, int value) {
  return {.code = static_cast<__u8>(code),
          .dst_reg = static_cast<__u8>(to & 15),
          .src_reg = static_cast<__u8>(from & 15),
          .off = static_cast<__s16>(offset),
          .imm = value};
}

// For each mapping: writes its Record. The context is {meta, task, mapping}, pointers all; no mapping at the end.
int load(const Layout& at) {
  auto load64 = [](int to, int from, unsigned offset) {
    return instruction(BPF_LDX | BPF_MEM | BPF_DW, to, from, static_cast<int>(offset), 0);
  };
  auto store64 = [](int offset, int from) { return instruction(BPF_STX | BPF_MEM | BPF_DW, 10, from, offset, 0); };
  constexpr int kSize = sizeof(Record);
  constexpr int kSkip = 12;  // to the last but one
  std::array code = {
      instruction(BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0),
      load64(7, 6, 16),
      instruction(BPF_JMP | BPF_JEQ | BPF_K, 7, 0, kSkip, 0),
      load64(1, 7, at.start),
      store64(-kSize, 1),
      load64(1, 7, at.end),
      store64(-kSize + 8, 1),
      load64(1, 7, at.flags),
      store64(-kSize + 16, 1),
      load64(1, 6, 0),  // meta->seq
      load64(1, 1, 0),
      instruction(BPF_ALU64 | BPF_MOV | BPF_X, 2, 10, 0, 0),
      instruction(BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, -kSize),
      instruction(BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, kSize),
      instruction(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_seq_write),
      instruction(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0),
      instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
  };
  bpf_attr attr{};
  attr.prog_type = BPF_PROG_TYPE_TRACING;
  attr.expected_attach_type = BPF_TRACE_ITER;
  attr.attach_btf_id = at.iterator;
  attr.insns = reinterpret_cast<__u64>(code.data());
  attr.insn_cnt = code.size();
  attr.license = reinterpret_cast<__u64>("Dual MIT/GPL");  // of these instructions: seq_write wants it
  return bpf(BPF_PROG_LOAD, &attr);
}

bool read_records(int pid, Buffer& out) {
  bpf_iter_link_info which{};
  which.task.tid = static_cast<__u32>(pid);
  bpf_attr attr{};
  attr.link_create.prog_fd = static_cast<__u32>(program);
  attr.link_create.attach_type = BPF_TRACE_ITER;
  attr.link_create.iter_info = reinterpret_cast<__u64>(&which);
  attr.link_create.iter_info_len = sizeof which;
  int link = bpf(BPF_LINK_CREATE, &attr);
  if (link < 0) return false;
  attr = {};
  attr.iter_create.link_fd = static_cast<__u32>(link);
  int iterator = bpf(BPF_ITER_CREATE, &attr);
  (void)::close(link);
  if (iterator < 0) return false;
  bool good = out.read_all(iterator) && out.size % sizeof(Record) == 0;
  (void)::close(iterator);
  return good;
}

// Documentation/filesystems/proc.rst; the bits are those of include/linux/mm.h for 64 bits. No name: the kernel prints
// none (protection keys), or we do not know it.
struct Name {
  int bit;
  char text[3];
};
constexpr Name kNames[] = {
    {0, "rd"},  {1, "wr"},  {2, "ex"},  {3, "sh"},  {4, "mr"},  {5, "mw"},  {6, "me"},  {7, "ms"},
    {8, "gd"},  {9, "um"},  {10, "pf"}, {12, "uw"}, {13, "lo"}, {14, "io"}, {15, "sr"}, {16, "rr"},
    {17, "dc"}, {18, "de"}, {19, "lf"}, {20, "ac"}, {21, "nr"}, {22, "ht"}, {25, "wf"}, {26, "dd"},
    {27, "sd"}, {28, "mm"}, {29, "hg"}, {30, "nh"}, {31, "mg"}, {40, "dp"},
};

bool add_flags(uint64_t flags, Buffer& out) {
  if (!out.add("VmFlags: ", 9)) return false;
  for (const auto& name : kNames) {
    if ((flags >> name.bit & 1) == 0) continue;
    char word[3] = {name.text[0], name.text[1], ' '};
    if (!out.add(word, sizeof word)) return false;
  }
  return out.add("\n", 1);
}

// `allowed`: nothing is told of mappings with other flags.
bool write_smaps(const Buffer& maps, const Buffer& told, uint64_t allowed, Buffer& out) {
  const auto* record = reinterpret_cast<const Record*>(told.data);
  const auto* last = record + told.size / sizeof(Record);
  for (const char* line = maps.data; *line != '\0';) {
    const char* end = std::strchr(line, '\n');
    if (end == nullptr) return false;
    char* after = nullptr;
    auto from = std::strtoul(line, &after, 16);
    if (*after != '-') return false;
    auto to = std::strtoul(after + 1, nullptr, 16);
    if (!out.add(line, static_cast<size_t>(end - line) + 1)) return false;
    constexpr const char* kGate = "[vsyscall]\n";  // belongs to no process
    bool gate = end - line > 11 && std::strncmp(end - 10, kGate, 11) == 0;
    if (record != last && record->start == from && record->end == to) {
      if ((record->flags & ~allowed) != 0 || !add_flags(record->flags, out)) return false;
      ++record;
    } else if (!gate || !add_flags(4, out)) {
      return false;
    }
    line = end + 1;
  }
  return record == last;
}

bool open_and_read(const char* path, Buffer& out) {
  int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  bool good = out.read_all(fd);
  (void)::close(fd);
  return good;
}

// Leaves only the lines that make_smaps() makes.
bool reduce(Buffer& smaps) {
  size_t kept = 0;
  for (char* line = smaps.data; *line != '\0';) {
    char* end = std::strchr(line, '\n');
    if (end == nullptr) return false;
    auto length = static_cast<size_t>(end - line) + 1;
    const char* space = std::strchr(line, ' ');
    bool begins = space != nullptr && std::memchr(line, '-', static_cast<size_t>(space - line)) != nullptr;
    if (begins || std::strncmp(line, "VmFlags: ", 9) == 0) {
      std::memmove(smaps.data + kept, line, length);
      kept += length;
    }
    line = end + 1;
  }
  smaps.size = kept;
  smaps.data[kept] = '\0';
  return true;
}

// Pages with one flag each, between pages without access so that none joins another.
class Samples {
 public:
  Samples() {
    base_ = static_cast<char*>(::mmap(nullptr, kCount * 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED) return;
    for (int advice : {MADV_SEQUENTIAL, MADV_RANDOM, MADV_DONTFORK, MADV_DONTDUMP, MADV_WIPEONFORK, MADV_HUGEPAGE,
                       MADV_NOHUGEPAGE, MADV_MERGEABLE})
      if (auto* page = next(MAP_PRIVATE)) (void)::madvise(page, kPage, advice);
    if (auto* page = next(MAP_PRIVATE)) (void)::mlock(page, kPage);
    if (auto* page = next(MAP_PRIVATE)) (void)::mlock2(page, kPage, MLOCK_ONFAULT);
    (void)next(MAP_PRIVATE | MAP_NORESERVE);
    (void)next(MAP_PRIVATE | MAP_GROWSDOWN);
    (void)next(MAP_SHARED);
    if (auto* page = next(MAP_PRIVATE)) follow(page);
    (void)next(kDroppable);  // the C library has such a page, for random numbers
    huge_ = ::mmap(nullptr, kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE,
                   -1, 0);
  }
  ~Samples() {
    if (uffd_ >= 0) (void)::close(uffd_);
    if (base_ != MAP_FAILED) (void)::munmap(base_, kCount * 2 * kPage);
    if (huge_ != MAP_FAILED) (void)::munmap(huge_, kHuge);
  }
  Samples(const Samples&) = delete;
  Samples& operator=(const Samples&) = delete;

 private:
  static constexpr size_t kCount = 16;
  static constexpr int kDroppable = 0x08;  // MAP_DROPPABLE, in place of MAP_PRIVATE; from Linux 6.11 on
  static constexpr size_t kHuge = 2U << 20;
  char* next(int flags) {
    if (used_ == kCount) return nullptr;
    void* at = ::mmap(base_ + (2 * used_++ + 1) * kPage, kPage, PROT_READ | PROT_WRITE,
                      flags | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    return at == MAP_FAILED ? nullptr : static_cast<char*>(at);
  }
  // As our tracker does with what is about to be dumped.
  void follow(char* page) {
    uffd_ = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY));
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP;
    uffdio_register range{};
    range.range = {reinterpret_cast<__u64>(page), kPage};
    range.mode = UFFDIO_REGISTER_MODE_WP;
    if (uffd_ >= 0 && ::syscall(SYS_ioctl, uffd_, UFFDIO_API, &api) == 0)
      (void)::syscall(SYS_ioctl, uffd_, UFFDIO_REGISTER, &range);
  }
  char* base_ = static_cast<char*>(MAP_FAILED);
  void* huge_ = MAP_FAILED;
  size_t used_ = 0;
  int uffd_ = -1;
};

// Nothing may be mapped between one reading and the next: the buffers are large enough before.
bool try_on_ourselves() {
  Samples samples;
  Buffer maps, told, real, made;
  constexpr size_t kEnough = 8U << 20;
  for (auto* buffer : {&maps, &told, &real, &made})
    if (!buffer->reserve(kEnough)) return false;
  if (!open_and_read("/proc/self/maps", maps) || !read_records(::getpid(), told) ||
      !open_and_read("/proc/self/smaps", real) || !reduce(real))
    return false;
  if (!write_smaps(maps, told, ~uint64_t{0}, made)) return false;
  if (made.size != real.size || std::memcmp(made.data, real.data, made.size) != 0) return false;
  const auto* record = reinterpret_cast<const Record*>(told.data);
  for (size_t i = 0; i < told.size / sizeof(Record); ++i) tried |= record[i].flags;
  return true;
}

}  // namespace

bool prepare_mapping_flags(const char* layout) {
  Layout at;
  if (layout == nullptr || std::sscanf(layout, "%u %u %u %u", &at.iterator, &at.start, &at.end, &at.flags) != 4)
    return false;
  if ((at.start | at.end | at.flags) > 4096) return false;
  program = load(at);
  if (program < 0) return false;
  if (try_on_ourselves()) return true;
  (void)::close(program);
  program = -1;
  return false;
}

int make_smaps(int maps_fd, int pid) {
  Buffer maps, told, made;
  if (program < 0 || !maps.read_all(maps_fd) || !read_records(pid, told) || told.size == 0 ||
      !write_smaps(maps, told, tried, made))
    return -1;
  int file = ::memfd_create("smaps", MFD_CLOEXEC);
  size_t done = 0;
  while (file >= 0 && done < made.size) {
    auto n = ::write(file, made.data + done, made.size - done);
    if (n <= 0 && errno != EINTR) return (void)::close(file), -1;
    if (n > 0) done += static_cast<size_t>(n);
  }
  if (file >= 0) (void)::lseek(file, 0, SEEK_SET);
  return file;
}

}  // namespace transship::criu_preload
