#include "migrate/page_pusher.h"

#include "base/log.h"
#include "memory/track/address_space.h"
#include "memory/track/page_reader.h"
#include "migrate/page_outlet.h"
#include "sys/urgent.h"

namespace transship::migrate {
namespace {

constexpr milliseconds kPoll{200};
constexpr milliseconds kCallLimit{10'000};
constexpr milliseconds kConnectLimit{10'000};
constexpr milliseconds kAgain{300};
// Of the link, for what nobody waits for, while somebody waits for something: then nothing queues up on the way.
constexpr double kShareBeside = 0.9;
constexpr milliseconds kMakeWay{200};

}  // namespace

Result<> add_push_lanes(PushLink& link, const PushLanes& wanted, const Services& services, const Cancel& cancel) {
  TS_TRY_ASSIGN(wire::PeerTarget target, services.peer(wanted.peer));
  auto lanes = [&](unsigned count, uint64_t limit) {
    wire::LaneOptions options;
    options.lanes = count;
    options.max_bytes_per_second = limit / 8;
    return wire::LaneSender::connect(services.identity, target, link.session->remote(), services.settings.node,
                                     wanted.move_id, wanted.token, options, Deadline::in(kConnectLimit), cancel);
  };
  link.bulk_limit = wanted.max_bits_per_second / 8;
  TS_TRY_ASSIGN(link.bulk, lanes(services.settings.lanes, wanted.max_bits_per_second));
  sys::Urgent first;  // and its lane's thread
  TS_TRY_ASSIGN(link.urgent, lanes(1, 0));
  return {};
}

// Reads pages of the frozen tasks and sends them over one set of lanes.
class PagePusher::Outlet {
 public:
  Outlet(wire::LaneSender& lanes, const memory::PageSenderOptions& options, const Cancel& stop)
      : stop_(stop), outlet_(lanes, options, stop) {}

  Result<> send(const std::map<uint64_t, pid_t>& tasks, const peer::PageSpan& span) {
    auto task = tasks.find(span.id());
    if (span.kind() != static_cast<uint32_t>(memory::SpaceKind::kTask) || task == tasks.end())
      return fail(Errc::kPeerProtocol, "pages of {} are wanted, which is no process of this container", span.id());
    memory::PageRange range{span.address(), span.pages()};
    memory::PageRuns runs{{memory::SpaceKind::kTask, span.id()}, task->second, {&range, 1}};
    auto sink = [this](const memory::PageBlock& block) { return outlet_.add(block); };
    TS_TRY_ASSIGN(auto read, reader_.read(runs, sink, stop_));
    if (!read.gone.empty())
      return fail(Errc::kCorrupt, "page {:#x} of process {} cannot be read any more", read.gone.front().address,
                  span.id());
    return {};
  }
  // The lanes have taken everything.
  Result<> hand_over() {
    TS_TRY(outlet_.finish_round());
    return {};
  }
  // The destination has, too.
  Result<> finish() {
    TS_TRY(hand_over());
    return outlet_.flush();
  }

 private:
  const Cancel stop_;
  memory::PageReader reader_;
  PageOutlet outlet_;
};

PagePusher::PagePusher(std::string move_id, sys::Cgroup cgroup, memory::PageSenderOptions options, Hooks hooks)
    : move_id_(std::move(move_id)),
      cgroup_(std::move(cgroup)),
      options_(options),
      hooks_(std::move(hooks)),
      heard_(Clock::now()) {}

PagePusher::~PagePusher() { stop(); }

bool PagePusher::finished() const {
  MutexLock lock(mu_);
  return complete_ || !lost_.empty();
}

Result<> PagePusher::begin(PushLink link) {
  TS_TRY_ASSIGN(tasks_, memory::tasks_by_inner_pid(cgroup_));
  TS_TRY_ASSIGN(stop_, Cancel::create());
  link_ = std::move(link);
  return serve();
}

Result<> PagePusher::connect() {
  TS_TRY_ASSIGN(auto session, hooks_.connect());
  TS_TRY_ASSIGN(stop_, Cancel::create());
  link_.emplace().session = std::move(session);
  served_ = {};
  TS_TRY(ask(milliseconds(0), false));
  if (finished()) return {};
  TS_TRY(hooks_.add_lanes(*link_));
  return serve();
}

Result<> PagePusher::serve() {
  slow_ = false;
  ahead_.clear();
  sys::Urgent first;
  wanted_ = Thread("pages-wanted", [this] {
    served_ = serve_wanted();
    if (!served_) stop_->cancel(served_.error().message());
  });
  return {};
}

void PagePusher::stop() {
  if (!link_) return;
  stop_->cancel("the link is given up");
  wanted_.join();
  for (const auto* lanes : {link_->bulk.get(), link_->urgent.get()}) {
    if (lanes == nullptr) continue;
    auto counters = lanes->counters();
    sent_.payload_bytes += counters.payload_bytes;
    sent_.wire_bytes += counters.wire_bytes;
    sent_.chunks += counters.chunks;
  }
  link_.reset();
}

Result<> PagePusher::run(milliseconds patience, const Cancel& end) {
  end_ = end;
  if (tasks_.empty()) {
    TS_TRY_ASSIGN(tasks_, memory::tasks_by_inner_pid(cgroup_));
  }
  {
    MutexLock lock(mu_);
    heard_ = Clock::now();
  }
  running_ = true;
  while (!finished()) {
    Result<> last = push();
    if (finished()) break;
    TS_TRY(end.check());
    if (last.has_value()) last = fail(Errc::kUnavailable, "the destination ended the session");
    TS_LOG_WARN("mig={} phase=follow: {}", move_id_, last.error().message());
    {
      MutexLock lock(mu_);
      if (Clock::now() - heard_ > patience)
        return std::unexpected(std::move(last).error().context("pages are missing on the destination"));
    }
    TS_TRY(sleep_for(kAgain, end));
  }
  MutexLock lock(mu_);
  if (!complete_) return fail(Errc::kCorrupt, "{}", lost_);
  return {};
}

// Over one link, in two directions at once: this thread sends what is missing, the other one what is waited for.
Result<> PagePusher::push() {
  Result<> pushed = link_ ? Result<>() : connect();
  if (pushed && !finished()) pushed = push_missing();
  stop();
  // The thread that failed first has ended the other one.
  if (!served_ && served_.error().code() != Errc::kCancelled) return served_;
  return pushed;
}

Result<peer::FillState> PagePusher::ask(milliseconds wait, bool list) {
  peer::Request request;
  request.mutable_fill()->set_move_id(move_id_);
  request.mutable_fill()->set_wait_ms(static_cast<uint32_t>(wait.count()));
  request.mutable_fill()->set_list_missing(list);
  TS_TRY_ASSIGN(auto reply, link_->session->call(request, Deadline::in(kCallLimit + wait), *stop_));
  MutexLock lock(mu_);
  heard_ = Clock::now();
  complete_ = complete_ || reply.fill().complete();
  if (!reply.fill().lost().empty()) lost_ = reply.fill().lost();
  return reply.fill();
}

Result<> PagePusher::push_missing() {
  Outlet outlet(*link_->bulk, options_, *stop_);
  while (!finished()) {
    TS_TRY_ASSIGN(auto state, ask(milliseconds(0), true));
    for (const auto& span : state.missing()) {
      // In pieces, so that it ends soon when it must.
      for (uint64_t done = 0; done < span.pages(); done += memory::kBatchPages) {
        TS_TRY(stop_->check());
        TS_TRY(end_->check());
        peer::PageSpan piece = span;
        piece.set_address(span.address() + done * memory::kPageBytes);
        piece.set_pages(std::min<uint64_t>(memory::kBatchPages, span.pages() - done));
        for (const auto& rest : ahead_.rest_of(span.id(), {piece.address(), piece.pages()})) {
          piece.set_address(rest.address);
          piece.set_pages(rest.pages);
          TS_TRY(outlet.send(tasks_, piece));
        }
      }
    }
    TS_TRY(outlet.finish());
    // The next list is the truth again.
    ahead_.clear();
  }
  return {};
}

Result<> PagePusher::serve_wanted() {
  memory::PageSenderOptions options = options_;
  options.workers = 1;
  options.compression = memory::CompressionPolicy::kNone;
  Outlet outlet(*link_->urgent, options, *stop_);
  while (!finished() && !stop_->cancelled()) {
    TS_TRY_ASSIGN(auto state, ask(kPoll, false));
    if (running_) hooks_.progress({state.filled_pages(), state.expected_pages()});
    make_way(state.wanted_size() > 0);
    for (const auto& span : state.wanted()) {
      TS_TRY(outlet.send(tasks_, span));
      ahead_.add(span.id(), {span.address(), span.pages()});
    }
    // Not until they have arrived: the next question should be there before the next page is touched.
    if (state.wanted_size() > 0) TS_TRY(outlet.hand_over());
  }
  return {};
}

// What somebody waits for shares the link with the rest, and would be behind all of it that is queued on the way.
void PagePusher::make_way(bool wanted) {
  auto now = Clock::now();
  if (wanted) waited_for_ = now;
  bool slow = now - waited_for_ < kMakeWay;
  if (slow == slow_ || options_.link_bytes_per_second == 0) return;
  slow_ = slow;
  auto limit = link_->bulk_limit;
  auto some = static_cast<uint64_t>(static_cast<double>(options_.link_bytes_per_second) * kShareBeside);
  link_->bulk->set_rate(!slow ? limit : limit == 0 ? some : std::min(limit, some));
}

}  // namespace transship::migrate
