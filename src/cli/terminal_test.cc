#include "cli/terminal.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "base/fd.h"
#include "cli/fake_daemon.h"
#include "cli/table.h"

namespace transship::cli {
namespace {

TEST(Printable, EscapesWhatDrivesATerminal) {
  EXPECT_EQ(printable("red\x1b[31m\a"), "red\\x1b[31m\\x07");
  EXPECT_EQ(printable("a\nb\tc\r"), "a\\x0ab c\\x0d");
  EXPECT_EQ(printable("c1 \xc2\x9b"
                      "31m"),
            "c1 \\xc2\\x9b31m");  // CSI as one code point
  EXPECT_EQ(printable("x\xe2\x80\xae"
                      "exe"),
            "x\\xe2\\x80\\xae"
            "exe");  // right-to-left override
  EXPECT_EQ(printable("zażółć 日本"), "zażółć 日本");
}

TEST(Printable, EscapesBytesThatAreNotUtf8) {
  EXPECT_EQ(printable("\xff\xc0\xaf"), "\\xff\\xc0\\xaf");  // overlong '/'
  EXPECT_EQ(printable("\xed\xa0\x80"), "\\xed\\xa0\\x80");  // a surrogate
  EXPECT_EQ(printable("cut \xe2\x82"), "cut \\xe2\\x82");
}

TEST(Printable, LinesKeepTheirBreaks) { EXPECT_EQ(printable_lines("a\n\x1b[2Jb"), "a\n\\x1b[2Jb"); }

TEST(Width, CountsColumns) {
  EXPECT_EQ(display_width("abc"), 3U);
  EXPECT_EQ(display_width("zażó"), 4U);
  EXPECT_EQ(display_width("日本"), 4U);
  EXPECT_EQ(display_width("e\xcc\x81"), 1U);  // e and a combining accent
}

TEST(Cut, SaysThatSomethingIsMissing) {
  EXPECT_EQ(cut_end("redis", 5), "redis");
  EXPECT_EQ(cut_end("redis-server", 6), "redis…");
  EXPECT_EQ(cut_start("registry.lab:5000/redis:7", 8), "…redis:7");
  EXPECT_EQ(cut_start("日本語", 5), "…本語");
  EXPECT_EQ(cut_end("日本語", 4), "日…");
}

TEST(Wrap, AtSpacesAndInLongWords) {
  EXPECT_EQ(wrap("one two three", 7), (std::vector<std::string>{"one two", "three"}));
  EXPECT_EQ(wrap("abcdefgh ij", 4), (std::vector<std::string>{"abcd", "efgh", "ij"}));
  EXPECT_EQ(wrap("a\nb", 0), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(wrap("", 10), (std::vector<std::string>{""}));
}

TEST(Screen, PaintsOnlyWhenAsked) {
  Captured plain;
  EXPECT_EQ(plain.screen.paint(Colour::kRed, "x"), "x");
  Captured coloured({.terminal = true, .colours = true, .width = 80});
  EXPECT_EQ(coloured.screen.paint(Colour::kRed, "x"), "\x1b[31mx\x1b[0m");
}

TEST(Screen, TellsThatItsOutputIsLost) {
  Fd full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
  ASSERT_TRUE(full.valid());
  Result<> lost;
  Screen screen = Screen::on(full.get(), &lost);
  EXPECT_TRUE(lost);
  screen.line("text");
  ASSERT_FALSE(lost);
  EXPECT_EQ(lost.error().sys_errno(), ENOSPC);
}

TEST(Table, NeverWiderThanTheScreen) {
  Captured out({.terminal = true, .colours = false, .width = 40});
  Table table({{"A", Fit::kCutEnd, 6}, {"B"}, {"C", Fit::kWrap}}, {0, 2});
  table.row({{"a-very-long-name"}, {"b"}, {"some words that do not fit in what is left"}});
  table.print(out.screen);
  EXPECT_EQ(out.text,
            "A       B  C\n"
            "a-ver…  b  some words that do not fit in\n"
            "           what is left\n");
}

TEST(Table, ColoursDoNotMoveColumns) {
  Captured out({.terminal = true, .colours = true, .width = 80});
  Table table({{"A"}, {"B"}}, {});
  table.row({{"x", Colour::kRed}, {"y"}});
  table.row({{"xyz"}, {"z"}});
  table.print(out.screen, false);
  EXPECT_EQ(out.text, "\x1b[31mx\x1b[0m    y\nxyz  z\n");
}

}  // namespace
}  // namespace transship::cli
