#include "criu/info.h"

#include "base/text.h"
#include "criu/log.h"
#include "criu/rpc.h"
#include "sys/process.h"

namespace transship::criu {
namespace {

// CPU, FPU and instruction set: everything CRIU can compare (its CPU_CAP_ALL).
constexpr uint32_t kCompareAll = 0xFFFFFFFF;

Result<rpc::Response> ask(const std::string& criu, const rpc::Request& request, Deadline deadline) {
  TS_TRY_ASSIGN(auto worker, Worker::spawn(criu));
  TS_TRY(worker.send(request));
  auto response = worker.receive(deadline);
  worker.finish(deadline);
  return response;
}

Result<rpc::Response> ask_cpuinfo(const std::string& criu, rpc::RequestType type, const std::string& dir,
                                  const char* log_file, Deadline deadline) {
  TS_TRY_ASSIGN(Fd images, open_file(dir, O_RDONLY | O_DIRECTORY));
  rpc::Request request;
  request.set_type(type);
  request.mutable_opts()->set_images_dir_fd(images.get());
  request.mutable_opts()->set_cpu_cap(kCompareAll);
  request.mutable_opts()->set_log_level(1);
  request.mutable_opts()->set_log_file(log_file);
  return ask(criu, request, deadline);
}

}  // namespace

Result<Version> version(const std::string& criu, Deadline deadline) {
  rpc::Request request;
  request.set_type(rpc::VERSION);
  auto response = ask(criu, request, deadline);
  if (!response) return std::unexpected(std::move(response).error().context("ask CRIU for its version"));
  if (!response->success() || !response->has_version())
    return fail(Errc::kUnavailable, "{} does not tell its version", criu);
  const auto& v = response->version();
  Version result;
  result.number = v.major_number() * 10000 + v.minor_number() * 100 + v.sublevel();
  result.text = fmt::format("{}.{}", v.major_number(), v.minor_number());
  if (v.sublevel() > 0) result.text += fmt::format(".{}", v.sublevel());
  return result;
}

Result<> check(const std::string& criu, Deadline deadline) {
  sys::Command command{.argv = {criu, "check"}};
  command.deadline = deadline;
  TS_TRY_ASSIGN(auto result, sys::run(command));
  if (result.exit_code == 0) return {};
  auto lines = error_lines_in(result.out + result.err);
  return std::unexpected(Error(Errc::kKernelFeatureMissing, fmt::format("`{} check` ended with code {}: {}", criu,
                                                                        result.exit_code, join(lines, "; ")))
                             .with_remedy("CRIU 4.2 or newer and a kernel of 6.7 or newer are needed"));
}

Result<bool> has_feature(const std::string& criu, const std::string& feature, Deadline deadline) {
  sys::Command command{.argv = {criu, "check", "--feature", feature}};
  command.deadline = deadline;
  TS_TRY_ASSIGN(auto result, sys::run(command));
  return result.exit_code == 0;
}

Result<> dump_cpuinfo(const std::string& criu, const std::string& dir, Deadline deadline) {
  TS_TRY_ASSIGN(auto response, ask_cpuinfo(criu, rpc::CPUINFO_DUMP, dir, "cpuinfo-dump.log", deadline));
  if (response.success()) return {};
  return std::unexpected(
      error_from_log(Errc::kUnavailable, "describe this CPU", dir + "/cpuinfo-dump.log", "CRIU refused"));
}

Result<> check_cpuinfo(const std::string& criu, const std::string& dir, Deadline deadline) {
  TS_TRY_ASSIGN(auto response, ask_cpuinfo(criu, rpc::CPUINFO_CHECK, dir, "cpuinfo-check.log", deadline));
  if (response.success()) return {};
  return std::unexpected(error_from_log(Errc::kKernelFeatureMissing, "compare the source's CPU with this one",
                                        dir + "/cpuinfo-check.log", "CRIU refused"));
}

}  // namespace transship::criu
