#include "fuzz/target.h"

#include <algorithm>

namespace transship::fuzz {
namespace {

std::vector<Target>& list() {
  static std::vector<Target> all;
  return all;
}

}  // namespace

const std::vector<Target>& targets() { return list(); }

const Target* find_target(std::string_view name) {
  auto found = std::ranges::find(list(), name, &Target::name);
  return found == list().end() ? nullptr : &*found;
}

Registration::Registration(const Target& target) {
  auto at = std::ranges::lower_bound(list(), target.name, {}, &Target::name);
  list().insert(at, target);
}

}  // namespace transship::fuzz
