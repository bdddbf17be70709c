// Columns of text that fit the screen.
#pragma once
#include <string>
#include <vector>

#include "cli/terminal.h"

namespace transship::cli {

enum class Fit {
  kWhole,     // never cut
  kCutEnd,    // "some-long-na…"
  kPrefix,    // "3f2a9c1d", no mark: for IDs, which are copied, and whose start is enough
  kCutStart,  // "…library/redis:7"
  kWrap,      // goes on in the next line; for the last column
};

struct Column {
  std::string title;
  Fit fit = Fit::kWhole;
  size_t least = 0;  // never cut below that many columns
  bool right = false;
};

struct Cell {
  std::string text;  // printable
  Colour colour = Colour::kNone;
};

// Columns give way from left to right as they stand in `give_way` (indexes). One thread.
class Table {
 public:
  Table(std::vector<Column> columns, std::vector<size_t> give_way)
      : columns_(std::move(columns)), give_way_(std::move(give_way)) {}
  void row(std::vector<Cell> cells) { rows_.push_back({std::move(cells), {}}); }
  // Text under the row before it, indented by `under_column`.
  void note(std::string text, size_t under_column) { rows_.push_back({{}, std::move(text), under_column}); }
  void print(const Screen& screen, bool with_titles = true) const;

 private:
  struct Row {
    std::vector<Cell> cells;
    std::string note = {};
    size_t under_column = 0;
  };
  std::vector<size_t> widths(const Screen& screen, bool with_titles) const;
  void print_row(const Screen& screen, const std::vector<Cell>& cells, const std::vector<size_t>& widths) const;
  std::vector<Column> columns_;
  std::vector<size_t> give_way_;
  std::vector<Row> rows_;
};

}  // namespace transship::cli
