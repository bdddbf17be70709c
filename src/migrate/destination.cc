#include "migrate/destination.h"

#include <sys/stat.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/text.h"
#include "base/wall_clock.h"
#include "engine/oci_bundle.h"
#include "migrate/channels.h"
#include "migrate/convert.h"
#include "migrate/elapsed.h"
#include "migrate/reporter.h"
#include "storage/image.h"
#include "storage/tree_delta.h"
#include "sys/breakpoints.h"
#include "sys/urgent.h"

namespace transship::migrate {
namespace {

// CRIU's own small images, per process generously; what the reservation allows beyond the memory that was announced.
constexpr uint64_t kImagesSlack = 64U << 20;
constexpr milliseconds kPrepareLimit{20 * 60'000};
constexpr milliseconds kQueryLimit{30'000};
constexpr milliseconds kEngineLimit{15'000};

peer::Reply done() {
  peer::Reply reply;
  reply.mutable_done();
  return reply;
}

}  // namespace

// Marks that a request is worked on, and renews the reservation before and after.
class DestinationMove::Busy {
 public:
  explicit Busy(DestinationMove& move) : move_(move) {
    move_.busy_ = true;
    move_.renew();
  }
  ~Busy() {
    move_.renew();
    move_.busy_ = false;
  }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;

 private:
  DestinationMove& move_;
};

DestinationMove::DestinationMove(Services& services, const SessionPeer& source, std::string id, std::string lane_token,
                                 Cancel cancel)
    : services_(services),
      source_(source.name),
      source_address_(source.remote_address),
      own_address_(source.own_address),
      id_(std::move(id)),
      lane_token_(std::move(lane_token)),
      directory_(services.settings.run_dir + "/moves/" + id_),
      layers_dir_(services.settings.state_dir + "/moves/" + id_),
      cancel_(std::move(cancel)),
      end_(Cancel::create().value()),
      engine_ended_(Cancel::create().value()),
      settled_(Cancel::create().value()),
      cutover_over_(Cancel::create().value()),
      rounds_(cancel_, [this](storage::Reader& stream) { return apply_rootfs(stream); }) {}

DestinationMove::~DestinationMove() {
  end_.cancel("the daemon ends");
  resumed_thread_.join();
  watch_thread_.join();
  cancel_.cancel("the daemon ends");
  cutover_over_.cancel("the daemon ends");
  engine_thread_.join();
  arrival_thread_.join();
  finish_thread_.join();
  MutexLock lock(mu_);
  if (state_ == State::kParked || (state_ == State::kRunning && !finished_)) tmpfs_.keep();
}

Result<std::shared_ptr<DestinationMove>> DestinationMove::create(Services& services, const SessionPeer& source,
                                                                 const peer::ReserveRequest& request) {
  if (!is_plain_name(request.move_id())) return fail(Errc::kPeerProtocol, "the move id is not a plain name");
  TS_TRY_ASSIGN(Cancel cancel, Cancel::create());
  std::shared_ptr<DestinationMove> move(
      new DestinationMove(services, source, request.move_id(), random_hex(32), std::move(cancel)));
  if (auto r = move->set_up(request); !r) {
    move->undo();
    if (services.store->move(move->id_)) move->record("rolled-back", r.error().message());
    return std::unexpected(std::move(r).error().context(fmt::format("reserve on {}", services.settings.node)));
  }
  return move;
}

Result<> DestinationMove::set_up(const peer::ReserveRequest& request) {
  TS_TRY(fault::at("destination.reserve"));
  TS_TRY_ASSIGN(wanted_, from_facts(request.container()));
  TS_TRY_ASSIGN(engine_, services_.engine(wanted_.engine));
  TS_TRY(find_copies());
  TS_TRY(check_policy(services_, source_, *engine_, wanted_));
  TS_TRY(check_reservation(request));
  set_cutover_facts(request.container());
  TS_TRY(agree_on_arbiter(request.arbiter()));
  TS_TRY(services_.cutover->judge_arrival(cutover_));
  started_ms_ = unix_ms_now();
  images_limit_ = request.images_bytes() + kImagesSlack;
  storage_limit_ = request.storage_bytes();
  volume_limit_ = request.volume_bytes();
  plan::Reservation wanted;
  wanted.move_id = id_;
  wanted.source = source_;
  wanted.engine = wanted_.engine;
  wanted.name = wanted_.name;
  // The store takes that much in any case; its pages and the container's own are the same memory.
  wanted.amounts = {std::max(request.memory_bytes(), request.live_memory() ? request.page_bytes() : 0), images_limit_,
                    storage_limit_ + volume_limit_};
  for (const auto& p : wanted_.host_ports) wanted.ports.push_back({p.host_ip, p.host_port, p.protocol});
  if (!wanted_.new_address)
    for (const auto& a : wanted_.addresses) wanted.addresses.push_back(a.ip);
  wanted.ttl = services_.settings.reservation_ttl;
  TS_TRY_ASSIGN(uint64_t memory, sys::memory_available());
  memory = memory > services_.settings.memory_margin ? memory - services_.settings.memory_margin : 0;
  TS_TRY_ASSIGN(sys::Space space, sys::space_of(services_.settings.storage_path));
  TS_TRY(services_.reservations.reserve(std::move(wanted), {memory, memory, space.free_bytes}));
  reserved_ = true;
  TS_TRY(sys::make_dirs(services_.settings.run_dir + "/moves"));
  TS_TRY_ASSIGN(tmpfs_, sys::TmpfsMount::create(directory_, images_limit_));
  TS_TRY(sys::make_dirs(directory_ + "/images"));
  TS_TRY(sys::make_dirs(directory_ + "/work"));
  if (request.live_memory()) TS_TRY(make_memory(request.page_bytes()));
  record("running", "");
  TS_TRY(fault::at("destination.reserve.recorded"));
  TS_LOG_INFO("mig={} role=destination source={} container={}:{} reserved", id_, source_, wanted_.engine, wanted_.name);
  return {};
}

Result<> DestinationMove::check_reservation(const peer::ReserveRequest& request) const {
  // A move is made once: what is written down of one that is over stays true.
  if (services_.store->move(id_) || services_.store->decision(id_).value_or(std::nullopt))
    return fail(Errc::kAlreadyExists, "there has been a move {} here already", id_);
  constexpr uint64_t kMost = 1ULL << 60;
  for (auto amount : {request.memory_bytes(), request.images_bytes(), request.storage_bytes(), request.page_bytes(),
                      request.volume_bytes()})
    if (amount > kMost) return fail(Errc::kPeerProtocol, "a reservation of {} bytes", amount);
  auto most = static_cast<uint64_t>(services_.policy.of(source_).reserved_mib) << 20;
  auto asked = std::max(request.memory_bytes(), request.page_bytes()) + request.images_bytes();
  if (most == 0 || asked <= most) return {};
  TS_LOG_WARN("policy: mig={} of {} refused: it asks for {} of memory", id_, source_, format_bytes(asked));
  return std::unexpected(
      Error(Errc::kRefused, fmt::format("the policy of {} lets a move of {} reserve {}, not {}",
                                        services_.settings.node, source_, format_bytes(most), format_bytes(asked)))
          .with_remedy(
              fmt::format("limits.reserved_mib in {} on {}", services_.policy.file(), services_.settings.node)));
}

void DestinationMove::record(const std::string& state, const std::string& error) {
  state::Move move;
  move.id = id_;
  move.container = fmt::format("{}:{}", wanted_.engine, wanted_.name);
  move.engine = wanted_.engine;
  move.from = source_;
  move.to = services_.settings.node;
  move.role = "destination";
  move.state = state;
  move.phase = state_text();
  move.started_ms = started_ms_;
  move.ended_ms = state == "running" || state == "parked" ? 0 : unix_ms_now();
  move.error = error;
  (void)services_.unrecorded.put(*services_.store, move);
}

void DestinationMove::renew() {
  if (reserved_) (void)services_.reservations.renew(id_);
}

std::string DestinationMove::state_text() const {
  MutexLock lock(mu_);
  return std::string(state_name(state_));
}

// Written down like a source's: not forced to the disk, and what cannot be written is no reason to stop, since nothing
// is decided here.
void DestinationMove::enter(State next) {
  {
    MutexLock lock(mu_);
    TS_CHECK(may_follow(state_, next));
    state_ = next;
    state_since_ms_ = unix_ms_now();
  }
  record(next == State::kParked ? "parked" : "running", "");
}

Standing DestinationMove::standing() const {
  Standing s;
  s.move_id = id_;
  s.container = fmt::format("{}:{}", wanted_.engine, wanted_.name);
  s.here = services_.settings.node;
  s.peer = source_;
  MutexLock lock(mu_);
  s.destination = state_;
  s.since_ms = state_since_ms_;
  s.post_copy = post_copy_;
  s.arbiter = decisions_ && decisions_->has_arbiter();
  s.last_word = last_word_;
  if (!lost_.empty()) s.last_word.problem = lost_;
  return s;
}

Result<> DestinationMove::expect(std::string_view request, std::initializer_list<State> allowed) const {
  {
    MutexLock lock(mu_);
    if (std::ranges::find(allowed, state_) != allowed.end()) return {};
    if (state_ == State::kAborted)
      return fail(Errc::kCancelled, "the move was ended on the destination: {}", cancel_.reason());
  }
  return fail(Errc::kPeerProtocol, "{} is not allowed while the move is {}", request, state_text());
}

// ---- image and container

Result<peer::Reply> DestinationMove::prepare() {
  MutexLock request(request_mu_);
  TS_TRY(expect("prepare", {State::kReserved}));
  TS_TRY(fault::at("destination.prepare"));
  Busy busy(*this);
  peer::Reply reply;
  auto& prepared = *reply.mutable_prepared();
  auto deadline = Deadline::in(kPrepareLimit);
  // Again: it is a while since, and the policy may be another one.
  TS_TRY(find_copies());
  TS_TRY(check_policy(services_, source_, *engine_, wanted_));
  auto policy = services_.policy.of(source_);
  TS_TRY_ASSIGN(bool present, engine_->has_image(wanted_));
  if (!present) {
    auto begin = Clock::now();
    auto allowed = [&policy](const std::string& registry) {
      return std::ranges::any_of(policy.registries, [&](const auto& p) { return plan::matches(p, registry); });
    };
    auto pulled = engine_->pull_image(wanted_, allowed, deadline, cancel_);
    prepared.set_pull_ms(ms_since(begin));
    TS_TRY(cancel_.check());
    prepared.set_image_pulled(pulled.has_value());
    if (!pulled) {
      TS_TRY(check_sent_images(pulled.error()));
      prepared.set_image_missing(true);
      prepared.set_image_error(pulled.error().message());
      return reply;
    }
  }
  // Until its id is known it is known by this: should we, or the engine, not live to say it.
  wanted_.arrival = id_;
  staging_ = true;
  TS_TRY(save());
  TS_TRY_ASSIGN(staged_, engine_->stage(wanted_, deadline, cancel_));
  TS_TRY(fault::at("destination.prepare.created"));
  services_.passing.put(staged_->id);
  prepared.set_container_id(staged_->id);
  TS_TRY(save());
  TS_TRY_ASSIGN(volumes_, ArrivingVolumes::create(copies(), wanted_, staged_->volumes, arriving_options(), cancel_));
  volumes_->describe(prepared);
  TS_TRY(fault::at("destination.prepare.saved"));
  enter(State::kStaged);
  return reply;
}

// `why` no registry serves it.
Result<> DestinationMove::check_sent_images(const Error& why) const {
  if (services_.policy.of(source_).images_from_source) return {};
  TS_LOG_WARN("policy: mig={} of {} refused: its image would come from there", id_, source_);
  return std::unexpected(Error(Errc::kRefused, fmt::format("the policy of {} takes no images from {}: {}",
                                                           services_.settings.node, source_, why.message()))
                             .with_remedy(fmt::format("push the image to a registry that {0} reaches, or "
                                                      "allow.images_from_source = true in {1} on {0}",
                                                      services_.settings.node, services_.policy.file())));
}

Result<peer::Reply> DestinationMove::missing_layers() {
  MutexLock serial(request_mu_);
  TS_TRY(expect("the question for missing layers", {State::kReserved}));
  Busy busy(*this);
  TS_TRY_ASSIGN(auto present, storage::present_layers({}, Deadline::in(kQueryLimit), cancel_));
  peer::Reply reply;
  auto& needed = *reply.mutable_image_needed();
  for (const auto& layer : wanted_.image_layers) {
    if (std::ranges::find(present, layer) == present.end()) needed.add_layers_missing(layer);
  }
  return reply;
}

// Known by its id alone: under a name it would be what somebody here gets who asks for that name.
Result<peer::Reply> DestinationMove::load_image() {
  MutexLock serial(request_mu_);
  TS_TRY(expect("image load", {State::kReserved}));
  Busy busy(*this);
  TS_TRY(check_sent_images(Error(Errc::kRefused, "layers were sent")));
  {
    MutexLock lock(mu_);
    TS_TRY(await_writers());
    layers_.clear();
  }
  auto imported = storage::import_image({}, layers_dir_, "", wanted_.image_id, Deadline::in(kPrepareLimit), cancel_);
  (void)sys::remove_tree(layers_dir_);
  if (!imported) return std::unexpected(std::move(imported).error());
  if (services_.policy.of(source_).image_names) TS_TRY(engine_->name_image(wanted_));
  return done();
}

Result<peer::Reply> DestinationMove::rootfs_applied(const peer::RootfsAppliedRequest& request) {
  MutexLock serial(request_mu_);
  TS_TRY(expect("the end of a root file system round", {State::kStaged, State::kStarting}));
  Busy busy(*this);
  TS_TRY(fault::at("destination.rootfs"));
  auto applied = rounds_.wait_applied(rootfs_stream(request.round()));
  if (!applied)
    return std::unexpected(
        std::move(applied).error().context(fmt::format("root file system on {}", services_.settings.node)));
  return done();
}

VolumeCopies DestinationMove::copies() const {
  return VolumeCopies(*services_.store, copies_directory(services_.settings));
}

ArrivingOptions DestinationMove::arriving_options() const {
  return {id_, source_, services_.settings.node, volume_limit_};
}

Result<> DestinationMove::find_copies() {
  TS_TRY_ASSIGN(auto rows, copies().find(wanted_, cancel_));
  if (rows.empty()) return {};
  return std::unexpected(Error(Errc::kRefused, rows[0].found).with_remedy(rows[0].remedy));
}

Result<peer::Reply> DestinationMove::volume_applied(const peer::VolumeAppliedRequest& request) {
  TS_TRY(expect("the end of a volume's round", {State::kStaged, State::kStarting}));
  renew();
  TS_TRY(volumes_->wait_applied(request));
  return done();
}

Result<peer::Reply> DestinationMove::volume_hashes(const peer::VolumeHashesRequest& request) {
  TS_TRY(expect("a question about a volume", {State::kStaged, State::kStarting}));
  renew();
  peer::Reply reply;
  TS_TRY_ASSIGN(*reply.mutable_volume_hashes(), volumes_->hashes(request));
  return reply;
}

// ---- engine and gate

Result<peer::Reply> DestinationMove::arm() {
  MutexLock serial(request_mu_);
  TS_TRY(expect("arm", {State::kStaged}));
  TS_TRY(fault::at("destination.memory.arm"));
  Busy busy(*this);
  gate::GateOptions options;
  options.hold = services_.settings.gate_deadline;
  TS_TRY_ASSIGN(gate_, gate::Gate::arm(staged_->id, options));
  if (memory_) TS_TRY(memory_->start_pager(directory_ + "/work"));
  enter(State::kStarting);
  breakpoints_ = sys::hold_breakpoints();
  engine_called_ = Clock::now();
  engine_thread_ = Thread("engine-start", [this] { start_engine(); });
  volumes_->expect_last();
  if (memory_) memory_->reserve_images(directory_ + "/images");
  auto ready = wait_at_gate();
  if (!ready && cancel_.cancelled() && !engine_outcome_) ready = engine_outcome_;
  if (!ready)
    return std::unexpected(std::move(ready).error().context(fmt::format("start on {}", services_.settings.node)));
  peer::Reply reply;
  auto& at_gate = *reply.mutable_at_gate();
  at_gate.set_engine_start_ms(ms_between(engine_called_, runtime_arrived_));
  at_gate.set_prepare_ms(ms_since(runtime_arrived_));
  return reply;
}

void DestinationMove::start_engine() {
  // The gate's own deadline ends a start that waits; this one is for an engine that hangs elsewhere.
  engine_outcome_ = engine_->start(staged_->id, Deadline::in(services_.settings.gate_deadline + kEngineLimit));
  if (!engine_outcome_) cancel_.cancel(fmt::format("the engine's start failed: {}", engine_outcome_.error().message()));
  engine_ended_.cancel("the engine's start has ended");
}

void DestinationMove::set_cutover_facts(const peer::ContainerFacts& facts) {
  cutover_ = cutover_facts(wanted_);
  cutover_.move_id = id_;
  cutover_.source = source_;
  cutover_.source_address = source_address_;
  cutover_.destination = services_.settings.node;
  cutover_.destination_address = own_address_;
  cutover_.home = facts.home();
  cutover_.home_id = facts.home_id();
  exposed_.assign(facts.exposed().begin(), facts.exposed().end());
}

// The engine has made the network. Beside all else: it takes some programs' time.
void DestinationMove::prepare_network(const std::string& bundle) {
  arrival_prepared_ = true;
  cutover_.engine = wanted_.engine;
  cutover_.engine_id = staged_->id;
  arrival_thread_ = Thread("network", [this, bundle] {
    std::string netns;
    auto loaded = engine::load_oci_bundle(bundle);
    if (const auto* network = loaded ? loaded->find_namespace("network") : nullptr) netns = network->path;
    if (wanted_.new_address)
      arrival_outcome_ = learn_addresses(netns);
    else
      arrival_outcome_ = services_.cutover->prepare_arrival(cutover_, netns);
  });
}

// Everything behind the gate that needs no images is done before they come.
Result<> DestinationMove::wait_at_gate() {
  TS_TRY_ASSIGN(auto waiting, gate_->wait_for_runtime(Deadline::in(kEngineLimit), cancel_));
  runtime_arrived_ = Clock::now();
  TS_TRY(fault::at("destination.memory.at-gate"));
  bundle_ = waiting.bundle;
  prepare_network(bundle_);
  auto files = memory_ ? memory_->lend_files() : std::vector<int>();
  return gate_->prepare(directory_ + "/images", directory_ + "/work", Deadline::in(kEngineLimit), cancel_, files);
}

Result<> DestinationMove::check_images(const peer::RestoreRequest& request) {
  MutexLock lock(mu_);
  // From here on they are what is checked, and what CRIU reads.
  images_closed_ = true;
  TS_TRY(await_writers());
  for (const auto& file : request.files()) {
    auto it = images_.find(file.name());
    uint64_t have = it == images_.end() ? 0 : it->second.bytes;
    if (have != file.size() && file.size() != 0)
      return fail(Errc::kCorrupt, "CRIU image {} has {} bytes here and {} on the source", file.name(), have,
                  file.size());
    if (file.size() == 0 && is_plain_name(file.name()) && it == images_.end()) {
      TS_TRY(open_file(directory_ + "/images/" + file.name(), O_WRONLY | O_CREAT | O_NOFOLLOW, 0600));
    }
  }
  images_.clear();
  return {};
}

Result<peer::Reply> DestinationMove::restore(const peer::RestoreRequest& request) {
  sys::Urgent urgent;
  MutexLock serial(request_mu_);
  TS_TRY(expect("restore", {State::kStarting}));
  // What is left of one that failed is undone, never gone on with.
  if (std::exchange(restore_tried_, true)) return fail(Errc::kPeerProtocol, "the restore has been tried already");
  TS_TRY(fault::at("destination.restore"));
  Busy busy(*this);
  auto asked = Clock::now();
  TS_TRY_CTX(await_chunks(request.chunks()), "last memory and images");
  parked_.set_arrival_ms(ms_since(asked));
  TS_TRY(rounds_.close());  // nothing but the container changes its files from here on
  TS_TRY(volumes_->close());
  TS_TRY(check_images(request));
  {
    MutexLock lock(mu_);
    post_copy_ = request.post_copy();
  }
  auto parked = await_parked(request);
  if (!parked)
    return std::unexpected(std::move(parked).error().context(fmt::format("restore on {}", services_.settings.node)));
  enter(State::kParked);
  TS_TRY(fault::at("destination.restore.recorded"));
  TS_LOG_INFO("mig={} phase=restore parked pid={} engine_start_ms={} wait_ms={} restore_ms={}", id_, parked_.pid(),
              parked_.engine_start_ms(), parked_.wait_ms(), parked_.restore_ms());
  peer::Reply reply;
  *reply.mutable_parked() = parked_;
  if (decisions_->has_arbiter()) watch_thread_ = Thread("arbiter-watch", [this] { watch_register(); });
  return reply;
}

}  // namespace transship::migrate
