// How lines of the log look.
#pragma once
#include <spdlog/formatter.h>

#include <memory>

namespace transship {

// Time, level, text. Text of others may be in it: control characters come out as \x1b, so that a line stays one and
// nobody but us drives the terminal that shows it.
std::unique_ptr<spdlog::formatter> log_formatter();

}  // namespace transship
