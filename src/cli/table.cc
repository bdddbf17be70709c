#include "cli/table.h"

#include <algorithm>
#include <numeric>

namespace transship::cli {
namespace {

constexpr size_t kGap = 2;
// A wrapped column narrower than this is harder to read than a line that is too long.
constexpr size_t kLeastWrap = 24;

size_t start_of(const std::vector<size_t>& widths, size_t column) {
  return std::accumulate(widths.begin(), widths.begin() + static_cast<std::ptrdiff_t>(column), column * kGap);
}

std::string padded(const Screen& screen, const Cell& cell, const std::string& text, size_t width, bool right) {
  std::string space(width - std::min(width, display_width(text)), ' ');
  std::string painted = screen.paint(cell.colour, text);
  return right ? space + painted : painted + space;
}

void print_trimmed(const Screen& screen, std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  screen.line(line);
}

}  // namespace

std::vector<size_t> Table::widths(const Screen& screen, bool with_titles) const {
  std::vector<size_t> widths;
  for (const Column& column : columns_) widths.push_back(with_titles ? display_width(column.title) : 0);
  for (const Row& row : rows_)
    for (size_t i = 0; i < row.cells.size(); ++i) {
      for (const std::string& line : wrap(row.cells[i].text, 0)) widths[i] = std::max(widths[i], display_width(line));
    }
  if (screen.width() == 0) return widths;
  for (size_t i : give_way_) {
    size_t total = start_of(widths, widths.size()) - kGap;
    if (total <= screen.width()) break;
    size_t least = columns_[i].fit == Fit::kWrap ? kLeastWrap : columns_[i].least;
    size_t over = total - screen.width();
    if (widths[i] > least) widths[i] = std::max(least, widths[i] - std::min(widths[i], over));
  }
  return widths;
}

void Table::print_row(const Screen& screen, const std::vector<Cell>& cells, const std::vector<size_t>& widths) const {
  std::vector<std::vector<std::string>> texts;
  size_t lines = 1;
  for (size_t i = 0; i < cells.size(); ++i) {
    const std::string& text = cells[i].text;
    switch (columns_[i].fit) {
      case Fit::kWhole: texts.push_back({text}); break;
      case Fit::kCutEnd: texts.push_back({cut_end(text, widths[i])}); break;
      case Fit::kPrefix: texts.push_back({text.substr(0, std::min(text.size(), widths[i]))}); break;
      case Fit::kCutStart: texts.push_back({cut_start(text, widths[i])}); break;
      case Fit::kWrap: texts.push_back(wrap(text, screen.width() == 0 ? 0 : widths[i])); break;
    }
    lines = std::max(lines, texts.back().size());
  }
  for (size_t line = 0; line < lines; ++line) {
    std::string out;
    for (size_t i = 0; i < cells.size(); ++i) {
      if (i > 0) out += std::string(kGap, ' ');
      out += padded(screen, cells[i], line < texts[i].size() ? texts[i][line] : "", widths[i], columns_[i].right);
    }
    print_trimmed(screen, std::move(out));
  }
}

void Table::print(const Screen& screen, bool with_titles) const {
  std::vector<size_t> width = widths(screen, with_titles);
  std::vector<Cell> titles;
  for (const Column& column : columns_) titles.push_back({column.title});
  if (with_titles) print_row(screen, titles, width);
  for (const Row& row : rows_) {
    if (!row.cells.empty()) {
      print_row(screen, row.cells, width);
      continue;
    }
    size_t indent = start_of(width, row.under_column);
    size_t room = screen.width() > indent + kLeastWrap ? screen.width() - indent : screen.width() == 0 ? 0 : kLeastWrap;
    for (const std::string& line : wrap(row.note, room)) screen.line(std::string(indent, ' ') + line);
  }
}

}  // namespace transship::cli
