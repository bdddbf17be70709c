#include "names/directory.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/json_number.h"
#include "base/text.h"

namespace transship::names {
namespace {

using network::IpAddress;
using nlohmann::json;

constexpr size_t kLongestLabel = 63;

bool same_container(const NamedContainer& a, const NamedContainer& b) {
  return a.home == b.home && a.home_id == b.home_id;
}

// `c` is what has become of `left`.
bool succeeds(const NamedContainer& c, const NamedContainer& left) {
  return left.leaving && !c.leaving && !c.before_id.empty() && c.before_home == left.home &&
         c.before_id == left.home_id && c.name == left.name;
}

bool is_multicast(const IpAddress& a) { return a.is_v4() ? (a.data()[0] & 0xf0U) == 0xe0U : a.data()[0] == 0xffU; }

bool is_unspecified(const IpAddress& a) {
  return std::all_of(a.data(), a.data() + a.size(), [](uint8_t byte) { return byte == 0; });
}

json to_json(const NamedContainer& c) {
  json j = {{"name", c.name}, {"home", c.home}, {"home_id", c.home_id}, {"since_ms", c.since_ms}};
  if (c.leaving) j["leaving"] = true;
  if (!c.before_id.empty()) {
    j["before_home"] = c.before_home;
    j["before_id"] = c.before_id;
  }
  j["addresses"] = json::array();
  for (const auto& a : c.addresses) j["addresses"].push_back(a.text());
  return j;
}

Result<NamedContainer> container_of(const json& j) {
  NamedContainer c;
  c.name = j.at("name").get<std::string>();
  c.home = j.at("home").get<std::string>();
  c.home_id = j.at("home_id").get<std::string>();
  c.since_ms = whole<int64_t>(j.at("since_ms"));
  c.leaving = j.value("leaving", false);
  c.before_home = j.value("before_home", "");
  c.before_id = j.value("before_id", "");
  for (const auto& text : j.at("addresses")) {
    TS_TRY_ASSIGN(auto address, IpAddress::parse(text.get<std::string>()));
    c.addresses.push_back(address);
  }
  return c;
}

}  // namespace

std::string dns_label(std::string_view name, std::string* why) {
  std::string label;
  std::string complaint;
  for (char c : name) {
    if (c == '_' || c == '.') c = '-';
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
    if (!plain) complaint = "it has characters that no name in DNS may have";
    label += c;
  }
  auto begin = label.find_first_not_of('-');
  label = begin == std::string::npos ? "" : label.substr(begin, label.find_last_not_of('-') - begin + 1);
  if (label.empty() && complaint.empty()) complaint = "nothing of it can be in a name in DNS";
  if (label.size() > kLongestLabel)
    complaint = fmt::format("it is longer than the {} characters that DNS allows", kLongestLabel);
  if (complaint.empty()) return label;
  if (why != nullptr) *why = complaint;
  return {};
}

std::string complaint(const NamedContainer& c) {
  if (!is_plain_name(c.name)) return "its name is none that a container can have";
  if (c.addresses.size() > kMaxAddresses) return fmt::format("it has more than {} addresses", kMaxAddresses);
  if (c.home.size() > kMaxIdBytes || c.home_id.empty() || c.home_id.size() > kMaxIdBytes ||
      c.before_home.size() > kMaxIdBytes || c.before_id.size() > kMaxIdBytes)
    return "it has no id, or one that is too long";
  for (const auto& a : c.addresses)
    if (a.is_loopback() || is_multicast(a) || is_unspecified(a))
      return fmt::format("{} is no address that a container has", a.text());
  return {};
}

// The same container with the same name, wherever it was.
int64_t Directory::first_seen(const NamedContainer& c, int64_t now_ms) const {
  int64_t earliest = now_ms;
  for (const auto& [name, node] : nodes_)
    for (const auto& h : node.holders)
      if (same_container(h.container, c) && dns_label(h.container.name) == dns_label(c.name))
        earliest = std::min(earliest, h.first_seen_ms);
  return earliest;
}

bool Directory::put(const std::string& node, const std::vector<NamedContainer>& all, int64_t now_ms) {
  std::vector<Holder> holders;
  for (const auto& c : all) {
    Holder h{c, first_seen(c, now_ms)};
    if (h.container.since_ms <= 0 || h.container.since_ms > now_ms) h.container.since_ms = h.first_seen_ms;
    holders.push_back(std::move(h));
  }
  bool known = nodes_.contains(node);
  Node& n = nodes_[node];
  n.heard_ms = now_ms;
  bool same = std::ranges::equal(n.holders, holders, {}, &Holder::container, &Holder::container);
  n.holders = std::move(holders);
  bool taken_over = take_over_places();
  return !same || taken_over || (!known && !n.holders.empty());
}

// The words of the two nodes come in any order.
bool Directory::take_over_places() {
  bool any = false;
  for (const auto& [left_on, before] : nodes_)
    for (const auto& left : before.holders) {
      if (!left.container.leaving) continue;
      for (auto& [node, now] : nodes_)
        for (auto& h : now.holders)
          if (node != left_on && succeeds(h.container, left.container) && left.first_seen_ms < h.first_seen_ms) {
            h.first_seen_ms = left.first_seen_ms;
            any = true;
          }
    }
  return any;
}

bool Directory::drop(const std::string& node) { return nodes_.erase(node) > 0; }

std::vector<std::string> Directory::expire(int64_t now_ms) {
  std::vector<std::string> gone;
  for (const auto& [name, node] : nodes_)
    if (name != own_ && now_ms - node.heard_ms >= kSilentMs) gone.push_back(name);
  for (const auto& name : gone) nodes_.erase(name);
  return gone;
}

std::vector<NamedContainer> Directory::of(const std::string& node) const {
  std::vector<NamedContainer> all;
  auto found = nodes_.find(node);
  if (found == nodes_.end()) return all;
  for (const auto& h : found->second.holders) all.push_back(h.container);
  return all;
}

std::vector<std::string> Directory::nodes() const {
  std::vector<std::string> names;
  for (const auto& [name, node] : nodes_) names.push_back(name);
  return names;
}

struct Directory::Claim {
  std::string node;
  const Holder* holder;
};

bool Directory::is_elsewhere(const NamedContainer& c, const std::string& than) const {
  for (const auto& [name, node] : nodes_) {
    if (name == than) continue;
    for (const auto& [there, first_seen] : node.holders) {
      if (there.leaving) continue;
      if (same_container(there, c) || (there.name == c.name && there.addresses == c.addresses)) return true;
      if (succeeds(there, c)) return true;
    }
  }
  return false;
}

// Who was there first comes first.
std::vector<Directory::Claim> Directory::claims() const {
  std::vector<Claim> all;
  for (const auto& [name, node] : nodes_)
    for (const auto& h : node.holders)
      if (!h.container.leaving || !is_elsewhere(h.container, name)) all.push_back({name, &h});
  std::ranges::sort(all, [&](const Claim& a, const Claim& b) {
    auto order = [&](const Claim& c) {
      return std::tuple(c.holder->first_seen_ms, c.node != own_, c.node, c.holder->container.name);
    };
    return order(a) < order(b);
  });
  return all;
}

std::vector<NameRow> Directory::rows() const {
  std::map<std::pair<std::string, std::string>, std::string> has;  // container -> node
  std::set<std::pair<std::string, std::string>> of_node;           // node, label
  std::map<std::string, size_t> first;                             // label -> its row
  std::vector<NameRow> rows;
  for (const auto& [node, holder] : claims()) {
    const auto& c = holder->container;
    NameRow row{.name = c.name, .addresses = c.addresses, .node = node, .since_ms = c.since_ms};
    std::string why;
    row.label = dns_label(c.name, &why);
    auto [owner, new_container] = has.emplace(std::pair(c.home, c.home_id), node);
    if (row.label.empty())
      row.note = "no name in DNS: " + why;
    else if (c.addresses.empty())
      row.note = "no name in DNS: it has no address of its own";
    else if (!new_container && owner->second != node)
      row.note = fmt::format("not believed while {} has that very container", owner->second);
    else if (!of_node.emplace(node, row.label).second)
      row.note = fmt::format("another container on {} is called {} as well", node, row.label);
    else
      row.served = true;
    if (row.served) {
      auto [before, is_first] = first.emplace(row.label, rows.size());
      row.bare = is_first;
      if (!is_first) {
        NameRow& holds = rows[before->second];
        row.note = fmt::format("{} has had this name before: only with the node's name", holds.node);
        holds.note = holds.note.empty() ? fmt::format("{} has one of this name as well", node)
                                        : "other nodes have one of this name as well";
      }
    }
    rows.push_back(std::move(row));
  }
  std::ranges::stable_sort(rows, [](const NameRow& a, const NameRow& b) {
    return std::tuple(a.name, !a.bare, a.node) < std::tuple(b.name, !b.bare, b.node);
  });
  return rows;
}

std::string Directory::to_json() const {
  json nodes = json::object();
  for (const auto& [name, node] : nodes_) {
    auto& list = nodes[name] = json::array();
    for (const auto& h : node.holders) {
      list.push_back(names::to_json(h.container));
      list.back()["first_seen_ms"] = h.first_seen_ms;
    }
  }
  return json{{"nodes", nodes}}.dump();
}

Result<> Directory::load_json(const std::string& text, int64_t now_ms) {
  std::map<std::string, Node> nodes;
  try {
    const json all = json::parse(text);
    for (const auto& [name, list] : all.at("nodes").items()) {
      Node& node = nodes[name];
      node.heard_ms = now_ms;
      for (const auto& j : list) {
        TS_TRY_ASSIGN(auto c, container_of(j));
        node.holders.push_back({std::move(c), whole<int64_t>(j.at("first_seen_ms"))});
      }
    }
  } catch (const json::exception& e) {
    return fail(Errc::kCorrupt, "{}", e.what());
  }
  nodes_ = std::move(nodes);
  return {};
}

std::string hosts_text(const std::vector<NameRow>& rows, const std::string& domain) {
  std::string out;
  for (const auto& row : rows) {
    if (!row.served) continue;
    std::string names = row.bare ? fmt::format(" {}.{}", row.label, domain) : "";
    if (auto node = dns_label(row.node); !node.empty()) names += fmt::format(" {}.{}.{}", row.label, node, domain);
    if (names.empty()) continue;
    for (const auto& a : row.addresses) out += a.text() + names + "\n";
  }
  return out;
}

}  // namespace transship::names
