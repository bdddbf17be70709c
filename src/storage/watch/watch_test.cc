#include "storage/watch/watch_test.h"

namespace transship::storage::testing {

std::string difference(const Scan& walked, const Scan& told) {
  if (walked.entries() != told.entries())
    return fmt::format("{} names by a walk, {} by the watch", walked.entries(), told.entries());
  for (uint32_t i = 0; i < walked.entries(); ++i) {
    const Node &a = walked.nodes()[i], &b = told.nodes()[i];
    auto children = [](const Node& n) { return n.child_count == 0 ? 0 : n.first_child; };
    if (walked.path(i) != told.path(i)) return fmt::format("{} by a walk, {}", walked.path(i), told.path(i));
    if (a.parent != b.parent || a.child_count != b.child_count || children(a) != children(b))
      return fmt::format("place or children of {}", walked.path(i));
    if (a.inode != b.inode || a.mode != b.mode || a.nlink != b.nlink || a.rdev != b.rdev || a.size != b.size)
      return fmt::format("attributes of {}: size {} and {}, mode {:o} and {:o}, {} and {} names", walked.path(i),
                         a.size, b.size, a.mode, b.mode, a.nlink, b.nlink);
    if (a.ctime_ns != b.ctime_ns || a.mtime_ns != b.mtime_ns) return fmt::format("times of {}", walked.path(i));
  }
  return "";
}

void WatchedTree::watch(const WatchOptions& options) {
  auto made = TreeWatch::create(fs.fd(), options);
  ASSERT_TRUE(made) << made.error().message();
  follow = std::move(*made);
  check("at first", "the first scan");
}

void WatchedTree::check(const std::string& what, const std::string& why_walked) {
  settle();  // else everything that is young is looked at in any case
  auto now = follow->scan(last ? &*last : nullptr, look_too, never());
  ASSERT_TRUE(now) << what << ": " << now.error().message();
  auto walked = scan_tree(fs.fd(), never());
  ASSERT_TRUE(walked) << walked.error().message();
  EXPECT_EQ(difference(*walked, *now), "") << what;
  EXPECT_EQ(follow->stats().walked, why_walked) << what;
  last = std::move(*now);
}

}  // namespace transship::storage::testing
