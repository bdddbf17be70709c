#include "storage/patch.h"

#include <charconv>
#include <iterator>

namespace transship::storage {
namespace {

std::unexpected<Error> broken(std::string_view why) {
  return fail(Errc::kPeerProtocol, "a patch in the file stream {}", why);
}

// Takes digits from the front. No sign: a negative number cannot be said at all.
bool take_number(std::string_view& text, int64_t& value) {
  if (text.empty() || text[0] < '0' || text[0] > '9') return false;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return true;
}

bool take(std::string_view& text, char wanted) {
  if (!text.starts_with(wanted)) return false;
  text.remove_prefix(1);
  return true;
}

bool take_range(std::string_view& text, PatchRange& range) {
  if (!take(text, ' ')) return false;
  range.hole = text.starts_with('-');
  if (!range.hole && !text.starts_with('+')) return false;
  text.remove_prefix(1);
  return take_number(text, range.offset) && take(text, ':') && take_number(text, range.length);
}

}  // namespace

int64_t Patch::data_length() const {
  int64_t sum = 0;
  for (const auto& r : ranges) sum += r.hole ? 0 : r.length;
  return sum;
}

std::string to_text(const Patch& patch) {
  auto text = fmt::format("{} {}", patch.base_size, patch.size);
  for (const auto& r : patch.ranges)
    fmt::format_to(std::back_inserter(text), " {}{}:{}", r.hole ? '-' : '+', r.offset, r.length);
  return text;
}

Result<Patch> parse_patch(std::string_view text) {
  if (text.size() > Patch::kMaxText) return broken("is too long");
  Patch patch;
  if (!take_number(text, patch.base_size) || !take(text, ' ') || !take_number(text, patch.size))
    return broken("has no sizes");
  int64_t end = 0;
  while (!text.empty()) {
    PatchRange range;
    if (!take_range(text, range)) return broken("cannot be read");
    if (patch.ranges.size() == Patch::kMaxRanges) return broken("has too many ranges");
    if (range.length == 0) return broken("has an empty range");
    if (range.offset < end) return broken("has ranges that overlap or go backwards");
    if (range.offset > patch.size || range.length > patch.size - range.offset) return broken("goes beyond its size");
    end = range.end();
    patch.ranges.push_back(range);
  }
  return patch;
}

}  // namespace transship::storage
