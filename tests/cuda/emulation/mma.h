// Tensor cores on a CPU: what `alt/sketches/gpu/tensor_cores.py` calls, warp by warp.
#pragma once
#include <stdint.h>
#include <string.h>

#define ALT_EMULATED

static inline float alt_tf32(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(x));
  if (x != x) bits = 0x7fffffffu;
  // Half of the last bit that is kept, between two numbers to the even one.
  if ((bits & 0x7f800000u) != 0x7f800000u) bits += 0xfffu + (bits >> 13 & 1);
  bits &= 0xffffe000u;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

static inline float alt_nearly(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(x));
  bits += 0x1000u;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

static inline unsigned alt_halves(float low, float high) {
  _Float16 values[2] = {(_Float16)low, (_Float16)high};
  unsigned word;
  memcpy(&word, values, sizeof(word));
  return word;
}

static inline float alt_power_of_two(float x) { return exp2f(x); }
static inline float alt_reciprocal(float x) { return 1.0f / x; }

// In `emulation.cc`, as they need the other threads of the warp, or remember something.
extern "C" {
void alt_mma_tf32(float* d, const float* a, const float* b);
void alt_mma_fp16(float* d, const unsigned* a, const unsigned* b);
void alt_matrices_tf32(float* to, const float* row);
void alt_matrices_fp16(unsigned* to, const unsigned* row);
void alt_copy(void* to, const void* from, bool there);
void alt_copy_word(void* to, const void* from, bool there);
void alt_close_copies();
void alt_await_copies_but_0();
void alt_await_copies_but_1();
void alt_await_copies_but_2();
void alt_await_copies_but_3();
}
