#include "workload/churn_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace churn {
namespace {

constexpr uint64_t kOdd = 0x9e3779b97f4a7c15ULL;

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 31)) * kOdd;
  return x ^ (x >> 29);
}

// Every fourth page compresses well, the others not at all.
uint64_t word(Key key, size_t i) {
  if (key == 0 || key % 4 == 0) return key;
  return mix(key + i * kOdd);
}

}  // namespace

Counters counters;

std::string Counters::line() const {
  std::string text;
  auto add = [&](const char* name, const std::atomic<uint64_t>& value) {
    text += std::string(name) + "=" + std::to_string(value.load()) + " ";
  };
  add("writes", writes);
  add("checks", checks);
  add("discards", discards);
  add("maps", maps);
  add("remaps", remaps);
  add("forks", forks);
  add("execs", execs);
  add("threads", threads);
  add("stacks", stacks);
  add("refused", refused);
  text.back() = '\n';
  return text;
}

void bad(const char* where, const void* address, uint64_t expected, uint64_t found) {
  std::fprintf(stderr, "BAD %s at %p: %016lx instead of %016lx\n", where, address, found, expected);
  ::_exit(3);
}

void broken(const char* what) {
  std::fprintf(stderr, "BROKEN %s: %s\n", what, std::strerror(errno));
  ::_exit(4);
}

Key make_key(uint64_t salt, uint64_t place, uint64_t generation) {
  Key key = mix(mix(salt * kOdd + place) + generation);
  return key == 0 ? 1 : key;
}

void fill_page(uint64_t* page, Key key) {
  for (size_t i = 0; i < kPageWords; ++i) page[i] = word(key, i);
}

void check_page(const uint64_t* page, Key key, const char* where) {
  for (size_t i = 0; i < kPageWords; ++i) {
    uint64_t found = page[i];
    if (found != word(key, i)) bad(where, page + i, word(key, i), found);
  }
  ++counters.checks;
}

uint64_t* map_pages(size_t pages, int flags) {
  void* p = ::mmap(nullptr, pages * kPageBytes, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) broken("mmap");
  ++counters.maps;
  return static_cast<uint64_t*>(p);
}

Area::Area(const char* name, size_t pages, int flags, int advice)
    : name_(name), base_(map_pages(pages, flags)), keys_(pages), generations_(pages) {
  // Not every kernel has huge pages.
  if (advice >= 0) (void)::madvise(base_, pages * kPageBytes, advice);
}

void Area::rewrite(size_t page) {
  std::lock_guard lock(lock_of(page));
  check_page(at(page), keys_[page], name_);
  keys_[page] = make_key(reinterpret_cast<uintptr_t>(base_), page, ++generations_[page]);
  fill_page(at(page), keys_[page]);
  ++counters.writes;
}

void Area::check(size_t page) {
  std::lock_guard lock(lock_of(page));
  check_page(at(page), keys_[page], name_);
}

void Area::discard(size_t first, size_t count) {
  std::lock_guard lock(lock_of(first));
  // No further than the lock reaches.
  count = std::min({count, kStripe - first % kStripe, pages() - first});
  if (::madvise(at(first), count * kPageBytes, MADV_DONTNEED) != 0) broken("madvise");
  for (size_t i = first; i < first + count; ++i) keys_[i] = 0;
  ++counters.discards;
}

}  // namespace churn
