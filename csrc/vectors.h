// Vectors of numbers, as wide as the registers that the code is compiled for,
// by the vector extensions of GCC and Clang.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#define ALWAYS_INLINE __attribute__((always_inline))
#define INLINE inline ALWAYS_INLINE

namespace mmbiformer {

#if defined(__AVX512F__)
constexpr int64_t kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int64_t kVectorBytes = 32;
#else
constexpr int64_t kVectorBytes = 16;
#endif

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vector = typename VectorOf<T>::type;

template <class T>
constexpr int64_t kLanes = kVectorBytes / sizeof(T);

template <class T>
INLINE Vector<T> load(const T* p) {
  Vector<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class T>
INLINE void store(T* p, Vector<T> v) {
  std::memcpy(p, &v, sizeof v);
}

template <class V>
INLINE V maximum(V a, V b) {
  return a > b ? a : b;
}

template <class T>
INLINE T sum_lanes(Vector<T> v) {
  T sum = 0;
  for (int64_t i = 0; i < kLanes<T>; ++i) sum += v[i];
  return sum;
}

#if defined(__clang__) || __GNUC__ >= 12
// Lanes of two rows in which the lowest or the highest lanes of pairs of blocks
// of kStep lanes come together.
template <int kStep, class V, int... kLane>
INLINE V low_blocks(V a, V b, std::integer_sequence<int, kLane...>) {
  constexpr int kCount = sizeof...(kLane);
  return __builtin_shufflevector(
      a, b, (kLane & kStep ? kCount + kLane - kStep : kLane)...);
}

template <int kStep, class V, int... kLane>
INLINE V high_blocks(V a, V b, std::integer_sequence<int, kLane...>) {
  constexpr int kCount = sizeof...(kLane);
  return __builtin_shufflevector(
      a, b, (kLane & kStep ? kCount + kLane : kLane + kStep)...);
}

// Swaps blocks of kStep rows and lanes beside the diagonal, and so on with
// blocks twice as large.
template <class T, int kStep = 1>
INLINE void transpose_blocks(Vector<T>* rows) {
  constexpr int kCount = kLanes<T>;
  const std::make_integer_sequence<int, kCount> lanes;
  if constexpr (kStep < kCount) {
    for (int i = 0; i < kCount; ++i) {
      if (i & kStep) continue;
      const Vector<T> a = rows[i], b = rows[i + kStep];
      rows[i] = low_blocks<kStep>(a, b, lanes);
      rows[i + kStep] = high_blocks<kStep>(a, b, lanes);
    }
    transpose_blocks<T, 2 * kStep>(rows);
  }
}
#else
template <class T>
INLINE void transpose_blocks(Vector<T>* rows) {
  for (int64_t i = 0; i < kLanes<T>; ++i)
    for (int64_t j = 0; j < i; ++j) {
      const T lane = rows[i][j];
      rows[i][j] = rows[j][i];
      rows[j][i] = lane;
    }
}
#endif

// Transposes as many rows as a vector has lanes: from(i) points to row i, and
// to(j) to where column j is stored, times a factor.
template <class T, class From, class To>
INLINE void transpose(From from, To to, T factor) {
  Vector<T> rows[kLanes<T>];
  for (int i = 0; i < kLanes<T>; ++i) rows[i] = load(from(i));
  transpose_blocks<T>(rows);
  for (int i = 0; i < kLanes<T>; ++i) store(to(i), factor * rows[i]);
}

// exp(x) for x <= 0, which is all that a softmax needs. Below -87 it is
// exp(-87), about 1e-38, instead of a denormal number or zero.
INLINE Vector<float> exp_nonpositive(Vector<float> x) {
  typedef int32_t Ints __attribute__((vector_size(kVectorBytes)));
  const Vector<float> lowest = Vector<float>{} - 87.0f;
  x = x < lowest ? lowest : x;
  // x = n log(2) + r with |r| <= log(2) / 2, and exp(x) = 2^n exp(r). Adding
  // 1.5 * 2^23 rounds to a whole number and leaves it in the lowest bits.
  Vector<float> shifted = x * 1.44269504f + 12582912.0f;
  Vector<float> n = shifted - 12582912.0f;
  // log(2) as a sum of two floats.
  Vector<float> r = x - n * 0.693145752f - n * 1.42860677e-6f;
  // The Taylor polynomial of exp, of degree 7.
  Vector<float> p = r * 1.98412698e-4f + 1.38888889e-3f;
  p = p * r + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // 2^n as a float: n added to the exponent of 1.
  Ints power;
  std::memcpy(&power, &shifted, sizeof power);
  power = (power << 23) + 0x3f800000;
  Vector<float> scale;
  std::memcpy(&scale, &power, sizeof scale);
  return p * scale;
}

INLINE Vector<double> exp_nonpositive(Vector<double> x) {
  for (int64_t i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

// GELU with the error function: x Phi(x) = max(x, 0) - |x| / 2 erfc(z), with
// z = |x| / sqrt(2).
INLINE Vector<float> gelu(Vector<float> x) {
  const Vector<float> zero = {};
  const Vector<float> size = x < zero ? -x : x;
  // erfc(z) = exp(-z^2) p(t) for t = 1 / (1 + 0.34 z), the form of Abramowitz
  // and Stegun, Handbook of Mathematical Functions, 7.1.26. The polynomial of
  // degree 7 is fitted to an error of 7e-10.
  const Vector<float> t = 1.0f / (size * 0.240416306f + 1.0f);
  Vector<float> p = t * -0.24698359f + 1.08761533f;
  p = p * t - 1.25099462f;
  p = p * t + 1.21119622f;
  p = p * t - 0.28604225f;
  p = p * t + 0.305061234f;
  p = p * t + 0.180147683f;
  const Vector<float> half_erfc = p * t * exp_nonpositive(x * x * -0.5f) * 0.5f;
  return maximum(x, zero) - size * half_erfc;
}

INLINE Vector<double> gelu(Vector<double> x) {
  for (int64_t i = 0; i < kLanes<double>; ++i)
    x[i] = 0.5 * x[i] * std::erfc(x[i] * -0.70710678118654752);
  return x;
}

}  // namespace mmbiformer
