#include "cli/terminal.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>

#include "base/fd.h"
#include "base/text.h"

namespace transship::cli {
namespace {

struct CodePoint {
  uint32_t value = 0;
  size_t length = 0;  // bytes; 0: not UTF-8
};

CodePoint decode(std::string_view text) {
  auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  unsigned char first = byte(0);
  if (first < 0x80) return {first, 1};
  size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return {};
  uint32_t value = first & (0xffU >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {};
    value = (value << 6) | (byte(i) & 0x3fU);
  }
  constexpr std::array<uint32_t, 5> kSmallest = {0, 0, 0x80, 0x800, 0x10000};
  if (value < kSmallest[length] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff)) return {};
  return {value, length};
}

struct Range {
  uint32_t from, to;
};
bool in(uint32_t value, std::initializer_list<Range> ranges) {
  return std::ranges::any_of(ranges, [&](Range r) { return value >= r.from && value <= r.to; });
}

// Controls, and the marks that hide or reorder what follows them.
bool dangerous(uint32_t c) {
  return in(c, {{0, 0x1f},
                {0x7f, 0x9f},
                {0xad, 0xad},
                {0x61c, 0x61c},
                {0x200b, 0x200f},
                {0x2028, 0x202e},
                {0x2060, 0x206f},
                {0xfeff, 0xfeff},
                {0xfff9, 0xfffb},
                {0xe0000, 0xe0fff}});
}

size_t columns(uint32_t c) {
  if (in(c, {{0x300, 0x36f}, {0x1ab0, 0x1aff}, {0x20d0, 0x20ff}, {0xfe00, 0xfe0f}, {0xfe20, 0xfe2f}})) return 0;
  return in(c, {{0x1100, 0x115f},
                {0x2e80, 0xa4cf},
                {0xac00, 0xd7a3},
                {0xf900, 0xfaff},
                {0xfe30, 0xfe6f},
                {0xff00, 0xff60},
                {0xffe0, 0xffe6},
                {0x1f300, 0x1f64f},
                {0x1f900, 0x1faff},
                {0x20000, 0x3fffd}})
             ? 2
             : 1;
}

// Calls `each(bytes, columns)` for every code point; a stray byte counts as one column.
template <class F>
void for_each_code_point(std::string_view text, F&& each) {
  while (!text.empty()) {
    CodePoint c = decode(text);
    size_t length = std::max<size_t>(c.length, 1);
    each(text.substr(0, length), c.length == 0 ? 1 : columns(c.value));
    text.remove_prefix(length);
  }
}

std::string made_printable(std::string_view text, bool keep_lines) {
  std::string out;
  while (!text.empty()) {
    CodePoint c = decode(text);
    size_t length = std::max<size_t>(c.length, 1);
    bool kept = c.length > 0 && (!dangerous(c.value) || (keep_lines && c.value == '\n'));
    if (kept)
      out += text.substr(0, length);
    else if (c.value == '\t')
      out += ' ';
    else
      for (char b : text.substr(0, length)) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(b));
    text.remove_prefix(length);
  }
  return out;
}

// The longest start of `text` within `width` columns; at least one code point, so that callers get on.
std::string_view fitting(std::string_view text, size_t width) {
  size_t used = 0;
  size_t bytes = 0;
  bool full = false;
  for_each_code_point(text, [&](std::string_view piece, size_t wide) {
    full = full || (used + wide > width && bytes > 0);
    if (full) return;
    used += wide;
    bytes += piece.size();
  });
  return text.substr(0, bytes);
}

void wrap_line(std::string_view line, size_t width, std::vector<std::string>& out) {
  while (width > 0 && display_width(line) > width) {
    std::string_view head = fitting(line, width);
    size_t space = head.rfind(' ');
    if (head.size() < line.size() && line[head.size()] == ' ') space = head.size();
    if (space == std::string_view::npos || space == 0) {
      out.emplace_back(head);
      line.remove_prefix(head.size());
      continue;
    }
    out.emplace_back(trim(line.substr(0, space)));
    line.remove_prefix(space + 1);
  }
  out.emplace_back(line);
}

size_t terminal_width(int fd) {
  winsize size{};
  if (::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col >= 20) return size.ws_col;
  const char* columns_env = std::getenv("COLUMNS");
  auto number = parse_u64(columns_env == nullptr ? "" : columns_env, "COLUMNS");
  return number && *number >= 20 && *number <= 1000 ? static_cast<size_t>(*number) : 80;
}

}  // namespace

std::string printable(std::string_view text) { return made_printable(text, false); }
std::string printable_lines(std::string_view text) { return made_printable(text, true); }

size_t display_width(std::string_view text) {
  size_t width = 0;
  for_each_code_point(text, [&](std::string_view, size_t wide) { width += wide; });
  return width;
}

std::string cut_end(std::string_view text, size_t width) {
  if (display_width(text) <= width) return std::string(text);
  return width <= 1 ? "…" : std::string(fitting(text, width - 1)) + "…";
}

std::string cut_start(std::string_view text, size_t width) {
  size_t have = display_width(text);
  if (have <= width) return std::string(text);
  if (width <= 1) return "…";
  while (have > width - 1) {
    std::string_view first = fitting(text, 1);
    have -= display_width(first);
    text.remove_prefix(first.size());
  }
  return "…" + std::string(text);
}

std::vector<std::string> wrap(std::string_view text, size_t width) {
  std::vector<std::string> out;
  for (const std::string& line : split(text, '\n')) wrap_line(line, width, out);
  while (out.size() > 1 && out.back().empty()) out.pop_back();
  return out;
}

Screen Screen::on(int fd, Result<>* lost) {
  Options options;
  options.terminal = ::isatty(fd) == 1;
  const char* term = std::getenv("TERM");
  const char* no_colour = std::getenv("NO_COLOR");
  bool dumb = term == nullptr || std::string_view(term) == "dumb";
  options.colours = options.terminal && !dumb && (no_colour == nullptr || *no_colour == '\0');
  options.width = options.terminal ? terminal_width(fd) : 0;
  // A dumb terminal cannot go back to rewrite a line.
  options.terminal = options.terminal && !dumb;
  auto write = [fd, lost](std::string_view text) {
    auto written = write_all(fd, text);
    if (!written && lost != nullptr && *lost) *lost = std::move(written);
  };
  return Screen(std::move(write), options);
}

std::string Screen::paint(Colour colour, std::string_view text) const {
  if (!options_.colours || colour == Colour::kNone || text.empty()) return std::string(text);
  constexpr std::array<std::string_view, 6> kCodes = {"0", "31", "32", "33", "1", "2"};
  return fmt::format("\x1b[{}m{}\x1b[0m", kCodes[static_cast<size_t>(colour)], text);
}

}  // namespace transship::cli
