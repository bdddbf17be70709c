// A hostile program for the tests of the tracker: threads that map, unmap, move, drop, protect and write memory of
// every kind, fork, and execute themselves again, as fast as they can. Prints "ready" and goes on until it is killed.
//
//   track_churn THREADS [NAP_US [LIFE_MS]]
//
// It rests NAP_US after every eighth step: the more, the more of its memory stays as it was from round to round.
#include <fcntl.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kSlots = 64;
constexpr size_t kSlotPages = 256;
constexpr size_t kHugeBytes = 8U << 20;
constexpr size_t kSharedPages = 512;

struct Random {
  uint64_t state;
  uint64_t next() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  }
  size_t below(size_t n) { return (next() >> 16) % n; }
};

struct Slot {
  std::byte* at = nullptr;
  size_t pages = 0;
  bool file = false;
};

int file_fd = -1;
std::vector<std::byte*> shared_areas;

void put(std::byte* page, Random& random) {
  uint64_t value = random.next();
  std::memcpy(page + random.below(kPage / sizeof value) * sizeof value, &value, sizeof value);
}

// Exclusive: addresses that this thread has given up, perhaps, and is about to unmap. Shared: the kernel chooses
// addresses.
std::shared_mutex addresses;

class Churner {
 public:
  Churner(uint64_t seed, bool first) : random_{seed}, first_(first) {}
  void step() {
    Slot& slot = slots_[random_.below(kSlots)];
    if (slot.at == nullptr) return fill(slot);
    size_t op = random_.below(100);
    if (op < 45) return write(slot);
    if (op < 51) return empty(slot);
    if (op < 57) return resize(slot);
    if (op < 63) return drop(slot);
    if (op < 69) return replace_part(slot);
    if (op < 73) return protect(slot);
    if (op < 77) return move_over(slot);
    if (op < 80) return punch(slot);
    if (op < 84) return huge();
    if (op < 85) return visit();
    if (op < 88) return deep_stack(2 + random_.below(60));
    if (op < 93) return share();
    if (op < 95 && first_) return grow_heap();
    if (op < 97 && first_ && random_.below(40) == 0) return fork_and_maybe_exec();
    read_into(slot);
  }

 private:
  std::byte* page_of(Slot& slot) { return slot.at + random_.below(slot.pages) * kPage; }
  void fill(Slot& slot) {
    slot.pages = 1 + random_.below(kSlotPages);
    slot.file = random_.below(4) == 0;
    int flags = MAP_PRIVATE | (slot.file ? 0 : MAP_ANONYMOUS);
    std::shared_lock lock(addresses);
    void* at = ::mmap(nullptr, slot.pages * kPage, PROT_READ | PROT_WRITE, flags, slot.file ? file_fd : -1, 0);
    lock.unlock();
    slot.at = at == MAP_FAILED ? nullptr : static_cast<std::byte*>(at);
    for (size_t i = 0; slot.at != nullptr && i < slot.pages; i += 1 + random_.below(3))
      put(slot.at + i * kPage, random_);
  }
  void empty(Slot& slot) {
    (void)::munmap(slot.at, slot.pages * kPage);
    slot.at = nullptr;
  }
  void write(Slot& slot) {
    for (int i = 0; i < 8; ++i) put(page_of(slot), random_);
  }
  void resize(Slot& slot) {
    size_t pages = 1 + random_.below(kSlotPages);
    std::shared_lock lock(addresses);
    void* at = ::mremap(slot.at, slot.pages * kPage, pages * kPage, MREMAP_MAYMOVE);
    lock.unlock();
    // Fails over several mappings, which slots become. Pages beyond the end of a file cannot be touched.
    if (at == MAP_FAILED) return;
    slot.at = static_cast<std::byte*>(at);
    slot.pages = pages;
  }
  void drop(Slot& slot) {
    size_t from = random_.below(slot.pages);
    (void)::madvise(slot.at + from * kPage, (slot.pages - from) * kPage, MADV_DONTNEED);
    if (random_.below(2) == 0) put(page_of(slot), random_);
  }
  void replace_part(Slot& slot) {
    size_t from = random_.below(slot.pages);
    size_t pages = 1 + random_.below(slot.pages - from);
    (void)::mmap(slot.at + from * kPage, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                 -1, 0);
    if (random_.below(2) == 0) put(slot.at + from * kPage, random_);
  }
  void protect(Slot& slot) {
    constexpr std::array kRights{PROT_NONE, PROT_READ, PROT_WRITE, PROT_READ | PROT_EXEC};
    (void)::mprotect(slot.at, slot.pages * kPage, kRights[random_.below(kRights.size())]);
    std::this_thread::sleep_for(std::chrono::microseconds(random_.below(400)));
    if (::mprotect(slot.at, slot.pages * kPage, PROT_READ | PROT_WRITE) != 0) empty(slot);
  }
  void move_over(Slot& slot) {
    Slot& other = slots_[random_.below(kSlots)];
    if (&other == &slot || other.at == nullptr || other.pages < slot.pages) return;
    size_t bytes = slot.pages * kPage;
    std::unique_lock lock(addresses);
    if (::mremap(slot.at, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, other.at) != MAP_FAILED) {
      slot.at = nullptr;
      return;
    }
    // Over several mappings; what was in the way may be gone already, and must not have become another thread's.
    empty(slot);
    empty(other);
  }
  // A hole, filled again: a slot of several mappings, of anonymous and of file memory.
  void punch(Slot& slot) {
    std::byte* at = page_of(slot);
    (void)::munmap(at, kPage);
    bool file = random_.below(2) == 0;
    void* back = ::mmap(at, kPage, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_FIXED_NOREPLACE | (file ? 0 : MAP_ANONYMOUS), file ? file_fd : -1, 0);
    // Another thread has mapped something there: it is that one's now.
    if (back != at) slot = Slot{};
  }
  void huge() {
    if (huge_ == nullptr) {
      std::shared_lock lock(addresses);
      void* at = ::mmap(nullptr, kHugeBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (at == MAP_FAILED) return;
      huge_ = static_cast<std::byte*>(at);
      (void)::madvise(at, kHugeBytes, MADV_HUGEPAGE);
      for (size_t i = 0; i < kHugeBytes / kPage; i += 64) put(huge_ + i * kPage, random_);
    } else if (random_.below(50) == 0) {
      (void)::munmap(huge_, kHugeBytes);
      huge_ = nullptr;
    } else if (random_.below(20) == 0) {
      (void)::madvise(huge_, kHugeBytes / 2, MADV_DONTNEED);
    } else {
      put(huge_ + random_.below(kHugeBytes / kPage) * kPage, random_);
    }
  }
  // One half of a mapping goes elsewhere and comes back to the other one, which stays where it is.
  void visit() {
    constexpr size_t kHalf = 64 * kPage;
    std::unique_lock lock(addresses);
    if (home_ == nullptr) {
      void* at = ::mmap(nullptr, 4 * kHalf, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (at == MAP_FAILED) return;
      home_ = static_cast<std::byte*>(at);
      (void)::mprotect(home_, 2 * kHalf, PROT_READ | PROT_WRITE);
      for (size_t i = 0; i < 2 * kHalf; i += kPage) put(home_ + i, random_);
    }
    std::byte* from = home_ + (away_ ? 3 : 1) * kHalf;
    std::byte* to = home_ + (away_ ? 1 : 3) * kHalf;
    bool moved = ::mremap(from, kHalf, kHalf, MREMAP_MAYMOVE | MREMAP_FIXED, to) != MAP_FAILED;
    if (moved) away_ = !away_;
    // Nobody else may get the place; one that failed may have emptied the other.
    (void)::mmap(moved ? from : to, kHalf, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    put(home_ + random_.below(kHalf / kPage) * kPage, random_);
  }
  // NOLINTNEXTLINE(misc-no-recursion): growing the stack is what it is for
  void deep_stack(size_t depth) {
    std::array<std::byte, kPage> frame;
    put(frame.data(), random_);
    if (depth > 0) deep_stack(depth - 1);
    sink_ = sink_ + static_cast<uint64_t>(frame[random_.below(kPage)]);
  }
  void share() {
    std::byte* area = shared_areas[random_.below(shared_areas.size())];
    put(area + random_.below(kSharedPages) * kPage, random_);
  }
  void grow_heap() {
    if (heap_pages_ > 2000) {
      (void)::sbrk(-static_cast<intptr_t>(1500 * kPage));
      heap_pages_ -= 1500;
      return;
    }
    size_t pages = 1 + random_.below(16);
    void* at = ::sbrk(static_cast<intptr_t>(pages * kPage));
    if (at == reinterpret_cast<void*>(-1)) return;  // NOLINT(performance-no-int-to-ptr)
    heap_pages_ += pages;
    put(static_cast<std::byte*>(at) + random_.below(pages) * kPage, random_);
  }
  void fork_and_maybe_exec() {
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    pid_t child = ::fork();
    if (child != 0) return;
    (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (auto& slot : slots_) {
      if (slot.at != nullptr) put(slot.at, random_);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(random_.below(60)));
    if (random_.below(2) == 0) ::execl("/proc/self/exe", "track_churn", "1", "200", "150", nullptr);
    ::_exit(0);
  }
  // The kernel's own writes.
  void read_into(Slot& slot) {
    int random_fd = ::open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    std::byte* at = page_of(slot);
    size_t bytes = std::min<size_t>(static_cast<size_t>(slot.at + slot.pages * kPage - at), 4 * kPage);
    (void)!::read(random_fd, at, bytes);
    ::close(random_fd);
  }

  Random random_;
  bool first_;
  std::array<Slot, kSlots> slots_{};
  std::byte* huge_ = nullptr;
  std::byte* home_ = nullptr;
  bool away_ = false;
  size_t heap_pages_ = 0;
  volatile uint64_t sink_ = 0;
};

void add_shared(void* at) {
  if (at == MAP_FAILED || at == nullptr) return;
  shared_areas.push_back(static_cast<std::byte*>(at));
}

// Anonymous, a memfd mapped twice, one on /dev/shm, and System V.
void make_shared() {
  constexpr size_t kBytes = kSharedPages * kPage;
  constexpr int kRights = PROT_READ | PROT_WRITE;
  add_shared(::mmap(nullptr, kBytes, kRights, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  int memfd = static_cast<int>(::syscall(SYS_memfd_create, "churn", 1U));
  if (::ftruncate(memfd, kBytes) == 0) {
    add_shared(::mmap(nullptr, kBytes, kRights, MAP_SHARED, memfd, 0));
    add_shared(::mmap(nullptr, kBytes, kRights, MAP_SHARED, memfd, 0));
  }
  int segment = ::shmget(IPC_PRIVATE, kBytes, 0600);
  void* at = ::shmat(segment, nullptr, 0);
  (void)::shmctl(segment, IPC_RMID, nullptr);
  if (at != reinterpret_cast<void*>(-1)) add_shared(at);  // NOLINT(performance-no-int-to-ptr)
}

// As long as the longest slot, so that no page of it lies beyond the end.
bool make_file() {
  std::string path = "/tmp/track-churn-XXXXXX";
  file_fd = ::mkostemp(path.data(), O_CLOEXEC);
  if (file_fd < 0) return false;
  (void)::unlink(path.c_str());
  std::vector<char> content(kSlotPages * kPage * 4, 5);
  return ::write(file_fd, content.data(), content.size()) == static_cast<ssize_t>(content.size());
}

}  // namespace

int main(int argc, char** argv) {
  int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  int nap_us = argc > 2 ? std::atoi(argv[2]) : 20;
  int life_ms = argc > 3 ? std::atoi(argv[3]) : 3'600'000;
  if (!make_file()) return 1;
  make_shared();
  auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(life_ms);
  auto seed = static_cast<uint64_t>(::getpid()) * 0x9e3779b97f4a7c15ULL;
  std::vector<std::thread> running;
  for (int i = 0; i < threads; ++i) {
    running.emplace_back([=] {
      Churner churner(seed + static_cast<uint64_t>(i) + 1, i == 0);
      for (uint64_t n = 0; std::chrono::steady_clock::now() < end; ++n) {
        churner.step();
        if (n % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(nap_us));
      }
    });
  }
  if (argc < 4) {
    std::puts("ready");
    (void)std::fflush(stdout);
  }
  for (auto& thread : running) thread.join();
  return 0;
}
