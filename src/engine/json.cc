#include "engine/json.h"

namespace transship::engine {

Result<Json> parse_json(std::string_view text, std::string_view who) {
  constexpr int kMaxDepth = 64;
  bool too_deep = false;
  auto watch_depth = [&too_deep](int depth, Json::parse_event_t, Json&) {
    too_deep |= depth > kMaxDepth;
    return depth <= kMaxDepth;
  };
  Json value = Json::parse(text, watch_depth, false);
  if (too_deep) return fail(Errc::kPeerProtocol, "{} sent JSON that is nested deeper than {}", who, kMaxDepth);
  if (value.is_discarded()) return fail(Errc::kPeerProtocol, "{} sent {} bytes that are not JSON", who, text.size());
  return value;
}

std::string write_json(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

const Json& at(const Json& value, JsonPath path) {
  static const Json kNull;
  const Json* here = &value;
  for (auto key : path) {
    if (!here->is_object()) return kNull;
    auto it = here->find(key);
    if (it == here->end()) return kNull;
    here = &*it;
  }
  return *here;
}

std::string text_at(const Json& value, JsonPath path) {
  const Json& v = at(value, path);
  return v.is_string() ? v.get<std::string>() : std::string();
}

bool bool_at(const Json& value, JsonPath path) {
  const Json& v = at(value, path);
  return v.is_boolean() && v.get<bool>();
}

int64_t int_at(const Json& value, JsonPath path) {
  const Json& v = at(value, path);
  return v.is_number_integer() ? v.get<int64_t>() : 0;
}

std::vector<std::string> texts_at(const Json& value, JsonPath path) {
  std::vector<std::string> texts;
  const Json& v = at(value, path);
  if (!v.is_array()) return texts;
  for (const auto& element : v)
    if (element.is_string()) texts.push_back(element.get<std::string>());
  return texts;
}

}  // namespace transship::engine
