#include "network/cutover.h"

#include <unistd.h>

#include "base/text.h"
#include "sys/process.h"
#include "sys/search_path.h"

namespace transship::network {
namespace {

class NoneDriver final : public CutoverDriver {
 public:
  std::string_view name() const override { return "none"; }
  Result<> commit(const CutoverFacts&) override { return {}; }
  Result<> rollback(const CutoverFacts&) override { return {}; }
};

class HookDriver final : public CutoverDriver {
 public:
  HookDriver(std::vector<std::string> command, milliseconds limit) : command_(std::move(command)), limit_(limit) {}
  std::string_view name() const override { return "hook"; }
  Result<> commit(const CutoverFacts& facts) override { return call("commit", facts); }
  Result<> rollback(const CutoverFacts& facts) override { return call("rollback", facts); }

 private:
  Result<> call(std::string_view event, const CutoverFacts& facts) {
    sys::Command c;
    c.argv = command_;
    c.env = {
        fmt::format("TRANSSHIP_EVENT={}", event),     "TRANSSHIP_MOVE_ID=" + facts.move_id,
        "TRANSSHIP_CONTAINER=" + facts.container,     "TRANSSHIP_ADDRESSES=" + join(facts.addresses, " "),
        "TRANSSHIP_SOURCE=" + facts.source,           "TRANSSHIP_SOURCE_ADDRESS=" + facts.source_address,
        "TRANSSHIP_DESTINATION=" + facts.destination, "TRANSSHIP_DESTINATION_ADDRESS=" + facts.destination_address};
    if (facts.new_address) c.env.push_back("TRANSSHIP_NEW_ADDRESSES=" + join(facts.new_addresses, " "));
    c.deadline = Deadline::in(limit_);
    c.max_output = 64 << 10;
    if (auto r = sys::run_ok(c); !r) {
      return std::unexpected(std::move(r)
                                 .error()
                                 .context(fmt::format("cutover hook, event {}", event))
                                 .with_remedy("mend the hook in the configuration, or set the route by hand"));
    }
    return {};
  }

  std::vector<std::string> command_;
  milliseconds limit_;
};

// Found out at start and not when traffic must move.
Result<> check_program(const std::string& program) {
  if (program.find('/') == std::string::npos) {
    if (sys::find_program(program)) return {};
    return fail(Errc::kInvalidArgument, "cutover hook: no program \"{}\" in PATH", program);
  }
  if (::access(program.c_str(), X_OK) == 0) return {};
  int e = errno;
  return fail(Errc::kInvalidArgument, "cutover hook {}: {}", program, errno_text(e));
}

}  // namespace

Result<std::unique_ptr<CutoverDriver>> make_cutover_driver(const std::vector<std::string>& command,
                                                           milliseconds limit) {
  if (command.empty() || command[0].empty()) return std::make_unique<NoneDriver>();
  TS_TRY(check_program(command[0]));
  return std::make_unique<HookDriver>(command, limit);
}

}  // namespace transship::network
