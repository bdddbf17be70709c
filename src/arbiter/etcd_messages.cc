#include "arbiter/etcd_messages.h"

#include <array>
#include <charconv>

#include "base/text.h"

namespace transship::arbiter::etcd {
namespace {

constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::unexpected<Error> not_etcd(std::string_view what) {
  return fail(Errc::kPeerProtocol, "etcd's answer has no {}", what);
}

Json compare_absent(const std::string& key) {
  return {{"key", base64(key)}, {"target", "VERSION"}, {"result", "EQUAL"}, {"version", "0"}};
}

// kvs[0].value of a RangeResponse.
Result<std::optional<std::string>> value_of(const Json& range) {
  if (!range.is_object()) return not_etcd("range");
  auto kvs = range.find("kvs");
  if (kvs == range.end()) return std::nullopt;
  if (!kvs->is_array() || kvs->empty() || !kvs->front().is_object()) return not_etcd("keys");
  auto value = kvs->front().find("value");
  if (value == kvs->front().end()) return std::string();
  const auto* text = value->get_ptr<const std::string*>();
  if (text == nullptr) return not_etcd("value");
  TS_TRY_ASSIGN(std::string bytes, from_base64(*text));
  return bytes;
}

}  // namespace

std::string base64(std::string_view bytes) {
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    size_t n = std::min<size_t>(3, bytes.size() - i);
    for (size_t k = 0; k < 3; ++k) group = group << 8 | (k < n ? static_cast<unsigned char>(bytes[i + k]) : 0U);
    for (size_t k = 0; k < 4; ++k) out += k <= n ? kAlphabet[group >> (18 - 6 * k) & 63U] : '=';
  }
  return out;
}

Result<std::string> from_base64(std::string_view text) {
  while (text.ends_with('=')) text.remove_suffix(1);
  std::string out;
  uint32_t bits = 0;
  unsigned have = 0;
  for (char c : text) {
    auto at = kAlphabet.find(c);
    if (at == std::string_view::npos) return fail(Errc::kPeerProtocol, "etcd's answer is not base64");
    bits = bits << 6 | static_cast<uint32_t>(at);
    have += 6;
    if (have < 8) continue;
    have -= 8;
    out += static_cast<char>(bits >> have & 0xff);
  }
  return out;
}

Json range(const std::string& key) { return {{"key", base64(key)}}; }

Json put(const std::string& key, const std::string& value, int64_t lease) {
  Json json = {{"key", base64(key)}, {"value", base64(value)}};
  if (lease != 0) json["lease"] = std::to_string(lease);
  return json;
}

Json put_if_absent(const std::string& key, const std::string& value, const std::vector<std::string>& absent) {
  Json compare = Json::array();
  Json failure = Json::array();
  for (const auto& k : absent) {
    compare.push_back(compare_absent(k));
    failure.push_back({{"request_range", range(k)}});
  }
  Json success = Json::array({{{"request_put", put(key, value, 0)}}});
  return {{"compare", compare}, {"success", success}, {"failure", failure}};
}

Json put_under_lease(const std::string& key, int64_t lease) {
  Json there = {{"key", base64(key)}, {"target", "VERSION"}, {"result", "GREATER"}, {"version", "0"}};
  Json keep = {{"key", base64(key)}, {"ignore_value", true}, {"lease", std::to_string(lease)}};
  return {{"compare", Json::array({there})}, {"success", Json::array({{{"request_put", keep}}})}};
}

int64_t number_at(const Json& json, std::string_view field) {
  auto found = json.is_object() ? json.find(field) : json.end();
  if (!json.is_object() || found == json.end()) return 0;
  if (const auto* number = found->get_ptr<const Json::number_integer_t*>()) return *number;
  const auto* text = found->get_ptr<const std::string*>();
  int64_t value = 0;
  if (text == nullptr) return 0;
  (void)std::from_chars(text->data(), text->data() + text->size(), value);
  return value;
}

Result<TxnOutcome> parse_txn(const Json& answer) {
  if (!answer.is_object() || !answer.contains("header")) return not_etcd("header");
  TxnOutcome outcome;
  if (auto s = answer.find("succeeded"); s != answer.end()) outcome.succeeded = s->is_boolean() && s->get<bool>();
  auto responses = answer.find("responses");
  if (outcome.succeeded) return outcome;
  if (responses == answer.end() || !responses->is_array()) return not_etcd("responses");
  for (const auto& response : *responses) {
    if (!response.is_object() || !response.contains("response_range")) return not_etcd("range");
    TS_TRY_ASSIGN(auto value, value_of(response["response_range"]));
    outcome.values.push_back(std::move(value));
  }
  return outcome;
}

Result<std::optional<std::string>> parse_range(const Json& answer) {
  if (!answer.is_object() || !answer.contains("header")) return not_etcd("header");
  return value_of(answer);
}

std::string cluster_of(const Json& answer) {
  auto header = answer.is_object() ? answer.find("header") : answer.end();
  if (!answer.is_object() || header == answer.end() || !header->is_object()) return {};
  auto id = header->find("cluster_id");
  const auto* text = id == header->end() ? nullptr : id->get_ptr<const std::string*>();
  auto number = text == nullptr ? Result<uint64_t>(0) : parse_u64(*text, "cluster id");
  return number && *number != 0 ? fmt::format("{:x}", *number) : std::string();
}

std::string decision_text(Decision decision, const std::string& node) {
  return fmt::format("{} {}", state::decision_name(decision), node);
}

Result<Decision> parse_decision(const std::string& text) {
  auto word = text.substr(0, text.find(' '));
  for (auto decision : {Decision::kCommit, Decision::kAbort})
    if (word == state::decision_name(decision)) return decision;
  return fail(Errc::kCorrupt, "the decision in etcd is neither commit nor abort");
}

}  // namespace transship::arbiter::etcd
