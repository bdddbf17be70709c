// How the engines write down what a container asks of the host. Only engine/*_demands.cc include this.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/demands.h"
#include "base/text.h"
#include "engine/engine.h"
#include "engine/json.h"

namespace transship::engine {

// What of the host decides whether something is asked for at all.
struct HostSide {
  bool selinux = false;
  std::map<std::string, uint64_t> ulimits = {};  // hard limits of this daemon
  std::vector<std::string> volumes = {};         // of the engine, by name
  std::vector<std::string> left = {};            // directories that an earlier move has left for this container
};
HostSide look_at_host(const Container& wanted);

class DemandFinder {
 public:
  static constexpr size_t kMaxElements = 4096;
  // Whoever wants more gets nothing: what is said about it would be longer than anybody reads, or a message takes.
  static constexpr size_t kMaxDemands = 1024;
  DemandFinder(const HostSide& host, Demands& demands) : host_(host), demands_(demands) {}
  const HostSide& host() const { return host_; }

  void want(std::string_view key, std::string value, std::string found) {
    if (has_room()) demands_.list.push_back({key, std::move(value), std::move(found)});
  }
  template <class... A>
  void never(fmt::format_string<A...> format, A&&... args) {
    if (has_room()) demands_.never.push_back(fmt::format(format, std::forward<A>(args)...));
  }
  // Every name in `object` that is not one of `known`; `where` is what the object is called. Also what is no object.
  void only(const Json& object, std::string_view where, std::initializer_list<std::string_view> known);
  // Calls `each` with every element of a list; what is no list is refused.
  template <class F>
  void elements(const Json& list, std::string_view where, F&& each) {
    if (list.is_null()) return;
    if (!list.is_array() || list.size() > kMaxElements)
      return never("{} is not a list of at most {} elements", where, kMaxElements);
    for (const auto& element : list) each(element);
  }
  // Texts only.
  void texts(const Json& list, std::string_view where, const std::function<void(const std::string&)>& each);

  void capability(std::string name, const std::vector<std::string_view>& usual);
  void device(const std::string& path) { want("allow.devices", path, fmt::format("device {}", printed(path))); }
  void host_namespace(std::string name) {
    auto found = fmt::format("the host's {} namespace", name);
    want("allow.host_namespaces", std::move(name), std::move(found));
  }
  // A file or directory of the host. Names that lead elsewhere than they seem to are refused.
  void host_path(const std::string& path, bool writable, std::string_view what);
  void ulimit(std::string name, const Json& hard);
  void sysctls(const Json& map);
  void annotations(const Json& map);
  void rule(const Json& rule);
  void resources(const Json& resources);

  // For messages: a peer wrote it.
  static std::string printed(std::string_view text);

 private:
  bool has_room();
  void unified(const Json& unified);
  const HostSide& host_;
  Demands& demands_;
};

// No "..", no empty part, absolute.
bool is_straight_path(std::string_view path);

// What is hidden or protected by default, whatever the engine.
const std::vector<std::string_view>& guarded_paths();

}  // namespace transship::engine
