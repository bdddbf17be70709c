// Named places at which a test can make a program stand still, fail or die. For tests only: nothing happens unless the
// daemon was started with kVariable in its environment, naming a directory of root's that nobody else may enter. Then a
// file in there that is named as the point is says what happens to the next one who gets there, and is removed before
// it does, so that a program that was started again goes on:
//
//   stall MS    stands still for so many milliseconds
//   fail        the step fails (where it can: PointName::can_fail)
//   die         kill -9 of the program itself
#pragma once
#include <string>

#include "base/fault_points.h"
#include "base/result.h"

namespace transship::fault {

constexpr const char* kVariable = "TRANSSHIP_FAULT_POINTS";

// One of kPoints: another name does not compile.
class Point {
 public:
  // NOLINTNEXTLINE(google-explicit-constructor): at("source.plan") is all that a place in the code needs
  consteval Point(const char* name) : point_(&find(name)) {}
  const PointName& operator*() const { return *point_; }

 private:
  static consteval const PointName& find(std::string_view name) {
    for (const auto& point : kPoints)
      if (point.name == name) return point;
    throw "no such fault point: see base/fault_points.h";
  }
  const PointName* point_;
};

// From the environment; before threads. kRefused: there is such a variable, and its directory is not as it must be. A
// program that was not started by the daemon takes `directory` instead, from somebody whom it trusts.
Result<> enable();
Result<> enable(const std::string& directory);
// Empty: off.
const std::string& directory();

namespace detail {
extern bool enabled;
Result<> reached(const PointName& point);
}  // namespace detail

// A point whose code can fail. Any thread.
inline Result<> at(Point point) {
  if (!detail::enabled) [[likely]]
    return {};
  return detail::reached(*point);
}
// One whose code goes on.
inline void pass(Point point) {
  if (detail::enabled) [[unlikely]]
    (void)detail::reached(*point);
}

}  // namespace transship::fault
