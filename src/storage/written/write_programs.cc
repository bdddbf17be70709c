#include "storage/written/write_programs.h"

#include <unistd.h>

#include <bit>
#include <cerrno>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string_view>

#include "storage/written/write_events.h"
#include "storage/written/written_blocks.h"

namespace transship::storage {
namespace {

using Types = std::unique_ptr<btf, decltype(&btf__free)>;

constexpr int kBlockShift = std::countr_zero(WrittenBlocks::kBlock);
// PF_MEMALLOC of include/linux/sched.h: who is looking for memory.
constexpr int kReclaims = 0x800;
// The kernel writes 2 GiB at most in one go.
constexpr int kLongestShift = 31;

// The key (a WriteEvent) lies in the frame.
constexpr int kInode = -24, kFirst = -16, kCount = -8;
constexpr int kIocb = -32;  // and a key of its own

// In bytes from the start of `type`, also through members that have no name.
std::optional<uint32_t> offset_of(const btf* types, const btf_type* type, std::string_view wanted) {
  for (uint32_t i = 0; i < btf_vlen(type); ++i) {
    const auto& member = btf_members(type)[i];
    uint32_t at = btf_member_bit_offset(type, i) / 8;
    std::string_view name = btf__name_by_offset(types, member.name_off);
    if (name == wanted) return at;
    const btf_type* inner = btf__type_by_id(types, member.type);
    if (!name.empty() || inner == nullptr || !btf_is_composite(inner)) continue;
    if (auto inside = offset_of(types, inner, wanted)) return at + *inside;
  }
  return std::nullopt;
}

Result<uint32_t> member(const btf* types, const char* structure, const char* name) {
  auto id = btf__find_by_name_kind(types, structure, BTF_KIND_STRUCT);
  auto found = id < 0 ? std::nullopt : offset_of(types, btf__type_by_id(types, static_cast<uint32_t>(id)), name);
  if (!found) return fail(Errc::kKernelFeatureMissing, "the kernel's {} has no {}", structure, name);
  return *found;
}

// The structure that argument `index` points to; empty: none.
std::string_view argument(const btf* types, const btf_type* function, uint32_t index) {
  if (index >= btf_vlen(function)) return {};
  const auto* type = btf__type_by_id(types, btf_params(function)[index].type);
  if (type == nullptr || !btf_is_ptr(type)) return {};
  type = btf__type_by_id(types, type->type);
  return type != nullptr && btf_is_struct(type) ? btf__name_by_offset(types, type->name_off) : std::string_view();
}

// The id of the type that says what a tracepoint's functions get, when they get what we take them to.
Result<uint32_t> tracepoint(const btf* types, const char* name, std::initializer_list<std::string_view> arguments) {
  auto id = btf__find_by_name_kind(types, fmt::format("btf_trace_{}", name).c_str(), BTF_KIND_TYPEDEF);
  if (id < 0) return fail(Errc::kKernelFeatureMissing, "the kernel has no tracepoint {}", name);
  const auto* type = btf__type_by_id(types, btf__type_by_id(types, static_cast<uint32_t>(id))->type);
  if (type != nullptr && btf_is_ptr(type)) type = btf__type_by_id(types, type->type);
  bool same = type != nullptr && btf_is_func_proto(type);
  uint32_t index = 1;  // the first is the tracepoint's own
  for (auto wanted : arguments) same = same && argument(types, type, index++) == wanted;
  if (!same) return fail(Errc::kKernelFeatureMissing, "the kernel's tracepoint {} has other arguments", name);
  return static_cast<uint32_t>(id);
}

// Leaves for `out` when the inode that `inode` points to is not followed. Sets the key's inode.
void only_followed(BpfCode& code, int inode, const KernelLayout& layout, const EventMaps& maps, BpfCode::Label out) {
  code.load(BPF_DW, 1, inode, layout.inode_number);
  code.store(kInode, 1);
  code.map(1, maps.followed);
  code.frame_address(2, kInode);
  code.call(BPF_FUNC_map_lookup_elem);
  code.jump_if(BPF_JEQ, 0, 0, out);
}

// The end of a program.
void leave(BpfCode& code, BpfCode::Label out) {
  code.place(out);
  code.set(0, 0);
  code.exit();
}

void count(BpfCode& code, const EventMaps& maps, int counter) {
  code.map_value(1, maps.counters, counter);
  code.set(2, 1);
  code.increment(1, 2);
}

// Puts the key into the map: most often it is there already, and then nothing is written.
void gather(BpfCode& code, const EventMaps& maps, BpfCode::Label out) {
  auto added = code.label();
  code.map(1, maps.gathered);
  code.frame_address(2, kInode);
  code.call(BPF_FUNC_map_lookup_elem);
  code.jump_if(BPF_JNE, 0, 0, out);
  code.map(1, maps.gathered);
  code.frame_address(2, kInode);
  code.frame_address(3, kInode);  // any byte will do
  code.set(4, BPF_NOEXIST);
  code.call(BPF_FUNC_map_update_elem);
  code.jump_if(BPF_JEQ, 0, 0, added);
  code.jump_if(BPF_JEQ, 0, -EEXIST, out);
  count(code, maps, 8);  // full, or busy: whatever the reason, it is lost
  code.jump(out);
  code.place(added);
  count(code, maps, 0);
}

// Of the folio in register 7, of the mapping in register 6. One that does not begin where a block does is smaller than
// a block, since folios are aligned to their size; of the others the reader of the event makes as many blocks as there
// may be.
void gather_folio(BpfCode& code, const KernelLayout& layout, const EventMaps& maps, BpfCode::Label out) {
  int shift = kBlockShift - std::countr_zero(static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)));
  auto inside = code.label(), known = code.label();
  code.load(BPF_DW, 6, 6, layout.mapping_host);
  only_followed(code, 6, layout, maps, out);
  code.load(BPF_DW, 7, 7, layout.folio_index);
  code.move(8, 7);
  code.apply(BPF_RSH, 8, shift);
  code.store(kFirst, 8);
  code.apply(BPF_AND, 7, (1 << shift) - 1);
  code.jump_if(BPF_JNE, 7, 0, inside);
  code.store_value(kCount, 0);
  code.jump(known);
  code.place(inside);
  code.store_value(kCount, 1);
  code.place(known);
  gather(code, maps, out);
}

// Leaves for `out` when the kiocb in register 6 is not in the map of reads.
void only_reads(BpfCode& code, const EventMaps& maps, BpfCode::Label out) {
  code.store(kIocb, 6);
  code.map(1, maps.reads);
  code.frame_address(2, kIocb);
  code.call(BPF_FUNC_map_lookup_elem);
  code.jump_if(BPF_JEQ, 0, 0, out);
}

void forget_read(BpfCode& code, const EventMaps& maps) {
  code.map(1, maps.reads);
  code.frame_address(2, kIocb);
  code.call(BPF_FUNC_map_delete_elem);
}

// The key's blocks are those from register 8 to register 6, in bytes, without the last.
void set_range(BpfCode& code) {
  code.apply(BPF_RSH, 8, kBlockShift);
  code.store(kFirst, 8);
  code.apply(BPF_SUB, 6, 1);
  code.apply(BPF_RSH, 6, kBlockShift);
  code.subtract(6, 8);
  code.apply(BPF_ADD, 6, 1);
  code.store(kCount, 6);
}

}  // namespace

Result<KernelLayout> kernel_layout(const std::string& path) {
  Types types(btf__parse(path.c_str(), nullptr), &btf__free);
  if (!types) return fail(Errc::kKernelFeatureMissing, "the kernel does not tell its types: no {}", path);
  const auto* t = types.get();
  KernelLayout l;
  TS_TRY_ASSIGN(l.dirty_folio, tracepoint(t, "writeback_dirty_folio", {"folio", "address_space"}));
  TS_TRY_ASSIGN(l.direct_begin, tracepoint(t, "iomap_dio_rw_begin", {"kiocb", "iov_iter"}));
  TS_TRY_ASSIGN(l.direct_complete, tracepoint(t, "iomap_dio_complete", {"kiocb", "", ""}));
  TS_TRY_ASSIGN(l.dropped_folio, tracepoint(t, "mm_filemap_delete_from_page_cache", {"folio"}));
  TS_TRY_ASSIGN(l.folio_mapping, member(t, "folio", "mapping"));
  TS_TRY_ASSIGN(l.task_flags, member(t, "task_struct", "flags"));
  TS_TRY_ASSIGN(l.folio_index, member(t, "folio", "index"));
  TS_TRY_ASSIGN(l.mapping_host, member(t, "address_space", "host"));
  TS_TRY_ASSIGN(l.inode_number, member(t, "inode", "i_ino"));
  TS_TRY_ASSIGN(l.iocb_file, member(t, "kiocb", "ki_filp"));
  TS_TRY_ASSIGN(l.iocb_position, member(t, "kiocb", "ki_pos"));
  TS_TRY_ASSIGN(l.file_inode, member(t, "file", "f_inode"));
  TS_TRY_ASSIGN(l.iter_is_source, member(t, "iov_iter", "data_source"));
  return l;
}

// (folio, mapping).
BpfCode dirty_folio_program(const KernelLayout& layout, const EventMaps& maps) {
  BpfCode code;
  auto out = code.label();
  code.load(BPF_DW, 7, 1, 0);
  code.load(BPF_DW, 6, 1, 8);
  code.jump_if(BPF_JEQ, 6, 0, out);  // of no file
  gather_folio(code, layout, maps, out);
  leave(code, out);
  return code;
}

// (folio). Not when it is only the memory that is wanted.
BpfCode dropped_folio_program(const KernelLayout& layout, const EventMaps& maps) {
  BpfCode code;
  auto out = code.label();
  code.load(BPF_DW, 7, 1, 0);
  code.call(BPF_FUNC_get_current_task_btf);
  code.load(BPF_W, 2, 0, layout.task_flags);
  code.apply(BPF_AND, 2, kReclaims);
  code.jump_if(BPF_JNE, 2, 0, out);
  code.load(BPF_DW, 6, 7, layout.folio_mapping);
  gather_folio(code, layout, maps, out);
  leave(code, out);
  return code;
}

// (iocb, iterator). The end of a direct write does not tell it from a read. So reads are remembered, by their kiocb,
// and not writes: whatever goes wrong with that makes a write of a read.
BpfCode direct_begin_program(const KernelLayout& layout, const EventMaps& maps) {
  BpfCode code;
  auto out = code.label(), read = code.label();
  code.load(BPF_DW, 6, 1, 0);
  code.load(BPF_DW, 7, 1, 8);
  code.load(BPF_B, 7, 7, layout.iter_is_source);
  code.jump_if(BPF_JEQ, 7, 0, read);
  only_reads(code, maps, out);  // one that never came to its end, at the same address
  forget_read(code, maps);
  code.jump(out);
  code.place(read);
  code.store(kIocb, 6);
  code.load(BPF_DW, 9, 6, layout.iocb_file);
  code.load(BPF_DW, 9, 9, layout.file_inode);
  only_followed(code, 9, layout, maps, out);
  code.map(1, maps.reads);
  code.frame_address(2, kIocb);
  code.frame_address(3, kIocb);
  code.set(4, BPF_ANY);
  code.call(BPF_FUNC_map_update_elem);
  leave(code, out);
  return code;
}

// (iocb, error, result). The position has moved on by what was written. Of a write that failed nobody knows how much
// has been written, or whether it moved.
BpfCode direct_complete_program(const KernelLayout& layout, const EventMaps& maps) {
  BpfCode code;
  auto out = code.label(), write = code.label(), failed = code.label(), set = code.label(), known = code.label();
  code.load(BPF_DW, 6, 1, 0);
  code.load(BPF_DW, 8, 1, 8);
  code.load(BPF_DW, 7, 1, 16);
  code.load(BPF_DW, 9, 6, layout.iocb_file);
  code.load(BPF_DW, 9, 9, layout.file_inode);
  only_followed(code, 9, layout, maps, out);
  only_reads(code, maps, write);
  forget_read(code, maps);
  code.jump(out);
  code.place(write);
  code.load(BPF_DW, 6, 6, layout.iocb_position);
  code.jump_if(BPF_JNE, 8, 0, failed, BPF_JMP32);
  code.jump_if(BPF_JSLT, 7, 0, failed);
  code.jump_if(BPF_JEQ, 7, 0, out);
  code.move(8, 6);
  code.subtract(8, 7);
  code.jump_if(BPF_JSGE, 8, 0, set);
  code.set(8, 0);
  code.place(set);
  set_range(code);
  code.jump(known);
  code.place(failed);
  constexpr int kLongest = 1 << (kLongestShift - kBlockShift);
  auto near_start = code.label();
  code.apply(BPF_RSH, 6, kBlockShift);
  code.set(8, 0);
  code.jump_if(BPF_JLT, 6, kLongest, near_start);
  code.move(8, 6);
  code.apply(BPF_SUB, 8, kLongest);
  code.place(near_start);
  code.store(kFirst, 8);
  code.store_value(kCount, 2 * kLongest + 1);
  code.place(known);
  gather(code, maps, out);
  leave(code, out);
  return code;
}

}  // namespace transship::storage
