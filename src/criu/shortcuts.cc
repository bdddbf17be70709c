#include "criu/shortcuts.h"

#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "base/text.h"
#include "criu/mapping_layout.h"
#include "criu/preload/mapping_flags.h"
#include "criu/preload/report.h"
#include "criu/rpc.h"
#include "sys/file.h"

namespace transship::criu {
namespace {

constexpr milliseconds kEndTime{1000};

// CRIU answers when the library has tried itself: that comes before its main().
Result<Shortcuts> try_shortcuts(const std::string& criu, const std::string& library, const std::string& file,
                                Deadline deadline) {
  Worker::Options how;
  TS_TRY_ASSIGN(how.env, shortcut_environment(library, file));
  TS_TRY_ASSIGN(auto worker, Worker::spawn(criu, how));
  rpc::Request request;
  request.set_type(rpc::VERSION);
  TS_TRY(worker.send(request));
  TS_TRY(worker.receive(deadline));
  worker.finish(deadline.sooner(Deadline::in(kEndTime)));
  return read_shortcuts(file);
}

std::string why_no_mappings() {
  auto layout = mapping_layout();
  return layout ? "what the kernel tells of CRIU's own is not what was expected" : layout.error().message();
}

}  // namespace

Result<std::vector<std::string>> shortcut_environment(const std::string& library, const std::string& report_file) {
  TS_TRY(sys::write_file_atomic(report_file, std::string(sizeof(criu_preload::Report), '\0')));
  const char* others = std::getenv("LD_PRELOAD");
  std::vector<std::string> environment{
      fmt::format("LD_PRELOAD={}{}{}", library, others != nullptr ? ":" : "", others != nullptr ? others : ""),
      fmt::format("{}={}", criu_preload::kReportVariable, report_file)};
  if (const auto& layout = known_mapping_layout(); !layout.empty())
    environment.push_back(fmt::format("{}={}", criu_preload::kLayoutVariable, layout));
  return environment;
}

Result<Shortcuts> read_shortcuts(const std::string& report_file) {
  TS_TRY_ASSIGN(auto bytes, sys::read_file(report_file));
  criu_preload::Report report{};
  if (bytes.size() != sizeof report)
    return fail(Errc::kCorrupt, "{} has {} bytes, not {}", report_file, bytes.size(), sizeof report);
  std::memcpy(&report, bytes.data(), sizeof report);
  return Shortcuts{report.can_mappings != 0, report.can_scans != 0, report.mappings, report.scans};
}

std::vector<std::string> used_shortcuts(const Shortcuts& shortcuts) {
  std::vector<std::string> used;
  if (shortcuts.mappings > 0) used.emplace_back("mappings");
  if (shortcuts.scans > 0) used.emplace_back("scans");
  return used;
}

std::string probe_shortcuts(const std::string& criu, const std::string& library, const std::string& scratch_dir,
                            Deadline deadline) {
  if (library.empty()) return "none: libtransship-criu.so is not installed";
  auto file = fmt::format("{}/criu-shortcuts-{}", scratch_dir, random_hex(4));
  auto found = try_shortcuts(criu, library, file, deadline);
  (void)::unlink(file.c_str());
  if (!found) return "none: " + found.error().message();
  std::vector<std::string> missing;
  if (!found->can_mappings) missing.push_back("mappings: " + why_no_mappings());
  if (!found->can_scans) missing.emplace_back("scans: this kernel does not tell which mapping an address is in");
  if (missing.empty()) return std::string(kAllShortcuts);
  auto has = found->can_mappings ? "mappings" : found->can_scans ? "scans" : "none";
  return fmt::format("{}; not {}", has, join(missing, "; not "));
}

}  // namespace transship::criu
