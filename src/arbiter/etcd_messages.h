// The few messages of etcd's v3 API that the arbiter needs, as its JSON gateway has them. Pure.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/arbiter.h"

namespace transship::arbiter::etcd {

using Json = nlohmann::json;

// Keys and values are bytes, in JSON as base64.
std::string base64(std::string_view bytes);
Result<std::string> from_base64(std::string_view text);

Json range(const std::string& key);
Json put(const std::string& key, const std::string& value, int64_t lease);  // 0: none
// Writes `value` when none of `absent` is there; else says what these are, in that order.
Json put_if_absent(const std::string& key, const std::string& value, const std::vector<std::string>& absent);
// The key's value stays, and ends with that lease. Nothing when there is no such key.
Json put_under_lease(const std::string& key, int64_t lease);

// 64-bit numbers are text in this JSON, and what is zero is left out.
int64_t number_at(const Json& json, std::string_view field);

struct TxnOutcome {
  bool succeeded = false;
  std::vector<std::optional<std::string>> values;  // of the ranges, when it has not; nullopt: no such key
};
// kPeerProtocol: not what etcd answers.
Result<TxnOutcome> parse_txn(const Json& answer);
Result<std::optional<std::string>> parse_range(const Json& answer);
// In hexadecimal, as `etcdctl endpoint status` shows it; empty: the answer has none.
std::string cluster_of(const Json& answer);

// "commit aws": the word, and who wrote it, for people.
std::string decision_text(Decision decision, const std::string& node);
Result<Decision> parse_decision(const std::string& text);

}  // namespace transship::arbiter::etcd
