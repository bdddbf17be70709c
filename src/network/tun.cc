#include "network/tun.h"

#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <array>
#include <cstring>

#include "sys/file.h"

namespace transship::network {

Result<Tun> Tun::create(const std::string& prefix) {
  auto opened = open_file("/dev/net/tun", O_RDWR | O_NONBLOCK);
  if (!opened) {
    return std::unexpected(
        std::move(opened).error().with_remedy("the kernel needs CONFIG_TUN (modprobe tun), the daemon CAP_NET_ADMIN"));
  }
  ifreq request = {};
  auto pattern = prefix + "%d";
  pattern.copy(request.ifr_name, sizeof request.ifr_name - 1);
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  if (::ioctl(opened->get(), TUNSETIFF, &request) != 0) return fail_errno(errno, "make a TUN device");
  std::string name = request.ifr_name;
  // Otherwise the kernel announces itself with IPv6 messages on it. Absent on kernels without IPv6.
  (void)sys::write_control(fmt::format("/proc/sys/net/ipv6/conf/{}/addr_gen_mode", name), "1");
  return Tun(std::move(*opened), std::move(name));
}

Result<size_t> Tun::read(std::span<std::byte> buffer) {
  ssize_t n = retry_eintr([&] { return ::read(fd_.get(), buffer.data(), buffer.size()); });
  if (n >= 0) return static_cast<size_t>(n);
  if (errno == EAGAIN) return size_t{0};
  return fail_errno(errno, "read packets from {}", name_);
}

std::optional<IpAddress> destination_of(std::span<const std::byte> packet) {
  if (packet.empty()) return std::nullopt;
  auto version = static_cast<unsigned>(packet[0]) >> 4;
  if (version == 4 && packet.size() >= 20) {
    std::array<uint8_t, 4> to;
    std::memcpy(to.data(), packet.data() + 16, to.size());
    return IpAddress::v4(to);
  }
  if (version == 6 && packet.size() >= 40) {
    std::array<uint8_t, 16> to;
    std::memcpy(to.data(), packet.data() + 24, to.size());
    return IpAddress::v6(to);
  }
  return std::nullopt;
}

}  // namespace transship::network
