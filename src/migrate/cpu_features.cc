#include "migrate/cpu_features.h"

#include <set>

#include "base/mutex.h"
#include "base/text.h"
#include "criu/info.h"
#include "sys/file.h"
#include "sys/program_version.h"

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

// The same CRIU says the same of the same CPU: a plan does not wait for it twice.
struct Remembered {
  Mutex mutex;
  std::string criu GUARDED_BY(mutex);
  std::string own GUARDED_BY(mutex);
  std::set<std::string> fit GUARDED_BY(mutex);  // images of peers that were found to be all right

  // Forgets everything when CRIU is another one.
  void look_at(const std::string& identity) REQUIRES(mutex) {
    constexpr size_t kMostPeers = 64;
    if (identity == criu && fit.size() < kMostPeers) return;
    criu = identity;
    own.clear();
    fit.clear();
  }
};

Remembered& remembered() {
  static Remembered r;
  return r;
}

Result<std::string> make_image(const Settings& settings) {
  ScratchDir dir(settings);
  TS_TRY(dir.make());
  TS_TRY(criu::dump_cpuinfo(settings.criu, dir.path(), Deadline::in(kLimit)));
  return sys::read_file(dir.path() + kFile, 1U << 16);
}

Result<> check_image(const Settings& settings, const std::string& image) {
  ScratchDir dir(settings);
  TS_TRY(dir.make());
  TS_TRY(sys::write_file_atomic(dir.path() + kFile, image));
  return criu::check_cpuinfo(settings.criu, dir.path(), Deadline::in(kLimit));
}

}  // namespace

Result<std::string> cpuinfo_image(const Settings& settings) {
  auto identity = sys::program_identity(settings.criu);
  {
    MutexLock lock(remembered().mutex);
    remembered().look_at(identity);
    if (!identity.empty() && !remembered().own.empty()) return remembered().own;
  }
  TS_TRY_ASSIGN(std::string image, make_image(settings));
  MutexLock lock(remembered().mutex);
  remembered().own = image;
  return image;
}

Result<> check_cpuinfo(const Settings& settings, const std::string& image) {
  if (image.size() > (1U << 16)) return fail(Errc::kPeerProtocol, "the peer's CPU description is too large");
  auto identity = sys::program_identity(settings.criu);
  {
    MutexLock lock(remembered().mutex);
    remembered().look_at(identity);
    if (!identity.empty() && remembered().fit.contains(image)) return {};
  }
  TS_TRY(check_image(settings, image));
  MutexLock lock(remembered().mutex);
  remembered().fit.insert(image);
  return {};
}

}  // namespace transship::migrate
