#include "migrate/cpu_features.h"

#include "base/text.h"
#include "criu/info.h"
#include "sys/file.h"

namespace transship::migrate {
namespace {

constexpr milliseconds kLimit{10'000};
constexpr const char* kFile = "/cpuinfo.img";

// A directory of ours that goes with the object.
class ScratchDir {
 public:
  explicit ScratchDir(const Settings& settings) : path_(settings.run_dir + "/cpuinfo-" + random_hex(6)) {}
  ~ScratchDir() { (void)sys::remove_tree(path_); }
  ScratchDir(const ScratchDir&) = delete;
  ScratchDir& operator=(const ScratchDir&) = delete;
  Result<> make() const { return sys::make_dirs(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace

Result<std::string> cpuinfo_image(const Settings& settings) {
  ScratchDir dir(settings);
  TS_TRY(dir.make());
  TS_TRY(criu::dump_cpuinfo(settings.criu, dir.path(), Deadline::in(kLimit)));
  return sys::read_file(dir.path() + kFile, 1U << 16);
}

Result<> check_cpuinfo(const Settings& settings, const std::string& image) {
  if (image.size() > (1U << 16)) return fail(Errc::kPeerProtocol, "the peer's CPU description is too large");
  ScratchDir dir(settings);
  TS_TRY(dir.make());
  TS_TRY(sys::write_file_atomic(dir.path() + kFile, image));
  return criu::check_cpuinfo(settings.criu, dir.path(), Deadline::in(kLimit));
}

}  // namespace transship::migrate
