// A peer that says what it has to say and then ends the connection, properly or not.
#pragma once
#include <algorithm>
#include <string>
#include <string_view>

#include "wire/stream.h"

namespace transship::fuzz {

class MemoryStream final : public wire::Stream {
 public:
  // `step`: bytes that one read gives at most, 0: as many as wanted. `cut`: it ends with an error.
  MemoryStream(std::string_view said, size_t step, bool cut) : said_(said), step_(step), cut_(cut) {}

  Result<size_t> read_some(std::span<std::byte> buffer, Deadline /*deadline*/, const Cancel& cancel) override {
    TS_TRY(cancel.check());
    if (shut_ || (said_.empty() && cut_)) return fail(Errc::kUnavailable, "cut");
    auto size = std::min(buffer.size(), said_.size());
    if (step_ != 0) size = std::min(size, step_);
    std::copy_n(std::as_bytes(std::span(said_)).begin(), size, buffer.begin());
    said_.remove_prefix(size);
    return size;
  }
  Result<size_t> write_some(std::span<const std::byte> data, Deadline /*deadline*/, const Cancel& cancel) override {
    TS_TRY(cancel.check());
    if (shut_) return fail(Errc::kUnavailable, "cut");
    heard.append(reinterpret_cast<const char*>(data.data()), data.size());
    return data.size();
  }
  Result<bool> readable_now() override { return speaks_unasked; }
  void finish() override {}
  void shutdown() noexcept override { shut_ = true; }
  const std::string& peer() const override { return peer_; }
  uint64_t wire_bytes_written() const override { return heard.size(); }
  int fd() const override { return -1; }

  std::string heard;
  bool speaks_unasked = false;

 private:
  std::string_view said_;
  const size_t step_;
  const bool cut_;
  bool shut_ = false;
  std::string peer_ = "the other node";
};

inline Deadline soon() { return Deadline::in(milliseconds(10'000)); }
inline const Cancel& never() {
  static const Cancel cancel = Cancel::create().value();
  return cancel;
}

}  // namespace transship::fuzz
