// The layers around routed attention on CPUs, without gradients: each does in
// one pass over its map what would be several.
//
// - linear: layer norm, padding or cropping of a map, linear layer, sum.
// - mlp: layer norm, two linear layers with GELU between them, sum. What lies
//   between stays in the cache.
// - depthwise: depthwise convolution of a channels-last map, and sum.
//
// Some rows of a map, prepared in scratch memory, are multiplied with weights
// that were copied beforehand: `pack_weights` stores the weights of adjacent
// output channels side by side, in the order in which `multiply_panel` reads
// them.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "products.h"
#include "threads.h"
#include "vectors.h"

namespace mmbiformer {

// Tokens that a thread processes together.
constexpr int64_t kBlockTokens = 4 * kTileRows;

// ---------------------------------------------------------------------------
// Linear layers

// A linear layer; `packed` has the memory of `pack_weights`.
template <class T>
struct Linear {
  int64_t in_channels, out_channels;
  const T* weight;  // (out_channels, in_channels)
  const T* bias;    // (out_channels), or null for 0
  T* packed;

  // The weights of the panel of columns that begins with an output channel.
  INLINE T* panel(int64_t channel) const {
    return packed + channel * in_channels;
  }

  // The layer for some of the output channels.
  INLINE Linear part(int64_t first, int64_t count) const {
    return {in_channels, count, weight + first * in_channels,
            bias ? bias + first : nullptr, panel(first)};
  }
};

// Layer norm over the channels; none without weights.
template <class T>
struct Norm {
  const T *weight, *bias;
  double epsilon;
};

// Stores the weights of each panel as in_channels x columns.
template <class T, class Parallel>
void pack_weights(const Linear<T>& linear, const Parallel& parallel) {
  constexpr int64_t kColumns = kPanelVectors * kLanes<T>;
  const int64_t depth = linear.in_channels;
  const int64_t panels = (linear.out_channels + kColumns - 1) / kColumns;
  parallel(panels, [&](int64_t i) {
    const int64_t first = i * kColumns;
    for_each_panel<T>(
        std::min(kColumns, linear.out_channels - first),
        [&](int64_t column, auto vectors) ALWAYS_INLINE {
          constexpr int64_t kWidth = vectors * kLanes<T>;
          const T* __restrict from = linear.weight + (first + column) * depth;
          T* __restrict to = linear.panel(first + column);
          for (int64_t k = 0; k < depth; k += kLanes<T>)
            for (int64_t j = 0; j < kWidth; j += kLanes<T>)
              transpose<T>(
                  [&](int64_t i) ALWAYS_INLINE {
                    return from + (j + i) * depth + k;
                  },
                  [&](int64_t i) ALWAYS_INLINE {
                    return to + (k + i) * kWidth + j;
                  },
                  T(1));
        });
  });
}

// Multiplies rows with the weights. finish(i, channel, v) takes a vector of
// output channels of row i.
template <class T, class Finish>
INLINE void apply_linear(const Linear<T>& linear, int64_t rows, const T* in,
                         Finish finish) {
  const int64_t depth = linear.in_channels;
  for_each_panel<T>(
      linear.out_channels, [&](int64_t channel, auto vectors) ALWAYS_INLINE {
        constexpr int64_t kWidth = vectors * kLanes<T>;
        const T* panel = linear.panel(channel);
        multiply_panel<T, vectors>(
            rows, depth,
            [&](int64_t i, int64_t k) ALWAYS_INLINE { return in[i * depth + k]; },
            [&](int64_t k) ALWAYS_INLINE { return panel + k * kWidth; },
            [&](int64_t i, int j, Vector<T> sum) ALWAYS_INLINE {
              const int64_t c = channel + j * kLanes<T>;
              finish(i, c, linear.bias ? sum + load(linear.bias + c) : sum);
            });
      });
}

// Writes a row of a map, normalized if there is a norm; channels are a multiple
// of the lanes.
template <class T>
INLINE void copy_row(const Norm<T>& norm, int64_t channels,
                     const T* __restrict from, T* __restrict to) {
  if (!norm.weight) {
    std::copy_n(from, channels, to);
    return;
  }
  Vector<T> sum = {}, squares = {};
  for (int64_t c = 0; c < channels; c += kLanes<T>) sum += load(from + c);
  const T mean = sum_lanes<T>(sum) / channels;
  for (int64_t c = 0; c < channels; c += kLanes<T>) {
    const Vector<T> centered = load(from + c) - mean;
    squares += centered * centered;
  }
  const T variance = sum_lanes<T>(squares) / channels;
  const T scale = 1 / std::sqrt(variance + T(norm.epsilon));
  for (int64_t c = 0; c < channels; c += kLanes<T>)
    store(to + c, (load(from + c) - mean) * scale * load(norm.weight + c) +
                      load(norm.bias + c));
}

// Maps into which the output channels of `linear` can be cut.
constexpr int kMaxParts = 3;

// The arguments of `linear`, which computes a map from another. The maps have
// the same left upper corner: of the larger one, the right and the bottom are
// left out, or taken as 0 after the norm.
template <class T>
struct LinearArguments {
  int64_t images, in_height, in_width, out_height, out_width, threads;
  // Output channels are cut into so many maps, each of them contiguous.
  int64_t parts;
  int64_t add;  // whether to add to what is in `out`
  Norm<T> norm;
  Linear<T> linear;
  const T* in;
  T* out[kMaxParts];
};

template <class T>
struct MlpArguments {
  int64_t tokens, threads;
  Norm<T> norm;
  Linear<T> first, second;
  T* map;  // (tokens, channels); the result is added to it
};

template <class T>
struct DepthwiseArguments {
  int64_t images, height, width, channels, kernel, threads;
  const T* weight;  // (kernel, kernel, channels)
  const T* bias;
  const T *in, *added;
  T* out;  // may be `added`, but not `in`
};

template <class T>
class LinearThread {
 public:
  static int64_t count_tasks(const LinearArguments<T>& args) {
    return args.images * args.out_height * args.out_width;
  }

  LinearThread(const LinearArguments<T>& args, Arena& arena)
      : args_(args),
        rows_(arena.take<T>(kBlockTokens * args.linear.in_channels)) {}

  void run(int64_t begin, int64_t end) {
    for (; begin < end; begin += kBlockTokens)
      compute(begin, std::min(kBlockTokens, end - begin));
  }

 private:
  INLINE void compute(int64_t first, int64_t count) {
    const int64_t depth = args_.linear.in_channels;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t token = first + i;
      const int64_t x = token % args_.out_width;
      const int64_t line = token / args_.out_width;
      const int64_t y = line % args_.out_height;
      const int64_t image = line / args_.out_height;
      T* row = rows_ + i * depth;
      if (x < args_.in_width && y < args_.in_height)
        copy_row(args_.norm, depth,
                 args_.in + ((image * args_.in_height + y) * args_.in_width +
                             x) * depth,
                 row);
      else
        std::fill_n(row, depth, T(0));
    }
    const int64_t channels = args_.linear.out_channels / args_.parts;
    const bool add = args_.add;
    for (int64_t part = 0; part < args_.parts; ++part) {
      T* out = args_.out[part] + first * channels;
      apply_linear<T>(args_.linear.part(part * channels, channels), count,
                      rows_,
                      [&](int64_t i, int64_t c, Vector<T> v) ALWAYS_INLINE {
                        T* p = out + i * channels + c;
                        store(p, add ? load(p) + v : v);
                      });
    }
  }

  const LinearArguments<T>& args_;
  T* const rows_;
};

template <class T>
class MlpThread {
 public:
  static int64_t count_tasks(const MlpArguments<T>& args) {
    return args.tokens;
  }

  MlpThread(const MlpArguments<T>& args, Arena& arena)
      : args_(args),
        rows_(arena.take<T>(kBlockTokens * args.first.in_channels)),
        hidden_(arena.take<T>(kBlockTokens * args.first.out_channels)) {}

  void run(int64_t begin, int64_t end) {
    for (; begin < end; begin += kBlockTokens)
      compute(begin, std::min(kBlockTokens, end - begin));
  }

 private:
  INLINE void compute(int64_t first, int64_t count) {
    const int64_t channels = args_.first.in_channels;
    const int64_t width = args_.first.out_channels;
    T* const map = args_.map + first * channels;
    T* const hidden = hidden_;
    for (int64_t i = 0; i < count; ++i)
      copy_row(args_.norm, channels, map + i * channels, rows_ + i * channels);
    apply_linear<T>(args_.first, count, rows_,
                    [&](int64_t i, int64_t c, Vector<T> v) ALWAYS_INLINE {
                      store(hidden + i * width + c, v);
                    });
    for (int64_t i = 0; i < count * width; i += kLanes<T>)
      store(hidden + i, gelu(load(hidden + i)));
    apply_linear<T>(args_.second, count, hidden,
                    [&](int64_t i, int64_t c, Vector<T> v) ALWAYS_INLINE {
                      T* p = map + i * channels + c;
                      store(p, load(p) + v);
                    });
  }

  const MlpArguments<T>& args_;
  T *const rows_, *const hidden_;
};

// A task is one line of a map.
template <class T>
class DepthwiseThread {
 public:
  static int64_t count_tasks(const DepthwiseArguments<T>& args) {
    return args.images * args.height;
  }

  DepthwiseThread(const DepthwiseArguments<T>& args, Arena& arena)
      : args_(args), zeros_(arena.take<T>(args.channels)) {}

  void run(int64_t begin, int64_t end) {
    std::fill_n(zeros_, args_.channels, T(0));
    for (int64_t line = begin; line < end; ++line)
      if (args_.kernel == 5)
        convolve<5>(line);
      else
        convolve<3>(line);
  }

 private:
  // Output tokens that are computed together: the registers hold their sums
  // and the inputs of a line.
  static constexpr int64_t kTokens = kTileRows / 3 * 2;

  template <int kKernel>
  INLINE void convolve(int64_t line) {
    constexpr int64_t kReach = kKernel / 2;
    int64_t x = 0;
    for (; x + kTokens <= args_.width; x += kTokens)
      if (x >= kReach && x + kTokens + kReach <= args_.width)
        convolve_tokens<kKernel, kTokens, true>(line, x);
      else
        convolve_tokens<kKernel, kTokens, false>(line, x);
    for (; x < args_.width; ++x) convolve_tokens<kKernel, 1, false>(line, x);
  }

  // Computes kCount tokens of a line; kInside tells that no input lies left or
  // right of the map.
  template <int kKernel, int kCount, bool kInside>
  INLINE void convolve_tokens(int64_t line, int64_t first) {
    constexpr int kReach = kKernel / 2, kInputs = kCount + kKernel - 1;
    const int64_t channels = args_.channels, width = args_.width;
    const int64_t y = line % args_.height;
    const int64_t begin = std::max<int64_t>(0, kReach - y);
    const int64_t end = std::min<int64_t>(kKernel, args_.height + kReach - y);
    for (int64_t c = 0; c < channels; c += kLanes<T>) {
      const int64_t start = (line * width + first) * channels + c;
      Vector<T> sum[kCount] = {};
      for (int64_t dy = begin; dy < end; ++dy) {
        const T* in =
            args_.in + start + ((dy - kReach) * width - kReach) * channels;
        Vector<T> inputs[kInputs];
        for (int j = 0; j < kInputs; ++j) {
          const int64_t x = first + j - kReach;
          const bool inside = kInside || (x >= 0 && x < width);
          inputs[j] = load(inside ? in + j * channels : zeros_ + c);
        }
        for (int dx = 0; dx < kKernel; ++dx) {
          const Vector<T> tap =
              load(args_.weight + (dy * kKernel + dx) * channels + c);
          for (int i = 0; i < kCount; ++i) sum[i] += inputs[i + dx] * tap;
        }
      }
      const Vector<T> bias = load(args_.bias + c);
      for (int i = 0; i < kCount; ++i) {
        const int64_t at = start + i * channels;
        store(args_.out + at, load(args_.added + at) + bias + sum[i]);
      }
    }
  }

  const DepthwiseArguments<T>& args_;
  T* const zeros_;
};

template <class T, class Parallel>
int64_t run_linear(const LinearArguments<T>& args, const Parallel& parallel) {
  const int64_t channels = args.linear.out_channels / args.parts;
  for (int64_t part = 0; part < args.parts; ++part)
    pack_weights(args.linear.part(part * channels, channels), parallel);
  return run<LinearThread<T>>(args, parallel);
}

template <class T, class Parallel>
int64_t run_mlp(const MlpArguments<T>& args, const Parallel& parallel) {
  pack_weights(args.first, parallel);
  pack_weights(args.second, parallel);
  return run<MlpThread<T>>(args, parallel);
}

template <class T, class Parallel>
int64_t run_depthwise(const DepthwiseArguments<T>& args,
                      const Parallel& parallel) {
  return run<DepthwiseThread<T>>(args, parallel);
}

}  // namespace mmbiformer
