#include "cli/move_render.h"

#include <algorithm>

#include "base/text.h"
#include "cli/json_render.h"
#include "cli/text_render.h"

namespace transship::cli {
namespace {

// Fast enough to look alive, slow enough not to cost anything.
constexpr int64_t kRedrawMs = 100;
// In a log file a line now and then is enough to see that it goes on.
constexpr int64_t kLogProgressMs = 5000;

class JsonRenderer : public MoveRenderer {
 public:
  JsonRenderer(const Screen& out, MoveNames names) : out_(out), names_(std::move(names)) {}
  void event(const local::MoveEvent& event) override { out_.print(json_lines(event, names_.to)); }
  void error(const Error& error, Outcome outcome) override { out_.print(json_error(error, outcome)); }
  void cancelling(const std::string& move_id, const std::string& state, const std::string& text) override {
    out_.print(json_cancel(move_id, state, text));
  }
  void detached(const std::string& move_id) override { out_.print(json_detached(move_id)); }

 private:
  const Screen& out_;
  MoveNames names_;
};

// On a terminal the running phases are a block of lines at the bottom that is wiped and drawn again; what ended scrolls
// up above it. Elsewhere: a line when a phase starts, one when it ends, and some progress in between.
class TextRenderer : public MoveRenderer {
 public:
  TextRenderer(const Screen& out, const Screen& err, MoveNames names, Verbosity verbosity)
      : out_(out), err_(err), names_(std::move(names)), verbosity_(verbosity) {}
  ~TextRenderer() override { wipe(); }

  void event(const local::MoveEvent& event) override {
    switch (event.kind_case()) {
      case local::MoveEvent::kPhase: return phase(event);
      case local::MoveEvent::kProgress: return progress(event);
      case local::MoveEvent::kPlan: return plan(event.plan());
      case local::MoveEvent::kSummary:
        wipe();
        running_.clear();
        if (verbosity_ != Verbosity::kQuiet) print_summary(out_, event.summary(), verbosity_ == Verbosity::kVerbose);
        return;
      case local::MoveEvent::kFailure:
        wipe();
        running_.clear();
        return print_failure(err_, event, what());
      case local::MoveEvent::KIND_NOT_SET: return;  // of a newer daemon
    }
  }

  void error(const Error& error, Outcome) override {
    wipe();
    running_.clear();
    print_error(err_, Error(error.code(), fmt::format("{}: {}", what(), error.message())).with_remedy(error.remedy()));
  }

  void cancelling(const std::string&, const std::string& state, const std::string& text) override {
    wipe();
    // The terminal has echoed "^C" where we are going to write.
    if (live()) out_.print("\r\x1b[2K");
    err_.line(printable(text));
    if (state != "left") draw();
  }

  void detached(const std::string& move_id) override {
    wipe();
    running_.clear();
    out_.line(printable(move_id));
  }

 private:
  struct Running {
    std::string name;
    std::string text;
    int64_t shown_ms = 0;
  };

  std::string what() const {
    return fmt::format("move of {} to {}", printable(names_.container), printable(names_.to));
  }

  bool live() const { return out_.terminal() && verbosity_ != Verbosity::kQuiet; }

  void plan(const local::PlanReply& plan) {
    if (verbosity_ == Verbosity::kQuiet) return;
    wipe();
    print_plan_rows(out_, plan, verbosity_ == Verbosity::kVerbose);
    if (!plan.blocked() && plan.bytes_total() > 0)
      out_.line(fmt::format("expect {} in {}, gap {}", format_bytes(plan.bytes_total()),
                            format_duration(std::chrono::milliseconds(plan.total_ms())),
                            format_duration(std::chrono::milliseconds(plan.gap_ms()))));
    draw();
  }

  void phase(const local::MoveEvent& event) {
    const local::PhaseEvent& phase = event.phase();
    if (verbosity_ == Verbosity::kQuiet) return;
    std::string name = printable(phase.name());
    wipe();
    if (phase.state() == local::PHASE_STARTED) {
      Running& line = running(name);
      line.text = printable(phase.detail());
      line.shown_ms = live() ? 0 : event.unix_ms();
      if (!live()) out_.line(fmt::format("{:<10}  started", name));
    } else {
      std::erase_if(running_, [&](const Running& r) { return r.name == name; });
      end_line(phase, name);
    }
    draw();
  }

  void end_line(const local::PhaseEvent& phase, const std::string& name) {
    bool bad = phase.state() == local::PHASE_FAILED;
    std::string word = bad ? "failed" : phase.state() == local::PHASE_UNDONE ? "undone" : "done";
    std::string took = format_duration(std::chrono::milliseconds(phase.elapsed_ms()));
    std::string line = fmt::format("{:<10}  {}{}  {:>9}", name, out_.paint(bad ? Colour::kRed : Colour::kGreen, word),
                                   std::string(7 - word.size(), ' '), took);
    if (!phase.detail().empty()) {
      constexpr size_t kBefore = 32;
      // A failure is told in full by the event that ends the move.
      std::string detail = printable(phase.detail());
      line += "  " + (out_.width() > kBefore + 10 ? cut_end(detail, out_.width() - kBefore) : detail);
    }
    out_.line(line);
  }

  void progress(const local::MoveEvent& event) {
    if (verbosity_ == Verbosity::kQuiet) return;
    Running& line = running(printable(event.progress().phase()));
    line.text = progress_text(event.progress());
    if (event.unix_ms() - line.shown_ms < (live() ? kRedrawMs : kLogProgressMs)) return;
    line.shown_ms = event.unix_ms();
    if (!live()) return out_.line(fmt::format("{:<10}  {}", line.name, line.text));
    wipe();
    draw();
  }

  static std::string progress_text(const local::ProgressEvent& p) {
    std::string text = p.round() > 0 ? fmt::format("round {}  ", p.round()) : "";
    text += format_bytes(p.bytes_done());
    if (p.bytes_total() > 0) {
      double percent = 100.0 * static_cast<double>(p.bytes_done()) / static_cast<double>(p.bytes_total());
      text += fmt::format(" of {}  {:.0f} %", format_bytes(p.bytes_total()), std::min(percent, 100.0));
    }
    if (p.bytes_per_second() > 0)
      text += fmt::format("  {}/s", format_bytes(static_cast<uint64_t>(p.bytes_per_second())));
    if (p.eta_ms() > 0) text += fmt::format("  {} left", format_duration(std::chrono::milliseconds(p.eta_ms())));
    if (p.round() > 1)
      text += fmt::format("  {}/s written  gap {}", format_bytes(static_cast<uint64_t>(p.dirty_bytes_per_second())),
                          format_duration(std::chrono::milliseconds(p.predicted_gap_ms())));
    return text;
  }

  Running& running(const std::string& name) {
    auto found = std::ranges::find(running_, name, &Running::name);
    if (found != running_.end()) return *found;
    running_.push_back({name, {}, 0});
    return running_.back();
  }

  void wipe() {
    for (; drawn_ > 0; --drawn_) out_.print("\x1b[1A\x1b[2K");
  }

  void draw() {
    if (!live()) return;
    for (const Running& r : running_) {
      // One column stays free: a line that fills the screen would take two.
      out_.line(cut_end(fmt::format("{:<10}  {}", r.name, r.text.empty() ? "…" : r.text), out_.width() - 1));
      ++drawn_;
    }
  }

  const Screen& out_;
  const Screen& err_;
  MoveNames names_;
  Verbosity verbosity_;
  std::vector<Running> running_;
  size_t drawn_ = 0;
};

}  // namespace

std::unique_ptr<MoveRenderer> make_text_renderer(const Screen& out, const Screen& err, MoveNames names,
                                                 Verbosity verbosity) {
  return std::make_unique<TextRenderer>(out, err, std::move(names), verbosity);
}

std::unique_ptr<MoveRenderer> make_json_renderer(const Screen& out, MoveNames names) {
  return std::make_unique<JsonRenderer>(out, std::move(names));
}

}  // namespace transship::cli
