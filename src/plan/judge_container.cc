// What the engine says about the container: can this version move such a one at all?
#include <algorithm>

#include "base/text.h"
#include "plan/rows.h"

namespace transship::plan {

namespace {

void judge_state(const ContainerSide& c, Rows& rows) {
  if (c.state == "running") {
    rows.ok("state", "running");
  } else if (c.state == "paused") {
    rows.block("state", "is paused", fmt::format("{} unpause {}", c.engine, c.name));
  } else {
    rows.block("state", fmt::format("is {}, not running", c.state.empty() ? "in no known state" : c.state),
               fmt::format("{} start {}; one that does not run needs no move, only its image and its files", c.engine,
                           c.name));
  }
}

// Network modes in which a process outside the container owns its packets, or another container its namespace. A plain
// bundle always gets its namespace by path, from whoever runs it; the destination checks that one is there.
void judge_network(const ContainerSide& c, Rows& rows) {
  if (c.network_mode == "host") {
    rows.block("host-network", "uses the host's network", "run it on a network of the engine's (bridge)");
  } else if (c.network_mode.starts_with("container:") || (c.network_mode.starts_with("ns:") && c.engine != "runc")) {
    rows.block("network-mode", fmt::format("shares the network namespace of another ({})", c.network_mode),
               "give it a network of its own");
  } else if (c.network_mode.starts_with("pasta") || c.network_mode.starts_with("slirp4netns")) {
    rows.block("network-mode", fmt::format("its network is a program on this host ({})", c.network_mode),
               "run it as root on a bridge network");
  } else {
    rows.ok("network-mode", c.network_mode.empty() ? "own network namespace" : c.network_mode);
  }
}

void judge_mounts(const ContainerSide& c, Rows& rows) {
  std::vector<std::string> stuck;
  std::vector<std::string> moving;
  std::vector<std::string> shared;
  for (const auto& m : c.mounts) {
    if (m.type == "tmpfs") continue;
    auto what = fmt::format("{} {} on {}", m.type, m.type == "volume" && !m.volume.empty() ? m.volume : m.source,
                            m.destination);
    if (!m.used_by.empty()) shared.push_back(fmt::format("{} is used by {} as well", what, join(m.used_by, ", ")));
    if ((m.type == "volume" || m.type == "bind") && !m.not_a_directory)
      moving.push_back(fmt::format("{} ({})", what, format_bytes(m.bytes)));
    else
      stuck.push_back(what);
  }
  if (!stuck.empty())
    rows.block(
        "mounts", join(stuck, ", "),
        "only volumes and directories can move with a container: mount the directory that the file is in, or put "
        "the file into the image");
  if (!shared.empty())
    rows.block("mounts", join(shared, "; "), "stop what else uses it, or give it a volume of its own");
  if (stuck.empty() && shared.empty()) rows.ok("mounts", moving.empty() ? "none with data" : join(moving, ", "));
}

void judge_root(const ContainerSide& c, Rows& rows) {
  if (c.rootfs_kind == "plain") {
    rows.ok("rootfs-driver", "plain directory, sent whole");
  } else if (c.rootfs_kind == "overlay" && !c.upper_dir.empty()) {
    rows.ok("rootfs-driver", "overlay, the difference from the image is sent");
  } else {
    rows.block("rootfs-driver",
               c.rootfs_kind == "overlay" ? "overlay, but its upper directory is not known"
                                          : fmt::format("\"{}\"", c.rootfs_kind),
               "use the engine's overlay storage driver (Podman: driver = \"overlay\" in storage.conf)");
  }
}

void judge_restarts(const ContainerSide& c, Rows& rows) {
  if (c.restart_policy.empty() || c.restart_policy == "no")
    rows.ok("restart-policy", c.auto_remove ? "none; removes itself when it ends" : "none");
  else
    rows.ok("restart-policy",
            fmt::format("{}; held off during the move, then in force on the destination", c.restart_policy));
}

}  // namespace

void judge_container(const ContainerSide& c, const Abilities& abilities, Rows& rows) {
  judge_state(c, rows);
  if (!c.pod.empty())
    rows.block("pod", fmt::format("is in pod {}", c.pod.substr(0, 12)),
               "pods cannot move yet; run the container outside of one");
  judge_network(c, rows);
  judge_mounts(c, rows);
  judge_root(c, rows);
  if (c.privileged)
    rows.warn("privileged", "runs privileged: it may hold on to things of this host that no check sees",
              "run it with just the capabilities it needs (--cap-add)");
  if (c.terminal && !abilities.terminal)
    rows.block("terminal", "was started with a terminal (-t)", "start it without -t");
  judge_restarts(c, rows);
}

}  // namespace transship::plan
