#include "migrate/page_outlet.h"

#include <algorithm>

#include "migrate/channels.h"

namespace transship::migrate {
namespace {

constexpr milliseconds kFlushLimit{60 * 60'000};

memory::SendFrame send_over(wire::LaneSender& lanes) {
  return [&lanes](std::vector<std::byte>& frame) -> Result<> {
    size_t size = frame.size();
    TS_TRY(lanes.send(static_cast<uint8_t>(Channel::kPages), "pages", 0, std::move(frame), wire::Route::kSpread));
    frame = lanes.take_buffer(size);
    return {};
  };
}

}  // namespace

PageOutlet::PageOutlet(wire::LaneSender& lanes, const memory::PageSenderOptions& options, Cancel cancel)
    : lanes_(lanes), sender_(send_over(lanes), options, std::move(cancel)) {}

Result<> PageOutlet::add(const memory::PageBlock& block) {
  size_t at = 0;  // it asks in the order of the ranges
  auto copy = [&](std::span<const memory::PageRange>, std::span<std::byte> buffer) -> Result<size_t> {
    std::ranges::copy(block.content.subspan(at, buffer.size()), buffer.begin());
    at += buffer.size();
    return buffer.size() / memory::kPageBytes;
  };
  return sender_.add(block.space, block.ranges, copy);
}

Result<memory::SentStats> PageOutlet::finish_round() { return sender_.finish_round(Deadline::in(kFlushLimit)); }

Result<> PageOutlet::flush() { return lanes_.flush(Deadline::in(kFlushLimit)); }

}  // namespace transship::migrate
