// Other processes: commands that we run, and facts about processes that we don't own.
#pragma once
#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/cancel.h"
#include "base/fd.h"
#include "base/result.h"

namespace transship::sys {

struct Command {
  std::vector<std::string> argv = {};  // argv[0] is looked up in PATH
  std::string input = {};              // written to its stdin; stdin is /dev/null when empty
  std::vector<std::string> env = {};   // "NAME=value", in place of ours or added
  Deadline deadline = Deadline::in(milliseconds(30'000));
  size_t max_output = 4U << 20;  // of stdout and of stderr each; more is read and dropped
};

struct CommandResult {
  int exit_code = -1;  // 128 + signal when killed
  std::string out;
  std::string err;
};

// Runs it to its end. kTimeout and kCancelled kill the whole process group of the command. Any exit code is a success
// here; run_ok() makes a non-zero one an error that quotes stderr.
Result<CommandResult> run(const Command& command, const Cancel* cancel = nullptr);
Result<CommandResult> run_ok(const Command& command, const Cancel* cancel = nullptr);

// A child that goes on by itself. Killed (SIGKILL) and reaped by the destructor when still there.
class Child {
 public:
  struct Options {
    std::vector<std::string> argv = {};
    std::vector<std::string> env = {};
    // Descriptors that become 0, 1, 2 of the child; -1 means /dev/null for 0, ours for 1 and 2.
    int stdin_fd = -1, stdout_fd = -1, stderr_fd = -1;
    // One more descriptor to hand over, under this number (> 2); -1 for none.
    int extra_fd = -1, extra_fd_as = 3;
    bool new_group = true;
    bool new_session = false;  // with a group of its own too
    int nice = 0;              // added to ours
    // A mount namespace of its own in which the file `lay_over.first` lies over the file `lay_over.second`; both empty:
    // none. Nobody else sees it, and it ends with the child.
    std::pair<std::string, std::string> lay_over = {};
    // The mount namespace and the root directory of a process to join: descriptors of /proc/PID/ns/mnt and
    // /proc/PID/root; -1: ours.
    int mount_namespace = -1, root = -1;
  };
  static Result<Child> spawn(const Options& options);
  Child() = default;
  Child(Child&& other) noexcept { *this = std::move(other); }
  Child& operator=(Child&& other) noexcept;
  ~Child();
  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }
  bool running() const { return pid_ > 0; }
  // Exit code, 128 + signal when killed.
  Result<int> wait(Deadline deadline, const Cancel* cancel = nullptr);
  // To the group when it has one.
  void kill(int signal);

 private:
  void end() noexcept;
  pid_t pid_ = -1;
  bool group_ = false;
  Fd pidfd_;
};

// Field 22 of /proc/PID/stat: together with the pid it names a process for good.
Result<uint64_t> start_time(pid_t pid);
Result<Fd> pidfd_open(pid_t pid);
// As Child::wait() has it, of any process. Nothing: it runs or is not reaped yet, or Linux is older than 6.15.
std::optional<int> exit_code_of(int pidfd);
// Makes room for `count` descriptors (fewer where the limit is lower) in our table at once. A table that grows while
// several threads use it makes the one that opens something wait until all processors have passed a quiet state: 8 to
// 20 ms measured. It never shrinks.
void reserve_descriptors(int count);
// Gone or a zombie.
bool process_ended(pid_t pid);

}  // namespace transship::sys
