#include "memory/image_sender.h"

#include <filesystem>

namespace transship::memory {
namespace {

// Large enough that a system call and a frame per chunk do not count at 10 Gbit/s, small enough to be one lane frame.
constexpr size_t kChunk = 512U << 10;
// How long to wait for CRIU to write more: it fills a chunk in about 200 µs.
constexpr milliseconds kPause{1};

bool is_pages_file(const std::string& name) { return name.starts_with("pages-") && name.ends_with(".img"); }

}  // namespace

ImageSender::ImageSender(std::string directory, Send send, Cancel cancel)
    : directory_(std::move(directory)), send_(std::move(send)), cancel_(std::move(cancel)), buffer_(kChunk) {}

ImageSender::~ImageSender() {
  done_ = true;
  thread_.join();
}

Result<> ImageSender::send_now(const std::string& name) {
  std::error_code error;
  auto size = std::filesystem::file_size(directory_ + "/" + name, error);
  if (error) return fail_errno(error.value(), "size of {}/{}", directory_, name);
  bool any = false;
  return send_file(name, size, false, any);
}

void ImageSender::start() {
  thread_ = Thread("image-sender", [this] { outcome_ = follow(); });
}

Result<> ImageSender::follow() {
  while (!done_) {
    TS_TRY_ASSIGN(bool any, send_growth(/*pages_only=*/true, /*whole_chunks=*/true));
    if (!any) TS_TRY(sleep_for(kPause, cancel_));
  }
  return {};
}

Result<> ImageSender::dump_done() {
  uint64_t total = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory_, error)) {
    if (entry.is_regular_file(error)) total += entry.file_size(error);
  }
  if (error) return fail_errno(error.value(), "list CRIU's images in {}", directory_);
  total_ = total;
  done_ = true;
  return {};
}

Result<std::vector<ImageFile>> ImageSender::finish() {
  TS_CHECK(done_);
  thread_.join();
  TS_TRY(outcome_);
  TS_TRY(cancel_.check());
  TS_TRY(send_growth(/*pages_only=*/false, /*whole_chunks=*/false));
  std::vector<ImageFile> files;
  files.reserve(files_.size());
  for (const auto& [name, file] : files_) files.push_back({name, file.sent});
  return files;
}

// True when anything was sent.
Result<bool> ImageSender::send_growth(bool pages_only, bool whole_chunks) {
  bool any = false;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory_, error)) {
    std::string name = entry.path().filename();
    if (!entry.is_regular_file(error) || (pages_only && !is_pages_file(name))) continue;
    TS_TRY(send_file(name, entry.file_size(error), whole_chunks, any));
  }
  if (error) return fail_errno(error.value(), "read CRIU's images in {}", directory_);
  return any;
}

Result<> ImageSender::send_file(const std::string& name, uint64_t size, bool whole_chunks, bool& any) {
  File& file = files_[name];
  if (!file.fd.valid()) {
    TS_TRY_ASSIGN(file.fd, open_file(directory_ + "/" + name, O_RDONLY));
  }
  while (file.sent < size && (!whole_chunks || size - file.sent >= kChunk)) {
    TS_TRY(cancel_.check());
    size_t want = std::min<uint64_t>(kChunk, size - file.sent);
    ssize_t n =
        retry_eintr([&] { return ::pread(file.fd.get(), buffer_.data(), want, static_cast<off_t>(file.sent)); });
    if (n < 0) return fail_errno(errno, "read {}/{}", directory_, name);
    if (n == 0) return fail(Errc::kCorrupt, "{}/{} became shorter while it was sent", directory_, name);
    auto data = std::span<const std::byte>(buffer_).first(static_cast<size_t>(n));
    TS_TRY(send_(name, file.sent, data));
    file.sent += data.size();
    sent_ += data.size();
    any = true;
  }
  return {};
}

}  // namespace transship::memory
