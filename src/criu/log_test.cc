#include "criu/log.h"

#include <gtest/gtest.h>

#include "base/text.h"

namespace transship::criu {
namespace {

// As CRIU 4.2.1 wrote it, with a container that used io_uring, without CAP_SYS_RESOURCE.
constexpr const char* kLog = R"((00.000017) Version: 4.2.1 (gitid 0)
(00.000101) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.012001) Warn  (criu/image.c:134): Failed to open parent directory
(00.031002) Error (criu/files-ext.c:98): Can't dump file 7 of that type [600] (unknown anon_inode:[io_uring])
(00.031010) ----------------------------------------
(00.031044) Error (criu/cr-dump.c:1669): Dump files (pid: 42) failed with -1
(00.040001) Error (criu/cr-dump.c:1975): Dumping FAILED.
)";

TEST(CriuLog, CauseFirstAndHarmlessLinesLeftOut) {
  auto lines = error_lines_in(kLog);
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_TRUE(lines[0].starts_with("Error (criu/files-ext.c:98)")) << lines[0];
  EXPECT_EQ(lines[2], "Error (criu/cr-dump.c:1975): Dumping FAILED.");
}

TEST(CriuLog, KeepsTheFirstOnesAndTheLastWhenThereAreTooMany) {
  std::string log;
  for (int i = 0; i < 20; ++i) log += fmt::format("Error (x.c:1): number {}\n", i);
  auto lines = error_lines_in(log, 4);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_TRUE(lines[0].ends_with("number 0"));
  EXPECT_TRUE(lines[2].ends_with("number 2"));
  EXPECT_TRUE(lines[3].ends_with("number 19"));
}

TEST(CriuLog, RepetitionsOnce) { EXPECT_EQ(error_lines_in("Error (a.c:1): x\nError (a.c:1): x\n").size(), 1u); }

TEST(CriuLog, LastLineWithoutNewlineCounts) { EXPECT_EQ(error_lines_in("Error (a.c:1): x").size(), 1u); }

TEST(CriuLog, RemedyOfTheCauseNotOfTheConsequence) {
  EXPECT_NE(remedy_for(error_lines_in(kLog)).find("io_uring"), std::string::npos);
  EXPECT_EQ(remedy_for({"Error (a.c:1): something new"}), "");
}

TEST(CriuLog, ErrorQuotesOrSaysThatThereIsNothingToQuote) {
  auto e = error_from_log(Errc::kUnavailable, "dump process 42", "/nonexistent/dump.log", "CRIU gave up");
  EXPECT_EQ(e.message(), "dump process 42: CRIU gave up (CRIU logged no error in /nonexistent/dump.log)");
}

}  // namespace
}  // namespace transship::criu
