// A stream of storage/byte_stream.h onto the data lanes.
#pragma once
#include <algorithm>
#include <string>
#include <utility>

#include "migrate/channels.h"
#include "storage/byte_stream.h"
#include "wire/lanes.h"

namespace transship::migrate {

// Collects the small writes of an archive into lane chunks. One thread.
class LaneWriter final : public storage::Writer {
 public:
  static constexpr size_t kChunk = 512U << 10;
  LaneWriter(wire::LaneSender& lanes, Channel channel, std::string name)
      : lanes_(lanes), channel_(channel), name_(std::move(name)) {}
  Result<> write(std::span<const std::byte> data) override {
    while (!data.empty()) {
      if (buffer_.capacity() < kChunk) buffer_.reserve(kChunk);
      size_t n = std::min(kChunk - buffer_.size(), data.size());
      buffer_.insert(buffer_.end(), data.begin(), data.begin() + static_cast<std::ptrdiff_t>(n));
      data = data.subspan(n);
      if (buffer_.size() == kChunk) TS_TRY(flush());
    }
    return {};
  }
  // The empty chunk is the end of the stream.
  Result<> finish() {
    if (!buffer_.empty()) TS_TRY(flush());
    return flush();
  }
  uint64_t sent() const { return offset_; }

 private:
  Result<> flush() {
    auto data = std::exchange(buffer_, {});
    uint64_t at = offset_;
    offset_ += data.size();
    return lanes_.send(static_cast<uint8_t>(channel_), name_, at, std::move(data), wire::Route::kOrdered);
  }
  wire::LaneSender& lanes_;
  const Channel channel_;
  const std::string name_;
  wire::Buffer buffer_;
  uint64_t offset_ = 0;
};

}  // namespace transship::migrate
