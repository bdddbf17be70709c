// The link between the two hosts, and whether they fit each other.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "base/text.h"
#include "plan/rows.h"

namespace transship::plan {

namespace {

// A clock this far off makes wall-clock timers, tokens and certificates of the container misbehave.
constexpr double kClockWarnMs = 1000;
// Before 5.13 CRIU cannot save restartable sequences, which every glibc since 2.35 uses.
constexpr std::pair<unsigned, unsigned> kOldestKernel{5, 13};

// "6.18.44-amd64" -> {6, 18}; {0, 0} when it does not look like that.
std::pair<unsigned, unsigned> kernel_number(const std::string& release) {
  unsigned major = 0;
  unsigned minor = 0;
  const char* end = release.data() + release.size();
  auto [at, error] = std::from_chars(release.data(), end, major);
  if (error != std::errc() || at == end || *at != '.') return {0, 0};
  if (std::from_chars(at + 1, end, minor).ec != std::errc()) return {0, 0};
  return {major, minor};
}

// Dotted numbers, compared part by part; negative: a is older.
int compare_versions(const std::string& a, const std::string& b) {
  auto pa = split(a, '.');
  auto pb = split(b, '.');
  for (size_t i = 0; i < std::max(pa.size(), pb.size()); ++i) {
    unsigned x = 0;
    unsigned y = 0;
    if (i < pa.size()) (void)std::from_chars(pa[i].data(), pa[i].data() + pa[i].size(), x);
    if (i < pb.size()) (void)std::from_chars(pb[i].data(), pb[i].data() + pb[i].size(), y);
    if (x != y) return x < y ? -1 : 1;
  }
  return 0;
}

void judge_link(const PlanInput& in, Rows& rows) {
  if (in.link.bits_per_second > 0)
    rows.ok("connectivity", fmt::format("{}, RTT {:.2f} ms, {} measured", in.peer, in.link.rtt_ms,
                                        format_bit_rate(in.link.bits_per_second)));
  else
    rows.warn("connectivity", fmt::format("{}, RTT {:.2f} ms, bandwidth not measured", in.peer, in.link.rtt_ms),
              "the times below assume 1 Gbit/s");
  if (in.link.protocol_version == 0)
    rows.block("protocol",
               fmt::format("{} runs {}, which speaks no version that we do", in.peer, in.destination.program_version),
               "install the same version of Transship on both");
  else
    rows.ok("protocol", fmt::format("version {}", in.link.protocol_version));
  std::string clock = fmt::format("{} is {:.0f} ms {}", in.peer, std::abs(in.link.clock_offset_ms),
                                  in.link.clock_offset_ms < 0 ? "behind" : "ahead");
  if (std::abs(in.link.clock_offset_ms) > kClockWarnMs)
    rows.warn("clock", clock, "let both hosts keep time by NTP; the container's wall clock will jump by that much");
  else
    rows.ok("clock", clock);
}

void judge_kernels(const PlanInput& in, Rows& rows) {
  const auto& s = in.source;
  const auto& d = in.destination;
  if (s.architecture != d.architecture)
    rows.block("architecture", fmt::format("{} here, {} there", s.architecture, d.architecture),
               "choose a destination of the same architecture");
  else
    rows.ok("architecture", s.architecture);
  auto here = kernel_number(s.kernel);
  auto there = kernel_number(d.kernel);
  std::string both = s.kernel == d.kernel ? s.kernel : fmt::format("{} here, {} there", s.kernel, d.kernel);
  if (std::min(here, there) < kOldestKernel)
    rows.block("kernel", both, "CRIU needs Linux 5.13 or newer on both");
  else if (there < here)
    rows.warn("kernel", both, "an older kernel may lack what the program found here; have the same on both");
  else
    rows.ok("kernel", both);
  if (s.vdso_digest == d.vdso_digest)
    rows.ok("vdso", "the same functions in the same places");
  else if (d.vdso_digest.empty())
    rows.block("vdso", "the destination's kernel has none, the program uses this one's", "boot it without vdso=0");
  else
    rows.warn("vdso", "differs; CRIU leads the program's time functions to the new ones",
              "nothing to do; the same kernel build on both avoids it");
}

void judge_cpu(const PlanInput& in, Rows& rows) {
  for (const auto& row : in.destination_rows)
    if (row.check == "cpu-features") return rows.add(row);
  rows.warn("cpu-features", "not compared: the destination gave no answer about its CPU",
            "a program that uses instructions which the destination lacks would crash there; choose the same CPU type");
}

void judge_tools(const PlanInput& in, Rows& rows) {
  const auto& s = in.source;
  const auto& d = in.destination;
  if (s.criu_version.empty() || d.criu_version.empty())
    rows.block("criu", fmt::format("does not run {}", s.criu_version.empty() ? "here" : "on " + in.peer),
               "install CRIU 4.2 or newer");
  else if (compare_versions(d.criu_version, s.criu_version) < 0)
    rows.block("criu", fmt::format("{} here, {} there", s.criu_version, d.criu_version),
               "an older CRIU cannot read what a newer one wrote; install the same on both");
  else
    rows.ok("criu", s.criu_version == d.criu_version
                        ? s.criu_version
                        : fmt::format("{} here, {} there", s.criu_version, d.criu_version));
  if (d.runc_version.empty())
    rows.block("runtime", fmt::format("{} has no runc", in.peer), "install runc there");
  else
    rows.ok("runtime", fmt::format("{} here, runc {} there",
                                   in.container.runtime.empty() ? "runc" : in.container.runtime, d.runc_version));
}

bool has_cgroup2(const NodeFacts& node) { return node.cgroup_mode == "v2" || node.cgroup_mode == "hybrid"; }

void judge_cgroups(const PlanInput& in, Rows& rows) {
  const auto& s = in.source;
  const auto& d = in.destination;
  std::string both =
      s.cgroup_mode == d.cgroup_mode ? s.cgroup_mode : fmt::format("{} here, {} there", s.cgroup_mode, d.cgroup_mode);
  if (!has_cgroup2(s) || !has_cgroup2(d))
    rows.block("cgroup", both,
               "boot both hosts with cgroup v2 (systemd.unified_cgroup_hierarchy=1): its freezer is needed");
  else if (d.cgroup_mode == "hybrid" && in.container.memory_limit != 0)
    rows.warn("cgroup", fmt::format("{}; the container has a memory limit", both),
              "in hybrid mode the destination may not be able to enforce limits; boot it with cgroup v2 alone");
  else
    rows.ok("cgroup", both);
}

void judge_engine(const PlanInput& in, Rows& rows) {
  const auto& engines = in.destination.engines;
  auto same = std::ranges::find_if(engines, [&](const std::string& e) {
    return e == in.container.engine || e.starts_with(in.container.engine + " ");
  });
  if (same != engines.end())
    rows.ok("engine", *same);
  else
    rows.block("engine",
               fmt::format("{} has {}", in.peer, engines.empty() ? "no engine that answers" : join(engines, ", ")),
               fmt::format("install or start {} there", in.container.engine));
}

// One register for both, and one that answers: a move that cannot be decided leaves the container frozen.
void judge_arbiter(const PlanInput& in, Rows& rows) {
  const auto& s = in.source;
  const auto& d = in.destination;
  if (s.arbiter.empty() && d.arbiter.empty()) return;
  if (s.arbiter.empty() || d.arbiter.empty()) {
    const auto& with = s.arbiter.empty() ? in.peer : s.node;
    const auto& without = s.arbiter.empty() ? s.node : in.peer;
    return rows.block("arbiter", fmt::format("{} decides its moves by etcd, {} does not", with, without),
                      "have the same [arbiter] in the configuration of both, or none (docs/arbiter.md)");
  }
  if (!s.arbiter_error.empty() || !d.arbiter_error.empty())
    return rows.block("arbiter",
                      s.arbiter_error.empty() ? fmt::format("on {}: {}", in.peer, d.arbiter_error)
                                              : fmt::format("here: {}", s.arbiter_error),
                      "nothing can be decided before a majority of etcd answers: `etcdctl endpoint status --cluster`");
  if (s.arbiter != d.arbiter)
    return rows.block("arbiter", fmt::format("{} here, {} there", s.arbiter, d.arbiter),
                      "name the same cluster and the same prefix in [arbiter] on both");
  rows.ok("arbiter", fmt::format("{}, answers in {} ms here, {} ms there", s.arbiter, s.arbiter_ms, d.arbiter_ms));
}

void judge_node(const std::string& where, const NodeFacts& node, Rows& rows) {
  for (const auto& sentence : node.missing) {
    auto colon = sentence.rfind(": ");
    rows.block("node", fmt::format("{}: {}", where, sentence.substr(0, colon)),
               colon == std::string::npos ? "see there" : sentence.substr(colon + 2));
  }
}

}  // namespace

void judge_source(const NodeFacts& source, Rows& rows) {
  judge_node(source.node.empty() ? "here" : source.node, source, rows);
}

void judge_hosts(const PlanInput& in, Rows& rows) {
  judge_link(in, rows);
  judge_source(in.source, rows);
  judge_node(in.peer, in.destination, rows);
  judge_kernels(in, rows);
  judge_cpu(in, rows);
  judge_tools(in, rows);
  judge_cgroups(in, rows);
  judge_engine(in, rows);
  judge_arbiter(in, rows);
}

}  // namespace transship::plan
