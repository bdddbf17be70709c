#include "storage/watch/test_file_system.h"

#include <gtest/gtest.h>
#include <sys/mount.h>

#include <cstdlib>
#include <filesystem>

namespace transship::storage::testing {

namespace fs = std::filesystem;

namespace {

bool succeeds(const std::string& command) { return std::system(("(" + command + ") >/dev/null 2>&1").c_str()) == 0; }

}  // namespace

TestFileSystem::TestFileSystem(FileSystem kind) {
  // The build directory: /tmp may be no disk.
  std::string pattern = fs::current_path() / "watch-test-XXXXXX";
  TS_CHECK(::mkdtemp(pattern.data()) != nullptr, "mkdtemp {}", pattern);
  base_ = mounted_ = pattern;
  prepare(kind);
  if (!missing_.empty()) return;
  if (kind == FileSystem::kBtrfsSubvolume) into_a_subvolume();
  if (!missing_.empty()) return;
  fs::create_directory(tree());
  fs::create_directory(outside());
  auto fd = open_file(tree(), O_RDONLY | O_DIRECTORY);
  TS_CHECK(fd, "open {}", tree());
  fd_ = std::move(*fd);
}

TestFileSystem::~TestFileSystem() {
  fd_.reset();
  if (is_mounted_ && ::umount2(mounted_.c_str(), MNT_DETACH) != 0)
    ADD_FAILURE() << "unmount " << mounted_ << ": " << errno_text(errno);
  std::error_code e;
  fs::remove_all(base_, e);
  if (e) ADD_FAILURE() << "remove " << base_ << ": " << e.message();
}

void TestFileSystem::prepare(FileSystem kind) {
  if (kind == FileSystem::kBuildDirectory) return;
  mounted_ = base_ + "/mnt";
  fs::create_directory(mounted_);
  if (kind == FileSystem::kXfs) return mount_image("mkfs.xfs -q -f", "320M");
  if (kind == FileSystem::kBtrfs || kind == FileSystem::kBtrfsSubvolume) return mount_image("mkfs.btrfs -q -f", "256M");
  if (kind == FileSystem::kTmpfs) {
    is_mounted_ = ::mount("tmpfs", mounted_.c_str(), "tmpfs", 0, "size=512m") == 0;
  } else {
    for (const char* name : {"lower", "upper", "work"}) fs::create_directory(base_ + "/" + name);
    auto options = fmt::format("lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work", base_);
    is_mounted_ = ::mount("overlay", mounted_.c_str(), "overlay", 0, options.c_str()) == 0;
  }
  if (!is_mounted_) missing_ = fmt::format("mount: {}", errno_text(errno));
}

void TestFileSystem::mount_image(const std::string& make, const std::string& size) {
  auto image = base_ + "/image";
  if (!succeeds(fmt::format("truncate -s {} {} && {} {}", size, image, make, image)))
    missing_ = fmt::format("{} does not work", make);
  else if (!succeeds(fmt::format("mount -o loop {} {}", image, mounted_)))
    missing_ = "no loop devices, or the kernel does not have this file system";
  else
    is_mounted_ = true;
}

// Mounted by itself, as distributions do: the top of the file system has no name then.
void TestFileSystem::into_a_subvolume() {
  auto commands = fmt::format("btrfs subvolume create {0}/v && umount {0} && mount -o loop,subvol=v {1}/image {0}",
                              mounted_, base_);
  if (!succeeds(commands)) missing_ = "no btrfs subvolumes";
}

}  // namespace transship::storage::testing
