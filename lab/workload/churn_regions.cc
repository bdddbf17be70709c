#include "workload/churn_regions.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "workload/churn_pages.h"

namespace churn {
namespace {

constexpr size_t kSlots = 12;
constexpr size_t kMaxPages = 256;

class Region {
 public:
  Region(size_t pages, uint64_t salt, Dice& dice) : base_(map_pages(pages, MAP_PRIVATE)), keys_(pages), salt_(salt) {
    rewrite_some(dice);
  }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region() {
    if (base_ == nullptr) return;
    if (::munmap(base_, bytes()) != 0) broken("munmap");
  }
  void check() const {
    for (size_t i = 0; i < keys_.size(); ++i) check_page(base_ + i * kPageWords, keys_[i], "a mapping");
  }
  // About two thirds; the others are never touched, or stay as they are.
  void rewrite_some(Dice& dice) {
    ++generation_;
    for (size_t i = 0; i < keys_.size(); ++i) {
      if (dice.below(3) == 0) continue;
      keys_[i] = make_key(salt_, i, generation_);
      fill_page(base_ + i * kPageWords, keys_[i]);
    }
  }
  void resize(size_t pages) {
    void* p = ::mremap(base_, bytes(), pages * kPageBytes, MREMAP_MAYMOVE);
    if (p == MAP_FAILED) p = copied(pages);
    base_ = static_cast<uint64_t*>(p);
    keys_.resize(pages);
    ++counters.remaps;
  }
  // False: some of it may be there and some here, which nobody can tell. It is left alone.
  bool move_away() {
    uint64_t* target = map_pages(keys_.size(), MAP_PRIVATE);
    void* p = ::mremap(base_, bytes(), bytes(), MREMAP_MAYMOVE | MREMAP_FIXED, target);
    if (p != target) refused("mremap to a place");
    base_ = p == target ? target : nullptr;
    ++counters.remaps;
    return base_ != nullptr;
  }
  void cut_front(size_t pages) {
    if (::munmap(base_, pages * kPageBytes) != 0) broken("munmap of a part");
    base_ += pages * kPageWords;
    keys_.erase(keys_.begin(), keys_.begin() + static_cast<std::ptrdiff_t>(pages));
  }
  void hide_for_a_moment() {
    if (::mprotect(base_, bytes(), PROT_NONE) != 0) broken("mprotect");
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    if (::mprotect(base_, bytes(), PROT_READ | PROT_WRITE) != 0) broken("mprotect");
  }
  size_t pages() const { return keys_.size(); }

 private:
  size_t bytes() const { return keys_.size() * kPageBytes; }
  // Whose writes are followed has mappings cut where it would not cut them itself, and mremap() wants one in one piece
  // (docs/memory.md).
  static void refused(const char* what) {
    if (errno != EFAULT) broken(what);
    ++counters.refused;
  }
  // What realloc() does then.
  uint64_t* copied(size_t pages) {
    refused("mremap");
    uint64_t* p = map_pages(pages, MAP_PRIVATE);
    std::memcpy(p, base_, std::min(pages, keys_.size()) * kPageBytes);
    if (::munmap(base_, bytes()) != 0) broken("munmap");
    return p;
  }
  uint64_t* base_;
  std::vector<Key> keys_;
  const uint64_t salt_;
  uint64_t generation_ = 0;
};

void change(std::unique_ptr<Region>& region, Dice& dice) {
  switch (dice.below(7)) {
    case 0: return region->resize(1 + dice.below(kMaxPages));
    case 1: return region->move_away() ? void() : region.reset();
    case 2: return region->pages() > 1 ? region->cut_front(1 + dice.below(region->pages() - 1)) : void();
    case 3: return region->hide_for_a_moment();
    case 4: return region.reset();
    default: return region->rewrite_some(dice);
  }
}

}  // namespace

void change_regions_for_ever(uint64_t seed) {
  Dice dice(seed + 1000);
  std::array<std::unique_ptr<Region>, kSlots> regions;
  for (uint64_t turn = 1;; ++turn) {
    auto& region = regions[dice.below(kSlots)];
    if (!region) region = std::make_unique<Region>(1 + dice.below(kMaxPages), seed << 32 | turn, dice);
    region->check();
    change(region, dice);
    if (region) region->check();
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
  }
}

}  // namespace churn
