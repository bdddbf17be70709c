// What a fuzz target is: a function that takes any bytes, and seeds made by the real encoders (docs/fuzzing.md).
//
// A target ends the program (TS_CHECK) when the code under test breaks a promise that no sanitizer sees. Targets keep
// nothing between two inputs: an input that ends the program does so by itself.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace transship::fuzz {

struct Target {
  std::string_view name;
  void (*run)(std::string_view input);
  std::vector<std::string> (*seeds)();
};

// By name.
const std::vector<Target>& targets();
const Target* find_target(std::string_view name);
// DIRECTORY/TARGET/seed-N of each.
Result<> write_seeds(const std::string& directory);

// One at the end of each target's file.
struct Registration {
  explicit Registration(const Target& target);
};

}  // namespace transship::fuzz
