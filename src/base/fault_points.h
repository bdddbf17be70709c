// Every fault point there is. tests/dev/test_fault_points.py compares this list with the code: each name stands in it
// exactly once, and every phase on both sides has one.
#pragma once
#include <array>
#include <string_view>

namespace transship::fault {

struct PointName {
  std::string_view name;
  // Whether the code there can fail. Elsewhere `fail` is refused: what is undone, or comes after the commit, goes on.
  bool can_fail = true;
};

constexpr bool kGoesOn = false;

inline constexpr auto kPoints = std::to_array<PointName>({
    // The source's phases, in their order (migrate/source*.cc).
    {"source.plan"},
    {"source.reserve"},
    {"source.reserve.answered"},
    {"source.prepare"},
    {"source.rootfs"},
    {"source.volumes"},
    {"source.ready"},
    {"source.ready.before-record"},
    {"source.ready.recorded"},
    {"source.memory"},
    {"source.memory.arm"},
    {"source.dump"},
    {"source.dump.frozen"},
    {"source.transfer"},
    {"source.restore"},
    {"source.restore.parked"},
    {"source.commit"},
    {"source.commit.before-decide"},
    {"source.commit.decided", kGoesOn},
    {"source.release", kGoesOn},
    {"source.release.killed", kGoesOn},
    {"source.release.told", kGoesOn},
    {"source.follow", kGoesOn},
    {"source.follow.filled", kGoesOn},
    {"source.cleanup", kGoesOn},
    {"source.cleanup.forgotten", kGoesOn},
    {"source.end.before-record", kGoesOn},
    // A move of the source that fails.
    {"source.undo.before-abort", kGoesOn},
    {"source.undo.aborted", kGoesOn},
    {"source.undo.thawed", kGoesOn},
    // A committed move that the next daemon of the source goes on with (migrate/resumed_source.cc).
    {"source.resume", kGoesOn},
    {"source.resume.told", kGoesOn},
    {"source.resume.before-record", kGoesOn},
    // The destination's answers, in the order of the phases (migrate/destination*.cc).
    {"destination.plan"},
    {"destination.reserve"},
    {"destination.reserve.recorded"},
    {"destination.prepare"},
    {"destination.prepare.created"},
    {"destination.prepare.saved"},
    {"destination.rootfs"},
    {"destination.memory.arm"},
    {"destination.memory.at-gate"},
    {"destination.restore"},
    {"destination.restore.before-save"},
    {"destination.restore.saved"},
    {"destination.restore.recorded"},
    {"destination.commit"},
    {"destination.commit.saved"},
    {"destination.commit.released", kGoesOn},
    {"destination.follow"},
    {"destination.cleanup.before-decide", kGoesOn},
    {"destination.cleanup.decided", kGoesOn},
    {"destination.cleanup.filled", kGoesOn},
    {"destination.cleanup.recorded", kGoesOn},
    // A move of the destination that ends before the commit.
    {"destination.abort", kGoesOn},
    {"destination.abort.dead", kGoesOn},
    {"destination.abort.undone", kGoesOn},
    // Parked without its session, or after a restart of the daemon (migrate/destination_resume.cc).
    {"destination.ask", kGoesOn},
    {"destination.resume", kGoesOn},
    // transship-runtime at the gate (gate/gated_create.cc).
    {"runtime.waiting"},
    {"runtime.prepared"},
    {"runtime.restore"},
    {"runtime.restored"},
    {"runtime.parked", kGoesOn},
    // transship-pager (memory/pager*.cc).
    {"pager.sealed", kGoesOn},
    {"pager.restored", kGoesOn},
    {"pager.recorded", kGoesOn},
    {"pager.forked", kGoesOn},
    {"pager.succeeding", kGoesOn},
    {"pager.filled", kGoesOn},
});

}  // namespace transship::fault
