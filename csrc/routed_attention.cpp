// Routed attention on the CPU: one pass over the map, nothing gathered.
//
// A task is one head of one region. Its keys and values are read where they
// lie in the map, through a table of the routed tokens, block by block with
// the online softmax of FlashAttention (arXiv 2205.14135, Algorithm 1). The
// tile with the products is kept as keys x queries: queries lie side by side
// in the vectors, so that neither the products nor the softmax needs a
// transposition or a sum across a vector.
//
// Plain C++ with the vectors of GCC and Clang; no header of torch or Python.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <type_traits>

#define ALWAYS __attribute__((always_inline))
#define INLINE inline ALWAYS

namespace {

constexpr int64_t kQueries = 64;   // of a tile
constexpr int64_t kKeys = 64;     // of a tile
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

// What Python passes; the same order in native.py.
struct Shape {
  int64_t n, height, width, heads, head_dim, n_win, topk;
  // From one token of the map to the next, in elements.
  int64_t q_stride, k_stride, v_stride;

  INLINE int64_t dim() const { return heads * head_dim; }
  INLINE int64_t regions() const { return n_win * n_win; }
  INLINE int64_t tokens() const { return height / n_win * (width / n_win); }
};

// The tokens of a region, by their index in the map, row by row.
INLINE int64_t* list_region(const Shape& s, int64_t n, int64_t r,
                            int64_t* tokens) {
  const int64_t height = s.height / s.n_win, width = s.width / s.n_win;
  int64_t row = (n * s.height + r / s.n_win * height) * s.width +
                r % s.n_win * width;
  for (int64_t y = 0; y < height; ++y, row += s.width)
    for (int64_t x = 0; x < width; ++x) *tokens++ = row + x;
  return tokens;
}

// The tokens of all regions that a region, nr of all images, is routed to.
INLINE void list_routed(const Shape& s, const int64_t* routing, int64_t nr,
                        int64_t* tokens) {
  for (int64_t j = 0; j < s.topk; ++j)
    tokens = list_region(s, nr / s.regions(), routing[nr * s.topk + j], tokens);
}

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

// exp of what is never above zero.
INLINE Vector<float> exponential(Vector<float> x) {
  typedef int32_t Ints __attribute__((vector_size(kVectorBytes)));
  const Vector<float> lowest = Vector<float>{} - 87.0f;
  x = x < lowest ? lowest : x;
  // 2^n e^r with |r| <= log(2) / 2; adding 1.5 * 2^23 rounds.
  Vector<float> shifted = x * 1.44269504f + 12582912.0f;
  Vector<float> n = shifted - 12582912.0f;
  Vector<float> r = x - n * 0.693145752f - n * 1.42860677e-6f;
  Vector<float> p = r * 1.98412698e-4f + 1.38888889e-3f;
  p = p * r + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  Ints power;
  std::memcpy(&power, &shifted, sizeof power);
  power = (power << 23) + 0x3f800000;
  Vector<float> scale;
  std::memcpy(&scale, &power, sizeof scale);
  return p * scale;
}

INLINE Vector<double> exponential(Vector<double> x) {
  for (int64_t i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

// c(i)[0 : kCols vectors] (+)= sum over k of a(i, k) * b(k)[same]
template <class T, int kRows, int kCols, class A, class B, class C>
INLINE void tile(int64_t depth, A a, B b, C c, bool add) {
  Vector<T> sum[kRows][kCols] = {};
  for (int64_t k = 0; k < depth; ++k) {
    const T* row = b(k);
    Vector<T> right[kCols];
    for (int j = 0; j < kCols; ++j) right[j] = load(row + j * kLanes<T>);
    for (int i = 0; i < kRows; ++i) {
      T left = a(i, k);
      for (int j = 0; j < kCols; ++j) sum[i][j] += left * right[j];
    }
  }
  for (int i = 0; i < kRows; ++i) {
    T* out = c(i);
    for (int j = 0; j < kCols; ++j) {
      T* p = out + j * kLanes<T>;
      store(p, add ? load(p) + sum[i][j] : sum[i][j]);
    }
  }
}

template <class T, int kCols, class A, class B, class C>
INLINE void panel(int64_t rows, int64_t depth, A a, B b, C c, bool add) {
  int64_t i = 0;
  auto next = [&](auto count) ALWAYS {
    tile<T, count, kCols>(
        depth, [&](int row, int64_t k) ALWAYS { return a(i + row, k); }, b,
        [&](int row) ALWAYS { return c(i + row); }, add);
    i += count;
  };
  // Enough sums to hide the latency of an addition, few enough for registers.
  constexpr int kRows = kCols == 1 ? 8 : 4;
  while (i + kRows <= rows) next(std::integral_constant<int, kRows>());
  while (i < rows) next(std::integral_constant<int, 1>());
}

// c (rows x columns) (+)= a (rows x depth) b (depth x columns); columns are a
// multiple of the lanes. a(i, k) is a number, b(k) and c(i) are rows.
template <class T, class A, class B, class C>
INLINE void multiply(int64_t rows, int64_t columns, int64_t depth, A a, B b,
                     C c, bool add) {
  int64_t j = 0;
  auto right = [&](int64_t k) ALWAYS { return b(k) + j; };
  auto out = [&](int64_t i) ALWAYS { return c(i) + j; };
  for (; j + 2 * kLanes<T> <= columns; j += 2 * kLanes<T>)
    panel<T, 2>(rows, depth, a, right, out, add);
  for (; j < columns; j += kLanes<T>)
    panel<T, 1>(rows, depth, a, right, out, add);
}

// Memory of one thread.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t size)
      : data_(static_cast<T*>(std::aligned_alloc(
            64, (size * sizeof(T) + 63) / 64 * 64))) {
    if (!data_) throw std::bad_alloc();
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }
  operator T*() const { return data_; }

 private:
  T* data_;
};

// Tokens side by side: out[d][t] = scale * x[t][d]. Lanes behind the last
// token repeat it.
template <class T>
INLINE void load_columns(const int64_t* tokens, int64_t count, int64_t lanes,
                         int64_t head_dim, const T* x, int64_t stride, T scale,
                         T* out) {
  for (int64_t t = 0; t < lanes; ++t) {
    const T* row = x + tokens[std::min(t, count - 1)] * stride;
    for (int64_t d = 0; d < head_dim; ++d) out[d * lanes + t] = scale * row[d];
  }
}

// tile[i][t]: token i times column t.
template <class T>
INLINE void multiply_rows(const int64_t* tokens, int64_t count, int64_t lanes,
                          int64_t head_dim, const T* x, int64_t stride,
                          const T* columns, T* tile) {
  multiply<T>(
      count, lanes, head_dim,
      [&](int64_t i, int64_t d) ALWAYS { return x[tokens[i] * stride + d]; },
      [&](int64_t d) ALWAYS { return columns + d * lanes; },
      [&](int64_t i) ALWAYS { return tile + i * lanes; }, false);
}

// Whole vectors for a number of queries.
template <class T>
INLINE int64_t lanes_for(int64_t queries) {
  return (queries + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// One step of the online softmax: products become exponentials; what was
// summed before is to be multiplied by shrink.
template <class T>
INLINE void exponentiate(int64_t count, int64_t lanes, T* tile, T* high,
                         T* total, T* shrink) {
  for (int64_t t = 0; t < lanes; t += kLanes<T>) {
    const Vector<T> before = load(high + t);
    Vector<T> top = before, sum = {};
    for (int64_t i = 0; i < count; ++i)
      top = maximum(top, load(tile + i * lanes + t));
    for (int64_t i = 0; i < count; ++i) {
      T* p = tile + i * lanes + t;
      const Vector<T> weight = exponential(load(p) - top);
      store(p, weight);
      sum += weight;
    }
    const Vector<T> factor = exponential(before - top);
    store(shrink + t, factor);
    store(total + t, load(total + t) * factor + sum);
    store(high + t, top);
  }
}

// Tasks are heads of regions, the heads of one region in a row.
template <class T>
void forward(const Shape& s, const T* q, const T* k, const T* v,
             const int64_t* routing, T scale, T* out, T* softmax, int64_t begin,
             int64_t end) {
  const int64_t D = s.head_dim, keys = s.topk * s.tokens();
  Buffer<int64_t> own(s.tokens()), routed(keys);
  Buffer<T> columns(D * kQueries), tile(kKeys * kQueries), sums(kQueries * D);
  Buffer<T> high(kQueries), total(kQueries), shrink(kQueries);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t nr = task / s.heads, channel = task % s.heads * D;
    if (task == begin || channel == 0) {
      list_region(s, nr / s.regions(), nr % s.regions(), own);
      list_routed(s, routing, nr, routed);
    }
    for (int64_t first = 0; first < s.tokens(); first += kQueries) {
      const int64_t* mine = own + first;
      const int64_t queries = std::min(kQueries, s.tokens() - first);
      const int64_t lanes = lanes_for<T>(queries);
      load_columns<T>(mine, queries, lanes, D, q + channel, s.q_stride, scale,
                      columns);
      std::fill_n(static_cast<T*>(high), kQueries,
                  -std::numeric_limits<T>::infinity());
      std::fill_n(static_cast<T*>(total), kQueries, T(0));
      for (int64_t from = 0; from < keys; from += kKeys) {
        const int64_t count = std::min(kKeys, keys - from);
        const int64_t* tokens = routed + from;
        multiply_rows<T>(tokens, count, lanes, D, k + channel,
                         s.k_stride, columns, tile);
        exponentiate<T>(count, lanes, tile, high, total, shrink);
        if (from)
          for (int64_t t = 0; t < queries; ++t)
            for (int64_t d = 0; d < D; ++d) sums[t * D + d] *= shrink[t];
        multiply<T>(
            queries, D, count,
            [&](int64_t t, int64_t i) ALWAYS { return tile[i * lanes + t]; },
            [&](int64_t i) ALWAYS {
              return v + tokens[i] * s.v_stride + channel;
            },
            [&](int64_t t) ALWAYS { return sums + t * D; }, from > 0);
      }
      for (int64_t t = 0; t < queries; ++t) {
        T* row = out + mine[t] * s.dim() + channel;
        for (int64_t d = 0; d < D; ++d) row[d] = sums[t * D + d] / total[t];
        T* kept = softmax + (mine[t] * s.heads + channel / D) * 2;
        kept[0] = high[t];
        kept[1] = total[t];
      }
    }
  }
}

// Tasks are heads of images: what two regions add to the gradient of a third
// is added by one thread, in one order.
template <class T>
void backward(const Shape& s, const T* q, const T* k, const T* v,
              const int64_t* routing, T scale, const T* out, const T* softmax,
              const T* grad, T* grad_q, T* grad_k, T* grad_v, int64_t begin,
              int64_t end) {
  const int64_t D = s.head_dim, C = s.dim(), keys = s.topk * s.tokens();
  Buffer<int64_t> own(s.tokens()), routed(keys);
  Buffer<T> columns(D * kQueries), grad_columns(D * kQueries);
  Buffer<T> weights(kKeys * kQueries), grad_products(kKeys * kQueries);
  Buffer<T> high(kQueries), share(kQueries), delta(kQueries);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t n = task / s.heads, channel = task % s.heads * D;
    for (int64_t nr = n * s.regions(); nr < (n + 1) * s.regions(); ++nr) {
      list_region(s, n, nr % s.regions(), own);
      list_routed(s, routing, nr, routed);
      for (int64_t first = 0; first < s.tokens(); first += kQueries) {
        const int64_t* mine = own + first;
        const int64_t queries = std::min(kQueries, s.tokens() - first);
        const int64_t lanes = lanes_for<T>(queries);
        load_columns<T>(mine, queries, lanes, D, q + channel, s.q_stride,
                        scale, columns);
        load_columns<T>(mine, queries, lanes, D, grad + channel, C, T(1),
                        grad_columns);
        for (int64_t t = 0; t < lanes; ++t) {
          const int64_t token = mine[std::min(t, queries - 1)];
          const T* kept = softmax + (token * s.heads + channel / D) * 2;
          high[t] = kept[0];
          share[t] = 1 / kept[1];
          delta[t] = 0;
          for (int64_t d = channel; d < channel + D; ++d)
            delta[t] += grad[token * C + d] * out[token * C + d];
        }
        for (int64_t from = 0; from < keys; from += kKeys) {
          const int64_t count = std::min(kKeys, keys - from);
          const int64_t* tokens = routed + from;
          multiply_rows<T>(tokens, count, lanes, D, k + channel,
                           s.k_stride, columns, weights);
          multiply_rows<T>(tokens, count, lanes, D, v + channel,
                           s.v_stride, grad_columns, grad_products);
          for (int64_t i = 0; i < count; ++i)
            for (int64_t t = 0; t < lanes; t += kLanes<T>) {
              T* p = weights + i * lanes + t;
              T* g = grad_products + i * lanes + t;
              const Vector<T> weight =
                  exponential(load(p) - load(high + t)) * load(share + t);
              store(p, weight);
              store(g, scale * weight * (load(g) - load(delta + t)));
            }
          multiply<T>(
              count, D, queries,
              [&](int64_t i, int64_t t) ALWAYS {
                return weights[i * lanes + t];
              },
              [&](int64_t t) ALWAYS { return grad + mine[t] * C + channel; },
              [&](int64_t i) ALWAYS { return grad_v + tokens[i] * C + channel; },
              true);
          multiply<T>(
              count, D, queries,
              [&](int64_t i, int64_t t) ALWAYS {
                return grad_products[i * lanes + t];
              },
              [&](int64_t t) ALWAYS {
                return q + mine[t] * s.q_stride + channel;
              },
              [&](int64_t i) ALWAYS { return grad_k + tokens[i] * C + channel; },
              true);
          multiply<T>(
              queries, D, count,
              [&](int64_t t, int64_t i) ALWAYS {
                return grad_products[i * lanes + t];
              },
              [&](int64_t i) ALWAYS {
                return k + tokens[i] * s.k_stride + channel;
              },
              [&](int64_t t) ALWAYS { return grad_q + mine[t] * C + channel; },
              from > 0);
        }
      }
    }
  }
}

// Cut the tasks into one even share for each thread.
template <class Work>
void split(int64_t tasks, int threads, Work work) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int i = 0; i < threads; ++i)
    work(tasks * i / threads, tasks * (i + 1) / threads);
}

}  // namespace

// Maps are (N, H, W, C) with equal strides from token to token; out and the
// gradients are contiguous. softmax is (N, H, W, heads, 2): the highest product
// of a query with its keys, and the sum of the exponentials of the products
// less that. The gradients of keys and values come in as zeros.
#define EXPORT(T, name)                                                           \
  extern "C" void forward_##name(                                                 \
      const Shape* s, const T* q, const T* k, const T* v,                         \
      const int64_t* routing, double scale, T* out, T* softmax, int threads) {    \
    split(s->n * s->regions() * s->heads, threads,                                \
          [&](int64_t begin, int64_t end) {                                       \
            forward<T>(*s, q, k, v, routing, scale, out, softmax, begin, end);    \
          });                                                                     \
  }                                                                               \
  extern "C" void backward_##name(                                                \
      const Shape* s, const T* q, const T* k, const T* v,                         \
      const int64_t* routing, double scale, const T* out, const T* softmax,       \
      const T* grad, T* grad_q, T* grad_k, T* grad_v, int threads) {              \
    split(s->n * s->heads, threads, [&](int64_t begin, int64_t end) {             \
      backward<T>(*s, q, k, v, routing, scale, out, softmax, grad, grad_q,        \
                  grad_k, grad_v, begin, end);                                    \
    });                                                                           \
  }

EXPORT(float, f32)
EXPORT(double, f64)
