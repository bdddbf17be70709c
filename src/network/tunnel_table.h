// Firewall rules of the tunnel: what leaves through it fits, what comes out of it goes no further than it should.
#pragma once
#include <string>

#include "base/result.h"

namespace transship::network {

// Table `inet transship_tunnel_<interface>`; replaces an earlier one in one transaction.
Result<> install_tunnel_table(const std::string& interface);
Result<bool> has_tunnel_table(const std::string& interface);
// Absent is fine.
Result<> remove_tunnel_table(const std::string& interface);

}  // namespace transship::network
