// Text on its way to a terminal, a pipe or a test: made harmless, measured, cut and wrapped.
#pragma once
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace transship::cli {

// Names, images and messages come from containers and other hosts. Control characters, marks that reorder text and
// bytes that are not UTF-8 come out as \x1b, so that nothing but us drives the terminal. One line.
std::string printable(std::string_view text);
// The same, with line breaks kept.
std::string printable_lines(std::string_view text);

// Columns that printable text takes.
size_t display_width(std::string_view text);
// At most `width` columns, with "…" where something is missing.
std::string cut_end(std::string_view text, size_t width);
std::string cut_start(std::string_view text, size_t width);
// Breaks at spaces, and inside words longer than `width`. Line breaks stay. 0: no limit.
std::vector<std::string> wrap(std::string_view text, size_t width);

enum class Colour { kNone, kRed, kGreen, kYellow, kBold, kDim };

// One output. Immutable but for what was written; one thread.
class Screen {
 public:
  struct Options {
    bool terminal = false;
    bool colours = false;
    size_t width = 0;  // 0: no limit (not a terminal)
  };
  using Write = std::function<void(std::string_view)>;
  Screen(Write write, Options options) : write_(std::move(write)), options_(options) {}
  // Looks at the descriptor, NO_COLOR, TERM and COLUMNS. `lost`, which outlives it: why the first write failed that
  // did.
  static Screen on(int fd, Result<>* lost = nullptr);

  void print(std::string_view text) const { write_(text); }
  void line(std::string_view text) const { write_(std::string(text) + "\n"); }
  bool terminal() const { return options_.terminal; }
  size_t width() const { return options_.width; }
  std::string paint(Colour colour, std::string_view text) const;

 private:
  Write write_;
  Options options_;
};

}  // namespace transship::cli
