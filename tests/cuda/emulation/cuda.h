// CUDA on a CPU, one thread after the other: enough of it for the code that ALT generates.
//
// The threads of a block are fibers. One runs until it waits at a barrier; then the next does. A
// barrier that not all of them reach ends the launch with an error, and so does a thread that
// leaves while others wait.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__ __attribute__((visibility("default")))
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define CUDART_INF_F __builtin_inff()
#define CUDART_NAN_F __builtin_nanf("")
#define CUDART_INF __builtin_inf()
#define CUDART_NAN __builtin_nan("")

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
static dim3 threadIdx, blockIdx, blockDim, gridDim;

#define ALT_VECTORS(T, name)                                                              \
  struct alignas(sizeof(T) * 2) name##2 { T x, y; };                                      \
  struct name##3 { T x, y, z; };                                                          \
  struct alignas(sizeof(T) * 4) name##4 { T x, y, z, w; };                                \
  static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                       \
  static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
ALT_VECTORS(float, float)
ALT_VECTORS(double, double)
ALT_VECTORS(int, int)
ALT_VECTORS(unsigned, uint)
ALT_VECTORS(short, short)
ALT_VECTORS(unsigned short, ushort)
ALT_VECTORS(signed char, char)
ALT_VECTORS(unsigned char, uchar)
ALT_VECTORS(long long, longlong)
#undef ALT_VECTORS

template <typename A, typename B>
static inline std::common_type_t<A, B> max(A a, B b) {
  return a > b ? a : b;
}
template <typename A, typename B>
static inline std::common_type_t<A, B> min(A a, B b) {
  return a < b ? a : b;
}
#define __expf expf  // the C library declares the name
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
template <typename T>
static inline T __ldg(const T* p) {
  return *p;
}

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
static bool broken, trapped;
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

template <typename T>
static T from_lane(T value, unsigned source) {
  unsigned warp = current / kWarp;
  uint64_t bits = 0;
  static_assert(sizeof(T) <= sizeof(bits), "lanes hold 64 bits");
  std::memcpy(&bits, &value, sizeof(T));
  lanes[current] = bits;
  wait(warp_barriers[warp]);
  // What a lane that is not there sends is undefined: something that is noticed.
  unsigned from = warp * kWarp + source;
  bits = source < kWarp && from < lanes.size() ? lanes[from] : 0x7ff8dead7fc0deadULL;
  wait(warp_barriers[warp]);
  T found;
  std::memcpy(&found, &bits, sizeof(T));
  return found;
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

// A kernel that faults; the rest of it does no harm.
static inline void __trap() { emulation::trapped = true; }

static inline void __syncthreads() { emulation::wait(emulation::block_barrier); }
static inline void __syncwarp(unsigned = 0xffffffffu) {
  emulation::wait(emulation::warp_barriers[emulation::current / emulation::kWarp]);
}
template <typename T>
static inline T __shfl_xor_sync(unsigned, T value, int distance, int width = 32) {
  unsigned lane = emulation::current % emulation::kWarp;
  return emulation::from_lane(value, (lane ^ distance) / width == lane / width ? lane ^ distance : lane);
}
template <typename T>
static inline T __shfl_down_sync(unsigned, T value, unsigned distance, int width = 32) {
  unsigned lane = emulation::current % emulation::kWarp;
  return emulation::from_lane(value, (lane + distance) / width == lane / width ? lane + distance : lane);
}
template <typename T>
static inline T __shfl_sync(unsigned, T value, int source, int width = 32) {
  unsigned lane = emulation::current % emulation::kWarp;
  return emulation::from_lane(value, lane / width * width + source % width);
}

#include "mma.h"

// Launch a kernel; 0 if it ended well, 1 if threads wait for each other for ever, 2 if it has more
// arguments than are known here, 3 if it faulted.
extern "C" int emulate(void* kernel, int count, void** arguments, const unsigned* grid,
                       const unsigned* block, unsigned dynamic_bytes, int waits, int backwards) {
  static auto table = emulation::table(std::make_index_sequence<200>());
  if (count >= (int)table.size()) return 2;
  emulation::run = table[count];
  emulation::kernel = kernel;
  emulation::arguments = arguments;
  emulation::dynamic_shared.assign(dynamic_bytes + 256, (char)0xff);
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
