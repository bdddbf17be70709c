#include "criu/connection_images.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/tcp.h>

#include "criu/test_images.h"

namespace transship::criu {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint32_t kInetSocket = 4;

class ConnectionImages : public ImagesTest {
 protected:
  static void put_address(google::protobuf::RepeatedField<uint32_t>* to, const std::string& text) {
    std::array<uint32_t, 4> words = {};
    bool v6 = text.contains(':');
    ASSERT_EQ(::inet_pton(v6 ? AF_INET6 : AF_INET, text.c_str(), words.data()), 1);
    for (int i = 0; i < (v6 ? 4 : 1); ++i) to->Add(words[static_cast<size_t>(i)]);
  }
  static img::File socket(uint32_t id, int type, int protocol, const std::string& from, uint16_t from_port,
                          const std::string& to, uint16_t to_port, uint32_t state = TCP_ESTABLISHED) {
    img::File f;
    f.set_type(kInetSocket);
    f.set_id(id);
    auto& s = *f.mutable_isk();
    s.set_family(from.contains(':') ? AF_INET6 : AF_INET);
    s.set_type(static_cast<uint32_t>(type));
    s.set_proto(static_cast<uint32_t>(protocol));
    s.set_state(state);
    s.set_src_port(from_port);
    s.set_dst_port(to_port);
    put_address(s.mutable_src_addr(), from);
    put_address(s.mutable_dst_addr(), to);
    // A field that we do not know, as CRIU has many.
    s.mutable_unknown_fields()->append("\x70\x02", 2);
    return f;
  }
  static img::File tcp(uint32_t id, const std::string& from, const std::string& to) {
    return socket(id, SOCK_STREAM, IPPROTO_TCP, from, 6379, to, 40'000);
  }
  void files(const std::vector<img::File>& list) {
    std::vector<std::string> records;
    for (const auto& f : list) records.push_back(f.SerializeAsString());
    put("files.img", serialize_image(ImageMagic::kFiles, records));
  }
  std::vector<img::InetSocket> sockets() {
    std::vector<img::InetSocket> all;
    auto bytes = read_image(fd_.get(), "files.img").value();
    auto records = parse_image(bytes, ImageMagic::kFiles, "files.img").value();
    for (auto record : records) all.push_back(decode_record<img::File>(record, "files.img").value().isk());
    return all;
  }
};

TEST_F(ConnectionImages, EndsThoseOfOtherHostsOnly) {
  files({tcp(1, "10.88.0.3", "10.20.1.2"), tcp(2, "127.0.0.1", "127.0.0.1"), tcp(3, "::1", "::1"),
         tcp(4, "::ffff:127.0.0.1", "::ffff:127.0.0.1"), tcp(5, "::ffff:10.88.0.3", "::ffff:10.20.1.2"),
         tcp(6, "fd00::3", "fd00::4"), tcp(7, "10.88.0.3", "10.88.0.3")});
  auto counts = end_connections(dir_);
  ASSERT_TRUE(counts) << counts.error().message();
  EXPECT_EQ(counts->ended, 4U);
  EXPECT_EQ(counts->kept, 3U);
  std::vector<uint32_t> states;
  for (const auto& s : sockets()) states.push_back(s.state());
  EXPECT_THAT(states, ElementsAre(TCP_CLOSE, TCP_ESTABLISHED, TCP_ESTABLISHED, TCP_ESTABLISHED, TCP_CLOSE, TCP_CLOSE,
                                  TCP_CLOSE));
}

TEST_F(ConnectionImages, AnEndedOneIsBoundToNothingAndShutBothWays) {
  auto half_closed = tcp(2, "10.88.0.3", "10.20.1.2");
  half_closed.mutable_isk()->set_state(TCP_FIN_WAIT2);
  half_closed.mutable_isk()->set_shutdown(2);
  files({tcp(1, "10.88.0.3", "10.20.1.2"), half_closed});
  ASSERT_TRUE(end_connections(dir_));
  for (const auto& s : sockets()) {
    EXPECT_EQ(s.src_port() + s.dst_port(), 0U);
    EXPECT_THAT(s.src_addr(), ElementsAre(0U));
    EXPECT_THAT(s.dst_addr(), ElementsAre(0U));
    EXPECT_EQ(s.shutdown(), 3U);
    EXPECT_EQ(s.unknown_fields(), std::string("\x70\x02", 2)) << "what CRIU has beside it stays";
  }
}

TEST_F(ConnectionImages, ListenersAndDatagramsWithoutAPeerStayAsTheyAre) {
  files({socket(1, SOCK_STREAM, IPPROTO_TCP, "0.0.0.0", 6379, "0.0.0.0", 0, TCP_LISTEN),
         socket(2, SOCK_DGRAM, IPPROTO_UDP, "::", 53, "::", 0, TCP_CLOSE)});
  auto before = read_image(fd_.get(), "files.img").value();
  auto counts = end_connections(dir_);
  ASSERT_TRUE(counts);
  EXPECT_EQ(counts->ended + counts->kept + counts->unbound, 0U);
  EXPECT_EQ(read_image(fd_.get(), "files.img").value(), before);
}

TEST_F(ConnectionImages, AConnectedDatagramSocketGoesOnWithTheNewAddress) {
  files({socket(1, SOCK_DGRAM, IPPROTO_UDP, "10.88.0.3", 40'001, "10.20.1.2", 53),
         socket(2, SOCK_DGRAM, IPPROTO_UDP, "127.0.0.1", 40'002, "127.0.0.1", 53)});
  auto counts = end_connections(dir_);
  ASSERT_TRUE(counts);
  EXPECT_EQ(counts->unbound, 1U);
  auto after = sockets();
  EXPECT_THAT(after[0].src_addr(), ElementsAre(0U));
  EXPECT_EQ(after[0].src_port(), 40'001U);
  EXPECT_EQ(after[0].dst_port(), 53U);
  EXPECT_NE(after[1].src_addr(0), 0U);
}

TEST_F(ConnectionImages, NonsenseIsAnError) {
  put("files.img", "nonsense");
  auto counts = end_connections(dir_);
  ASSERT_FALSE(counts);
  EXPECT_EQ(counts.error().code(), Errc::kCorrupt);
  EXPECT_THAT(counts.error().message(), HasSubstr("files.img"));
}

}  // namespace
}  // namespace transship::criu
