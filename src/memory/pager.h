// The program transship-pager: it holds every userfaultfd of a restored container and all its pages, and fills. Once it
// has the pages it needs nobody: a transshipd that is killed does not turn memory that is still to come into zeros.
#pragma once
#include <sys/resource.h>

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "memory/fill_record.h"
#include "memory/fill_task.h"
#include "memory/pager_protocol.h"

namespace transship::memory {

// One thread: faults first, then a small slice of everything else, over and over.
class Pager final : private FillHost {
 public:
  // `control`: the daemon that started it. Listens in `dir` when this returns.
  static Result<std::unique_ptr<Pager>> create(const std::string& dir, Fd control);
  ~Pager();
  Pager(const Pager&) = delete;
  Pager& operator=(const Pager&) = delete;
  // Until every process has its memory or has ended, or there is nothing to guard and nobody to ask for it.
  Result<> run();
  // RLIMIT_NICE that it needs, in the limit's own way of counting: down to -10.
  static constexpr rlim_t kNiceLimit = 30;
  static constexpr int kNiceAfterRestore = -10;

 private:
  struct Entry {
    std::unique_ptr<FillTask> task;
    bool closing = false;  // nothing left to fill; the daemon is to close its duplicate first
  };
  struct Outgoing {
    std::string packet;
    std::vector<Fd> fds;
  };

  Pager(Fd dir, Fd epoll, Fd doorbell, std::unique_ptr<FillRecorder> record);
  Result<> watch(int fd, uint64_t tag);
  void unwatch(int fd);
  int timeout() const;
  void dispatch(uint64_t tag);
  void tick();
  void check_end();
  void end(std::string result);
  void wait_until_heard();

  // CRIU.
  void accept_restore();
  void read_restore();
  void read_descriptor();
  void restore_number(int32_t number);
  void restore_ended(bool complete);
  void restore_failed(std::string why);

  // Tasks.
  FillHost& host() { return *this; }
  std::span<uffd_msg> room_for_events(uint64_t task) override { return record_->room(task); }
  void events_done() override { record_->keep(); }
  void forked(const FillTask& parent, Fd uffd) override;
  void announce(uint64_t index, SpaceId space, int uffd);
  void add_task(std::unique_ptr<FillTask> task);
  void after(uint64_t index);
  void close_task(uint64_t index);
  void settle();
  void write_record();
  void background();
  void pages_arrived();

  // In place of another pager.
  std::string take_task(PagerMessage& message);
  std::string succeed(PagerMessage& message);
  void take_spaces(FillRecord& record);
  void take_tasks(FillRecord& record);
  void count_again();

  // The daemon.
  void accept_daemon();
  void greet();
  void read_daemon();
  void daemon_gone();
  std::string obey(PagerMessage& message, bool& answer);
  std::string take_store(PagerMessage& message);
  std::string take_expected(PagerMessage& message);
  std::string seal();
  void send(PagerMessage message);
  void flush();
  void trouble(const std::string& text);

  Fd dir_;
  Fd lock_;
  bool listening_ = false;
  Fd epoll_;
  Fd doorbell_;
  Fd control_listener_;
  Fd control_;
  bool control_waits_ = false;  // until it can be written to
  std::deque<Outgoing> outgoing_;
  Fd restore_listener_;
  Fd restore_;
  std::string restore_bytes_;
  std::optional<uint64_t> restoring_;  // a pid came, its descriptor follows

  std::optional<PageStore> store_;
  std::map<uint64_t, std::shared_ptr<FillSpace>> spaces_;  // by pid in the images
  std::optional<SpaceId> expecting_;                       // more ranges of it follow
  std::unique_ptr<FillRecorder> record_;
  std::map<uint64_t, Fd> inherited_;  // descriptors of another pager's tasks
  std::map<uint64_t, Entry> tasks_;
  std::vector<uint64_t> born_;  // tasks that after() has not looked at yet
  uint64_t next_index_ = 1;
  uint64_t last_worked_ = 0;
  std::vector<std::string> troubles_;
  bool restore_complete_ = false;
  bool restore_failed_ = false;
  bool over_ = false;
  Clock::time_point next_tick_;
};

}  // namespace transship::memory
