// The daemon's answers as `transship` shows them, and what it asks for. Names and messages in them come from containers
// and other nodes.
#include <algorithm>

#include "cli/json_render.h"
#include "cli/move_render.h"
#include "cli/names_render.h"
#include "cli/text_render.h"
#include "fuzz/input.h"
#include "fuzz/target.h"
#include "migrate/memory_options.h"
#include "wire/message.h"

namespace transship::fuzz {
namespace {

using namespace cli;

// Everything that is printed; no byte of it drives the terminal.
class Shown {
 public:
  explicit Shown(size_t width)
      : screen([this](std::string_view piece) { text += piece; },
               {.terminal = width != 0, .colours = false, .width = width}) {}
  ~Shown() {
    // What a live line and a drawn plan are taken back with.
    for (std::string_view own : {"\r\x1b[2K", "\x1b[1A", "\x1b[2K"})
      for (size_t at = text.find(own); screen.terminal() && at != std::string::npos; at = text.find(own, at))
        text.erase(at, own.size());
    for (char c : text) TS_CHECK(c == '\n' || !is_control(c), "for a terminal: {}", text);
  }
  Shown(const Shown&) = delete;
  Shown& operator=(const Shown&) = delete;
  std::string text;
  Screen screen;
};

void check_json(const std::string& lines) {
  TS_CHECK(lines.empty() || lines.ends_with('\n'));
  for (char c : lines) TS_CHECK(c == '\n' || c == '\x7f' || !is_control(c), "in JSON: {}", lines);
}

// Texts are anybody's; numbers are the daemon's own, and no more than times, sizes and rates can be.
void bound(google::protobuf::Message& message) {
  constexpr int64_t kTime = int64_t{1} << 52;
  constexpr double kRate = 1e15;
  using Field = google::protobuf::FieldDescriptor;
  const auto* r = message.GetReflection();
  std::vector<const Field*> fields;
  r->ListFields(message, &fields);
  for (const auto* f : fields) {
    if (f->cpp_type() == Field::CPPTYPE_MESSAGE) {
      int count = f->is_repeated() ? r->FieldSize(message, f) : 1;
      for (int i = 0; i < count; ++i)
        bound(f->is_repeated() ? *r->MutableRepeatedMessage(&message, f, i) : *r->MutableMessage(&message, f));
    } else if (f->cpp_type() == Field::CPPTYPE_INT64 && !f->is_repeated()) {
      r->SetInt64(&message, f, std::clamp(r->GetInt64(message, f), -kTime, kTime));
    } else if (f->cpp_type() == Field::CPPTYPE_UINT64 && !f->is_repeated()) {
      r->SetUInt64(&message, f, std::min<uint64_t>(r->GetUInt64(message, f), kTime));
    } else if (f->cpp_type() == Field::CPPTYPE_DOUBLE && !f->is_repeated()) {
      double value = r->GetDouble(message, f);
      r->SetDouble(&message, f, value >= 0 && value <= kRate ? value : 0);
    }
  }
}

template <class Message, class Use>
void with(std::string_view bytes, Use use) {
  Message message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return;
  bound(message);
  use(message);
}

void show(const local::MoveEvent& event, const Screen& screen) {
  for (auto verbosity : {Verbosity::kQuiet, Verbosity::kVerbose})
    make_text_renderer(screen, screen, {"redis", "azure"}, verbosity)->event(event);
  check_json(json_lines(event, "azure"));
  if (event.has_failure()) {
    peer::Failure failure;
    failure.set_code(event.failure().code());
    failure.set_message(event.failure().message());
    auto error = wire::to_error(failure);
    print_error(screen, error);
    check_json(json_error(error, Outcome::kFailed));
  }
}

void run(std::string_view bytes) {
  Input in(bytes);
  auto kind = in.byte() % 13;
  Shown out(size_t{40} * (in.byte() % 3));
  const auto& s = out.screen;
  auto rest = in.rest();
  switch (kind) {
    case 0:
      return with<local::ContainersReply>(rest, [&](const auto& m) {
        print_containers(s, m);
        check_json(json_lines(m));
      });
    case 1:
      return with<local::PlanReply>(rest, [&](const auto& m) {
        print_plan(s, m, "azure");
        print_plan_rows(s, m, true);
        check_json(json_lines(m, "azure"));
      });
    case 2: return with<local::MoveEvent>(rest, [&](const auto& m) { show(m, s); });
    case 3:
      return with<local::MovesReply>(rest, [&](const auto& m) {
        print_moves(s, m);
        check_json(json_lines(m));
      });
    case 4:
      return with<local::ShowReply>(rest, [&](const auto& m) {
        print_move(s, m);
        check_json(json_lines(m));
      });
    case 5:
      return with<local::PeersReply>(rest, [&](const auto& m) {
        print_peers(s, m);
        check_json(json_lines(m));
      });
    case 6:
      return with<local::ExposuresReply>(rest, [&](const auto& m) {
        print_exposures(s, m);
        check_json(json_lines(m));
      });
    case 7:
      return with<local::NetworkCheckReply>(rest, [&](const auto& m) {
        print_network_check(s, m);
        check_json(json_lines(m));
      });
    case 8:
      return with<local::NamesReply>(rest, [&](const auto& m) {
        print_names(s, m);
        print_resolver(s, m);
        check_json(json_lines(m));
      });
    case 9:
      return with<local::PeerCheckReply>(rest, [&](const auto& m) {
        print_peer_check(s, m);
        check_json(json_lines(m));
      });
    case 10:
      return with<local::InfoReply>(rest, [&](const auto& m) {
        print_node(s, m);
        check_json(json_lines(m));
      });
    case 11: return with<local::ResolveReply>(rest, [&](const auto& m) { check_json(json_lines(m)); });
    default: return with<local::MoveRequest>(rest, [](const auto& m) { (void)migrate::memory_options(m); });
  }
}

// ---- seeds: every field of every kind has something that is not to reach a terminal as it is

void fill(google::protobuf::Message& message, int depth) {
  const auto* type = message.GetDescriptor();
  const auto* r = message.GetReflection();
  for (int i = 0; i < type->field_count(); ++i) {
    const auto* f = type->field(i);
    using Field = google::protobuf::FieldDescriptor;
    bool many = f->is_repeated();
    switch (f->cpp_type()) {
      case Field::CPPTYPE_STRING: {
        std::string text = "a\x1b[2J\n\xe2\x80\xae b";
        many ? r->AddString(&message, f, text) : r->SetString(&message, f, text);
        break;
      }
      case Field::CPPTYPE_UINT64:
        if (!many) r->SetUInt64(&message, f, 5'000'000'000U);
        break;
      case Field::CPPTYPE_INT64: r->SetInt64(&message, f, 1'700'000'000'000); break;
      case Field::CPPTYPE_UINT32: r->SetUInt32(&message, f, 70'000); break;
      case Field::CPPTYPE_DOUBLE: r->SetDouble(&message, f, 1.5); break;
      case Field::CPPTYPE_BOOL: r->SetBool(&message, f, true); break;
      case Field::CPPTYPE_ENUM: r->SetEnumValue(&message, f, 2); break;
      case Field::CPPTYPE_MESSAGE:
        if (depth > 0) fill(many ? *r->AddMessage(&message, f) : *r->MutableMessage(&message, f), depth - 1);
        break;
      default: break;
    }
  }
}

template <class Message>
std::string filled(uint8_t kind) {
  Message message;
  fill(message, 2);
  return Output().byte(kind).byte(2).raw(message.SerializeAsString()).bytes();
}

std::vector<std::string> seeds() {
  std::vector<std::string> all = {
      filled<local::ContainersReply>(0),   filled<local::PlanReply>(1),     filled<local::MovesReply>(3),
      filled<local::ShowReply>(4),         filled<local::PeersReply>(5),    filled<local::ExposuresReply>(6),
      filled<local::NetworkCheckReply>(7), filled<local::NamesReply>(8),    filled<local::PeerCheckReply>(9),
      filled<local::InfoReply>(10),        filled<local::ResolveReply>(11), filled<local::MoveRequest>(12)};
  // Of the kinds of an event only one can be there.
  const auto* type = local::MoveEvent::descriptor();
  for (int i = 0; i < type->field_count(); ++i) {
    if (type->field(i)->containing_oneof() == nullptr) continue;
    local::MoveEvent event;
    fill(*event.GetReflection()->MutableMessage(&event, type->field(i)), 2);
    event.set_move_id("a1b2");
    all.push_back(Output().byte(2).byte(1).raw(event.SerializeAsString()).bytes());
  }
  return all;
}

const Registration kRegistration({"local_messages", run, seeds});

}  // namespace
}  // namespace transship::fuzz
