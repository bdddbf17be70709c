#include "migrate/handover.h"

#include <algorithm>
#include <array>

#include "base/cancel.h"
#include "base/text.h"

namespace transship::migrate {
namespace {

template <class State>
struct Name {
  State state;
  std::string_view name;
};

template <class State>
struct Step {
  State from;
  State to;
};

using S = SourceState;
using D = DestinationState;

constexpr std::array kSourceNames{
    Name<S>{S::kCopying, "copying"},     Name<S>{S::kFrozen, "frozen"}, Name<S>{S::kAsked, "asked"},
    Name<S>{S::kCommitted, "committed"}, Name<S>{S::kDone, "done"},     Name<S>{S::kRolledBack, "rolled-back"},
};
constexpr std::array kDestinationNames{
    Name<D>{D::kReserved, "reserved"}, Name<D>{D::kStaged, "staged"},   Name<D>{D::kStarting, "starting"},
    Name<D>{D::kParked, "parked"},     Name<D>{D::kRunning, "running"}, Name<D>{D::kDone, "done"},
    Name<D>{D::kLost, "lost"},         Name<D>{D::kAborted, "aborted"},
};

constexpr std::array kSourceSteps{
    Step<S>{S::kCopying, S::kFrozen},   Step<S>{S::kFrozen, S::kAsked},         Step<S>{S::kAsked, S::kCommitted},
    Step<S>{S::kCommitted, S::kDone},   Step<S>{S::kCopying, S::kRolledBack},   Step<S>{S::kFrozen, S::kRolledBack},
    Step<S>{S::kAsked, S::kRolledBack}, Step<S>{S::kCommitted, S::kRolledBack},
};
constexpr std::array kDestinationSteps{
    Step<D>{D::kReserved, D::kStaged},  Step<D>{D::kStaged, D::kStarting}, Step<D>{D::kStarting, D::kParked},
    Step<D>{D::kParked, D::kRunning},   Step<D>{D::kRunning, D::kDone},    Step<D>{D::kRunning, D::kLost},
    Step<D>{D::kReserved, D::kAborted}, Step<D>{D::kStaged, D::kAborted},  Step<D>{D::kStarting, D::kAborted},
    Step<D>{D::kParked, D::kAborted},
};

struct PhaseState {
  std::string_view phase;
  SourceState state;
};
constexpr std::array kPhases{
    PhaseState{"plan", S::kCopying},     PhaseState{"reserve", S::kCopying},   PhaseState{"prepare", S::kCopying},
    PhaseState{"rootfs", S::kCopying},   PhaseState{"volumes", S::kCopying},   PhaseState{"ready", S::kCopying},
    PhaseState{"memory", S::kCopying},   PhaseState{"dump", S::kFrozen},       PhaseState{"transfer", S::kFrozen},
    PhaseState{"restore", S::kAsked},    PhaseState{"commit", S::kAsked},      PhaseState{"release", S::kCommitted},
    PhaseState{"follow", S::kCommitted}, PhaseState{"cleanup", S::kCommitted},
};

template <class State, size_t N>
std::string_view name_of(const std::array<Name<State>, N>& names, State state) {
  const auto* found = std::ranges::find(names, state, &Name<State>::state);
  return found == names.end() ? std::string_view("?") : found->name;
}
template <class State, size_t N>
State named(const std::array<Name<State>, N>& names, std::string_view name) {
  const auto* found = std::ranges::find(names, name, &Name<State>::name);
  return found == names.end() ? State::kInvalid : found->state;
}
template <class State, size_t N>
bool follows(const std::array<Step<State>, N>& steps, State from, State to) {
  return std::ranges::any_of(steps, [&](const auto& s) { return s.from == from && s.to == to; });
}
template <class State, size_t N>
bool nothing_follows(const std::array<Step<State>, N>& steps, State state) {
  return std::ranges::none_of(steps, [&](const auto& s) { return s.from == state; });
}

std::string ago(int64_t then_ms, int64_t now_ms) {
  return format_duration(milliseconds(std::max<int64_t>(now_ms - then_ms, 0)));
}

std::string since(const Standing& s, int64_t now_ms) {
  return s.since_ms > 0 ? fmt::format(" for {}", ago(s.since_ms, now_ms)) : "";
}

std::string since_ago(const Standing& s, int64_t now_ms) {
  return s.since_ms > 0 ? fmt::format(" {} ago", ago(s.since_ms, now_ms)) : "";
}

std::string last_word(const Standing& s, int64_t now_ms) {
  if (s.last_word.text.empty()) return fmt::format("{} has said nothing of it yet", s.peer);
  return fmt::format("{} {} ({} ago)", s.peer, s.last_word.text, ago(s.last_word.ms, now_ms));
}

std::string with_problem(const Standing& s, std::string text) {
  const auto& problem = s.last_word.problem;
  return problem.empty() ? text : fmt::format("{} {}.", text, problem);
}

// What a parked destination comes to whose source is gone for good.
std::string without_source(const Standing& s) {
  if (!s.arbiter)
    return fmt::format("If {} is gone for good, `transship resolve {} --commit` lets it run here.", s.peer, s.move_id);
  return s.post_copy
             ? fmt::format("If {} is gone for good, so is its memory, and the arbiter's word ends it here.", s.peer)
             : fmt::format("If {} is gone for good, it runs here as soon as the arbiter knows that.", s.peer);
}

std::string explain_destination(const Standing& s, int64_t now_ms) {
  switch (s.destination) {
    case D::kReserved:
    case D::kStaged:
    case D::kStarting:
      return fmt::format(
          "{} runs on {}, and this node gets ready for it. When nothing is heard from {} any more, all of it is undone "
          "here by itself.",
          s.container, s.peer, s.peer);
    case D::kParked:
      return fmt::format(
          "{} is restored on {} and has stood still{}, its network shut: whether it runs here or on {} was for {} to "
          "decide, and {} asks it every second. The last word: {}. Nothing is lost meanwhile, on neither side. It ends "
          "by itself when {} answers. {}",
          s.container, s.here, since(s, now_ms), s.peer, s.peer, s.here, last_word(s, now_ms), s.peer,
          without_source(s));
    case D::kRunning:
      return s.post_copy ? fmt::format(
                               "{} runs on {}; pages of its memory are still on {} and are fetched. Whoever reads one "
                               "that has not come waits for it. The last word: {}. It ends by itself when {} answers.",
                               s.container, s.here, s.peer, last_word(s, now_ms), s.peer)
                         : fmt::format("{} runs on {}; what is left is tidying up.", s.container, s.here);
    default: return {};
  }
}

std::string explain_source(const Standing& s, int64_t now_ms) {
  switch (s.source) {
    case S::kCopying: return fmt::format("{} runs on {} and is copied to {}.", s.container, s.here, s.peer);
    case S::kFrozen:
      return fmt::format(
          "{} stands still on {}{}, and what is left of it travels to {}. Nobody else can run it yet: when this fails "
          "it "
          "runs on here.",
          s.container, s.here, since(s, now_ms), s.peer);
    case S::kAsked:
      return fmt::format(
          "{} stands still on {}{}. {} restores it, and may be ready to run it, so that it runs here again only when "
          "that is ruled out. The last word: {}.",
          s.container, s.here, since(s, now_ms), s.peer, last_word(s, now_ms));
    case S::kCommitted:
      if (s.unconfirmed)
        return fmt::format(
            "{} was decided to be {}'s{}, and its frozen processes are kept on {} until {} answers that it runs there: "
            "it may have heard before that the move was off. The last word: {}. It ends by itself when {} answers.",
            s.container, s.peer, since_ago(s, now_ms), s.here, s.peer, last_word(s, now_ms), s.peer);
      return fmt::format(
          "{} belongs to {} since the decision{}; on {} it never runs again. {} The last word: {}. It ends by itself "
          "when {} answers.",
          s.container, s.peer, since_ago(s, now_ms), s.here,
          s.post_copy ? fmt::format("Its frozen processes are kept here until {} has all of their memory.", s.peer)
                      : fmt::format("{} has not confirmed it yet, and is told again.", s.peer),
          last_word(s, now_ms), s.peer);
    default: return {};
  }
}

std::string risk_of_ending(const Standing& s) {
  return fmt::format(
      "{} is ended on {} for good. If {} does not run it, or never will, it is LOST: its memory is nowhere else.",
      s.container, s.here, s.peer);
}

std::string risk_of_going_back(const Standing& s) {
  return fmt::format(
      "{} runs on {} again. If {} runs it, or ever lets it run (its host comes back with the container parked, and "
      "somebody commits it there), TWO COPIES run: two databases with one name, each with writes the other lacks.",
      s.container, s.here, s.peer);
}

Result<std::string> risk_on_source(const Standing& s, state::Decision wanted) {
  bool commit = wanted == state::Decision::kCommit;
  switch (s.source) {
    case S::kAsked: return commit ? risk_of_ending(s) : risk_of_going_back(s);
    case S::kCommitted:
      if (s.unconfirmed && !s.post_copy && commit) return risk_of_ending(s);
      if (s.unconfirmed && !s.post_copy && !s.arbiter) return risk_of_going_back(s);
      if (!commit && s.unconfirmed)
        return fail(Errc::kRefused, "{} was decided to be {}'s, and {} does not know that it does not run there",
                    s.container, s.peer, s.here);
      if (!commit)
        return fail(Errc::kRefused,
                    "{} was decided to be {}'s: what ran on {} has ended, there is nothing to go back to", s.container,
                    s.peer, s.here);
      if (s.post_copy)
        return fmt::format(
            "The frozen processes of {} on {} are killed. Memory that {} has not fetched is LOST with them, and {} "
            "ends "
            "the container there when it misses a page.",
            s.container, s.here, s.peer, s.peer);
      return fmt::format("{} is not told of the decision any more. It asks by itself as long as its journal is there.",
                         s.peer);
    default: break;
  }
  return fail(Errc::kRefused, "nothing is undecided on {}: the move is {}", s.here, state_name(s.source));
}

Result<std::string> risk_on_destination(const Standing& s, state::Decision wanted) {
  if (s.destination != D::kParked)
    return fail(Errc::kRefused, "nothing is undecided on {}: the move is {}", s.here, state_name(s.destination));
  if (wanted == state::Decision::kCommit && s.post_copy)
    return fail(Errc::kRefused, "its memory is still on {}: {} cannot run on {} without it", s.peer, s.container,
                s.here);
  if (wanted == state::Decision::kCommit)
    return fmt::format(
        "{} runs on {} from now on. If {} lets it run as well (it does when its daemon lives and has given up the "
        "move), "
        "TWO COPIES run: two databases with one name, each with writes the other lacks. Do it only when {} is off, and "
        "see to it that the container does not start there when it comes back.",
        s.container, s.here, s.peer, s.peer);
  return fmt::format(
      "The restored {} on {} is killed and removed. If {} has committed the move already, its copy is dead, and the "
      "container is LOST: its memory is nowhere else.",
      s.container, s.here, s.peer);
}

}  // namespace

std::string_view state_name(SourceState state) { return name_of(kSourceNames, state); }
std::string_view state_name(DestinationState state) { return name_of(kDestinationNames, state); }
SourceState source_state(std::string_view name) { return named(kSourceNames, name); }
DestinationState destination_state(std::string_view name) { return named(kDestinationNames, name); }

bool may_follow(SourceState from, SourceState to) { return follows(kSourceSteps, from, to); }
bool may_follow(DestinationState from, DestinationState to) { return follows(kDestinationSteps, from, to); }
bool is_end(SourceState state) { return nothing_follows(kSourceSteps, state); }
bool is_end(DestinationState state) { return nothing_follows(kDestinationSteps, state); }

SourceState state_in_phase(std::string_view phase) {
  const auto* found = std::ranges::find(kPhases, phase, &PhaseState::phase);
  return found == kPhases.end() ? SourceState::kInvalid : found->state;
}

std::string explain(const Standing& standing, int64_t now_ms) {
  auto text = standing.source != S::kInvalid ? explain_source(standing, now_ms) : explain_destination(standing, now_ms);
  return text.empty() ? text : with_problem(standing, std::move(text));
}

Result<std::string> risk_of(const Standing& standing, state::Decision wanted) {
  return standing.source != S::kInvalid ? risk_on_source(standing, wanted) : risk_on_destination(standing, wanted);
}

Result<std::string> risk_of(const Standing& standing, const OperatorsWord& word) {
  TS_TRY_ASSIGN(std::string risk, risk_of(standing, word.decision));
  if (!word.without_arbiter) return risk;
  if (!standing.arbiter)
    return std::unexpected(
        Error(Errc::kInvalidArgument, fmt::format("move {} has no arbiter: its source decides", standing.move_id))
            .with_remedy("say it without --without-arbiter"));
  return fmt::format(
      "{} The arbiter is not asked: it may have decided otherwise already, and {} obeys it, not you, should it answer "
      "there once more. So say the same on {}, or see to it that {} stays off.",
      risk, standing.peer, standing.peer, standing.peer);
}

}  // namespace transship::migrate
