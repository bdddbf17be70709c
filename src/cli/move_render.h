// The events of one move, as they come, for a person or for a script.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "cli/exit_code.h"
#include "cli/terminal.h"
#include "proto/local.pb.h"

namespace transship::cli {

// One thread.
class MoveRenderer {
 public:
  virtual ~MoveRenderer() = default;
  virtual void event(const local::MoveEvent& event) = 0;
  // The move ended without an event that says how.
  virtual void error(const Error& error, Outcome outcome) = 0;
  // `state` as in json_cancel().
  virtual void cancelling(const std::string& move_id, const std::string& state, const std::string& text) = 0;
  virtual void detached(const std::string& move_id) = 0;
};

enum class Verbosity { kQuiet, kNormal, kVerbose };

struct MoveNames {
  std::string container;  // as the user named it
  std::string to;
};

// Progress and result go to `out`; what went wrong and what the user's signals did go to `err`.
std::unique_ptr<MoveRenderer> make_text_renderer(const Screen& out, const Screen& err, MoveNames names,
                                                 Verbosity verbosity);
// Everything to `out`.
std::unique_ptr<MoveRenderer> make_json_renderer(const Screen& out, MoveNames names);

}  // namespace transship::cli
