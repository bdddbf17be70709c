// Ports and entries as people write them.
#pragma once
#include <cstdint>
#include <string>

#include "base/result.h"

namespace transship::cli {

struct PortOfContainer {
  uint32_t port = 0;
  std::string protocol = "tcp";  // udp, http
};
// "6379", "53/udp". kInvalidArgument says what is wrong.
Result<PortOfContainer> parse_container_port(const std::string& text);

struct EntryPoint {
  std::string node;
  uint32_t port = 0;  // 0: not given
  std::string protocol = "tcp";
};
// "azure", "azure:7379". kInvalidArgument.
Result<EntryPoint> parse_entry(const std::string& text);
// "azure:7379", "azure:53/udp", as `expose ls` shows them. kInvalidArgument.
Result<EntryPoint> parse_entry_port(const std::string& text);

}  // namespace transship::cli
