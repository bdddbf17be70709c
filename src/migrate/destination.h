// The destination's half of one move.
//
//            reserve         prepare          arm, chunks              restore         commit
//   (none) ----------> RESERVED ------> STAGED ----------------> STARTING -------> PARKED -------> RUNNING
//
//   before PARKED: an abort, a lost session or an expired reservation leads to ABORTED: container, gate, images, rules
//   and reservation are gone. PARKED: a lost session makes us ask the source until it answers commit or abort.
//
// A request that is not allowed in a state is answered with a failure that names both.
#pragma once
#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/mutex.h"
#include "base/thread.h"
#include "gate/gate.h"
#include "migrate/arriving_memory.h"
#include "migrate/arriving_volumes.h"
#include "migrate/decision_register.h"
#include "migrate/handover.h"
#include "migrate/rootfs_rounds.h"
#include "migrate/services.h"
#include "network/moved_connections.h"
#include "proto/journal.pb.h"
#include "proto/peer.pb.h"
#include "storage/byte_stream.h"
#include "sys/file.h"
#include "wire/lanes.h"

namespace transship::migrate {

// Who a session is with, and the two ends of its connection (addresses without port).
struct SessionPeer {
  std::string name;  // as pinned here
  std::string remote_address;
  std::string own_address;
};

// Thread-safe: requests come from the session's thread, chunks from the lanes' threads, expiry from the reaper's.
class DestinationMove {
 public:
  // Reserves. `source` is the pinned peer's name, `source_endpoint` where its session came from.
  static Result<std::shared_ptr<DestinationMove>> create(Services& services, const SessionPeer& source,
                                                         const peer::ReserveRequest& request);
  // A move that a daemon which was killed was in the middle of: `facts` from its resume file. Goes on by itself: undoes
  // it; or, parked, asks the source for the decision; or, decided, waits for its memory. An error: nothing is known of
  // its container, the directory is still there.
  static Result<std::shared_ptr<DestinationMove>> resume(Services& services, const std::string& move_id,
                                                         const journal::Arriving& facts);
  // What is parked, and memory that is still being filled, stays for the next daemon.
  ~DestinationMove();
  DestinationMove(const DestinationMove&) = delete;
  DestinationMove& operator=(const DestinationMove&) = delete;

  const std::string& id() const { return id_; }
  const std::string& source() const { return source_; }
  const std::string& lane_token() const { return lane_token_; }

  Result<peer::Reply> prepare();
  Result<peer::Reply> missing_layers();
  Result<peer::Reply> load_image();
  Result<peer::Reply> rootfs_applied(const peer::RootfsAppliedRequest& request);
  // Any session of the source; do not wait for other requests.
  Result<peer::Reply> volume_applied(const peer::VolumeAppliedRequest& request);
  Result<peer::Reply> volume_hashes(const peer::VolumeHashesRequest& request);
  // Calls the engine; answers when it waits at the gate.
  Result<peer::Reply> arm();
  Result<peer::Reply> restore(const peer::RestoreRequest& request);
  // `by_register`: not by the source's word, so that it is written down before it runs.
  Result<peer::Reply> commit(bool by_register = false);
  // Post-copy: which pages have not arrived, and which somebody waits for. Any session of the source; does not wait for
  // other requests.
  Result<peer::Reply> fill(const peer::FillRequest& request);
  // With a new address, after the commit: until the container's entries lead here, for a second at most.
  void wait_settled();
  // Undoes everything. Idempotent; after the commit it is refused.
  Result<> abort(const std::string& reason);
  // The source does not know what was decided, and goes by the answer. *Abort*: as abort(), and no daemon after this
  // one will let it run; *commit*: it was committed before. Idempotent.
  Result<Decision> withdraw(const std::string& reason);
  // A chunk of one of the channels (migrate/channels.h).
  Result<> receive(const wire::ChunkHeader& chunk, std::span<const std::byte> data);

  // The session ended. Before PARKED: aborts. PARKED: asks the source for the decision until it has one, `cancel` fires
  // or somebody else decided.
  void session_lost(const Cancel& cancel);
  // The reservation's time is over: aborts unless a request is being worked on (then the reservation is renewed) or the
  // container is parked already.
  void expire();
  // Keeps the reservation while a request is being worked on.
  void renew_if_busy();
  // Fires when this move ends on the destination; firing it ends what is being waited for.
  Cancel cancel_signal() const { return cancel_; }
  void renew();
  // Tries again what could not be undone at once (a full disk keeps even an engine from removing a container).
  void retry_undo();
  // If it is this move's container that leaves now: a cutover that failed is not tried again after this returns.
  void leaves(const std::string& engine_id);
  // Nothing is left to do for this object.
  bool ended() const;
  std::string state_text() const;
  Standing standing() const;
  // The operator's word in place of the source's, for a parked container.
  Result<> resolve(const OperatorsWord& word);

 private:
  using State = DestinationState;
  struct Image {
    std::shared_ptr<Fd> fd;  // a lane may still be writing when the move is undone
    uint64_t bytes = 0;
  };
  class Busy;

  DestinationMove(Services& services, const SessionPeer& source, std::string id, std::string lane_token, Cancel cancel);
  // For whoever comes after a kill -9 of this daemon.
  Result<> save(bool running = false) const;
  Result<> take_up(const journal::Arriving& facts);
  void take_up_memory();
  void go_on();
  void go_on_running();
  std::string lost() const;
  bool still_frozen() const;
  Result<> set_up(const peer::ReserveRequest& request);
  Result<> expect(std::string_view request, std::initializer_list<State> allowed) const;
  Result<> receive_pages(uint8_t kind, std::span<const std::byte> frame);
  Result<> receive_image(const std::string& name, uint64_t offset, std::span<const std::byte> data);
  Result<> receive_rootfs(const std::string& name, uint64_t offset, std::span<const std::byte> data);
  Result<> receive_volume(const std::string& name, uint64_t offset, std::span<const std::byte> data);
  VolumeCopies copies() const;
  ArrivingOptions arriving_options() const;
  Result<> find_copies();
  Result<> receive_layer(const std::string& name, uint64_t offset, std::span<const std::byte> data);
  enum class Files : uint8_t { kImages, kLayers };
  Result<> write_file(const std::string& dir, const std::string& name, uint64_t offset, std::span<const std::byte> data,
                      Files which);
  Result<> apply_rootfs(storage::Reader& stream);
  void start_engine();
  Result<> wait_at_gate();
  Result<> receive_chunk(const wire::ChunkHeader& chunk, std::span<const std::byte> data);
  Result<> await_chunks(uint64_t count);
  Result<> await_parked(const peer::RestoreRequest& request);
  Result<> check_images(const peer::RestoreRequest& request);
  Result<> check_images_confined() const;
  Result<> check_tasks_confined() const;
  Result<> check_sent_images(const Error& why) const;
  Result<> check_reservation(const peer::ReserveRequest& request) const;
  uint64_t rootfs_room() const REQUIRES(mu_);
  Result<> await_writers() REQUIRES(mu_);
  Result<> make_memory(uint64_t page_bytes);
  void memory_lost(const Error& error);
  void pager_replaced(const std::string& text);
  bool wait_filled();
  void run_cutover();
  void repeat_cutover();
  void set_cutover_facts(const peer::ContainerFacts& facts);
  void prepare_network(const std::string& bundle);
  Result<> learn_addresses(const std::string& netns);
  Result<> end_old_connections();
  void take_over_entries();
  void finish_running();
  void undo();
  void discard();
  void ask_source(const Cancel& cancel);
  void enter(State next);
  Result<> agree_on_arbiter(const std::string& sources);
  void watch_register();
  bool obey_register();
  Result<> begin_commit(bool by_register);
  void record(const std::string& state, const std::string& error);
  void heard(const Result<peer::Decision>& decision);

  Services& services_;
  const std::string source_;
  const std::string source_address_;
  const std::string own_address_;
  const std::string id_;
  const std::string lane_token_;
  const std::string directory_;   // images (tmpfs) and CRIU's work directory
  const std::string layers_dir_;  // an image that no registry serves, on disk
  engine::Engine* engine_ = nullptr;
  engine::Container wanted_;
  int64_t started_ms_ = 0;
  uint64_t images_limit_ = 0;
  uint64_t storage_limit_ = 0;
  uint64_t volume_limit_ = 0;
  Cancel cancel_;        // fires on abort: ends every wait of this move
  Cancel end_;           // fires with the end of this object
  Cancel engine_ended_;  // fires when engine_thread_ has set its outcome
  Cancel settled_;       // fires when the entries of a container with a new address lead here

  Cancel cutover_over_;  // fires when a cutover must not be tried again
  Mutex cutover_mu_;     // held while one is

  mutable Mutex request_mu_;  // one request (or the abort) at a time; before mu_
  mutable Mutex mu_;
  State state_ GUARDED_BY(mu_) = State::kReserved;
  int64_t state_since_ms_ GUARDED_BY(mu_) = 0;
  LastWord last_word_ GUARDED_BY(mu_);  // of the source, since it parked
  std::string cgroup_ GUARDED_BY(mu_);  // of the parked container
  std::map<std::string, Image> images_ GUARDED_BY(mu_);
  std::map<std::string, Image> layers_ GUARDED_BY(mu_);
  bool post_copy_ GUARDED_BY(mu_) = false;
  bool images_closed_ GUARDED_BY(mu_) = false;   // CRIU is about to read them
  unsigned writing_ GUARDED_BY(mu_) = 0;         // lanes that write an image or a layer at the moment
  CondVar written_;                              // one of them is through
  uint64_t rootfs_written_ GUARDED_BY(mu_) = 0;  // by all rounds that were applied
  bool finished_ GUARDED_BY(mu_) = false;
  bool undone_ GUARDED_BY(mu_) = false;
  bool discard_again_ GUARDED_BY(mu_) = false;
  // Whichever is first rules the other out.
  bool committed_ GUARDED_BY(mu_) = false;
  bool withdrawn_ GUARDED_BY(mu_) = false;
  std::string lost_ GUARDED_BY(mu_);  // why it cannot run here, nor anywhere once it is committed
  Clock::time_point discard_tried_ GUARDED_BY(mu_);

  uint64_t chunks_ GUARDED_BY(mu_) = 0;                     // consumed, of all lanes
  std::optional<Error> chunk_failed_ GUARDED_BY(mu_) = {};  // the first one that was not
  CondVar chunk_;                                           // one of the two has changed
  std::atomic<uint64_t> layers_received_ = 0;
  std::atomic<bool> busy_ = false;
  std::atomic<bool> reserved_ = false;

  sys::TmpfsMount tmpfs_;
  std::unique_ptr<ArrivingMemory>
      memory_;            // set before the session hears of this move; null: memory comes in CRIU's images
  bool staging_ = false;  // the engine may have been told to create it
  bool restore_tried_ = false;
  std::optional<engine::Staged> staged_;
  std::string bundle_;  // what the engine gave its runtime; set when that is at the gate
  std::optional<gate::Gate> gate_;
  std::optional<gate::Parked> parked_container_;
  Clock::time_point engine_called_;
  Clock::time_point runtime_arrived_;
  Fd breakpoints_;  // held while CRIU may restore
  Result<> engine_outcome_;
  Thread engine_thread_;
  Thread finish_thread_;
  Thread resumed_thread_;
  std::unique_ptr<DecisionRegister> decisions_;  // from the reservation on
  Deadline log_register_ = Deadline::in(milliseconds(0));
  Thread watch_thread_;  // parked, with an arbiter: reads the register
  peer::Parked parked_;
  network::CutoverFacts cutover_;
  std::vector<peer::ExposedPort> exposed_;      // with a new address: ports of nodes that are to lead here
  std::vector<engine::Address> new_addresses_;  // likewise: what the engine has given it; by arrival_thread_
  bool arrival_prepared_ = false;               // or begun
  bool connections_installed_ = false;
  Thread arrival_thread_;  // joined before the restore, and before the undoing
  Result<> arrival_outcome_;
  std::string cutover_error_;
  // Last: their threads end before the rest goes.
  RootfsRounds rounds_;
  std::unique_ptr<ArrivingVolumes> volumes_;  // from the staging on
};

}  // namespace transship::migrate
