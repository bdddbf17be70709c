// Loaded into every program of an image (/etc/ld.so.preload): who becomes another user only believes so. For machines
// on which root lacks CAP_SYS_RESOURCE, as in some virtual ones: there CRIU cannot dump processes of other users
// (prlimit: Operation not permitted). A real container does not need it. Of one thread or many, as glibc has it; not
// kept over exec, where every program begins as root again.
#include <grp.h>
#include <sys/types.h>
#include <unistd.h>
#include <cerrno>
#include <initializer_list>

namespace {

struct Ids {
  unsigned real = 0, effective = 0, saved = 0;

  bool mine(unsigned id) const { return id == real || id == effective || id == saved; }

  int set(unsigned r, unsigned e, unsigned s) {
    for (const unsigned id : {r, e, s}) {
      if (id != ~0U && effective != 0 && !mine(id)) {
        errno = EPERM;
        return -1;
      }
    }
    if (r != ~0U) real = r;
    if (e != ~0U) effective = e;
    if (s != ~0U) saved = s;
    return 0;
  }
};

Ids users;
Ids groups;

}  // namespace

extern "C" {

uid_t getuid() noexcept { return users.real; }
uid_t geteuid() noexcept { return users.effective; }
gid_t getgid() noexcept { return groups.real; }
gid_t getegid() noexcept { return groups.effective; }

int setuid(uid_t id) noexcept { return users.effective == 0 ? users.set(id, id, id) : users.set(~0U, id, ~0U); }
int seteuid(uid_t id) noexcept { return users.set(~0U, id, ~0U); }
int setreuid(uid_t r, uid_t e) noexcept { return users.set(r, e, e); }
int setresuid(uid_t r, uid_t e, uid_t s) noexcept { return users.set(r, e, s); }

// Whose the group is depends on the user: root may be of any.
int setresgid(gid_t r, gid_t e, gid_t s) noexcept {
  if (users.effective != 0) return groups.set(r, e, s);
  const unsigned effective = groups.effective;
  groups.effective = 0;
  return groups.set(r, e == ~0U ? effective : e, s);
}
int setgid(gid_t id) noexcept { return users.effective == 0 ? setresgid(id, id, id) : setresgid(~0U, id, ~0U); }
int setegid(gid_t id) noexcept { return setresgid(~0U, id, ~0U); }
int setregid(gid_t r, gid_t e) noexcept { return setresgid(r, e, e); }
int setgroups(size_t, const gid_t*) noexcept { return 0; }
int initgroups(const char*, gid_t) { return 0; }

}  // extern "C"
