// For the integration tests: one dump, or one restore through the gate, step by step from a script. Prints one JSON
// line per step; a step's failure is printed and is the exit code. Reads a line from stdin where it says so.
//
//   gate_drill dump --pid PID --bundle DIR --images DIR --work DIR [--memory best|full|lazy-pages|parent]
//                   --then commit|rollback|ask
//   gate_drill method --work DIR
//   gate_drill plan --images DIR              what a restore misses in the images
//   gate_drill fill --images DIR --pages FILE  puts in what cannot be lazy; FILE.json: [[shared, id, address, pages,
//                                             offset in FILE], ...]
//   gate_drill gate --id ID --images DIR --work DIR [--hold MS] [--lazy yes] [--abort-before prepare|restore] --then
//   release|kill|ask
//
//   gate_drill adopt --facts FACTS --then release|kill
//   gate_drill clean
//
// `ask`: waits for one of these words on stdin. gate waits for a line before `prepare` and before `restore` when --ask
// is given: "go", or "abort REASON".
#include <csignal>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "criu/dump_session.h"
#include "criu/lazy_images.h"
#include "engine/oci_bundle.h"
#include "gate/gate.h"
#include "sys/file.h"

namespace transship {
namespace {

using nlohmann::json;
using Options = std::map<std::string, std::string>;

constexpr milliseconds kStep{60'000};

void say(const json& line) { std::cout << line.dump() << "\n" << std::flush; }

int failed(const char* step, const Error& error) {
  say({{"step", step}, {"error", error.message()}, {"remedy", error.remedy()}, {"code", errc_name(error.code())}});
  return 1;
}

std::string ask() {
  std::string line;
  std::getline(std::cin, line);
  return line;
}

std::string decide(const Options& o) { return o.at("then") == "ask" ? ask() : o.at("then"); }

criu::MethodFinding probe_method(const std::string& scratch_dir) {
  auto begin = Clock::now();
  auto found = criu::probe_memory_method("criu", scratch_dir, Deadline::in(kStep));
  auto took = std::chrono::duration_cast<milliseconds>(Clock::now() - begin);
  say({{"step", "method"}, {"best", criu::method_name(found.method)}, {"why", found.why}, {"took_ms", took.count()}});
  return found;
}

// Which way memory is left out: the best one, or the one that was asked for.
Result<> choose_memory(const Options& o, criu::DumpOptions& options) {
  auto wanted = o.contains("memory") ? o.at("memory") : "full";
  if (wanted == "full") return {};
  auto found = probe_method(options.work_dir);
  options.kdat = found.kdat;
  options.memory = wanted == "lazy-pages" ? criu::MemoryMethod::kLazyPages : found.method;
  if (wanted != "best" && wanted != criu::method_name(options.memory))
    return fail(Errc::kKernelFeatureMissing, "this host cannot do method {}", wanted);
  return {};
}

int drill_dump(const Options& o, const Cancel& cancel) {
  auto bundle = engine::load_oci_bundle(o.at("bundle"));
  if (!bundle) return failed("bundle", bundle.error());
  auto pid = static_cast<pid_t>(std::stol(o.at("pid")));
  auto options = engine::dump_options(*bundle, pid);
  if (!options) return failed("options", options.error());
  options->images_dir = o.at("images");
  options->work_dir = o.at("work");
  if (auto r = choose_memory(o, *options); !r) return failed("method", r.error());
  auto descriptors = engine::descriptors_json(pid);
  if (!descriptors) return failed("descriptors", descriptors.error());
  if (auto r = sys::write_file_atomic(options->images_dir + "/descriptors.json", *descriptors); !r)
    return failed("descriptors", r.error());
  auto begin = Clock::now();
  auto session = criu::DumpSession::start(*options, cancel, Deadline::in(kStep));
  if (!session) return failed("start", session.error());
  auto ms = [&] { return std::chrono::duration_cast<milliseconds>(Clock::now() - begin).count(); };
  say({{"step", "start"}, {"at_ms", ms()}});
  auto times = session->dump(cancel, Deadline::in(kStep));
  if (!times) return failed("dump", times.error());
  say({{"step", "dump"}, {"at_ms", ms()}, {"freeze_ms", times->freeze.count()}, {"images_ms", times->images.count()}});
  auto word = decide(o);
  begin = Clock::now();
  auto end = word == "commit" ? session->commit(Deadline::in(kStep)) : session->rollback(Deadline::in(kStep));
  if (!end) return failed(word.c_str(), end.error());
  say({{"step", word}, {"took_ms", ms()}});
  return 0;
}

json ranges_json(const criu::LazyPlan& plan) {
  json list = json::array();
  for (const auto& s : plan.spaces) {
    for (const auto& r : s.lazy) list.push_back({s.space.shared, s.space.id, r.address, r.pages, true});
    for (const auto& r : s.eager) list.push_back({s.space.shared, s.space.id, r.address, r.pages, false});
  }
  return list;
}

int say_plan(const char* step, const Result<criu::LazyPlan>& plan, Clock::time_point begin) {
  if (!plan) return failed(step, plan.error());
  auto took = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin);
  json spaces = json::array();
  for (const auto& s : plan->spaces) spaces.push_back({s.space.shared, s.space.id});
  say({{"step", step},
       {"took_us", took.count()},
       {"spaces", spaces},
       {"lazy", plan->lazy_pages},
       {"eager", plan->eager_pages},
       {"present", plan->present_pages},
       {"ranges", ranges_json(*plan)}});
  return 0;
}

// Pages that the test has read from the frozen source.
class FilePages : public criu::PageSource {
 public:
  static Result<FilePages> open(const std::string& path) {
    FilePages p;
    TS_TRY_ASSIGN(p.file_, open_file(path, O_RDONLY));
    TS_TRY_ASSIGN(auto text, sys::read_file(path + ".json"));
    for (const auto& e : json::parse(text))
      p.places_[{e[0].get<bool>(), e[1].get<uint64_t>()}][e[2].get<uint64_t>()] = {e[3].get<uint64_t>(),
                                                                                   e[4].get<uint64_t>()};
    return p;
  }
  Result<> read(criu::ImageSpace space, uint64_t address, std::span<std::byte> out) override {
    auto& places = places_[space];
    auto it = places.upper_bound(address);
    if (it == places.begin()) return fail(Errc::kNotFound, "no page at {:#x}", address);
    const auto& [start, place] = *--it;
    uint64_t skip = address - start;
    if (skip + out.size() > place.pages * 4096) return fail(Errc::kNotFound, "no page at {:#x}", address);
    ssize_t n = ::pread(file_.get(), out.data(), out.size(), static_cast<off_t>(place.offset + skip));
    if (n != static_cast<ssize_t>(out.size())) return fail_errno(errno, "read page {:#x}", address);
    return {};
  }

 private:
  struct Place {
    uint64_t pages, offset;
  };
  Fd file_;
  std::map<criu::ImageSpace, std::map<uint64_t, Place>> places_;
};

constexpr uint64_t kLimit = 16ULL << 30;

int drill_fill(const Options& o) {
  auto begin = Clock::now();
  auto source = FilePages::open(o.at("pages"));
  if (!source) return failed("fill", source.error());
  return say_plan("fill", criu::prepare_lazy_restore(o.at("images"), *source, kLimit), begin);
}

int end_parked(gate::Parked& parked, const std::string& word) {
  if (word == "kill") {
    if (auto r = parked.kill(Deadline::in(kStep)); !r) return failed("kill", r.error());
    say({{"step", "killed"}});
    return 0;
  }
  // Whoever is not there any more decides nothing.
  if (word != "release") return 3;
  auto times = parked.release(Deadline::in(kStep));
  if (!times) return failed("release", times.error());
  say({{"step", "released"}, {"network_us", times->network.count()}, {"tasks_us", times->tasks.count()}});
  return 0;
}

int drill_gate(const Options& o, const Cancel& cancel) {
  gate::GateOptions options;
  if (const char* dir = ::secure_getenv(gate::kGatesDirVariable)) options.gates_dir = dir;
  if (o.contains("hold")) options.hold = milliseconds(std::stol(o.at("hold")));
  auto gate = gate::Gate::arm(o.at("id"), options);
  if (!gate) return failed("arm", gate.error());
  say({{"step", "armed"}});
  auto runtime = gate->wait_for_runtime(Deadline::in(kStep), cancel);
  if (!runtime) return failed("runtime", runtime.error());
  say({{"step", "waiting"}, {"pid", runtime->pid}, {"bundle", runtime->bundle}});
  auto stop_before = [&](const char* step) {
    std::string word = o.contains("ask") ? ask() : "go";
    if (o.contains("abort-before") && o.at("abort-before") == step) word = "abort as asked";
    if (!word.starts_with("abort")) return false;
    gate->abort(word.substr(std::min<size_t>(word.size(), 6)));
    say({{"step", "aborted"}});
    return true;
  };
  if (stop_before("prepare")) return 0;
  auto begin = Clock::now();
  auto ms = [&] { return std::chrono::duration_cast<milliseconds>(Clock::now() - begin).count(); };
  if (auto r = gate->prepare(o.at("images"), o.at("work"), Deadline::in(kStep), cancel); !r)
    return failed("prepare", r.error());
  say({{"step", "prepared"}, {"took_ms", ms()}});
  if (stop_before("restore")) return 0;
  begin = Clock::now();
  auto parked = gate->restore({.lazy = o.contains("lazy"), .inherited = {}}, Deadline::in(kStep), cancel);
  if (!parked) return failed("restore", parked.error());
  say({{"step", "parked"},
       {"took_ms", ms()},
       {"pid", parked->pid()},
       {"cgroup", parked->cgroup()},
       {"facts", parked->facts()}});
  return end_parked(*parked, decide(o));
}

int drill_adopt(const Options& o) {
  auto parked = gate::Parked::adopt(o.at("facts"));
  if (!parked) return failed("adopt", parked.error());
  if (auto ok = parked->verify(); !ok) return failed("verify", ok.error());
  say({{"step", "adopted"}, {"pid", parked->pid()}});
  return end_parked(*parked, decide(o));
}

int drill_clean() {
  const char* dir = ::secure_getenv(gate::kGatesDirVariable);
  auto n = gate::remove_stale_gates(dir != nullptr ? dir : gate::kDefaultGatesDir);
  if (!n) return failed("clean", n.error());
  say({{"step", "clean"}, {"removed", *n}});
  return 0;
}

}  // namespace
}  // namespace transship

int main(int argc, char** argv) {
  using namespace transship;
  init_logging("debug");
  Options o;
  for (int i = 2; i < argc; ++i) {
    std::string word = argv[i];
    if (word == "--ask")
      o["ask"] = "yes";
    else if (word.starts_with("--") && i + 1 < argc)
      o[word.substr(2)] = argv[++i];
  }
  auto cancel = Cancel::create();
  if (!cancel || argc < 2) return 2;
  std::string verb = argv[1];
  try {
    if (verb == "dump") return drill_dump(o, *cancel);
    if (verb == "plan") return say_plan("plan", criu::plan_lazy_restore(o.at("images"), kLimit), Clock::now());
    if (verb == "fill") return drill_fill(o);
    if (verb == "method") return (void)probe_method(o.at("work")), 0;
    if (verb == "gate") return drill_gate(o, *cancel);
    if (verb == "adopt") return drill_adopt(o);
    if (verb == "clean") return drill_clean();
  } catch (const std::exception& e) {
    std::cerr << "gate_drill: " << e.what() << "\n";
  }
  return 2;
}
