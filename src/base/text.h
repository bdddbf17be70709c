// Small things about text that people and logs read.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace transship {

// "1.5 GiB"; binary units, at most one decimal.
std::string format_bytes(uint64_t bytes);
// "940 Mbit/s"; decimal units, as networks are sold.
std::string format_bit_rate(double bits_per_second);
// "850 ms", "2.31 s", "4 min 05 s".
std::string format_duration(std::chrono::milliseconds d);

std::vector<std::string> split(std::string_view text, char separator);
std::string_view trim(std::string_view text);
std::string join(const std::vector<std::string>& parts, std::string_view separator);
std::string hex(std::string_view bytes);
// Random lower-case hex from the kernel, `bytes` long before encoding.
std::string random_hex(size_t bytes);

// Decimal only, the whole text, within the type; `what` names it in the error.
Result<uint64_t> parse_u64(std::string_view text, std::string_view what);
// Letters, digits, '.', '_', '-', not starting with '.' or '-', 1 to 128 characters: what names of containers, peers
// and moves may be before they become part of a path or a command line.
bool is_plain_name(std::string_view text);

}  // namespace transship
