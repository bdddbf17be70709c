// A pager that runs, as transshipd is connected to it.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "memory/page_store.h"
#include "memory/pager_protocol.h"

namespace transship::memory {

// Immutable but for what the descriptors stand for; send() is thread-safe.
struct PagerLink {
  pid_t pid = 0;
  Fd socket;
  Fd doorbell;
  Fd record;              // fill_record.h
  std::vector<Fd> store;  // header and data; none: the pager has no store yet

  Result<> send(const PagerMessage& message) const;
  Result<PagerMessage> receive(Deadline deadline, const Cancel& cancel) const;
  void ring() const;
};

struct PagerProgram {
  std::string path;      // empty: transship-pager beside this program, or in PATH
  std::string log_file;  // appended to; empty: our own stderr
};

// It is locked as long as a pager lives.
bool pager_runs(const std::string& dir);

Result<PagerLink> start_pager(const PagerProgram& program, const std::string& dir, const PageStore& store,
                              Deadline deadline);
Result<PagerLink> meet_pager(const std::string& dir, Deadline deadline);
// Starts another one in place of `dead`, which has closed its socket and from which nothing is left to be heard;
// `uffds`: its tasks' descriptors; those of tasks that were done before are taken out. An error: none can go on, since
// it is not known for sure what is to be filled.
Result<PagerLink> succeed_pager(const PagerProgram& program, const std::string& dir, const PageStore& store,
                                const PagerLink& dead, std::map<uint64_t, Fd>& uffds, Deadline deadline);

}  // namespace transship::memory
