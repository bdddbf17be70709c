// What a hold puts into the kernel besides its device: the firewall exception, and the mark on its routes.
#pragma once
#include <string>

#include "base/result.h"

namespace transship::network {

// Kept packets were seen by connection tracking when they arrived; the second time they are not looked at (they would
// be a new connection where the first pass changed an address: published ports).
Result<> install_hold_table(const std::string& device);
Result<> remove_hold_table(const std::string& device);

}  // namespace transship::network
