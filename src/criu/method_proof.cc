#include "criu/method_proof.h"

#include <algorithm>
#include <map>
#include <set>

#include "criu/image_file.h"
#include "criu/log.h"
#include "criu/parent_images.h"
#include "criu/rpc.h"
#include "sys/file.h"
#include "sys/proc_text.h"
#include "sys/process.h"

namespace transship::criu {
namespace {

constexpr const char* kLogFile = "proof.log";
constexpr milliseconds kEndTime{1000};
// What CRIU may write all the same: what it touches itself while it is inside the task.
constexpr uint64_t kFewPages = 32;
constexpr uint64_t kMaxMappingPages = 4096;
constexpr uint64_t kPagePresentBit = 1ULL << 63;
constexpr uint64_t kPageOfFileBit = 1ULL << 61;

// Address -> content of the pages that a dump has to know of.
using Pages = std::map<uint64_t, std::string>;

Result<> pread_exact(int fd, void* to, size_t size, uint64_t offset) {
  ssize_t n = retry_eintr([&] { return ::pread(fd, to, size, static_cast<off_t>(offset)); });
  if (n < 0) return fail_errno(errno, "read {} bytes at {:#x}", size, offset);
  if (static_cast<size_t>(n) != size) return fail(Errc::kCorrupt, "read {} of {} bytes at {:#x}", n, size, offset);
  return {};
}

Result<Pages> private_pages(pid_t pid) {
  auto proc = fmt::format("/proc/{}/", pid);
  TS_TRY_ASSIGN(auto maps, sys::read_file(proc + "maps"));
  TS_TRY_ASSIGN(Fd memory, open_file(proc + "mem", O_RDONLY));
  TS_TRY_ASSIGN(Fd pagemap, open_file(proc + "pagemap", O_RDONLY));
  Pages pages;
  for (const auto& m : sys::parse_maps(maps)) {
    uint64_t count = (m.end - m.start) / kImagePage;
    if (m.shared || m.path.starts_with("[vvar") || m.path == "[vsyscall]" || count > kMaxMappingPages) continue;
    bool vdso = m.path == "[vdso]";  // dumped always, though nobody has written to it
    std::vector<uint64_t> entries(count);
    TS_TRY_CTX(
        pread_exact(pagemap.get(), entries.data(), count * sizeof(uint64_t), m.start / kImagePage * sizeof(uint64_t)),
        proc + "pagemap");
    for (uint64_t i = 0; i < count; ++i) {
      if ((entries[i] & kPagePresentBit) == 0 || ((entries[i] & kPageOfFileBit) != 0 && !vdso)) continue;
      std::string content(kImagePage, '\0');
      TS_TRY_CTX(pread_exact(memory.get(), content.data(), kImagePage, m.start + i * kImagePage), proc + "mem");
      pages.emplace(m.start + i * kImagePage, std::move(content));
    }
  }
  return pages;
}

// A `cat` in a mount namespace of its own, which CRIU then shares: it does not save mounts that are its own.
class Guinea {
 public:
  Result<> start(const std::pair<std::string, std::string>& lay_over, Deadline deadline);
  // Does it still do what it did?
  Result<> answers(Deadline deadline) const;
  pid_t pid() const { return child_.pid(); }

 private:
  Fd in_, out_;
  sys::Child child_;
};

Result<> Guinea::start(const std::pair<std::string, std::string>& lay_over, Deadline deadline) {
  TS_TRY_ASSIGN(Pipe to, make_pipe());
  TS_TRY_ASSIGN(Pipe from, make_pipe());
  sys::Child::Options o;
  o.argv = {"cat"};
  o.env = {"GLIBC_TUNABLES=glibc.pthread.rseq=0"};  // else the kernel writes into its memory now and then
  o.stdin_fd = to.read.get();
  o.stdout_fd = from.write.get();
  o.stderr_fd = from.write.get();  // no file of ours: its mount would be one of another namespace
  o.new_session = true;            // ours may begin outside of our pid namespace, which CRIU cannot dump
  o.lay_over = lay_over;
  TS_TRY_ASSIGN(child_, sys::Child::spawn(o));
  in_ = std::move(to.write);
  out_ = std::move(from.read);
  return answers(deadline);
}

Result<> Guinea::answers(Deadline deadline) const {
  TS_TRY_ASSIGN(auto never, Cancel::create());
  TS_TRY(write_all(in_.get(), "?"));
  TS_TRY(wait_readable(out_.get(), never, deadline, "an answer of the process that CRIU was tried out on"));
  std::byte answer{};
  TS_TRY(read_exact(out_.get(), std::span(&answer, 1)));
  // Until it waits for more: then its memory stays as it is.
  while (true) {
    TS_TRY_ASSIGN(auto stat, sys::read_file(fmt::format("/proc/{}/stat", pid()), 4096));
    if (stat.find(") S ") != std::string::npos) return {};
    if (deadline.passed()) return fail(Errc::kTimeout, "process {} did not come to rest", pid());
    TS_TRY(sleep_for(milliseconds(1), never));
  }
}

struct Proof {
  std::string criu;
  MemoryMethod method;
  KdatPatch patch;
  std::string dir;
  Deadline deadline;

  Result<> run();
  rpc::Request request(pid_t pid, int images, const std::string& parent) const;
  Result<> dump(Worker& worker, const rpc::Request& request) const;
  Result<> judge(const Pages& before, pid_t pid) const;
};

rpc::Request Proof::request(pid_t pid, int images, const std::string& parent) const {
  rpc::Request request;
  request.set_type(rpc::DUMP);
  auto* opts = request.mutable_opts();
  opts->set_images_dir_fd(images);
  opts->set_work_dir_fd(images);
  opts->set_pid(pid);
  opts->set_log_level(1);
  opts->set_log_file(kLogFile);
  opts->set_notify_scripts(true);
  opts->set_manage_cgroups_mode(rpc::CGROUP_IGNORE);
  opts->set_track_mem(true);
  opts->set_parent_img(parent);
  return request;
}

// Up to the complete images, and back: CRIU takes a refusal for an order to undo everything.
Result<> Proof::dump(Worker& worker, const rpc::Request& request) const {
  TS_TRY(worker.send(request));
  bool complete = false;
  while (true) {
    TS_TRY_ASSIGN(auto response, worker.receive(deadline));
    if (response.type() != rpc::NOTIFY) break;
    bool post = response.notify().script() == "post-dump";
    complete = complete || post;
    TS_TRY(worker.answer_notify(!post));
  }
  worker.finish(deadline.sooner(Deadline::in(kEndTime)));
  if (complete) return {};
  return std::unexpected(
      error_from_log(Errc::kKernelFeatureMissing, "dump a small process", dir + "/" + kLogFile, "CRIU gave up"));
}

Result<> Proof::judge(const Pages& before, pid_t pid) const {
  TS_TRY_ASSIGN(Fd images, open_file(dir, O_RDONLY | O_DIRECTORY));
  TS_TRY_ASSIGN(pid_t inner, innermost_pid(pid));
  auto name = fmt::format("pagemap-{}.img", inner);
  TS_TRY_ASSIGN(auto bytes, read_image(images.get(), name));
  TS_TRY_ASSIGN(auto pagemap, parse_pagemap(bytes, name));
  std::set<uint64_t> holes, written;
  for (const auto& e : pagemap.entries) {
    if (e.nr_pages() > kMaxMappingPages) return fail(Errc::kKernelFeatureMissing, "it has a hole without end");
    for (uint64_t i = 0; i < e.nr_pages(); ++i)
      ((e.flags() & kPagePresent) != 0 ? written : holes).insert(e.vaddr() + i * kImagePage);
  }
  if (written.size() > kFewPages || holes.size() * 2 < before.size())
    return fail(Errc::kKernelFeatureMissing, "CRIU wrote {} pages and left {} of {} out", written.size(), holes.size(),
                before.size());
  for (const auto& [address, content] : before) {
    bool zero = content.find_first_not_of('\0') == std::string::npos;
    if (!zero && !holes.contains(address) && !written.contains(address))
      return fail(Errc::kKernelFeatureMissing, "CRIU forgot the page at {:#x}", address);
  }
  TS_TRY_ASSIGN(auto after, private_pages(pid));
  for (uint64_t address : holes) {
    if (!after.contains(address)) return fail(Errc::kKernelFeatureMissing, "CRIU made up a page at {:#x}", address);
  }
  for (const auto& [address, content] : before) {
    if (after[address] != content) return fail(Errc::kCorrupt, "the page at {:#x} changed", address);
  }
  return {};
}

Result<> Proof::run() {
  TS_TRY(sys::make_dirs(dir));
  TS_TRY_ASSIGN(auto parent, ParentImages::create(dir + "/parent.d"));
  std::pair<std::string, std::string> lay_over;
  if (method == MemoryMethod::kParent) {
    lay_over = {dir + "/criu.kdat", kKdatFile};
    TS_TRY(write_patched_kdat(patch, lay_over.first));
  }
  Guinea cat;
  TS_TRY_CTX(cat.start(lay_over, deadline), "start a process to try CRIU out on");
  TS_TRY_ASSIGN(auto before, private_pages(cat.pid()));
  TS_TRY(parent.cover_tasks({cat.pid()}));
  if (method == MemoryMethod::kSoftDirty)
    TS_TRY(sys::write_control(fmt::format("/proc/{}/clear_refs", cat.pid()), "4"));
  TS_TRY_ASSIGN(Fd mounts, open_file(fmt::format("/proc/{}/ns/mnt", cat.pid()), O_RDONLY));
  TS_TRY_ASSIGN(Fd images, open_file(dir, O_RDONLY | O_DIRECTORY));
  TS_TRY_ASSIGN(Fd root, open_file(fmt::format("/proc/{}/root", cat.pid()), O_RDONLY | O_DIRECTORY));
  Worker::Options how;
  how.mount_namespace = mounts.get();
  how.root = root.get();
  TS_TRY_ASSIGN(auto worker, Worker::spawn(criu, how));
  TS_TRY(dump(worker, request(cat.pid(), images.get(), parent.path())));
  TS_TRY(judge(before, cat.pid()));
  return cat.answers(deadline);
}

}  // namespace

Result<> prove_method(const std::string& criu, MemoryMethod method, const KdatPatch& patch, const std::string& dir,
                      Deadline deadline) {
  auto result = Proof{criu, method, patch, dir, deadline}.run();
  (void)sys::remove_tree(dir);
  return result;
}

}  // namespace transship::criu
