// Who has which container by which name, as this node has heard it, and what DNS says of it. Pure: no I/O, no clock.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "network/address.h"

namespace transship::names {

// What one node may say; more is refused.
inline constexpr size_t kMaxNames = 1000;
inline constexpr size_t kMaxAddresses = 8;
inline constexpr size_t kMaxIdBytes = 128;
// A peer that says nothing for so long: what it had may be elsewhere by now.
inline constexpr int64_t kSilentMs = 600'000;

// A container with a name, by the word of the node that has it.
struct NamedContainer {
  std::string name;
  std::vector<network::IpAddress> addresses;
  // Who it is wherever it goes: fingerprint of the node where its addresses are at home, and its id there when it left
  // first. A container that never moved is at home where it is.
  std::string home;
  std::string home_id;
  int64_t since_ms = 0;  // UNIX time, since when it has this name; 0: not known
  bool leaving = false;  // it has moved away a moment ago, and counts only until somebody else has it
  // Who it was before it moved and got another address: another container to everybody, but with its place. Believed
  // only while that one's own node says that it is leaving.
  std::string before_home = {};
  std::string before_id = {};
  bool operator==(const NamedContainer&) const = default;
};

// As a label of DNS: letters in lower case, '_' and '.' become '-'. Empty when it can't be one; `why` says so then.
std::string dns_label(std::string_view name, std::string* why = nullptr);
// What is wrong with one that a peer has sent; empty: nothing.
std::string complaint(const NamedContainer& c);

// One name as people see it.
struct NameRow {
  std::string label = {};  // empty: it has none in DNS, `note` says why
  std::string name = {};
  std::vector<network::IpAddress> addresses = {};
  std::string node = {};
  int64_t since_ms = 0;
  bool bare = false;      // LABEL.DOMAIN is this one
  bool served = false;    // LABEL.NODE.DOMAIN is
  std::string note = {};  // a sentence; empty: all is as one expects
};

// One thread at a time. Nodes are called as this node calls them.
//
// Of two containers with the same name the bare name is the one's that this node has seen first: no peer can say when
// that was. A container that moves takes its place along.
class Directory {
 public:
  explicit Directory(std::string own_node) : own_(std::move(own_node)) {}
  // All that the node has, in place of what it had. True: something has changed.
  bool put(const std::string& node, const std::vector<NamedContainer>& all, int64_t now_ms);
  bool drop(const std::string& node);
  // Peers that have been silent for kSilentMs. Returns who went.
  std::vector<std::string> expire(int64_t now_ms);

  // Another node has it, and it is not leaving there. With the driver `hook` it is another container there.
  bool has_moved(const NamedContainer& c) const { return is_elsewhere(c, own_); }
  std::vector<NamedContainer> of(const std::string& node) const;
  std::vector<std::string> nodes() const;
  // In the order of names.
  std::vector<NameRow> rows() const;

  std::string to_json() const;
  // Everybody counts as heard now. kCorrupt changes nothing.
  Result<> load_json(const std::string& text, int64_t now_ms);

 private:
  struct Holder {
    NamedContainer container;
    int64_t first_seen_ms = 0;
  };
  struct Node {
    std::vector<Holder> holders;
    int64_t heard_ms = 0;
  };
  struct Claim;
  int64_t first_seen(const NamedContainer& c, int64_t now_ms) const;
  bool take_over_places();
  std::vector<Claim> claims() const;
  bool is_elsewhere(const NamedContainer& c, const std::string& than) const;

  std::string own_;
  std::map<std::string, Node> nodes_;
};

// The file that the DNS server reads: an address and its names in each line.
std::string hosts_text(const std::vector<NameRow>& rows, const std::string& domain);

}  // namespace transship::names
