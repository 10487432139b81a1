// What stands behind `cuda.h`: launches, barriers and warps.
//
// The threads of a block are fibers. One runs until it waits at a barrier; then the next does. A
// barrier that not all of them reach ends the launch with an error.
#include "cuda.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <utility>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;
unsigned char* emulation_dynamic_shared;

namespace emulation {

constexpr size_t kStackBytes = 128 << 10;
constexpr unsigned kWarp = 32;

// Threads that wait for each other.
struct Barrier {
  unsigned expected = 0, arrived = 0;
  uint64_t passed = 0;
};

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  dim3 index;
  bool done = false;
};

static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static unsigned current;
static uint64_t progress;
static bool trapped, early;
static Barrier block_barrier;
static std::vector<Barrier> warp_barriers;
static std::vector<uint64_t> lanes;
static std::vector<char> dynamic_shared;
static void (*run)(void*, void**);
static void* kernel;
static void** arguments;

static void yield() {
  unsigned me = current;
  swapcontext(&fibers[me].context, &scheduler);
  current = me;
  threadIdx = fibers[me].index;
}

static void wait(Barrier& barrier) {
  uint64_t now = barrier.passed;
  ++progress;
  if (++barrier.arrived == barrier.expected) {
    barrier.arrived = 0;
    ++barrier.passed;
    return;
  }
  while (barrier.passed == now) yield();
}

static uint64_t from_lane(uint64_t bits, unsigned source) {
  unsigned warp = current / kWarp;
  lanes[current] = bits;
  wait(warp_barriers[warp]);
  // What a lane that is not there sends is undefined: something that is noticed.
  unsigned from = warp * kWarp + source;
  bits = source < kWarp && from < lanes.size() ? lanes[from] : 0x7ff8dead7fc0deadULL;
  wait(warp_barriers[warp]);
  return bits;
}

// What a lane of a warp gives to a multiply-add.
struct Fragment {
  uint32_t left[4], right[2];
};
static std::vector<Fragment> fragments;

static float tf32_of(uint32_t word) {
  // The hardware does not look at the lower bits; that they are rounded away is the kernel's work.
  word &= 0xffffe000u;
  float value;
  memcpy(&value, &word, sizeof(value));
  return value;
}

static float half_of(uint32_t word, int which) {
  uint16_t bits = (uint16_t)(word >> (16 * which));
  _Float16 value;
  memcpy(&value, &bits, sizeof(value));
  return (float)value;
}

// 16x8 results += 16x8 words x 8x8 words, by all threads of a warp.
template <typename Multiply>
static void multiply_add(float* d, const void* a, const void* b, Multiply multiply) {
  fragments.resize(lanes.size());
  unsigned warp = current / kWarp, lane = current % kWarp;
  memcpy(fragments[current].left, a, 16);
  memcpy(fragments[current].right, b, 8);
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

// Four matrices of 8 x 4 words; each lane names one of their 32 rows.
static void load_matrices(void* to, const void* row) {
  if ((uintptr_t)row % 16) abort();
  unsigned warp = current / kWarp, lane = current % kWarp;
  lanes[current] = (uintptr_t)row;
  wait(warp_barriers[warp]);
  for (unsigned j = 0; j < 4; ++j) {
    const uint32_t* found = (const uint32_t*)lanes[warp * kWarp + 8 * j + lane / 4];
    memcpy((uint32_t*)to + j, found + lane % 4, 4);
  }
  wait(warp_barriers[warp]);
}

// A copy that was started, and has not been seen to end. When it is there nobody knows: as late as it
// has to be, or, with the last threads first, at once.
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

static void make(const Copy& c) {
  c.there ? (void)memcpy(c.to, c.from, c.bytes) : (void)memset(c.to, 0, c.bytes);
}

static void copy(void* to, const void* from, size_t bytes, bool there) {
  if ((uintptr_t)to % bytes || (there && (uintptr_t)from % bytes)) abort();
  if (early)
    make({to, from, bytes, there});
  else
    my_copies().started.push_back({to, from, bytes, there});
}

static void await(size_t left) {
  auto& groups = my_copies().groups;
  while (groups.size() > left) {
    for (const Copy& c : groups.front())
      make(c);
    groups.erase(groups.begin());
  }
}

static void start() {
  run(kernel, arguments);
  fibers[current].done = true;
  ++progress;
  swapcontext(&fibers[current].context, &scheduler);
}

template <size_t... I>
static void call(void* function, void** a, std::index_sequence<I...>) {
  ((void (*)(decltype((void)I, (void*)nullptr)...))function)(a[I]...);
}
template <size_t N>
static void call_n(void* function, void** a) {
  call(function, a, std::make_index_sequence<N>());
}
template <size_t... N>
static auto table(std::index_sequence<N...>) {
  return std::vector<void (*)(void*, void**)>{call_n<N>...};
}

static bool run_block_of_fibers(bool backwards) {
  unsigned count = blockDim.x * blockDim.y * blockDim.z;
  fibers.resize(count);
  block_barrier = {count, 0, 0};
  warp_barriers.assign((count + kWarp - 1) / kWarp, {});
  for (unsigned w = 0; w < warp_barriers.size(); ++w)
    warp_barriers[w].expected = std::min(kWarp, count - w * kWarp);
  lanes.assign(count, 0);
  for (unsigned t = 0; t < count; ++t) {
    Fiber& f = fibers[t];
    if (f.stack.empty()) f.stack.resize(kStackBytes);
    f.index.x = t % blockDim.x;
    f.index.y = t / blockDim.x % blockDim.y;
    f.index.z = t / blockDim.x / blockDim.y;
    f.done = false;
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.data();
    f.context.uc_stack.ss_size = f.stack.size();
    f.context.uc_link = &scheduler;
    makecontext(&f.context, start, 0);
  }
  for (unsigned left = count; left;) {
    uint64_t before = progress;
    for (unsigned k = 0; k < count; ++k) {
      unsigned t = backwards ? count - 1 - k : k;
      if (fibers[t].done) continue;
      current = t;
      threadIdx = fibers[t].index;
      swapcontext(&scheduler, &fibers[t].context);
      left -= fibers[t].done;
    }
    if (progress == before) return false;
  }
  return block_barrier.arrived == 0;
}

}  // namespace emulation

extern "C" {

void emulation_wait_for_block() { emulation::wait(emulation::block_barrier); }
void emulation_wait_for_warp() {
  emulation::wait(emulation::warp_barriers[emulation::current / emulation::kWarp]);
}
void emulation_trap() { emulation::trapped = true; }
unsigned emulation_lane() { return emulation::current % emulation::kWarp; }
uint64_t emulation_from_lane(uint64_t bits, unsigned source) {
  return emulation::from_lane(bits, source);
}

void alt_mma_tf32(float* d, const float* a, const float* b) {
  emulation::multiply_add(d, a, b, [](uint32_t x, uint32_t y) {
    return emulation::tf32_of(x) * emulation::tf32_of(y);
  });
}
void alt_mma_fp16(float* d, const unsigned* a, const unsigned* b) {
  emulation::multiply_add(d, a, b, [](uint32_t x, uint32_t y) {
    return emulation::half_of(x, 0) * emulation::half_of(y, 0) +
           emulation::half_of(x, 1) * emulation::half_of(y, 1);
  });
}

void alt_matrices_tf32(float* to, const float* row) { emulation::load_matrices(to, row); }
void alt_matrices_fp16(unsigned* to, const unsigned* row) { emulation::load_matrices(to, row); }

void alt_copy(void* to, const void* from, bool there) { emulation::copy(to, from, 16, there); }
void alt_copy_word(void* to, const void* from, bool there) {
  emulation::copy(to, from, 4, there);
}
void alt_close_copies() {
  auto& mine = emulation::my_copies();
  mine.groups.push_back(std::move(mine.started));
  mine.started.clear();
}
void alt_await_copies_but_0() { emulation::await(0); }
void alt_await_copies_but_1() { emulation::await(1); }
void alt_await_copies_but_2() { emulation::await(2); }
void alt_await_copies_but_3() { emulation::await(3); }

// Launch a kernel; 0 if it ended well, 1 if threads wait for each other for ever, 2 if it has more
// arguments than are known here, 3 if it faulted.
int emulate(void* kernel, int count, void** arguments, const unsigned* grid, const unsigned* block,
            unsigned dynamic_bytes, int waits, int backwards) {
  static auto table = emulation::table(std::make_index_sequence<200>());
  if (count >= (int)table.size()) return 2;
  emulation::run = table[count];
  emulation::kernel = kernel;
  emulation::arguments = arguments;
  emulation::early = backwards;
  emulation::dynamic_shared.assign(dynamic_bytes + 256, (char)0xff);
  uintptr_t shared = (uintptr_t)emulation::dynamic_shared.data();
  emulation_dynamic_shared = (unsigned char*)((shared + 127) / 128 * 128);
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {block[0], block[1], block[2]};
  uint64_t blocks = (uint64_t)grid[0] * grid[1] * grid[2];
  for (uint64_t k = 0; k < blocks; ++k) {
    uint64_t b = backwards ? blocks - 1 - k : k;
    blockIdx = {(unsigned)(b % grid[0]), (unsigned)(b / grid[0] % grid[1]),
                (unsigned)(b / grid[0] / grid[1])};
    if (waits) {
      if (!emulation::run_block_of_fibers(backwards)) return 1;
      continue;
    }
    unsigned threads = block[0] * block[1] * block[2];
    for (unsigned i = 0; i < threads; ++i) {
      unsigned t = backwards ? threads - 1 - i : i;
      threadIdx = {t % block[0], t / block[0] % block[1], t / block[0] / block[1]};
      emulation::run(kernel, arguments);
    }
  }
  return emulation::trapped ? 3 : 0;
}

}  // extern "C"
