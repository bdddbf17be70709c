// The source's half of one move: the phases, in order, with their undoing.
#pragma once
#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "base/thread.h"
#include "criu/dump_session.h"
#include "memory/image_sender.h"
#include "migrate/decision_register.h"
#include "migrate/handover.h"
#include "migrate/live_memory.h"
#include "migrate/memory_options.h"
#include "migrate/moving_notice.h"
#include "migrate/page_pusher.h"
#include "migrate/peer_session.h"
#include "migrate/phase.h"
#include "migrate/planner.h"
#include "migrate/reporter.h"
#include "migrate/services.h"
#include "migrate/shut_network.h"
#include "migrate/source_volumes.h"
#include "network/hold.h"
#include "network/moved_connections.h"
#include "network/old_connections.h"
#include "proto/journal.pb.h"
#include "storage/tree_delta.h"
#include "sys/file.h"
#include "sys/urgent.h"
#include "wire/lanes.h"

namespace transship::migrate {

struct SourceRequest {
  std::string move_id;
  std::string container;  // as the user named it
  std::string peer;
  bool keep_source = false;
  bool new_address = false;          // it gets one of the destination's own
  uint64_t max_bits_per_second = 0;  // 0: what the configuration says
  MemoryOptions memory;
};

// One thread runs it; cancel() may come from any.
class SourceMove {
 public:
  SourceMove(Services& services, SourceRequest request, Reporter::Sink sink, Cancel cancel);
  ~SourceMove();
  SourceMove(const SourceMove&) = delete;
  SourceMove& operator=(const SourceMove&) = delete;

  // The whole move. The last event is a summary or a failure. Whatever happens, exactly one copy is left to run.
  void run();
  // False when it is too late: the move has been committed.
  bool cancel(const std::string& reason);
  // The daemon ends, and the move is committed: what is still to be done is left to the next daemon.
  void leave() { leaving_.cancel("the daemon ends"); }
  // After run(), when the move is decided and something is left to do: what another object can go on with. This one
  // then leaves the move's directory alone.
  std::optional<journal::Leaving> take_rest();
  // Ends the forwarding of late packets before its time: the container comes back to this node.
  // Late packets are not passed on any more.
  void end_late() { services_.cutover->gone(cutover_); }
  void end_hold(const std::vector<std::string>& addresses);
  const std::string& id() const { return request_.move_id; }
  // "podman:redis", once it is known.
  std::string container() const;
  Standing standing() const;

 private:
  std::vector<Phase> phases();
  Result<> before_phase(const std::string& name);
  Result<> enter(SourceState next);
  // Phase I
  Result<> plan();
  Result<> reserve();
  void undo_reserve();
  // Phase II
  Result<> prepare();
  Result<> send_missing_image(const std::string& why);
  Result<> send_image_file(const std::string& directory, const std::string& file, uint64_t& sent, uint64_t total);
  Result<> copy_rootfs();
  Result<> copy_volumes();
  std::vector<pid_t> tasks_now() const;
  Result<> send_rootfs_round(bool last);
  Result<> get_ready();
  Result<> hold_restarts();
  void undo_ready();
  Result<> copy_memory();
  Result<> copy_in_images();
  void undo_memory();
  void stop_memory();
  Result<> arm();
  ArmControl arm_control();
  Result<> wait_armed();
  Result<plan::ConvergeLimits> converge_limits();
  // Phase III
  Result<> freeze_and_dump();
  Result<> finish_rootfs();
  void keep_unread();
  void undo_freeze();
  Result<> transfer();
  Result<> restore();
  Result<> commit();
  Result<> decide();
  Result<> save() const;
  // The decision (source_decision.cc).
  Result<> check_arbiter();
  Result<> begin_asking();
  Result<> ask_restore();
  Result<> write_commit();
  void keep_commit();
  Result<> settle_failed(Error error);
  bool undecided() const;
  void leave_undecided();
  void end_with_arbiter(bool agreed);
  Result<> release();
  Result<> follow();
  Result<> prepare_to_follow();
  Result<std::unique_ptr<PeerSession>> connect_again(const Cancel& cancel);
  Result<> confirm_commit(PeerSession& session);
  Result<> cleanup();
  void kill_source_tasks();
  void end_source_tasks();
  void notice_begins();
  void fill_memory(local::Summary& summary) const;

  // What was measured, within the limit.
  double link_bits_per_second() const;
  Result<> start_dump();
  Result<> tell_commit();
  void lead_to_destination(bool confirmed);
  // With a new address (source_address.cc).
  Result<> offer_entries();
  void withdraw_entries();
  void take_connections();
  void give_connections_back();
  void end_connections(bool confirmed);
  bool entries_settled();
  void refuse_old_address();
  void fill_addresses(local::Summary& summary) const;
  Result<peer::Reply> call(const peer::Request& request, milliseconds limit);
  Result<> send_chunk(uint8_t kind, const std::string& name, uint64_t offset, std::span<const std::byte> data,
                      wire::Route route);
  void report_end(const PhaseOutcome& outcome);
  void report_failure(const PhaseOutcome& outcome);
  Result<> record(const std::string& state, const std::string& error, const std::string& summary);
  void heard(const Result<peer::Reply>& reply);
  std::string source_state(bool& running) const;

  Services& services_;
  const SourceRequest request_;
  Reporter reporter_;
  Cancel cancel_;
  Cancel leaving_;
  mutable Mutex mu_;
  bool decided_ GUARDED_BY(mu_) = false;  // the commit cannot be called off any more
  std::string container_ GUARDED_BY(mu_);
  SourceState state_ GUARDED_BY(mu_) = SourceState::kCopying;
  int64_t state_since_ms_ GUARDED_BY(mu_) = 0;
  LastWord last_word_ GUARDED_BY(mu_);

  int64_t started_ms_ = 0;
  Planned planned_;
  std::unique_ptr<PeerSession> session_;
  std::unique_ptr<wire::LaneSender> lanes_;
  bool reserved_ = false;
  std::string lane_token_;
  std::string directory_;
  sys::TmpfsMount tmpfs_;
  std::string layers_dir_;

  std::optional<storage::Scan> scan_;
  uint32_t round_ = 0;
  uint32_t connections_ended_ = 0;
  uint64_t rootfs_bytes_ = 0;
  uint64_t image_bytes_ = 0;
  std::vector<std::string> volume_generations_;  // of the copies that the destination has already
  std::unique_ptr<SourceVolumes> volumes_;
  Result<> volumes_outcome_;
  Thread volumes_thread_;
  Result<> rootfs_outcome_;
  Thread rootfs_thread_;

  std::optional<std::string> restarts_held_;
  std::unique_ptr<network::PacketHold> hold_;
  std::optional<ShutNetwork> shut_;  // from the freeze to the end of the tasks
  std::optional<criu::DumpSession> dump_;
  criu::DumpTimes dump_times_;
  bool frozen_ = false;
  bool dead_ = false;                                    // its tasks here, after the commit
  std::unique_ptr<DecisionRegister> decisions_;          // from the reservation on
  std::unique_ptr<arbiter::SourceHold> source_hold_;     // with an arbiter: from before Restore until the end
  Result<> entered_;                                     // the journal, in the phase of the decision
  bool asked_ = false;                                   // Restore has been said, or is about to be
  bool commit_tried_ = false;                            // perhaps it is written
  bool register_silent_ = false;                         // the arbiter did not answer just now
  bool aborted_ = false;                                 // after asked_: the register says so
  bool forward_ = false;                                 // after a failure: the register says commit
  Thread copy_thread_;                                   // of the decision, into the journal
  Fd breakpoints_;                                       // held from before the freeze
  std::unique_ptr<sys::Urgent> urgent_;                  // from the freeze to the release
  bool live_ = false;                                    // memory does not travel in CRIU's images
  bool follow_ = false;                                  // post-copy: memory follows after the commit
  bool confirmed_ = false;                               // the destination knows of the commit
  bool unfinished_ = false;                              // decided, and not everything is done
  bool offered_ = false;                                 // to the entries, that the destination may be the next home
  std::optional<Cancel> memory_cancel_ GUARDED_BY(mu_);  // fires with cancel_, and when the freeze is undone
  std::unique_ptr<LiveMemory> memory_;
  std::unique_ptr<PagePusher> pusher_;
  std::optional<PushLink> push_link_;  // until the restore begins
  LiveMemoryStats memory_stats_;
  uint64_t frozen_bytes_ = 0;    // on the wire while it stood still
  uint64_t on_their_way_ = 0;    // chunks for which the destination is to wait with the restore; 0: none
  wire::LaneCounters followed_;  // after the switch
  Thread memory_thread_;
  Result<> memory_outcome_;
  Thread arm_thread_;
  Result<> arm_outcome_;
  std::atomic<bool> arming_ = false;
  std::atomic<bool> armed_ = false;
  std::unique_ptr<memory::ImageSender> images_;
  std::vector<memory::ImageFile> files_;
  std::vector<network::Connection> connections_;
  peer::Parked parked_;
  peer::Running running_;
  network::CutoverFacts cutover_;  // from the plan on
  Thread taking_thread_;           // of old_connections_, beside the restore
  network::OldConnections old_connections_;
  std::unique_ptr<MovingNotice> notice_;  // from just before the freeze until it runs again
  std::vector<std::string> warnings_;
};

}  // namespace transship::migrate
