// A directory of CRIU's images: as a destination gets it from a peer, and as a source reads its own.
#include <filesystem>

#include "base/fd.h"
#include "criu/confined_images.h"
#include "criu/connection_images.h"
#include "criu/engine_file_images.h"
#include "criu/image_file.h"
#include "criu/lazy_images.h"
#include "criu/memfd_images.h"
#include "criu/shared_images.h"
#include "fuzz/box.h"
#include "fuzz/input.h"
#include "fuzz/target.h"

namespace transship::fuzz {
namespace {

using namespace criu;

constexpr uint64_t kLimit = 64 * kImagePage;

Box& box() {
  static Box one;
  return one;
}

class AnyPages final : public PageSource {
 public:
  Result<> read(ImageSpace space, uint64_t address, std::span<std::byte> out) override {
    TS_CHECK(out.size() % kImagePage == 0 && out.size() <= kLimit);
    if (address == space.id * kImagePage) return fail(Errc::kNotFound, "no page at {:#x}", address);
    std::ranges::fill(out, std::byte{'p'});
    return {};
  }
};

constexpr ImageMagic kMagics[] = {ImageMagic::kPagemap,    ImageMagic::kMm,        ImageMagic::kProcessTree,
                                  ImageMagic::kCore,       ImageMagic::kFiles,     ImageMagic::kDescriptors,
                                  ImageMagic::kMemfdInode, ImageMagic::kInventory, ImageMagic::kShared,
                                  ImageMagic::kMounts};

// Files of the input: a name, and any bytes or records behind a right beginning.
void lay_out(Input& in, const std::string& directory) {
  for (int files = 0; !in.empty() && files < 64; ++files) {
    auto kind = in.byte();
    auto name = in.text();
    std::string bytes;
    if ((kind & 0x80) != 0) {
      bytes = in.piece();
    } else {
      std::vector<std::string> records;
      for (auto count = in.byte() % 64; count > 0; --count) records.push_back(in.text());
      bytes = serialize_image(kMagics[kind % std::size(kMagics)], records);
    }
    // Names of files that came are plain (wire/lanes.h).
    if (name.empty() || name.find('/') != std::string::npos || name.find('\0') != std::string::npos || name[0] == '.')
      continue;
    auto fd = open_file(fmt::format("{}/{}", directory, name), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd) TS_CHECK(write_all(fd->get(), bytes));
  }
}

void check_plan(const LazyPlan& plan) {
  TS_CHECK(plan.lazy_pages + plan.eager_pages + plan.present_pages <= kLimit / kImagePage);
  uint64_t lazy = 0, eager = 0;
  for (const auto& space : plan.spaces) {
    for (const auto& range : space.lazy) lazy += range.pages;
    for (const auto& range : space.eager) eager += range.pages;
  }
  TS_CHECK(lazy == plan.lazy_pages && eager == plan.eager_pages);
}

void arrive(const std::string& images, uint8_t how) {
  AnyPages pages;
  (void)check_confined(images, {.pid = (how & 16) == 0, .network = (how & 32) == 0, .ipc = (how & 64) == 0});
  if ((how & 1) != 0) (void)end_connections(images);
  (void)accept_engine_files(images);
  if ((how & 2) != 0) (void)reserve_shared_pages(images, 1, 3 * kImagePage);
  if ((how & 4) != 0) (void)expect_inherited(images, {1, 2, 3});
  auto plan = prepare_lazy_restore(images, pages, kLimit);
  if (!plan) return;
  check_plan(*plan);
  // What CRIU itself restores is there now.
  auto again = prepare_lazy_restore(images, pages, kLimit);
  TS_CHECK(again && again->eager_pages == 0, "{}", again ? "eager pages" : again.error().message());
  TS_CHECK(again->lazy_pages == plan->lazy_pages);
}

void leave(const std::string& images, const std::string& spare) {
  auto held = [](uint64_t id, ImageRange range) -> std::vector<ImageRange> {
    if (id % 2 == 0 || range.pages < 3) return {range};
    return {{range.address, 1}, {range.address + 2 * kImagePage, range.pages - 2}};
  };
  (void)leave_out_shared(images, spare, held);
  if (auto plan = plan_lazy_restore(images, kLimit); plan) check_plan(*plan);
}

void run(std::string_view bytes) {
  Input in(bytes);
  auto how = in.byte();
  auto images = box().inside() + "/images", spare = box().inside() + "/spare";
  for (const auto& directory : {images, spare}) TS_CHECK(std::filesystem::create_directory(directory));
  lay_out(in, images);
  if ((how & 8) != 0) {
    leave(images, spare);
  } else {
    arrive(images, how);
  }
  box().check();
  box().clear();
}

// ---- seeds

Output& put(Output& out, ImageMagic magic, std::string_view name, const std::vector<std::string>& records) {
  auto kind = std::ranges::find(kMagics, magic) - std::begin(kMagics);
  out.byte(static_cast<uint8_t>(kind)).piece(name).byte(static_cast<uint8_t>(records.size()));
  for (const auto& record : records) out.piece(record);
  return out;
}

std::string entry(uint64_t address, uint64_t pages, uint32_t flags) {
  img::PagemapEntry e;
  e.set_vaddr(address);
  e.set_compat_nr_pages(0);
  e.set_nr_pages(pages);
  e.set_flags(flags);
  return e.SerializeAsString();
}

std::string head(uint32_t pages_id) {
  img::PagemapHead h;
  h.set_pages_id(pages_id);
  return h.SerializeAsString();
}

void put_task(Output& out) {
  img::Process process;
  process.set_pid(1);
  process.add_threads(1);
  put(out, ImageMagic::kProcessTree, "pstree.img", {process.SerializeAsString()});
  img::Mm mm;
  for (uint64_t at : {0x10000U, 0x20000U}) {
    auto& vma = *mm.add_vmas();
    vma.set_start(at);
    vma.set_end(at + 4 * kImagePage);
    vma.set_flags(at == 0x10000 ? 0x22 : 0x01);  // private and anonymous; shared
    vma.set_status(0);
  }
  put(out, ImageMagic::kMm, "mm-1.img", {mm.SerializeAsString()});
  img::Core core;
  core.mutable_thread_core()->mutable_rseq_entry()->set_rseq_abi_pointer(0x11020);
  put(out, ImageMagic::kCore, "core-1.img", {core.SerializeAsString()});
}

void put_sockets(Output& out) {
  img::File tcp;
  tcp.set_type(4);
  tcp.set_id(1);
  auto& socket = *tcp.mutable_isk();
  socket.set_family(2);
  socket.set_type(1);
  socket.set_proto(6);
  socket.set_state(1);
  socket.set_src_port(6379);
  socket.set_dst_port(40000);
  socket.add_src_addr(0x0300580a);
  socket.add_dst_addr(0x0100580a);
  img::File memfd;
  memfd.set_type(18);
  memfd.set_id(2);
  memfd.mutable_memfd()->set_inode_id(9);
  put(out, ImageMagic::kFiles, "files.img", {tcp.SerializeAsString(), memfd.SerializeAsString()});
  img::Descriptor descriptor;
  descriptor.set_id(2);
  descriptor.set_type(18);
  put(out, ImageMagic::kDescriptors, "fdinfo-2.img", {descriptor.SerializeAsString()});
}

void put_shared(Output& out) {
  img::MemfdInode inode;
  inode.set_name("/dev/zero");
  inode.set_uid(0);
  inode.set_gid(0);
  inode.set_size(8 * kImagePage);
  inode.set_shmid(1);
  inode.set_seals(1);
  inode.set_inode_id(3);
  put(out, ImageMagic::kMemfdInode, "memfd.img", {inode.SerializeAsString()});
  put(out, ImageMagic::kPagemap, "pagemap-shmem-1.img", {head(7), entry(0, 2, kPageInParent)});
}

void put_namespaces(Output& out) {
  auto shared = [](uint32_t first) {
    img::Shared ids;
    ids.set_pid_ns_id(first);
    ids.set_net_ns_id(first + 1);
    ids.set_ipc_ns_id(first + 2);
    ids.set_uts_ns_id(first + 3);
    ids.set_mnt_ns_id(first + 4);
    ids.set_user_ns_id(6);
    return ids;
  };
  img::Inventory inventory;
  inventory.set_img_version(2);
  *inventory.mutable_root_ids() = shared(1);
  put(out, ImageMagic::kInventory, "inventory.img", {inventory.SerializeAsString()});
  put(out, ImageMagic::kShared, "ids-1.img", {shared(11).SerializeAsString()});
  auto mount = [](uint32_t number, const char* place, uint32_t kind, const char* key) {
    img::MountEntry m;
    m.set_fstype(kind);
    m.set_mnt_id(number);
    m.set_parent_mnt_id(1);
    m.set_root("/");
    m.set_mountpoint(place);
    if (*key != '\0') m.set_ext_key(key);
    return m.SerializeAsString();
  };
  put(out, ImageMagic::kMounts, "mountpoints-15.img",
      {mount(1, "./", 0, ""), mount(2, "./proc", 1, ""), mount(3, "./data", 0, "/data"),
       mount(4, "./../x", 0, "CRIU:AUTOFS")});
}

void put_open_files(Output& out) {
  img::File regular;
  regular.set_type(1);
  regular.set_id(3);
  regular.mutable_reg()->set_name("/data/../x");
  img::File listener;
  listener.set_type(5);
  listener.set_id(4);
  listener.mutable_usk()->set_name(std::string("\0redis", 6));
  listener.mutable_usk()->set_name_dir("/run");
  put(out, ImageMagic::kFiles, "files.img", {regular.SerializeAsString(), listener.SerializeAsString()});
}

std::vector<std::string> seeds() {
  std::vector<std::string> all;
  for (bool sockets : {true, false}) {
    Output out;
    out.byte(0);
    put_task(out);
    put_namespaces(out);
    sockets ? put_sockets(out) : put_open_files(out);
    all.push_back(out.bytes());
  }
  for (uint8_t how : std::initializer_list<uint8_t>{0, 1, 7, 8}) {
    Output out;
    out.byte(how);
    put_task(out);
    put(out, ImageMagic::kPagemap, "pagemap-1.img",
        {head(1), entry(0x10000, 3, kPageInParent), entry(0x20000, 2, kPageInParent)});
    out.byte(0x80).piece("pages-1.img").piece("");
    put_sockets(out);
    put_shared(out);
    out.byte(0x80).piece("pages-7.img").piece("");
    all.push_back(out.bytes());
  }
  // With content that CRIU has written itself.
  for (uint8_t how : std::initializer_list<uint8_t>{0, 8}) {
    Output out;
    out.byte(how);
    put_task(out);
    put(out, ImageMagic::kPagemap, "pagemap-1.img",
        {head(1), entry(0x10000, 1, kPagePresent), entry(0x20000, 1, kPageInParent)});
    put(out, ImageMagic::kPagemap, "pagemap-shmem-3.img", {head(2), entry(0, 1, kPagePresent)});
    for (const char* pages : {"pages-1.img", "pages-2.img"})
      out.byte(0x80).piece(pages).piece(std::string(kImagePage, 'c'));
    all.push_back(out.bytes());
  }
  return all;
}

const Registration kRegistration({"criu_images", run, seeds});

}  // namespace
}  // namespace transship::fuzz
