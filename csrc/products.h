// Matrix products whose sums stay in the vector registers.

#pragma once

#include <cstdint>
#include <type_traits>

#include "vectors.h"

namespace mmbiformer {

// Vectors of columns whose sums are kept at a time, and rows of them: enough to
// hide the latency of an addition and to load few numbers for each product,
// few enough for the registers.
constexpr int kPanelVectors = 2;
#if defined(__AVX512F__)
constexpr int kTileRows = 12;
#else
constexpr int kTileRows = 6;
#endif

// kRows rows and kVectors vectors of columns: left(i, k) is a number of the
// left matrix, right(k) points to a row of the right matrix, and
// finish(i, j, sum) takes vector j of row i of the product.
template <class T, int kRows, int kVectors, class Left, class Right,
          class Finish>
INLINE void multiply_tile(int64_t depth, Left left, Right right,
                          Finish finish) {
  Vector<T> sum[kRows][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    const T* row = right(k);
    Vector<T> columns[kVectors];
    for (int j = 0; j < kVectors; ++j) columns[j] = load(row + j * kLanes<T>);
    for (int i = 0; i < kRows; ++i) {
      const T factor = left(i, k);
      for (int j = 0; j < kVectors; ++j) sum[i][j] += factor * columns[j];
    }
  }
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kVectors; ++j) finish(i, j, sum[i][j]);
}

// All rows of kVectors vectors of columns, in tiles of kRows rows, and what is
// left in smaller ones.
template <class T, int kVectors, int kRows = kTileRows, class Left, class Right,
          class Finish>
INLINE void multiply_panel(int64_t rows, int64_t depth, Left left, Right right,
                           Finish finish, int64_t first = 0) {
  int64_t i = first;
  for (; i + kRows <= rows; i += kRows)
    multiply_tile<T, kRows, kVectors>(
        depth,
        [&](int row, int64_t k) ALWAYS_INLINE { return left(i + row, k); },
        right, [&](int row, int j, Vector<T> sum) ALWAYS_INLINE {
          finish(i + row, j, sum);
        });
  if constexpr (kRows > 1)
    multiply_panel<T, kVectors, kRows / 2>(rows, depth, left, right, finish, i);
}

// Calls function(column, vectors) for panels of all columns, which are a
// multiple of the lanes; `vectors` is an integral constant.
template <class T, class Function>
INLINE void for_each_panel(int64_t columns, Function function) {
  constexpr int64_t kColumns = kPanelVectors * kLanes<T>;
  int64_t j = 0;
  for (; j + kColumns <= columns; j += kColumns)
    function(j, std::integral_constant<int, kPanelVectors>());
  for (; j < columns; j += kLanes<T>)
    function(j, std::integral_constant<int, 1>());
}

// The whole product, rows x columns with `depth` products in each sum; out(i)
// points to a row of the product. With `add`, it is added to what is there.
template <class T, class Left, class Right, class Out>
INLINE void multiply(int64_t rows, int64_t columns, int64_t depth, Left left,
                     Right right, Out out, bool add) {
  for_each_panel<T>(columns, [&](int64_t column, auto vectors) ALWAYS_INLINE {
    multiply_panel<T, vectors>(
        rows, depth, left,
        [&](int64_t k) ALWAYS_INLINE { return right(k) + column; },
        [&](int64_t i, int j, Vector<T> sum) ALWAYS_INLINE {
          T* p = out(i) + column + j * kLanes<T>;
          store(p, add ? load(p) + sum : sum);
        });
  });
}

}  // namespace mmbiformer
