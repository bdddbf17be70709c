// One writer, or two, that do everything to a file at random while its copy is brought up to date, on each file system.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iostream>
#include <random>

#include "base/thread.h"
#include "storage/written/write_operations.h"
#include "storage/written/written_test.h"

namespace transship::storage {
namespace {

using namespace transship::storage::testing;

constexpr size_t kMiB = 1U << 20;

class WrittenStress : public WrittenBlocksTest, public ::testing::WithParamInterface<DiskKind> {
 protected:
  static constexpr int kTakes = 10;  // in each round
  int race(bool second_writer);
};
INSTANTIATE_TEST_SUITE_P(, WrittenStress, ::testing::ValuesIn(kDiskKinds),
                         [](const auto& kind) { return kind.param.name; });

// A writer does all that while the copy is brought up to date, a second one overwrites if it shall; then they stop.
// The result says how often everything had to be read.
int WrittenStress::race(bool second_writer) {
  std::mt19937 generator(seed());
  auto random = [&generator] { return static_cast<unsigned>(generator()); };
  const char* more = std::getenv("TRANSSHIP_TEST_ROUNDS");
  int rounds = more != nullptr ? std::atoi(more) : 3;
  auto everything = FileWriter::keeping_size();
  std::ranges::copy(FileWriter::changing_size(), std::back_inserter(everything));
  const std::vector<std::string> overwriting = {"write", "pwrite", "direct", "writev", "uring", "splice"};
  FileWriter first(file(), 4 * kMiB, random());
  FileWriter second(first, random());
  FileCopy copy(*blocks_, first.fd());
  int unknown = 0;
  for (int round = 0; round < rounds && !HasFailure(); ++round) {
    std::atomic<bool> stop = false;
    auto work = [&stop](FileWriter& writer, const std::vector<std::string>& names, unsigned from) {
      std::mt19937 choice(from);
      while (!stop) (void)writer.run(names[choice() % names.size()]);
    };
    unsigned one = random(), other = random();
    {
      Thread a("writer-1", [&] { work(first, everything, one); });
      Thread b = second_writer ? Thread("writer-2", [&] { work(second, overwriting, other); }) : Thread();
      for (int take = 0; take < kTakes; ++take) {
        if (!copy.update(true)) ++unknown;
        ::usleep(random() % 20'000);
      }
      stop = true;
    }
    bool last = round + 1 == rounds;
    if (!copy.update(!last)) ++unknown;
    EXPECT_EQ(copy.difference(), "") << "round " << round;
  }
  return unknown;
}

TEST_P(WrittenStress, NothingIsMissedWhileItIsWritten) {
  start(GetParam());
  if (IsSkipped() || HasFailure()) return;
  EXPECT_EQ(race(false), 0);
}

// Direct writes and pages in memory collide here, which the kernel tells as an I/O error: then nothing is known.
TEST_P(WrittenStress, NothingIsMissedWhileTwoWriteIt) {
  start(GetParam());
  if (IsSkipped() || HasFailure()) return;
  std::cout << "not known: " << race(true) << " times\n";
}

}  // namespace
}  // namespace transship::storage
