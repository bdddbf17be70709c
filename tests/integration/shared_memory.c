/* Three processes and their shared memory of all kinds: an anonymous mapping, a memfd, a System V segment.
 *   shared_memory ANONYMOUS-MIB MEMFD-MIB SYSV-MIB PAGES-PER-SECOND
 * Each process owns every third page. It writes some of them all the time, remembers in private memory what it wrote last,
 * and checks all pages: its own must be exactly that, the others' whole. A line "N fine" on standard output after each
 * look at everything, "N BAD what" and the end otherwise, "N silent MS" after a time in which it did not run. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, PROCESSES = 3, OBJECTS = 3, SLICE = 64, SILENT_MS = 20 };

struct object {
  const char *name;
  size_t pages;
  uint64_t *at;
  int fd; /* written by write(2) now and then; -1: cannot be */
  uint64_t *expected;
};
static struct object objects[OBJECTS] = {{.name = "anonymous"}, {.name = "memfd"}, {.name = "System V"}};
static int self;
static uint64_t randomness = 88172645463325252ULL;

static void bad(const char *what, const struct object *o, size_t page, uint64_t have, uint64_t want) {
  printf("%d BAD %s: %s page %zu: %llx instead of %llx\n", self, what, o ? o->name : "", page, (unsigned long long)have,
         (unsigned long long)want);
  fflush(stdout);
  _exit(1);
}

static uint64_t any(void) {
  randomness ^= randomness << 13;
  randomness ^= randomness >> 7;
  return randomness ^= randomness << 17;
}

/* Word 0 of a page is its version, odd while somebody writes it; the others follow from it, and do not compress. */
static uint64_t word(const struct object *o, size_t page, uint64_t version, size_t i) {
  uint64_t x = (version * 1000003 + page * 4 + (uint64_t)(o - objects)) * 0x9e3779b97f4a7c15ULL + i * 0xbf58476d1ce4e5b9ULL;
  x ^= x >> 29;
  return x * 0x94d049bb133111ebULL;
}

static void write_page(struct object *o, size_t page, uint64_t version) {
  uint64_t *p = o->at + page * WORDS;
  uint64_t content[WORDS];
  for (size_t i = 1; i < WORDS; ++i) content[i] = word(o, page, version, i);
  __atomic_store_n(p, version - 1, __ATOMIC_SEQ_CST);
  if (o->fd >= 0 && version % 4 == 0) {
    if (pwrite(o->fd, content + 1, PAGE - 8, (off_t)(page * PAGE + 8)) != PAGE - 8) bad("pwrite", o, page, 0, 0);
  } else {
    memcpy(p + 1, content + 1, PAGE - 8);
  }
  __atomic_store_n(p, version, __ATOMIC_SEQ_CST);
  o->expected[page] = version;
}

static void check_page(struct object *o, size_t page) {
  uint64_t *p = o->at + page * WORDS;
  uint64_t version = __atomic_load_n(p, __ATOMIC_SEQ_CST);
  int own = page % PROCESSES == (size_t)self;
  if (own && version != o->expected[page]) bad("an old page", o, page, version, o->expected[page]);
  if (version % 2 != 0) return;
  for (size_t i = 1; i < WORDS; ++i) {
    uint64_t have = __atomic_load_n(p + i, __ATOMIC_RELAXED);
    if (have == word(o, page, version, i)) continue;
    if (!own && __atomic_load_n(p, __ATOMIC_SEQ_CST) != version) return;
    bad("content", o, page, have, word(o, page, version, i));
  }
}

static void make(void) {
  objects[0].at = mmap(NULL, objects[0].pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  objects[1].fd = memfd_create("test", 0);
  if (ftruncate(objects[1].fd, (off_t)(objects[1].pages * PAGE)) != 0) bad("ftruncate", NULL, 0, 0, 0);
  objects[1].at = mmap(NULL, objects[1].pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, objects[1].fd, 0);
  objects[2].at = shmat(shmget(IPC_PRIVATE, objects[2].pages * PAGE, IPC_CREAT | 0600), NULL, 0);
  objects[0].fd = objects[2].fd = -1;
  for (int i = 0; i < OBJECTS; ++i) {
    if (objects[i].at == MAP_FAILED) bad("map", &objects[i], 0, 0, 0);
    objects[i].expected = calloc(objects[i].pages + 1, sizeof(uint64_t));
  }
}

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t); /* a restored process has a CLOCK_MONOTONIC without the gap */
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void write_some(unsigned per_second, double *written, double elapsed_ms) {
  for (*written += per_second * elapsed_ms / 1e3 / PROCESSES; *written >= 1; *written -= 1) {
    struct object *o = &objects[any() % OBJECTS];
    if (o->pages < PROCESSES) continue;
    size_t page = any() % (o->pages / PROCESSES) * PROCESSES + (size_t)self;
    write_page(o, page, o->expected[page] + 2);
  }
}

static void live(unsigned per_second) {
  double before = now_ms(), written = 0;
  for (;; printf("%d fine\n", self), fflush(stdout))
    for (struct object *o = objects; o < objects + OBJECTS; ++o)
      for (size_t page = 0; page < o->pages; ++page) {
        check_page(o, page);
        if (page % SLICE != 0) continue;
        usleep(2000);
        double now = now_ms();
        if (now - before > SILENT_MS) printf("%d silent %.1f\n", self, now - before);
        write_some(per_second, &written, now - before > SILENT_MS ? SILENT_MS : now - before);
        before = now;
      }
}

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  for (int i = 0; i < OBJECTS; ++i) objects[i].pages = (size_t)atoi(argv[i + 1]) * 256;
  make();
  for (int i = 1; i < PROCESSES && self == 0; ++i)
    if (fork() == 0) self = i;
  randomness += (uint64_t)self * 7777;
  for (int i = 0; i < OBJECTS; ++i)
    for (size_t page = (size_t)self; page < objects[i].pages; page += PROCESSES) write_page(&objects[i], page, 2);
  sleep(1); /* until the others are so far; pages of version 0 would look torn */
  live((unsigned)atoi(argv[4]));
}
