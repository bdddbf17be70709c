// What a destination answers, as the source reads it: hello, replies, acknowledgements of lanes.
#include "fuzz/input.h"
#include "fuzz/memory_stream.h"
#include "fuzz/target.h"
#include "memory/range_set.h"
#include "migrate/convert.h"
#include "migrate/planner.h"
#include "migrate/sent_ahead.h"
#include "names/directory.h"
#include "node/said_names.h"
#include "wire/lane_frame.h"
#include "wire/lanes.h"
#include "wire/session.h"
#include "wire/session_kind.h"

namespace transship::fuzz {
namespace {

using namespace wire;

void use(const peer::Reply& reply) {
  switch (reply.kind_case()) {
    case peer::Reply::kNodeFacts: (void)migrate::from_proto(reply.node_facts()); break;
    case peer::Reply::kJudge: (void)migrate::from_proto(reply.judge().node()); break;
    case peer::Reply::kNames:
      for (const auto& said : reply.names().names())
        if (auto c = node::from_proto(said, "SHA256:azure"); c) (void)names::complaint(*c);
      break;
    case peer::Reply::kFill: {
      migrate::SentAhead ahead;
      for (const auto& span : reply.fill().wanted()) ahead.add(span.id(), {span.address(), span.pages()});
      for (const auto& span : reply.fill().missing())
        for (const auto& rest : ahead.rest_of(span.id(), {span.address(), span.pages() % 1024})) (void)rest;
      break;
    }
    default: break;
  }
}

// A request of every kind but bandwidth, in the order of their numbers.
std::vector<peer::Request> all_requests() {
  std::vector<peer::Request> all;
  const auto* type = peer::Request::descriptor();
  for (int i = 0; i < type->field_count(); ++i) {
    if (type->field(i)->number() == peer::Request::kBandwidth) continue;
    auto& request = all.emplace_back();
    request.GetReflection()->MutableMessage(&request, type->field(i));
  }
  return all;
}

void session(std::string_view said, size_t step, uint8_t first) {
  auto opened = Session::over(std::make_unique<MemoryStream>(said, step, true), "aws", soon(), never());
  if (!opened) return;
  static const auto requests = all_requests();
  for (size_t i = 0; i < requests.size() && !(*opened)->broken(); ++i) {
    const auto& request = requests[(first + i) % requests.size()];
    auto reply = (*opened)->call(request, soon(), never());
    if (!reply) continue;
    TS_CHECK(reply->kind_case() == reply_kind(request.kind_case()));
    use(*reply);
  }
  if (!(*opened)->broken()) (void)(*opened)->measure_bandwidth(1000, soon(), never());
}

void lane(std::string_view said, size_t step, bool unasked) {
  auto stream = std::make_unique<MemoryStream>(said, step, true);
  stream->speaks_unasked = unasked;
  std::vector<std::unique_ptr<Stream>> streams;
  streams.push_back(std::move(stream));
  auto sender = LaneSender::start(std::move(streams), {.lanes = 1}, never());
  TS_CHECK(sender);
  for (int flushes = 0; flushes < 3; ++flushes) {
    if (!(*sender)->send(1, "pstree.img", 0, Buffer(3), Route::kSpread)) return;
    if (!(*sender)->flush(soon())) return;
  }
}

void run(std::string_view bytes) {
  Input in(bytes);
  auto how = in.byte();
  size_t step = in.byte();
  auto first = in.byte();
  (how & 1) != 0 ? lane(in.rest(), step, (how & 2) != 0) : session(in.rest(), step, first);
}

// ---- seeds

std::string framed(const peer::PeerMessage& message) {
  MemoryStream stream("", 0, false);
  TS_CHECK(send_message(stream, message, soon(), never()));
  return stream.heard;
}

std::string hello() {
  peer::PeerMessage m;
  m.mutable_hello_reply()->set_protocol_version(kProtocolVersion);
  m.mutable_hello_reply()->set_node("azure");
  m.mutable_hello_reply()->set_program_version("0.1.0");
  return framed(m);
}

void put_something(peer::Reply& reply) {
  if (reply.has_fill()) {
    for (auto* span : {reply.mutable_fill()->add_wanted(), reply.mutable_fill()->add_missing()}) {
      span->set_kind(1);
      span->set_id(7);
      span->set_address(0x10000);
      span->set_pages(3);
    }
  }
  if (reply.has_names()) {
    auto& name = *reply.mutable_names()->add_names();
    name.set_name("redis");
    name.add_addresses("10.88.0.3");
    name.set_home_id("77");
  }
  if (reply.has_judge()) {
    auto& row = *reply.mutable_judge()->add_rows();
    row.set_check("memory");
    row.set_verdict(peer::VERDICT_OK);
    reply.mutable_judge()->mutable_node()->add_engines("podman 5.4.2");
  }
}

std::vector<std::string> seeds() {
  std::string replies;
  for (const auto& request : all_requests()) {
    peer::PeerMessage m;
    auto& reply = *m.mutable_reply();
    auto kind = reply_kind(request.kind_case());
    const auto* field = peer::Reply::descriptor()->FindFieldByNumber(static_cast<int>(kind));
    reply.GetReflection()->MutableMessage(&reply, field);
    put_something(reply);
    replies += framed(m);
  }
  peer::PeerMessage failed;
  failed.mutable_failure()->set_code("refused");
  failed.mutable_failure()->set_message("no\x1b[2J");
  std::string acknowledged;
  for (uint64_t number : {1U, 2U, 3U}) {
    auto head = encode_header({.type = FrameType::kAck, .offset = number});
    acknowledged.append(reinterpret_cast<const char*>(head.data()), head.size());
  }
  auto complaint = failed.failure().SerializeAsString();
  auto head = encode_header({.type = FrameType::kError, .length = static_cast<uint32_t>(complaint.size())});
  complaint.insert(0, std::string(reinterpret_cast<const char*>(head.data()), head.size()));
  auto one = [](uint8_t how, uint8_t step) { return Output().byte(how).byte(step).byte(0); };
  return {one(0, 0).raw(hello()).raw(replies).bytes(),
          one(0, 3).raw(hello()).raw(replies).bytes(),
          one(0, 0).raw(framed(failed)).bytes(),
          one(1, 0).raw(acknowledged).bytes(),
          one(1, 5).raw(complaint).bytes(),
          one(3, 0).raw(complaint).bytes()};
}

const Registration kRegistration({"peer_replies", run, seeds});

}  // namespace
}  // namespace transship::fuzz
