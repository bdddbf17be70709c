// BPF programs written instruction by instruction, with labels: no compiler for them is needed where this is built.
#pragma once
#include <linux/bpf.h>

#include <cstdint>
#include <vector>

namespace transship::storage {

// One thread. A jump may name a label that is placed later.
class BpfCode {
 public:
  enum class Label : uint32_t {};
  Label label() {
    places_.push_back(-1);
    return static_cast<Label>(places_.size() - 1);
  }
  void place(Label label) { places_[static_cast<uint32_t>(label)] = static_cast<int>(code_.size()); }

  // `size`: BPF_B, BPF_W or BPF_DW.
  void load(int size, int to, int from, uint32_t offset) {
    add(BPF_LDX | BPF_MEM | size, to, from, static_cast<int>(offset), 0);
  }
  void store(int frame_offset, int from) { add(BPF_STX | BPF_MEM | BPF_DW, 10, from, frame_offset, 0); }
  void store_value(int frame_offset, int value) { add(BPF_ST | BPF_MEM | BPF_DW, 10, 0, frame_offset, value); }
  void move(int to, int from) { add(BPF_ALU64 | BPF_MOV | BPF_X, to, from, 0, 0); }
  void set(int to, int value) { add(BPF_ALU64 | BPF_MOV | BPF_K, to, 0, 0, value); }
  // `operation`: BPF_ADD, BPF_AND, BPF_RSH ...
  void apply(int operation, int to, int value) { add(BPF_ALU64 | operation | BPF_K, to, 0, 0, value); }
  void subtract(int to, int from) { add(BPF_ALU64 | BPF_SUB | BPF_X, to, from, 0, 0); }
  void frame_address(int to, int frame_offset) {
    move(to, 10);
    apply(BPF_ADD, to, frame_offset);
  }
  void map(int to, int map_fd) { wide(to, BPF_PSEUDO_MAP_FD, map_fd, 0); }
  // The address of a byte in the only value of an array.
  void map_value(int to, int map_fd, int offset) { wide(to, BPF_PSEUDO_MAP_VALUE, map_fd, offset); }
  void increment(int address, int with) { add(BPF_STX | BPF_ATOMIC | BPF_DW, address, with, 0, BPF_ADD); }
  void call(int helper) { add(BPF_JMP | BPF_CALL, 0, 0, 0, helper); }
  // `condition`: BPF_JEQ, BPF_JNE, BPF_JSGE ...; of all 64 bits of `left`, or of the lower 32.
  void jump_if(int condition, int left, int value, Label to, int width = BPF_JMP) {
    jumps_.push_back({code_.size(), to});
    add(width | condition | BPF_K, left, 0, 0, value);
  }
  void jump(Label to) {
    jumps_.push_back({code_.size(), to});
    add(BPF_JMP | BPF_JA, 0, 0, 0, 0);
  }
  void exit() { add(BPF_JMP | BPF_EXIT, 0, 0, 0, 0); }

  // The instructions, with all jumps resolved.
  const std::vector<bpf_insn>& finish() {
    for (const auto& [at, to] : jumps_)
      code_[at].off = static_cast<__s16>(places_[static_cast<uint32_t>(to)] - static_cast<int>(at) - 1);
    return code_;
  }

 private:
  struct Jump {
    size_t at;
    Label to;
  };
  void add(int code, int to, int from, int offset, int value) {
    code_.push_back({.code = static_cast<__u8>(code),
                     .dst_reg = static_cast<__u8>(to & 15),
                     .src_reg = static_cast<__u8>(from & 15),
                     .off = static_cast<__s16>(offset),
                     .imm = value});
  }
  void wide(int to, int kind, int low, int high) {
    add(BPF_LD | BPF_DW | BPF_IMM, to, kind, 0, low);
    add(0, 0, 0, 0, high);
  }

  std::vector<bpf_insn> code_;
  std::vector<int> places_;  // of each label; -1: not placed
  std::vector<Jump> jumps_;
};

}  // namespace transship::storage
