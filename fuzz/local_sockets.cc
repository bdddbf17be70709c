// What programs of one host say to each other: at the gate, with the pager, with CRIU.
#include "fuzz/input.h"
#include "fuzz/target.h"
#include "gate/protocol.h"
#include "memory/pager_protocol.h"
#include "proto/criu_rpc.pb.h"

namespace transship::fuzz {
namespace {

void gate_message(std::string_view bytes) {
  auto message = gate::decode(bytes);
  if (!message) return;
  TS_CHECK(message->kind != gate::Kind::kInvalid && message->version == gate::kProtocolVersion);
  auto again = gate::decode(gate::encode(*message));
  TS_CHECK(again && gate::encode(*again) == gate::encode(*message));
}

void pager_message(std::string_view bytes) {
  auto message = memory::decode(bytes);
  if (!message) return;
  TS_CHECK(message->ranges.size() <= memory::kMaxPagerRanges);
  TS_CHECK(memory::encode(*message) == bytes);
}

// As transship-runtime reads and writes it between runc and CRIU.
void criu_message(std::string_view bytes) {
  criu::rpc::Request request;
  criu::rpc::Response response;
  if (request.ParsePartialFromArray(bytes.data(), static_cast<int>(bytes.size())) && request.IsInitialized())
    (void)request.SerializeAsString();
  if (response.ParsePartialFromArray(bytes.data(), static_cast<int>(bytes.size())) && response.IsInitialized())
    (void)response.SerializeAsString();
}

void run(std::string_view bytes) {
  Input in(bytes);
  switch (in.byte() % 3) {
    case 0: gate_message(in.rest()); break;
    case 1: pager_message(in.rest()); break;
    default: criu_message(in.rest());
  }
}

std::vector<std::string> seeds() {
  gate::Message waiting{.kind = gate::Kind::kWaiting, .pid = 77, .id = "3f2a", .bundle = "/b", .args = {"create", "x"}};
  gate::Message restore{.kind = gate::Kind::kRestore, .lazy = true, .inherited = {"", "/memfd:transship-1"}};
  gate::Message failed{.kind = gate::Kind::kFailed, .reason = "no \xff", .remedy = "again"};
  memory::PagerMessage expect{
      .word = memory::PagerWord::kExpect, .space = {memory::SpaceKind::kTask, 1}, .ranges = {{0x1000, 2}, {0x8000, 1}}};
  memory::PagerMessage trouble{.word = memory::PagerWord::kTrouble, .text = "it has ended"};
  criu::rpc::Request request;
  request.set_type(criu::rpc::NOTIFY);
  request.set_notify_success(true);
  auto one = [](uint8_t kind, std::string_view bytes) { return Output().byte(kind).raw(bytes).bytes(); };
  return {one(0, gate::encode(waiting)),  one(0, gate::encode(restore)),   one(0, gate::encode(failed)),
          one(1, memory::encode(expect)), one(1, memory::encode(trouble)), one(2, request.SerializeAsString())};
}

const Registration kRegistration({"local_sockets", run, seeds});

}  // namespace
}  // namespace transship::fuzz
