// This host's own resolver, told of our nameserver on the operator's word, and how it was before.
#pragma once
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"

namespace transship::names {

struct HostResolverOptions {
  std::string file = "/etc/resolv.conf";
  std::string resolved_dir = "/run/systemd/resolve";  // there while systemd-resolved runs
  std::string record;                                 // our file that says that it is set up
  std::string address;                                // ours
  std::vector<std::string> own_addresses;             // all of ours: never asked by ourselves
  std::string interface;                              // ours
  std::string domain;
};

// Thread-safe.
class HostResolver {
 public:
  explicit HostResolver(HostResolverOptions options) : options_(std::move(options)) {}
  // Stays so until remove(), also over restarts. Once or more.
  Result<> set_up();
  // Byte for byte as before. Absent is fine.
  Result<> remove();
  // Somebody may have written the file anew, or our interface may be a new one; call it now and then.
  Result<> keep();
  // "in /etc/resolv.conf", "by systemd-resolved"; empty: it is not set up.
  std::string status() const;
  // The host's nameservers without ours.
  std::vector<std::string> upstream() const;

 private:
  struct Record {
    bool file = false;
    bool made_file = false;  // there was none
    bool resolved = false;
    std::string address = {};
  };
  Record read_record() const;
  Result<> write_record(const Record& record) const;
  Result<> apply(Record& record) const;
  Result<> write(const std::string& text) const;
  const HostResolverOptions options_;
  mutable Mutex mu_;
};

}  // namespace transship::names
