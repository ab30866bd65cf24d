// Memory and threads. Nothing here throws: all memory is allocated before
// threads start, and a failure is returned to the caller.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "vectors.h"

namespace mmbiformer {

constexpr int64_t kCacheLineBytes = 64;

INLINE int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Hands out parts of a block of memory, each from the start of a cache line.
// Without a block it only counts the bytes, so that a class that takes its
// memory in its constructor tells how much it needs in the same lines.
class Arena {
 public:
  explicit Arena(char* block) : block_(block) {}

  template <class T>
  T* take(int64_t count) {
    char* part = block_ ? block_ + bytes_ : nullptr;
    bytes_ += round_up(count * sizeof(T), kCacheLineBytes);
    return reinterpret_cast<T*>(part);
  }

  int64_t bytes() const { return bytes_; }

 private:
  char* block_;
  int64_t bytes_ = 0;
};

// Runs function(i) for all i below `count`, by OpenMP.
class OpenMp {
 public:
  explicit OpenMp(int64_t threads) : threads(threads) {}

  template <class Function>
  void operator()(int64_t count, const Function& function) const {
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static)
#endif
    for (int64_t i = 0; i < count; ++i) function(i);
  }

  const int64_t threads;
};

// Runs all tasks, an even share of them on each thread; `parallel` is like
// OpenMp. Returns 0, or the bytes of scratch memory that could not be
// allocated.
template <class Thread, class Arguments, class Parallel>
int64_t run(const Arguments& args, const Parallel& parallel) {
  const int64_t tasks = Thread::count_tasks(args);
  const int64_t shares = std::min(tasks, parallel.threads);
  if (shares <= 0) return 0;
  Arena counter(nullptr);
  Thread(args, counter);
  const int64_t share_bytes = counter.bytes(), bytes = shares * share_bytes;
  char* block = static_cast<char*>(std::aligned_alloc(kCacheLineBytes, bytes));
  if (!block) return bytes;
  parallel(shares, [&](int64_t i) {
    Arena arena(block + i * share_bytes);
    Thread(args, arena).run(tasks * i / shares, tasks * (i + 1) / shares);
  });
  std::free(block);
  return 0;
}

}  // namespace mmbiformer
