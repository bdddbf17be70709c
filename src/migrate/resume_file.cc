#include "migrate/resume_file.h"

#include "sys/file.h"

namespace transship::migrate {
namespace {

constexpr const char* kResumeFile = "resume";
constexpr const char* kExpectedFile = "expected-pages";
constexpr size_t kMaxResumeFile = 8U << 20;
// Far more than CRIU's images could describe within the memory that holds them.
constexpr size_t kMaxExpectedFile = 256U << 20;
constexpr uint64_t kMaxPages = (uint64_t{1} << 62) / memory::kPageBytes;

template <class Message>
Result<Message> read_message(const std::string& path, size_t limit) {
  TS_TRY_ASSIGN(std::string bytes, sys::read_file(path, limit));
  Message message;
  if (!message.ParseFromString(bytes)) return fail(Errc::kCorrupt, "{} is not what this daemon writes", path);
  return message;
}

Result<std::vector<memory::PageRange>> ranges_of(const journal::ExpectedSpace& space) {
  std::vector<memory::PageRange> ranges;
  const auto& numbers = space.gaps_and_lengths();
  uint64_t at = 0;
  for (int i = 0; i + 1 < numbers.size(); i += 2) {
    uint64_t gap = numbers[i];
    uint64_t pages = numbers[i + 1];
    if (gap > kMaxPages || pages == 0 || pages > kMaxPages || at + gap + pages > kMaxPages)
      return fail(Errc::kCorrupt, "the pages of process {} are out of range", space.id());
    ranges.push_back({(at + gap) * memory::kPageBytes, pages});
    at += gap + pages;
  }
  return ranges;
}

}  // namespace

Result<> write_resume_file(const std::string& directory, const journal::ResumeFile& file) {
  return sys::write_file_atomic(directory + "/" + kResumeFile, file.SerializeAsString());
}

Result<journal::ResumeFile> read_resume_file(const std::string& directory) {
  return read_message<journal::ResumeFile>(directory + "/" + kResumeFile, kMaxResumeFile);
}

Result<> write_expected_pages(const std::string& directory, const ExpectedPages& expected) {
  journal::ExpectedPages message;
  for (const auto& [space, ranges] : expected) {
    auto& s = *message.add_spaces();
    s.set_id(space.id);
    uint64_t at = 0;
    for (const auto& range : ranges) {
      s.add_gaps_and_lengths(range.address / memory::kPageBytes - at);
      s.add_gaps_and_lengths(range.pages);
      at = range.end() / memory::kPageBytes;
    }
  }
  return sys::write_file_atomic(directory + "/" + kExpectedFile, message.SerializeAsString());
}

Result<ExpectedPages> read_expected_pages(const std::string& directory) {
  TS_TRY_ASSIGN(auto message, read_message<journal::ExpectedPages>(directory + "/" + kExpectedFile, kMaxExpectedFile));
  ExpectedPages expected;
  for (const auto& space : message.spaces()) {
    TS_TRY_ASSIGN(auto ranges, ranges_of(space));
    expected.emplace_back(memory::SpaceId{memory::SpaceKind::kTask, space.id()}, std::move(ranges));
  }
  return expected;
}

}  // namespace transship::migrate
