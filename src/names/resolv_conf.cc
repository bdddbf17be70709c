#include "names/resolv_conf.h"

#include <algorithm>

#include "base/text.h"

namespace transship::names {
namespace {

constexpr std::string_view kMark =
    "# The next line is transship's; `transship names remove` takes both out again (docs/names.md).\n";
constexpr std::string_view kWord = "nameserver";

// With its end of line, if it has one.
std::string_view take_line(std::string_view& rest) {
  auto end = rest.find('\n');
  auto line = rest.substr(0, end == std::string_view::npos ? rest.size() : end + 1);
  rest.remove_prefix(line.size());
  return line;
}

// As the resolver reads it: the word at the line's begin, white space, the address up to the next white space.
std::string_view address_in(std::string_view line) {
  constexpr std::string_view kSpace = " \t\r\n";
  if (!line.starts_with(kWord)) return {};
  line.remove_prefix(kWord.size());
  auto begin = line.find_first_not_of(kSpace);
  if (begin == 0 || begin == std::string_view::npos) return {};
  auto end = line.find_first_of(kSpace, begin);
  return line.substr(begin, end == std::string_view::npos ? end : end - begin);
}

}  // namespace

std::string without_nameserver(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    auto line = take_line(text);
    if (line != kMark) {
      out += line;
      continue;
    }
    auto rest = text;
    if (!address_in(take_line(rest)).empty()) text = rest;
  }
  return out;
}

std::string with_nameserver(std::string_view text, std::string_view address) {
  return std::string(kMark) + std::string(kWord) + " " + std::string(address) + "\n" + without_nameserver(text);
}

bool has_nameserver(std::string_view text, std::string_view address) {
  return std::ranges::contains(nameservers(text, {}), address);
}

std::vector<std::string> nameservers(std::string_view text, const std::vector<std::string>& except) {
  std::vector<std::string> found;
  while (!text.empty()) {
    std::string address(address_in(take_line(text)));
    if (address.empty() || std::ranges::contains(except, address) || std::ranges::contains(found, address)) continue;
    found.push_back(std::move(address));
  }
  return found;
}

}  // namespace transship::names
