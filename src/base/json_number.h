// Whole numbers out of JSON that may be damaged. nlohmann-json turns a fraction, or a number that does not fit, into
// some other one when it is asked for an integer, which is undefined where the fraction is too large (found by
// fuzzing).
#pragma once
#include <concepts>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <utility>

namespace transship {

// Throws nlohmann::json::exception, as get<T>() does for other kinds.
template <std::integral T>
T whole(const nlohmann::json& j) {
  bool fits = j.is_number_unsigned()  ? std::in_range<T>(j.get<uint64_t>())
              : j.is_number_integer() ? std::in_range<T>(j.get<int64_t>())
                                      : false;
  if (!fits) throw nlohmann::json::type_error::create(302, "it is no whole number of that size", &j);
  return j.get<T>();
}

// `otherwise` when there is none of that name.
template <std::integral T>
T whole_or(const nlohmann::json& object, const char* name, T otherwise) {
  auto found = object.find(name);
  return found == object.end() ? otherwise : whole<T>(*found);
}

}  // namespace transship
