// nf_tables of one network namespace, as far as a whole table that drops everything is concerned. Spoken by netlink, in
// process: starting `nft` costs 5 to 15 ms, and this is used while clients wait. One thread.
#pragma once
#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace transship::sys {

// Whether this file stands for the network namespace of the calling process. False also when that can't be told.
bool is_own_netns(const std::string& path);

class NftSocket {
 public:
  // A socket in the network namespace of `pid` (0: our own). It belongs to that namespace for as long as it lives,
  // wherever it is handed to.
  static Result<NftSocket> open_in_netns_of(pid_t pid);
  // The same for a namespace by the path of a file that stands for it.
  static Result<NftSocket> open_in_netns(const std::string& path);
  static NftSocket adopt(Fd socket) { return NftSocket(std::move(socket)); }
  // A table of family inet whose base chains drop all that comes in, goes out or passes through. Replaces nothing:
  // kAlreadyExists when there is one of that name.
  Result<> add_drop_all(const std::string& table, int priority);
  // Gone already is fine.
  Result<> remove(const std::string& table);
  Result<bool> has(const std::string& table);
  // Names of the inet tables.
  Result<std::vector<std::string>> tables();
  int fd() const { return socket_.get(); }

 private:
  explicit NftSocket(Fd socket) : socket_(std::move(socket)) {}
  Result<> transact(const std::string& messages, uint32_t last_sequence);
  Fd socket_;
  uint32_t sequence_ = 1;
};

}  // namespace transship::sys
