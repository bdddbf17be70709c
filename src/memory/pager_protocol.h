// What transshipd and its pager say to each other, on a SOCK_SEQPACKET socket of this host. Native byte order; both are
// of one version, or the connection ends.
#pragma once
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/fd.h"
#include "base/result.h"
#include "memory/page.h"

namespace transship::memory {

// All in the pager's directory.
inline constexpr const char* kLazyPagesSocket = "lazy-pages.socket";  // CRIU's name for it
inline constexpr const char* kPagerSocket = "pager.sock";             // a restarted daemon connects here
inline constexpr const char* kPagerLock = "pager.lock";               // locked (F_OFD_SETLK) as long as the pager lives
inline constexpr const char* kPagerResult = "pager.result";           // how it ended: "filled", or a sentence

enum class PagerWord : uint32_t {
  kInvalid = 0,
  // From the daemon. Those marked * are answered.
  kStore,     // * fds: header, data
  kExpect,    // * space, ranges; number 1: more of the same space follow, not answered
  kSeal,      // * no more pages come
  kReleased,  // number: the task of which the daemon has closed its duplicate
  kAbort,     // end now
  kSucceed,   // * fds: what a pager that was killed has left (fill_record.h); its tasks came before, as kTask
  // From the pager.
  kReady,     // number: its pid; fds: doorbell, record, and of the store if it has one
  kAnswer,    // number: 0, or text says what is wrong
  kTask,      // number, space; fds: duplicate of its userfaultfd. Also said to a successor
  kRequest,   // space, number: a page that somebody waits for
  kTaskDone,  // number: nothing is left to fill, or it has ended
  kTrouble,   // text: something cannot be filled
  kFinished,  // text: as in kPagerResult; the last word
};

inline constexpr size_t kMaxPagerRanges = 1024;  // in one message
inline constexpr size_t kMaxPagerFds = 4;

struct PagerMessage {
  PagerWord word = PagerWord::kInvalid;
  SpaceId space;
  uint64_t number = 0;
  std::vector<PageRange> ranges = {};
  std::string text = {};
  std::vector<Fd> fds = {};  // received ones; when sending, they are lent
};

std::string encode(const PagerMessage& message);
// kPeerProtocol. `fds` are not part of it.
Result<PagerMessage> decode(std::string_view packet);

// `flags` as of sendmsg; kUnavailable with EAGAIN as its errno when it would block.
Result<> send_packet(int socket, std::string_view packet, std::span<const Fd> fds, int flags);
// kUnavailable: the other side is gone, or, with EAGAIN as its errno, has nothing to say now.
Result<PagerMessage> receive_message(int socket, int flags);

// In `dir`, whatever the length of its path; the socket's mode is 0600. `type`: SOCK_STREAM or SOCK_SEQPACKET.
Result<Fd> listen_in(int dir, const char* name, int type);
Result<Fd> connect_in(int dir, const char* name, int type);

}  // namespace transship::memory
