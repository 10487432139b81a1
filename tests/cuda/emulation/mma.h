// Tensor cores on a CPU: what `alt/sketches/gpu/tensor_cores.py` calls, warp by warp.
#pragma once

namespace emulation {

// What a lane of a warp gives to a multiply-add.
struct Fragment {
  uint32_t left[4], right[2];
};
static std::vector<Fragment> fragments;

static inline float tf32_of(uint32_t word) {
  // The hardware does not look at the lower bits; that they are rounded away is the kernel's work.
  word &= 0xffffe000u;
  float value;
  std::memcpy(&value, &word, sizeof(value));
  return value;
}

static inline float half_of(uint32_t word, int which) {
  uint16_t bits = (uint16_t)(word >> (16 * which));
  _Float16 value;
  std::memcpy(&value, &bits, sizeof(value));
  return (float)value;
}

// 16x8 results += 16x8 words x 8x8 words, by all threads of a warp.
template <typename Multiply>
static void multiply_add(float* d, const void* a, const void* b, Multiply multiply) {
  fragments.resize(lanes.size());
  unsigned warp = current / kWarp, lane = current % kWarp;
  std::memcpy(fragments[current].left, a, 16);
  std::memcpy(fragments[current].right, b, 8);
  wait(warp_barriers[warp]);
  const Fragment* all = &fragments[warp * kWarp];
  for (unsigned i = 0; i < 4; ++i) {
    unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (unsigned k = 0; k < 8; ++k) {
      uint32_t left = all[row % 8 * 4 + k % 4].left[row / 8 + k / 4 * 2];
      uint32_t right = all[column * 4 + k % 4].right[k / 4];
      d[i] += multiply(left, right);
    }
  }
  wait(warp_barriers[warp]);
}

// A copy that was started, and has not been seen to end: nothing of it is there before it has to be.
struct Copy {
  void* to;
  const void* from;
  size_t bytes;
  bool there;
};
struct Copies {
  std::vector<Copy> started;
  std::vector<std::vector<Copy>> groups;
};
static std::vector<Copies> copies;

static Copies& my_copies() {
  if (copies.size() < lanes.size()) copies.resize(lanes.size());
  return copies[current];
}

static void await(size_t left) {
  auto& groups = my_copies().groups;
  while (groups.size() > left) {
    for (const Copy& c : groups.front())
      c.there ? (void)std::memcpy(c.to, c.from, c.bytes) : (void)std::memset(c.to, 0, c.bytes);
    groups.erase(groups.begin());
  }
}

}  // namespace emulation

#define ALT_EMULATED

static inline float alt_tf32(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(x));
  if ((bits & 0x7f800000u) != 0x7f800000u) bits += 0x1000u;  // half of the last bit that is kept
  bits &= 0xffffe000u;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

static inline unsigned alt_halves(float low, float high) {
  _Float16 values[2] = {(_Float16)low, (_Float16)high};
  unsigned word;
  std::memcpy(&word, values, sizeof(word));
  return word;
}

static inline void alt_mma_tf32(float* d, const float* a, const float* b) {
  emulation::multiply_add(d, a, b, [](uint32_t x, uint32_t y) {
    return emulation::tf32_of(x) * emulation::tf32_of(y);
  });
}

static inline void alt_mma_fp16(float* d, const unsigned* a, const unsigned* b) {
  emulation::multiply_add(d, a, b, [](uint32_t x, uint32_t y) {
    return emulation::half_of(x, 0) * emulation::half_of(y, 0) +
           emulation::half_of(x, 1) * emulation::half_of(y, 1);
  });
}

static inline void start_copy(void* to, const void* from, size_t bytes, bool there) {
  if ((uintptr_t)to % bytes || (there && (uintptr_t)from % bytes)) std::abort();
  emulation::my_copies().started.push_back({to, from, bytes, there});
}
static inline void alt_copy(void* to, const void* from, bool there) {
  start_copy(to, from, 16, there);
}
static inline void alt_copy_word(void* to, const void* from, bool there) {
  start_copy(to, from, 4, there);
}

static inline void alt_close_copies() {
  auto& mine = emulation::my_copies();
  mine.groups.push_back(std::move(mine.started));
  mine.started.clear();
}

#define ALT_AWAIT(left) \
  static inline void alt_await_copies_but_##left() { emulation::await(left); }
ALT_AWAIT(0)
ALT_AWAIT(1)
ALT_AWAIT(2)
ALT_AWAIT(3)
#undef ALT_AWAIT
