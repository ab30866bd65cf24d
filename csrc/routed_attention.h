// Routed attention on CPUs, forward and backward, without gathering keys or
// values: the routed tokens are read from the maps through a table of their
// indices.
//
// One head of one region is processed in blocks of queries and tiles of keys,
// with the online softmax of FlashAttention (arXiv 2205.14135, Algorithm 1).
// The scores of a block and a tile are stored as keys x queries. Queries then
// lie side by side in the vector registers, so that neither the products nor
// the softmax need a transposition or a sum within a register.
//
// Plain C++17 with the vector extensions of GCC and Clang; needs no header of
// torch or Python.

#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "products.h"
#include "threads.h"
#include "vectors.h"

namespace mmbiformer {
// The arguments of a call; `_Arguments` in native.py has the same fields in
// the same order. Maps have shape (images, height, width, heads * head_dim).
// From one token of a map to the next there are always as many elements: the
// strides of queries, keys and values, and `heads * head_dim` in all other
// maps.
template <class T>
struct AttentionArguments {
  int64_t images, height, width, heads, head_dim, n_win, topk;
  int64_t q_stride, k_stride, v_stride;
  int64_t threads;
  double scale;
  const T *q, *k, *v;
  const int64_t* routing;  // (images, n_win * n_win, topk)
  // Written by the forward pass and read by the backward pass.
  T* out;
  // (images, height, width, heads, 2): the maximum of a query's scores, and
  // the sum of the exponentials of its scores less the maximum. Null if there
  // will be no backward pass.
  T* softmax_stats;
  // Of the backward pass only; grad_k and grad_v are zero at first.
  const T* grad_out;
  T *grad_q, *grad_k, *grad_v;

  INLINE int64_t dim() const { return heads * head_dim; }
  INLINE int64_t regions() const { return n_win * n_win; }
  INLINE int64_t region_height() const { return height / n_win; }
  INLINE int64_t region_width() const { return width / n_win; }
  INLINE int64_t region_tokens() const {
    return region_height() * region_width();
  }
  INLINE int64_t routed_tokens() const { return topk * region_tokens(); }
};

constexpr int64_t kBlockQueries = 64;
constexpr int64_t kTileKeys = 64;

// ---------------------------------------------------------------------------
// Tokens

// The channels of one head in a map; head[t] points to those of token t.
template <class T>
struct HeadMap {
  T* data;
  int64_t stride;

  INLINE T* operator[](int64_t token) const { return data + token * stride; }
};

// Queries of one region that are processed together, by their tokens' indices
// in the map. `lanes` is `count` rounded up to whole vectors.
struct QueryBlock {
  const int64_t* tokens;
  int64_t count, lanes;
};

// Keys, with their values, that are processed together.
struct KeyTile {
  const int64_t* tokens;
  int64_t count;
  bool is_first;  // of the keys that a block of queries attends to
  int64_t next_count;  // keys of the next tile, whose tokens follow
};

// Writes the indices in the map of a region's tokens, row by row. Returns the
// end of what it wrote.
template <class T>
INLINE int64_t* list_region_tokens(const AttentionArguments<T>& args, int64_t image,
                                   int64_t region, int64_t* tokens) {
  const int64_t height = args.region_height(), width = args.region_width();
  const int64_t top = image * args.height + region / args.n_win * height;
  int64_t first = top * args.width + region % args.n_win * width;
  for (int64_t y = 0; y < height; ++y, first += args.width)
    for (int64_t x = 0; x < width; ++x) *tokens++ = first + x;
  return tokens;
}

// The tokens of one region, and those that it attends to.
template <class T>
struct RegionTokens {
  int64_t *own, *routed;
  int64_t own_count, routed_count;

  RegionTokens(const AttentionArguments<T>& args, Arena& arena)
      : own(arena.take<int64_t>(args.region_tokens())),
        routed(arena.take<int64_t>(args.routed_tokens())),
        own_count(args.region_tokens()),
        routed_count(args.routed_tokens()) {}

  INLINE void list(const AttentionArguments<T>& args, int64_t image, int64_t region) {
    list_region_tokens(args, image, region, own);
    const int64_t* chosen =
        args.routing + (image * args.regions() + region) * args.topk;
    int64_t* end = routed;
    for (int64_t j = 0; j < args.topk; ++j)
      end = list_region_tokens(args, image, chosen[j], end);
  }

  // Calls function(block) for all blocks of the region's queries.
  template <class Function>
  INLINE void for_each_query_block(Function function) const {
    for (int64_t first = 0; first < own_count; first += kBlockQueries) {
      const int64_t count = std::min(kBlockQueries, own_count - first);
      function(QueryBlock{own + first, count, round_up(count, kLanes<T>)});
    }
  }

  // Calls function(tile) for all tiles of the routed keys.
  template <class Function>
  INLINE void for_each_key_tile(Function function) const {
    for (int64_t first = 0; first < routed_count; first += kTileKeys) {
      const int64_t next = first + kTileKeys;
      function(KeyTile{
          routed + first, std::min(kTileKeys, routed_count - first), first == 0,
          std::clamp<int64_t>(routed_count - next, 0, kTileKeys)});
    }
  }
};

// ---------------------------------------------------------------------------
// What both passes compute from a block of queries and a tile of keys

// Stores queries side by side: columns[d][t] = scale * map[query t][d]. Lanes
// after the last query repeat it.
template <class T>
INLINE void load_columns(QueryBlock queries, int64_t head_dim,
                         HeadMap<const T> map, T scale, T* __restrict columns) {
  for (int64_t t = 0; t < queries.lanes; t += kLanes<T>)
    for (int64_t d = 0; d < head_dim; d += kLanes<T>)
      transpose<T>(
          [&](int64_t i) ALWAYS_INLINE {
            return map[queries.tokens[std::min(t + i, queries.count - 1)]] + d;
          },
          [&](int64_t i) ALWAYS_INLINE {
            return columns + (d + i) * queries.lanes + t;
          },
          scale);
}

// products[i][t] = the product of map[key i] and column t.
template <class T>
INLINE void multiply_keys(QueryBlock queries, KeyTile keys, int64_t head_dim,
                          HeadMap<const T> map, const T* columns, T* products) {
  multiply<T>(
      keys.count, queries.lanes, head_dim,
      [&](int64_t i, int64_t d)
          ALWAYS_INLINE { return map[keys.tokens[i]][d]; },
      [&](int64_t d) ALWAYS_INLINE { return columns + d * queries.lanes; },
      [&](int64_t i) ALWAYS_INLINE { return products + i * queries.lanes; },
      false);
}

// out(t) = sum over keys i of weights[i][t] * map[key i], added to what the
// tiles before gave.
template <class T, class Out>
INLINE void accumulate_queries(QueryBlock queries, KeyTile keys,
                               int64_t head_dim, const T* weights,
                               HeadMap<const T> map, Out out) {
  multiply<T>(
      queries.count, head_dim, keys.count,
      [&](int64_t t, int64_t i)
          ALWAYS_INLINE { return weights[i * queries.lanes + t]; },
      [&](int64_t i) ALWAYS_INLINE { return map[keys.tokens[i]]; }, out,
      !keys.is_first);
}

// out[key i] += sum over queries t of weights[i][t] * map[query t].
template <class T>
INLINE void accumulate_keys(QueryBlock queries, KeyTile keys, int64_t head_dim,
                            const T* weights, HeadMap<const T> map,
                            HeadMap<T> out) {
  multiply<T>(
      keys.count, head_dim, queries.count,
      [&](int64_t i, int64_t t)
          ALWAYS_INLINE { return weights[i * queries.lanes + t]; },
      [&](int64_t t) ALWAYS_INLINE { return map[queries.tokens[t]]; },
      [&](int64_t i) ALWAYS_INLINE { return out[keys.tokens[i]]; }, true);
}

// Lets the CPU load what the next tile needs of a map, since routed tokens lie
// where no CPU expects them.
template <class T>
INLINE void prefetch_next(KeyTile keys, int64_t head_dim,
                          HeadMap<const T> map) {
  for (int64_t i = keys.count; i < keys.count + keys.next_count; ++i)
    for (int64_t d = 0; d < head_dim; d += kCacheLineBytes / sizeof(T))
      __builtin_prefetch(map[keys.tokens[i]] + d);
}

// ---------------------------------------------------------------------------
// Forward

// One thread of the forward pass. A task is one head of one region.
template <class T>
class ForwardThread {
 public:
  static int64_t count_tasks(const AttentionArguments<T>& args) {
    return args.images * args.regions() * args.heads;
  }

  ForwardThread(const AttentionArguments<T>& args, Arena& arena)
      : args_(args),
        head_dim_(args.head_dim),
        tokens_(args, arena),
        q_columns_(arena.take<T>(head_dim_ * kBlockQueries)),
        scores_(arena.take<T>(kTileKeys * kBlockQueries)),
        sums_(arena.take<T>(kBlockQueries * head_dim_)),
        row_max_(arena.take<T>(kBlockQueries)),
        row_sum_(arena.take<T>(kBlockQueries)),
        rescale_(arena.take<T>(kBlockQueries)) {}

  void run(int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t region = task / args_.heads, head = task % args_.heads;
      // All heads of a region have the same tokens.
      if (task == begin || head == 0)
        tokens_.list(args_, region / args_.regions(), region % args_.regions());
      tokens_.for_each_query_block(
          [&](QueryBlock queries) ALWAYS_INLINE { attend(queries, head); });
    }
  }

 private:
  INLINE void attend(QueryBlock queries, int64_t head) {
    const int64_t channel = head * head_dim_;
    const HeadMap<const T> q{args_.q + channel, args_.q_stride};
    const HeadMap<const T> k{args_.k + channel, args_.k_stride};
    const HeadMap<const T> v{args_.v + channel, args_.v_stride};
    load_columns<T>(queries, head_dim_, q, args_.scale, q_columns_);
    std::fill_n(row_max_, kBlockQueries, -std::numeric_limits<T>::infinity());
    std::fill_n(row_sum_, kBlockQueries, T(0));
    tokens_.for_each_key_tile([&](KeyTile keys) ALWAYS_INLINE {
      prefetch_next(keys, head_dim_, k);
      multiply_keys<T>(queries, keys, head_dim_, k, q_columns_, scores_);
      prefetch_next(keys, head_dim_, v);
      update_softmax(queries, keys);
      if (!keys.is_first) rescale_sums(queries);
      accumulate_queries<T>(
          queries, keys, head_dim_, scores_, v,
          [&](int64_t t) ALWAYS_INLINE { return sums_ + t * head_dim_; });
    });
    write(queries, head);
  }

  // One step of the online softmax: scores become their exponentials, less
  // the maximum so far. What was summed with the maximum before is to be
  // multiplied by rescale_.
  INLINE void update_softmax(QueryBlock queries, KeyTile keys) {
    T* const scores = scores_;
    for (int64_t t = 0; t < queries.lanes; t += kLanes<T>) {
      const Vector<T> max_before = load(row_max_ + t);
      Vector<T> max = max_before, sum = {};
      for (int64_t i = 0; i < keys.count; ++i)
        max = maximum(max, load(scores + i * queries.lanes + t));
      for (int64_t i = 0; i < keys.count; ++i) {
        T* p = scores + i * queries.lanes + t;
        const Vector<T> weight = exp_nonpositive(load(p) - max);
        store(p, weight);
        sum += weight;
      }
      const Vector<T> rescale = exp_nonpositive(max_before - max);
      store(rescale_ + t, rescale);
      store(row_sum_ + t, load(row_sum_ + t) * rescale + sum);
      store(row_max_ + t, max);
    }
  }

  INLINE void rescale_sums(QueryBlock queries) {
    for (int64_t t = 0; t < queries.count; ++t) {
      const T rescale = rescale_[t];
      T* sums = sums_ + t * head_dim_;
      for (int64_t d = 0; d < head_dim_; ++d) sums[d] *= rescale;
    }
  }

  INLINE void write(QueryBlock queries, int64_t head) {
    const HeadMap<T> out{args_.out + head * head_dim_, args_.dim()};
    for (int64_t t = 0; t < queries.count; ++t) {
      const int64_t token = queries.tokens[t];
      const T row_sum = row_sum_[t];
      const T* __restrict sums = sums_ + t * head_dim_;
      T* __restrict row = out[token];
      for (int64_t d = 0; d < head_dim_; ++d) row[d] = sums[d] / row_sum;
      if (!args_.softmax_stats) continue;
      T* stats = args_.softmax_stats + (token * args_.heads + head) * 2;
      stats[0] = row_max_[t];
      stats[1] = row_sum;
    }
  }

  const AttentionArguments<T>& args_;
  const int64_t head_dim_;
  RegionTokens<T> tokens_;
  T *const q_columns_, *const scores_, *const sums_;
  T *const row_max_, *const row_sum_, *const rescale_;
};

// ---------------------------------------------------------------------------
// Backward

// One thread of the backward pass. A task is one head of one image, so that
// what several regions add to the gradient of the same key is added by one
// thread, in one order.
template <class T>
class BackwardThread {
 public:
  static int64_t count_tasks(const AttentionArguments<T>& args) {
    return args.images * args.heads;
  }

  BackwardThread(const AttentionArguments<T>& args, Arena& arena)
      : args_(args),
        head_dim_(args.head_dim),
        tokens_(args, arena),
        q_columns_(arena.take<T>(head_dim_ * kBlockQueries)),
        grad_columns_(arena.take<T>(head_dim_ * kBlockQueries)),
        weights_(arena.take<T>(kTileKeys * kBlockQueries)),
        grad_scores_(arena.take<T>(kTileKeys * kBlockQueries)),
        row_max_(arena.take<T>(kBlockQueries)),
        inverse_sum_(arena.take<T>(kBlockQueries)),
        delta_(arena.take<T>(kBlockQueries)) {}

  void run(int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / args_.heads, head = task % args_.heads;
      for (int64_t region = 0; region < args_.regions(); ++region) {
        tokens_.list(args_, image, region);
        tokens_.for_each_query_block([&](QueryBlock queries) ALWAYS_INLINE {
          differentiate(queries, head);
        });
      }
    }
  }

 private:
  INLINE void differentiate(QueryBlock queries, int64_t head) {
    const int64_t channel = head * head_dim_, dim = args_.dim();
    const HeadMap<const T> q{args_.q + channel, args_.q_stride};
    const HeadMap<const T> k{args_.k + channel, args_.k_stride};
    const HeadMap<const T> v{args_.v + channel, args_.v_stride};
    const HeadMap<const T> grad_out{args_.grad_out + channel, dim};
    const HeadMap<T> grad_q{args_.grad_q + channel, dim};
    const HeadMap<T> grad_k{args_.grad_k + channel, dim};
    const HeadMap<T> grad_v{args_.grad_v + channel, dim};
    load_columns<T>(queries, head_dim_, q, args_.scale, q_columns_);
    load_columns<T>(queries, head_dim_, grad_out, T(1), grad_columns_);
    load_statistics(queries, head);
    tokens_.for_each_key_tile([&](KeyTile keys) ALWAYS_INLINE {
      multiply_keys<T>(queries, keys, head_dim_, k, q_columns_, weights_);
      multiply_keys<T>(queries, keys, head_dim_, v, grad_columns_,
                       grad_scores_);
      differentiate_softmax(queries, keys);
      accumulate_keys<T>(queries, keys, head_dim_, weights_, grad_out, grad_v);
      accumulate_keys<T>(queries, keys, head_dim_, grad_scores_, q, grad_k);
      accumulate_queries<T>(
          queries, keys, head_dim_, grad_scores_, k,
          [&](int64_t t) ALWAYS_INLINE { return grad_q[queries.tokens[t]]; });
    });
  }

  // For each query: the softmax's maximum and inverse sum, and delta, the
  // product of the output and its gradient.
  INLINE void load_statistics(QueryBlock queries, int64_t head) {
    const int64_t channel = head * head_dim_, dim = args_.dim();
    const HeadMap<const T> out{args_.out + channel, dim};
    const HeadMap<const T> grad_out{args_.grad_out + channel, dim};
    for (int64_t t = 0; t < queries.lanes; ++t) {
      const int64_t token = queries.tokens[std::min(t, queries.count - 1)];
      const T* stats = args_.softmax_stats + (token * args_.heads + head) * 2;
      row_max_[t] = stats[0];
      inverse_sum_[t] = 1 / stats[1];
      T delta = 0;
      for (int64_t d = 0; d < head_dim_; ++d)
        delta += grad_out[token][d] * out[token][d];
      delta_[t] = delta;
    }
  }

  // From the scores in weights_ and the gradients of the weights in
  // grad_scores_ to the weights and the gradients of the scores.
  INLINE void differentiate_softmax(QueryBlock queries, KeyTile keys) {
    const T scale = args_.scale;
    T *const weights = weights_, *const grad_scores = grad_scores_;
    const T *const row_max = row_max_, *const inverse_sum = inverse_sum_;
    const T* const delta = delta_;
    for (int64_t i = 0; i < keys.count; ++i)
      for (int64_t t = 0; t < queries.lanes; t += kLanes<T>) {
        T* w = weights + i * queries.lanes + t;
        T* g = grad_scores + i * queries.lanes + t;
        const Vector<T> weight = exp_nonpositive(load(w) - load(row_max + t)) *
                                 load(inverse_sum + t);
        store(w, weight);
        store(g, scale * weight * (load(g) - load(delta + t)));
      }
  }

  const AttentionArguments<T>& args_;
  const int64_t head_dim_;
  RegionTokens<T> tokens_;
  T *const q_columns_, *const grad_columns_;
  T *const weights_, *const grad_scores_;
  T *const row_max_, *const inverse_sum_, *const delta_;
};

}  // namespace mmbiformer
