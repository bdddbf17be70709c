#include "node/policy_file.h"

#include <toml++/toml.hpp>

#include "base/text.h"
#include "sys/file.h"

namespace transship::node {
namespace {

using plan::Policy;
using plan::PolicyKey;

// What is wrong with one element of a list; empty: nothing.
std::string complaint(const PolicyKey::List& kind, const std::string& value) {
  if (value.empty()) return "is empty";
  if (kind.paths && !value.starts_with('/')) return "is not an absolute path";
  if (kind.paths && value.contains("..")) return "has .. in it";
  if (!kind.one_of.empty()) {
    auto known = split(kind.one_of, '|');
    if (std::ranges::find(known, value) == known.end()) return fmt::format("is not one of {}", kind.one_of);
  }
  if (kind.ulimits) {
    auto equals = value.find('=');
    auto number = equals == std::string::npos ? "" : value.substr(equals + 1);
    if (equals == 0 || (number != "unlimited" && !parse_u64(number, "ulimit"))) return "is not NAME=NUMBER";
  }
  return {};
}

Result<> set_list(Policy& policy, const PolicyKey& key, const PolicyKey::List& kind, const toml::node& node) {
  const auto* array = node.as_array();
  if (array == nullptr) return fail(Errc::kInvalidArgument, "{} must be a list: [\"...\"]", key.name);
  Policy::List values;
  for (const auto& element : *array) {
    auto value = element.value_exact<std::string>();
    if (!value) return fail(Errc::kInvalidArgument, "{} has an element that is not text in quotes", key.name);
    if (auto wrong = complaint(kind, *value); !wrong.empty())
      return fail(Errc::kInvalidArgument, "{}: \"{}\" {}", key.name, *value, wrong);
    values.push_back(std::move(*value));
  }
  policy.*kind.field = std::move(values);
  return {};
}

Result<> set_value(Policy& policy, const PolicyKey& key, const toml::node& node) {
  if (const auto* list = std::get_if<PolicyKey::List>(&key.kind)) return set_list(policy, key, *list, node);
  if (const auto* number = std::get_if<PolicyKey::Number>(&key.kind)) {
    auto value = node.value_exact<int64_t>();
    if (!value || *value < number->min || *value > number->max)
      return fail(Errc::kInvalidArgument, "{} must be a whole number from {} to {}", key.name, number->min,
                  number->max);
    policy.*number->field = *value;
    return {};
  }
  auto value = node.value_exact<bool>();
  if (!value) return fail(Errc::kInvalidArgument, "{} must be true or false", key.name);
  policy.*std::get<bool Policy::*>(key.kind) = *value;
  return {};
}

std::string allowed_in(std::string_view table) {
  std::vector<std::string> names;
  for (const auto& key : plan::policy_keys())
    if (key.name.starts_with(fmt::format("{}.", table))) names.emplace_back(key.name.substr(table.size() + 1));
  return join(names, ", ");
}

class Reader {
 public:
  explicit Reader(const std::string& source) : source_(source) {}

  // `peers`: tables of theirs are fine beside those for everyone.
  Result<> values(Policy& policy, const toml::table& table, bool peers) const {
    for (const auto& [name, node] : table) {
      if (peers && name == "peer") continue;
      if (name != "allow" && name != "limits")
        return fail(Errc::kInvalidArgument,
                    "{}: no such table [{}]; there are: allow, limits, peer.NAME.allow, "
                    "peer.NAME.limits",
                    where(node), name.str());
      const auto* section = node.as_table();
      if (section == nullptr)
        return fail(Errc::kInvalidArgument, "{}: {} is a table: write [{}]", where(node), name.str(), name.str());
      TS_TRY(section_of(policy, name.str(), *section));
    }
    return {};
  }

  std::string where(const toml::node& node) const { return fmt::format("{}:{}", source_, node.source().begin.line); }

 private:
  Result<> section_of(Policy& policy, std::string_view section, const toml::table& table) const {
    for (const auto& [name, node] : table) {
      const auto* key = plan::find_policy_key(fmt::format("{}.{}", section, name.str()));
      if (key == nullptr)
        return fail(Errc::kInvalidArgument, "{}: no such value \"{}\"; [{}] has: {}", where(node), name.str(), section,
                    allowed_in(section));
      TS_TRY_CTX(set_value(policy, *key, node), where(node));
    }
    return {};
  }

  const std::string& source_;
};

Result<toml::table> parse_toml(std::string_view text, const std::string& source) {
  try {
    return toml::parse(text, source);
  } catch (const toml::parse_error& e) {
    return fail(Errc::kInvalidArgument, "{}:{}: {}", source, e.source().begin.line, e.description());
  }
}

std::string shown(const Policy::List& values) {
  std::vector<std::string> quoted;
  for (const auto& value : values) quoted.push_back(fmt::format("\"{}\"", value));
  return fmt::format("[{}]", join(quoted, ", "));
}

}  // namespace

Result<plan::PolicySet> parse_policy(std::string_view text, const std::string& source) {
  plan::PolicySet set;
  set.file = source;
  Reader reader(source);
  TS_TRY_ASSIGN(toml::table file, parse_toml(text, source));
  TS_TRY(reader.values(set.everyone, file, true));
  const auto* node = file.get("peer");
  if (node == nullptr) return set;
  const auto* peers = node->as_table();
  if (peers == nullptr) return fail(Errc::kInvalidArgument, "{}: write [peer.NAME.allow]", reader.where(*node));
  for (const auto& [name, of_peer] : *peers) {
    const auto* table = of_peer.as_table();
    if (table == nullptr || !is_plain_name(name.str()))
      return fail(Errc::kInvalidArgument, "{}: \"{}\" is no peer: write [peer.NAME.allow]", reader.where(of_peer),
                  name.str());
    auto& policy = set.peers.emplace(std::string(name.str()), set.everyone).first->second;
    TS_TRY(reader.values(policy, *table, false));
  }
  return set;
}

Result<plan::PolicySet> load_policy(const std::string& path, bool must_exist) {
  auto text = sys::read_file(path, 1U << 20);
  if (!text && text.error().code() == Errc::kNotFound && !must_exist) return parse_policy("", path);
  if (!text) {
    auto error = std::move(text).error().context("read the policy");
    // The same for the caller as one that is wrong.
    return std::unexpected(Error(Errc::kInvalidArgument, error.message()));
  }
  return parse_policy(*text, path);
}

std::vector<ConfigKey> describe(const Policy& policy) {
  std::vector<ConfigKey> all;
  for (const auto& key : plan::policy_keys()) {
    std::string value;
    if (const auto* list = std::get_if<PolicyKey::List>(&key.kind)) value = shown(policy.*list->field);
    if (const auto* number = std::get_if<PolicyKey::Number>(&key.kind))
      value = fmt::format("{}", policy.*number->field);
    if (const auto* flag = std::get_if<bool Policy::*>(&key.kind)) value = policy.**flag ? "true" : "false";
    all.push_back({key.name, std::move(value), key.doc});
  }
  return all;
}

}  // namespace transship::node
