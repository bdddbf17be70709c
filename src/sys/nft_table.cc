#include "sys/nft_table.h"

#include <arpa/inet.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>

#include <cstring>
#include <span>

#include "base/thread.h"

namespace transship::sys {
namespace {

// Netlink answers at once; this only keeps a kernel surprise from becoming a hang.
constexpr timeval kReceiveTimeout = {2, 0};

// Builds netlink messages one after another in a buffer.
class Messages {
 public:
  void begin(uint16_t type, uint16_t flags, uint32_t sequence, uint8_t family, uint16_t resource = 0) {
    start_ = data_.size();
    nlmsghdr header{};
    header.nlmsg_type = type;
    header.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
    header.nlmsg_seq = sequence;
    append(&header, sizeof header);
    nfgenmsg generic{};
    generic.nfgen_family = family;
    generic.version = NFNETLINK_V0;
    generic.res_id = htons(resource);
    append(&generic, sizeof generic);
  }
  void text(uint16_t type, const std::string& value) { attribute(type, value.c_str(), value.size() + 1); }
  void number(uint16_t type, uint32_t value) {
    uint32_t wire = htonl(value);
    attribute(type, &wire, sizeof wire);
  }
  size_t open_nested(uint16_t type) {
    size_t at = data_.size();
    nlattr header{0, static_cast<uint16_t>(type | NLA_F_NESTED)};
    append(&header, sizeof header);
    return at;
  }
  void close_nested(size_t at) {
    auto length = static_cast<uint16_t>(data_.size() - at);
    std::memcpy(data_.data() + at, &length, sizeof length);
  }
  void end() {
    auto length = static_cast<uint32_t>(data_.size() - start_);
    std::memcpy(data_.data() + start_, &length, sizeof length);
  }
  const std::string& data() const { return data_; }

 private:
  void append(const void* bytes, size_t size) {
    data_.append(static_cast<const char*>(bytes), size);
    data_.resize((data_.size() + NLMSG_ALIGNTO - 1) & ~static_cast<size_t>(NLMSG_ALIGNTO - 1));
  }
  void attribute(uint16_t type, const void* value, size_t size) {
    nlattr header{static_cast<uint16_t>(sizeof(nlattr) + size), type};
    append(&header, sizeof header);
    append(value, size);
  }
  std::string data_;
  size_t start_ = 0;
};

constexpr uint16_t nft_type(int message) { return static_cast<uint16_t>((NFNL_SUBSYS_NFTABLES << 8) | message); }

void batch_edge(Messages& m, uint16_t type, uint32_t sequence) {
  m.begin(type, 0, sequence, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
  m.end();
}

void drop_chain(Messages& m, const std::string& table, const std::string& name, uint32_t hook, int priority,
                uint32_t sequence) {
  m.begin(nft_type(NFT_MSG_NEWCHAIN), NLM_F_CREATE | NLM_F_ACK, sequence, NFPROTO_INET);
  m.text(NFTA_CHAIN_TABLE, table);
  m.text(NFTA_CHAIN_NAME, name);
  auto nested = m.open_nested(NFTA_CHAIN_HOOK);
  m.number(NFTA_HOOK_HOOKNUM, hook);
  m.number(NFTA_HOOK_PRIORITY, static_cast<uint32_t>(priority));
  m.close_nested(nested);
  m.text(NFTA_CHAIN_TYPE, "filter");
  m.number(NFTA_CHAIN_POLICY, NF_DROP);
  m.end();
}

// Calls `each` with every message of one received datagram.
template <class F>
void for_each_message(std::span<const char> datagram, F&& each) {
  while (datagram.size() >= sizeof(nlmsghdr)) {
    nlmsghdr header;
    std::memcpy(&header, datagram.data(), sizeof header);
    if (header.nlmsg_len < sizeof header || header.nlmsg_len > datagram.size()) return;
    each(header, datagram.subspan(sizeof header, header.nlmsg_len - sizeof header));
    size_t aligned = NLMSG_ALIGN(header.nlmsg_len);
    datagram = datagram.subspan(std::min(aligned, datagram.size()));
  }
}

// 0 or an errno value out of an NLMSG_ERROR message.
int error_of(std::span<const char> payload) {
  int code = 0;
  if (payload.size() >= sizeof code) std::memcpy(&code, payload.data(), sizeof code);
  return -code;
}

std::string table_name(std::span<const char> payload) {
  payload = payload.subspan(std::min(payload.size(), static_cast<size_t>(NLMSG_ALIGN(sizeof(nfgenmsg)))));
  while (payload.size() >= sizeof(nlattr)) {
    nlattr a;
    std::memcpy(&a, payload.data(), sizeof a);
    if (a.nla_len < sizeof a || a.nla_len > payload.size()) break;
    if ((a.nla_type & NLA_TYPE_MASK) == NFTA_TABLE_NAME) {
      std::string value(payload.data() + sizeof a, a.nla_len - sizeof a);
      return value.c_str();  // cut at the terminating zero
    }
    payload = payload.subspan(std::min(static_cast<size_t>(NLA_ALIGN(a.nla_len)), payload.size()));
  }
  return {};
}

Result<Fd> netlink_socket() {
  Fd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
  if (!fd.valid()) return fail_errno(errno, "open a netfilter netlink socket");
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &kReceiveTimeout, sizeof kReceiveTimeout) < 0)
    return fail_errno(errno, "set a timeout on a netlink socket");
  return fd;
}

}  // namespace

bool is_own_netns(const std::string& path) {
  struct stat ours, theirs;
  return ::stat("/proc/self/ns/net", &ours) == 0 && ::stat(path.c_str(), &theirs) == 0 &&
         ours.st_ino == theirs.st_ino && ours.st_dev == theirs.st_dev;
}

Result<NftSocket> NftSocket::open_in_netns_of(pid_t pid) {
  if (pid != 0) return open_in_netns(fmt::format("/proc/{}/ns/net", pid));
  TS_TRY_ASSIGN(Fd socket, netlink_socket());
  return NftSocket(std::move(socket));
}

Result<NftSocket> NftSocket::open_in_netns(const std::string& path) {
  TS_TRY_ASSIGN(Fd netns, open_file(path, O_RDONLY));
  Result<Fd> socket;
  // In a thread of its own: a namespace that cannot be left again would be worse than a thread.
  Thread enter("netns", [&] {
    if (::setns(netns.get(), CLONE_NEWNET) < 0)
      socket = fail_errno(errno, "enter the network namespace {}", path);
    else
      socket = netlink_socket();
  });
  enter.join();
  if (!socket) return std::unexpected(std::move(socket).error());
  return NftSocket(std::move(*socket));
}

// Sends one batch; every message in it asked for an acknowledgement, `last_sequence` is that of the last one.
Result<> NftSocket::transact(const std::string& messages, uint32_t last_sequence) {
  auto sent = retry_eintr([&] { return ::send(socket_.get(), messages.data(), messages.size(), 0); });
  if (sent < 0) return fail_errno(errno, "send to nf_tables");
  int first_error = 0;
  for (bool done = false; !done;) {
    char buffer[8192];
    auto got = retry_eintr([&] { return ::recv(socket_.get(), buffer, sizeof buffer, 0); });
    if (got < 0) return fail_errno(errno == EAGAIN ? ETIMEDOUT : errno, "wait for nf_tables");
    for_each_message(std::span(buffer, static_cast<size_t>(got)),
                     [&](const nlmsghdr& h, std::span<const char> payload) {
                       if (h.nlmsg_type != NLMSG_ERROR) return;
                       int e = error_of(payload);
                       if (e != 0 && first_error == 0) first_error = e;
                       // An error about the batch as a whole comes with the sequence number of its first message.
                       done = done || h.nlmsg_seq == last_sequence || e != 0;
                     });
  }
  if (first_error != 0) return fail_errno(first_error, "change nf_tables");
  return {};
}

Result<> NftSocket::add_drop_all(const std::string& table, int priority) {
  Messages m;
  batch_edge(m, NFNL_MSG_BATCH_BEGIN, sequence_++);
  m.begin(nft_type(NFT_MSG_NEWTABLE), NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, sequence_++, NFPROTO_INET);
  m.text(NFTA_TABLE_NAME, table);
  m.end();
  drop_chain(m, table, "input", NF_INET_LOCAL_IN, priority, sequence_++);
  drop_chain(m, table, "output", NF_INET_LOCAL_OUT, priority, sequence_++);
  uint32_t last = sequence_++;
  drop_chain(m, table, "forward", NF_INET_FORWARD, priority, last);
  batch_edge(m, NFNL_MSG_BATCH_END, sequence_++);
  TS_TRY_CTX(transact(m.data(), last), "add the table inet " + table);
  return {};
}

Result<> NftSocket::remove(const std::string& table) {
  Messages m;
  batch_edge(m, NFNL_MSG_BATCH_BEGIN, sequence_++);
  uint32_t last = sequence_++;
  m.begin(nft_type(NFT_MSG_DELTABLE), NLM_F_ACK, last, NFPROTO_INET);
  m.text(NFTA_TABLE_NAME, table);
  m.end();
  batch_edge(m, NFNL_MSG_BATCH_END, sequence_++);
  if (auto r = transact(m.data(), last); !r && r.error().sys_errno() != ENOENT)
    return std::unexpected(std::move(r).error().context("remove the table inet " + table));
  return {};
}

Result<std::vector<std::string>> NftSocket::tables() {
  Messages m;
  m.begin(nft_type(NFT_MSG_GETTABLE), NLM_F_DUMP, sequence_++, NFPROTO_INET);
  m.end();
  if (retry_eintr([&] { return ::send(socket_.get(), m.data().data(), m.data().size(), 0); }) < 0)
    return fail_errno(errno, "ask for the nf_tables tables");
  std::vector<std::string> names;
  int error = 0;
  for (bool done = false; !done;) {
    char buffer[32768];
    auto got = retry_eintr([&] { return ::recv(socket_.get(), buffer, sizeof buffer, 0); });
    if (got < 0) return fail_errno(errno == EAGAIN ? ETIMEDOUT : errno, "list the nf_tables tables");
    for_each_message(std::span(buffer, static_cast<size_t>(got)),
                     [&](const nlmsghdr& h, std::span<const char> payload) {
                       if (h.nlmsg_type == NLMSG_DONE) done = true;
                       if (h.nlmsg_type == NLMSG_ERROR) {
                         error = error_of(payload);
                         done = true;
                       }
                       if (h.nlmsg_type == nft_type(NFT_MSG_NEWTABLE)) names.push_back(table_name(payload));
                     });
  }
  if (error != 0) return fail_errno(error, "list the nf_tables tables");
  return names;
}

Result<bool> NftSocket::has(const std::string& table) {
  TS_TRY_ASSIGN(auto names, tables());
  for (const auto& name : names) {
    if (name == table) return true;
  }
  return false;
}

}  // namespace transship::sys
