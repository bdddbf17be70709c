// The way out for pages that were read: into batches, and over one set of lanes.
#pragma once
#include "memory/page_sender.h"
#include "memory/track/page_runs.h"
#include "wire/lanes.h"

namespace transship::migrate {

// One thread; PageSender's rules on rounds and errors hold here too. The lanes outlive it.
class PageOutlet {
 public:
  PageOutlet(wire::LaneSender& lanes, const memory::PageSenderOptions& options, Cancel cancel);
  Result<> add(const memory::PageBlock& block);
  // The lanes have taken everything.
  Result<memory::SentStats> finish_round();
  // The destination has, too. Without it, batches of one page in two rounds could overtake each other.
  Result<> flush();

 private:
  wire::LaneSender& lanes_;
  memory::PageSender sender_;
};

}  // namespace transship::migrate
