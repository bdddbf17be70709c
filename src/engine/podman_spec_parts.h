// The parts of a create request that take more than copying a field. Used by podman_spec.cc and the tests.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "engine/podman_container.h"

namespace transship::engine {

// {NAME: value} and {NAME: secret}.
std::pair<Json, Json> environment(const PodmanAnswers& answers);
// Those of the user; Podman adds its own again.
Json annotations(const PodmanAnswers& answers);
Json mounts(const PodmanAnswers& answers);
Json volumes(const PodmanAnswers& answers);
Json secrets(const PodmanAnswers& answers);
Json devices(const PodmanAnswers& answers);
Json device_rules(const PodmanAnswers& answers);
Json log_configuration(const PodmanAnswers& answers);
Json networks(const Container& container, const PodmanAnswers& answers);
Json port_mappings(const Container& container, const PodmanAnswers& answers);
// {"1234": "tcp,udp"}: those that are not published.
Json exposed_ports(const PodmanAnswers& answers);
// "private" -> {"nsmode": "private"}, "ns:/path" -> {"nsmode": "path", "value": "/path"}
Json namespace_mode(const std::string& mode);
// Masked besides Podman's own ones, and unmasked of them.
std::pair<Json, Json> masked_paths(const PodmanAnswers& answers);
std::string seccomp_profile(const PodmanAnswers& answers);
std::string init_program(const PodmanAnswers& answers);
bool has_read_write_tmpfs(const PodmanAnswers& answers);
Json resource_limits(const PodmanAnswers& answers);
std::vector<Conflict> unmovable_parts(const Container& container, const PodmanAnswers& answers);
// "SIGRTMIN+3", "SIGINT" -> number; 0 when it is none.
int signal_number(const std::string& name);
// "10MB", as Podman prints sizes (powers of 1000, four digits).
int64_t parse_human_size(const std::string& text);

}  // namespace transship::engine
