#include "criu/mapping_layout.h"

#include <bpf/btf.h>

#include <memory>
#include <optional>
#include <string_view>

#include "base/log.h"

namespace transship::criu {
namespace {

constexpr const char* kMapping = "vm_area_struct";
constexpr const char* kIterator = "bpf_iter_task_vma";

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

}  // namespace

Result<std::string> mapping_layout() {
  std::unique_ptr<btf, decltype(&btf__free)> types(btf__load_vmlinux_btf(), &btf__free);
  if (!types)
    return fail(Errc::kKernelFeatureMissing, "the kernel does not tell its types: no /sys/kernel/btf/vmlinux");
  auto iterator = btf__find_by_name_kind(types.get(), kIterator, BTF_KIND_FUNC);
  auto mapping = btf__find_by_name_kind(types.get(), kMapping, BTF_KIND_STRUCT);
  if (iterator < 0 || mapping < 0)
    return fail(Errc::kKernelFeatureMissing, "the kernel has no {} or no {}: they came with Linux 5.12", kIterator,
                kMapping);
  const auto* type = btf__type_by_id(types.get(), static_cast<uint32_t>(mapping));
  auto start = offset_of(types.get(), type, "vm_start");
  auto end = offset_of(types.get(), type, "vm_end");
  auto flags = offset_of(types.get(), type, "vm_flags");
  if (!start || !end || !flags) return fail(Errc::kKernelFeatureMissing, "the kernel's {} is another", kMapping);
  return fmt::format("{} {} {} {}", iterator, *start, *end, *flags);
}

const std::string& known_mapping_layout() {
  static const std::string known = [] {
    auto found = mapping_layout();
    if (!found) TS_LOG_WARN("mappings: {}; a dump takes some 20 ms longer per GiB", found.error().message());
    return found ? *found : std::string();
  }();
  return known;
}

}  // namespace transship::criu
