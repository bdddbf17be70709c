// Phase I: asks both nodes, and lets plan/ judge.
#pragma once
#include "migrate/survey.h"
#include "proto/local.pb.h"
#include "wire/session.h"

namespace transship::migrate {

// What the user asked for, as far as it changes the prediction.
struct PlanWishes {
  uint64_t max_bits_per_second = 0;
  plan::MemoryMode mode = plan::MemoryMode::kAuto;
  bool new_address = false;
};

struct Planned {
  Survey survey;
  TreeSize rootfs;
  plan::PlanResult result;
  std::vector<peer::ExposedPort> exposed;  // with a new address: ports of nodes that lead to it
  peer::JudgeReply judged;                 // empty when the destination could not be asked
  std::string arbiter;                     // which one both nodes use; empty: none
  double rtt_ms = 0;
  double bits_per_second = 0;
  uint64_t max_bits_per_second = 0;  // what the user asked for, else what the configuration says; 0: no limit
};

// Source. `session` may be null: then a blocking row says `link_error`. Measures the link with `probe_bytes`.
Result<Planned> make_plan(const Services& services, const std::string& container, const std::string& peer,
                          wire::Session* session, const std::string& link_error, const PlanWishes& wishes,
                          const Cancel& cancel);
// Destination.
Result<peer::JudgeReply> judge(const Services& services, const std::string& source, const peer::JudgeRequest& request);

// The peer's clock minus ours, in milliseconds, as far as one round trip tells.
Result<double> clock_offset(wire::Session& session, const Cancel& cancel);

local::PlanReply to_reply(const Planned& planned);

peer::NodeFacts to_proto(const NodeFacts& facts);
NodeFacts from_proto(const peer::NodeFacts& facts);

}  // namespace transship::migrate
