// The text of resolv.conf, with our nameserver and without it. Pure.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace transship::names {

// Ours comes first, under a line that marks it; everything else stays byte for byte. Once, however often.
std::string with_nameserver(std::string_view text, std::string_view address);
// The text as it was before.
std::string without_nameserver(std::string_view text);
bool has_nameserver(std::string_view text, std::string_view address);
// Addresses of the nameservers, in order, each once, without those in `except`.
std::vector<std::string> nameservers(std::string_view text, const std::vector<std::string>& except);

}  // namespace transship::names
