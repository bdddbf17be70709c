#include "plan/plan.h"

#include <algorithm>

#include "base/text.h"
#include "plan/rows.h"

namespace transship::plan {

namespace {

PredictInput predict_input(const PlanInput& in) {
  PredictInput p;
  p.memory_bytes = in.tasks.anonymous_bytes + in.tasks.shared_bytes + in.tasks.tmpfs_bytes;
  p.eager_bytes = in.tasks.shared_bytes + in.tasks.tmpfs_bytes;
  p.handed_bytes = std::min(in.tasks.unnamed_shared_bytes, in.tasks.shared_bytes);
  p.mode = in.memory_mode;
  p.rootfs_bytes = in.rootfs_bytes;
  p.rootfs_files = in.rootfs_files;
  p.volume_bytes = in.volume_bytes;
  p.volume_files = in.volume_files;
  if (!in.image_present)
    p.image_bytes = in.image_missing_bytes != 0 ? in.image_missing_bytes : in.container.image_bytes;
  p.processes = in.tasks.processes;
  p.threads = in.tasks.threads;
  p.connections = in.tasks.tcp_established + in.tasks.tcp_loopback;
  p.rtt_ms = in.link.rtt_ms;
  p.bits_per_second = in.link.bits_per_second;
  if (in.max_bits_per_second != 0) {
    auto limit = static_cast<double>(in.max_bits_per_second);
    p.bits_per_second = p.bits_per_second > 0 ? std::min(p.bits_per_second, limit) : limit;
  }
  return p;
}

// Two judges may come upon the same thing (the engine says "host network", so do the processes): the first row stays.
std::vector<Row> without_repeats(std::vector<Row> rows) {
  std::vector<Row> kept;
  for (auto& row : rows) {
    bool repeated = std::ranges::any_of(kept, [&](const Row& k) {
      return k.check == row.check && (k.found == row.found || row.check == "host-network" || row.check == "terminal");
    });
    if (!repeated) kept.push_back(std::move(row));
  }
  return kept;
}

std::string join_blocking(const std::vector<Row>& rows, const std::string Row::* field, bool with_check) {
  std::vector<std::string> parts;
  for (const auto& row : rows)
    if (row.verdict == Verdict::kBlock)
      parts.push_back(with_check ? fmt::format("{}: {}", row.check, row.*field) : row.*field);
  return join(parts, "; ");
}

}  // namespace

std::string_view verdict_name(Verdict verdict) {
  switch (verdict) {
    case Verdict::kInvalid: return "invalid";
    case Verdict::kOk: return "ok";
    case Verdict::kWarn: return "warns";
    case Verdict::kBlock: return "blocks";
  }
  return "invalid";
}

PlanResult make_plan(const PlanInput& input) {
  PlanResult result;
  result.prediction = predict(predict_input(input));
  Rows rows;
  if (!input.link.error.empty()) {
    // Nothing is known about the destination: no row about it may look as if it were.
    rows.block("connectivity", fmt::format("{} cannot be reached: {}", input.peer, input.link.error),
               fmt::format("see `transship peer check {}`", input.peer));
    judge_source(input.source, rows);
  } else {
    judge_hosts(input, rows);
  }
  judge_container(input.container, input.abilities, rows);
  judge_tasks(input.tasks, input.container.engine, input.abilities, rows);
  if (input.link.error.empty()) {
    judge_room(input, result.prediction, rows);
    judge_place(input, rows);
  }
  result.rows = without_repeats(rows.take());
  result.blocked = any_blocks(result.rows);
  return result;
}

std::vector<Row> source_objections(const ContainerSide& container, const TaskFindings* tasks, const NodeFacts& source,
                                   const Abilities& abilities) {
  Rows rows;
  judge_source(source, rows);
  judge_container(container, abilities, rows);
  if (tasks != nullptr) judge_tasks(*tasks, container.engine, abilities, rows);
  auto all = without_repeats(rows.take());
  std::erase_if(all, [](const Row& row) { return row.verdict != Verdict::kBlock; });
  return all;
}

std::string blocking_text(const std::vector<Row>& rows) { return join_blocking(rows, &Row::found, true); }

std::string blocking_remedies(const std::vector<Row>& rows) { return join_blocking(rows, &Row::remedy, false); }

bool any_blocks(const std::vector<Row>& rows) {
  return std::ranges::any_of(rows, [](const Row& row) { return row.verdict == Verdict::kBlock; });
}

}  // namespace transship::plan
