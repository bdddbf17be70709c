// Texts and packets of this host: tables of the kernel, answers of programs, addresses, logs.
#include "arbiter/etcd_messages.h"
#include "base/text.h"
#include "cli/args.h"
#include "criu/log.h"
#include "engine/host_ports.h"
#include "fuzz/input.h"
#include "fuzz/target.h"
#include "gate/command_line.h"
#include "gateway/balance.h"
#include "names/resolv_conf.h"
#include "network/placement.h"
#include "network/tun.h"
#include "network/tunnel_config.h"
#include "sys/proc_text.h"
#include "wire/endpoint.h"

namespace transship::fuzz {
namespace {

void kernel_tables(std::string_view text) {
  (void)sys::parse_fields(text);
  (void)sys::parse_fdinfo(text);
  (void)sys::parse_maps(text);
  (void)sys::parse_mountinfo(text);
  (void)sys::parse_inet_sockets(text);
  (void)engine::parse_proc_net(std::string(text), "tcp");
}

void addresses(std::string_view text) {
  if (auto endpoint = wire::parse_endpoint(text); endpoint) {
    auto again = wire::parse_endpoint(wire::to_text(*endpoint));
    TS_CHECK(again && *again == *endpoint, "{} of {}", wire::to_text(*endpoint), text);
  }
  if (auto address = network::IpAddress::parse(std::string(text)); address) {
    auto again = network::IpAddress::parse(address->text());
    TS_CHECK(again && *again == *address);
  }
  if (auto udp = network::parse_udp_endpoint(text); udp) {
    auto again = network::parse_udp_endpoint(network::to_text(*udp));
    TS_CHECK(again && *again == *udp);
  }
  if (auto key = network::TunnelPublicKey::parse(text); key) TS_CHECK(key->text() == text);
  if (auto print = wire::Fingerprint::parse(std::string(text)); print) TS_CHECK(print->text() == text);
  (void)cli::parse_bit_rate(std::string(text));
}

// A node's own resolver has the file back as it was.
void resolver(std::string_view text) {
  auto with = names::with_nameserver(text, "169.254.185.53");
  TS_CHECK(names::has_nameserver(with, "169.254.185.53"));
  TS_CHECK(names::without_nameserver(with) == names::without_nameserver(text));
  TS_CHECK(names::with_nameserver(with, "169.254.185.53") == with);
}

void programs(Input& in) {
  auto first = in.text(), second = in.text(), third = in.text();
  (void)gateway::parse_servers(first, second);
  (void)gateway::parse_pid(third);
  (void)network::parse_wg_dump(first);
  (void)network::parse_placed_state({first, second, third, first});
  (void)network::gateway_routes(first);
  (void)network::beaten_by_own_route(second, "10.88.0.3");
  (void)criu::error_lines_in(third, 3);
}

void packets(std::string_view bytes) { (void)network::destination_of(as_bytes(bytes)); }

void command_lines(std::string_view text) {
  auto args = split(text, '\n');
  auto line = gate::parse_command_line(args);
  (void)gate::restore_arguments(line, "/images", "/work", "/log");
  (void)cli::parse_arguments(args);
}

void etcd(std::string_view text) {
  using namespace arbiter::etcd;
  auto back = from_base64(base64(text));
  TS_CHECK(back && *back == text);
  auto json = Json::parse(text, nullptr, false);
  (void)number_at(json, "TTL");
  (void)cluster_of(json);
  (void)parse_range(json);
  auto outcome = parse_txn(json);
  if (!outcome) return;
  for (const auto& value : outcome->values)
    if (value) (void)parse_decision(*value);
}

void run(std::string_view bytes) {
  Input in(bytes);
  switch (in.byte() % 7) {
    case 0: kernel_tables(in.rest()); break;
    case 1: addresses(in.rest()); break;
    case 2: resolver(in.rest()); break;
    case 3: programs(in); break;
    case 4: packets(in.rest()); break;
    case 5: etcd(in.rest()); break;
    default: command_lines(in.rest());
  }
}

std::vector<std::string> seeds() {
  auto one = [](uint8_t kind, std::string_view text) { return Output().byte(kind).raw(text).bytes(); };
  constexpr std::string_view kSockets =
      "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
      "   0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n"
      "   1: 0000000000000000FFFF00000300580A:18EB 0000000000000000FFFF00000100580A:9C40 01 00000000:00000010 00:00 0 "
      "0 0 7\n";
  constexpr std::string_view kMaps =
      "00400000-00401000 rw-s 00000000 00:2a 77 /dev/zero (deleted)\nName:\tx\npos:\t0\nmnt_id:\t12\nlock:\t1: FLOCK  "
      "ADVISORY  WRITE 1\ninotify wd:1 ino:2 sdev:800013 mask:3\ntty-index:\t1\nPid:\t-1\n"
      "36 35 98:0 /mnt\\040x /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n";
  Output programs, haproxy;
  programs.byte(3)
      .piece(
          "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0MTI=\tMDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\t7441\toff\n"
          "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\t(none)\t192.0.2.1:7441\t10.88.0.3/32\t1700000000\t1\t2\t25\n")
      .piece(R"([{"priority":6000,"src":"10.88.0.3","table":"74300","protocol":"185"}])")
      .piece("(00.01) Error (criu/x.c:1): cannot\n");
  haproxy.byte(3)
      .piece(
          "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_check_state srv_port\n"
          "2 containers 1 redis-80 10.88.0.3 2 0 6 80\n")
      .piece("# pxname,svname,qcur,scur\ncontainers,redis-80,0,1\n")
      .piece("Name: HAProxy\nPid: 77\n");
  std::string v4("\x45\0\0\x14\0\0\0\0\x40\x01\0\0\x0a\x58\0\1\x0a\x58\0\3", 20), v6("\x60\0\0\0\0\0\x3a\x40", 8);
  return {one(0, kSockets),
          one(0, kMaps),
          one(1, "[2001:db8::1]:7440"),
          one(1, "192.0.2.1:7441"),
          one(1, "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="),
          one(1, "SHA256:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE"),
          one(1, "1.5gbit/s"),
          one(2, names::with_nameserver("nameserver 10.0.0.1\nsearch x", "10.9.9.9")),
          programs.bytes(),
          haproxy.bytes(),
          one(4, v4),
          one(4, v6 + std::string(32, '\7')),
          one(5, R"({"header":{"cluster_id":"255"},"TTL":"10","succeeded":false,"responses":[{"response_range":)"
                 R"({"kvs":[{"value":"YWJvcnQgYXdz"}]}},{"response_range":{}}]})"),
          one(5, R"({"header":{},"kvs":[{"value":"Y29tbWl0IGF3cw=="}]})"),
          one(6, "--log\n/l\n--log-format=json\ncreate\n--bundle\n/b\n--pid-file\n/p\nredis"),
          one(6, "move\nredis\n--to\nazure\n--bandwidth-limit\n100mbit"),
          one(6, "expose\nredis:6379\nazure:7379/tcp\n--json")};
}

const Registration kRegistration({"host_texts", run, seeds});

}  // namespace
}  // namespace transship::fuzz
