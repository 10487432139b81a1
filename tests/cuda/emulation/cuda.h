// CUDA on a CPU, one thread after the other: enough of it for the code that ALT generates.
//
// What kernels call is in `emulation.cc`, compiled once.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

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
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

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

extern "C" {
void emulation_wait_for_block();
void emulation_wait_for_warp();
unsigned emulation_lane();
// What the thread in another lane of the warp sends; all of them have to.
uint64_t emulation_from_lane(uint64_t bits, unsigned source);
extern unsigned char* emulation_dynamic_shared;
}

static inline void __syncthreads() { emulation_wait_for_block(); }
static inline void __syncwarp(unsigned = 0xffffffffu) { emulation_wait_for_warp(); }

template <typename T>
static inline T emulation_exchange(T value, unsigned source, int width) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "lanes hold 64 bits");
  unsigned lane = emulation_lane();
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = emulation_from_lane(bits, source / width == lane / width ? source : lane);
  memcpy(&value, &bits, sizeof(T));
  return value;
}
template <typename T>
static inline T __shfl_xor_sync(unsigned, T value, int distance, int width = 32) {
  return emulation_exchange(value, emulation_lane() ^ distance, width);
}
template <typename T>
static inline T __shfl_down_sync(unsigned, T value, unsigned distance, int width = 32) {
  return emulation_exchange(value, emulation_lane() + distance, width);
}
template <typename T>
static inline T __shfl_up_sync(unsigned, T value, unsigned distance, int width = 32) {
  return emulation_exchange(value, emulation_lane() - distance, width);
}
template <typename T>
static inline T __shfl_sync(unsigned, T value, int source, int width = 32) {
  return emulation_exchange(value, emulation_lane() / width * width + source % width, width);
}

#include "mma.h"
