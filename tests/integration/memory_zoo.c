/* Several processes with every kind of memory that a move has to carry. Each looks after its own: a line "N fine" on
 * standard output for every round in which all was as it should be, "N BAD what" and the end otherwise. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096, PRIVATE = 2048, SHARED = 1024, LOCKED = 16, HIDDEN = 8 };

static int self;
static uint64_t *shared;
static __thread uint64_t thread_mark;

static void bad(const char *what) {
  printf("%d BAD %s\n", self, what);
  fflush(stdout);
  _exit(1);
}

static uint64_t *map(size_t pages, int flags) {
  void *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) bad("mmap");
  return p;
}

static uint64_t word(uint64_t seed, size_t i) { return (seed * 1000003 + i) * 0x9e3779b97f4a7c15ULL; }

static void fill(uint64_t *p, size_t pages, uint64_t seed) {
  for (size_t i = 0; i < pages * PAGE / 8; i += 64) p[i] = word(seed, i);
}

static void check(const uint64_t *p, size_t pages, uint64_t seed, const char *what) {
  for (size_t i = 0; i < pages * PAGE / 8; i += 64)
    if (p[i] != word(seed, i)) bad(what);
}

static void *thread(void *arg) {
  char stack[3 * PAGE];
  memset(stack, self + 1, sizeof stack);
  thread_mark = word(self, 7);
  for (;;) {
    usleep(20000);
    for (size_t i = 0; i < sizeof stack; ++i)
      if (stack[i] != self + 1) bad("stack of a thread");
    if (thread_mark != word(self, 7)) bad("memory of a thread");
  }
  return arg;
}

static void live(void) {
  uint64_t *own = map(PRIVATE, MAP_PRIVATE), *locked = map(LOCKED, MAP_PRIVATE), *hidden = map(HIDDEN, MAP_PRIVATE);
  uint64_t *sparse = map(PRIVATE, MAP_PRIVATE);
  fill(own, PRIVATE, self * 10 + 1);
  fill(locked, LOCKED, self * 10 + 2);
  fill(hidden, HIDDEN, self * 10 + 3);
  mprotect(hidden, HIDDEN * PAGE, PROT_NONE);
  mlock(locked, LOCKED * PAGE);
  for (size_t i = 0; i < PRIVATE; i += 3) sparse[i * PAGE / 8] = word(self, i);
  /* Two mappings side by side, as far as contents go one range. */
  mprotect(own + PRIVATE / 2 * PAGE / 8, PRIVATE / 4 * PAGE, PROT_READ);
  int exe = open("/proc/self/exe", O_RDONLY);
  uint64_t *copied = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, exe, 0);
  if (copied == MAP_FAILED) bad("mmap of a file");
  close(exe);
  fill(copied, 2, self * 10 + 4);
  pthread_t t;
  if (pthread_create(&t, NULL, thread, NULL) != 0) bad("pthread_create");
  for (uint64_t round = 1, last = 0;; ++round) {
    check(own, PRIVATE, self * 10 + 1, "private memory");
    check(locked, LOCKED, self * 10 + 2, "locked memory");
    check(copied, 2, self * 10 + 4, "changed pages of a file");
    mprotect(hidden, HIDDEN * PAGE, PROT_READ);
    check(hidden, HIDDEN, self * 10 + 3, "memory without access");
    mprotect(hidden, HIDDEN * PAGE, PROT_NONE);
    for (size_t i = 0; i < PRIVATE; ++i)
      if (sparse[i * PAGE / 8] != (i % 3 == 0 ? word(self, i) : 0)) bad("pages never written");
    for (size_t i = 64; i < SHARED * PAGE / 8; i += 64)
      if (shared[i] != word(99, i)) bad("shared memory");
    uint64_t now = __atomic_add_fetch(&shared[0], 1, __ATOMIC_SEQ_CST);
    if (now <= last) bad("count in shared memory");
    last = now;
    printf("%d fine %lu\n", self, (unsigned long)round);
    fflush(stdout);
    usleep(50000);
  }
}

int main(void) {
  shared = map(SHARED, MAP_SHARED);
  fill(shared, SHARED, 99);
  shared[0] = 0;
  if (fork() == 0) _exit(0); /* never waited for */
  for (int i = 1; i <= 3; ++i) {
    if (fork() == 0) {
      self = i;
      break;
    }
  }
  live();
}
