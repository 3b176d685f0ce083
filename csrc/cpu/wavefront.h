// Runs the iterations of a level as a wavefront: each follows `lag` rows behind the one before, so that what it reads is
// still in cache, and threads take turns with blocks of iterations. Every iteration does the same arithmetic whoever runs
// it, so the number of threads changes no bit.
//
//   rows ->            thread 0: iterations 0-3     thread 1: iterations 4-7     thread 0: iterations 8-11 ...
//   . . . . 4 . 3 . 2 . 1   (each digit is one iteration's row at one moment)
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "cpu/sweep.h"

namespace cxr {

// Counts the steps that an iteration has done. Others wait for it without a lock, since a step takes microseconds.
class Progress {
 public:
  void publish(int steps) { steps_.store(steps, std::memory_order_release); }
  void wait_for(int steps) const {
    for (int spins = 0; steps_.load(std::memory_order_acquire) < steps; ++spins) {
      if (spins > 200) std::this_thread::yield();
    }
  }

 private:
  alignas(64) std::atomic<int> steps_{0};
};

// How many iterations one thread interleaves: enough to reuse rows, few enough that all their rows stay in `cache` bytes.
template <class T> int wavefront_depth(const Sweep<T>& sweep, int height, int width) {
  constexpr size_t cache = 600 * 1024;
  const size_t row = width * sizeof(T);
  if (4 * height * row < cache) return 1;  // the whole level stays
  const size_t one = sweep.lag() * 4 * row + sweep.ring_rows() * row;
  return int(std::min<size_t>(std::max<size_t>(cache / one, 1), 4));
}

// `sums[i]` receives those of iteration i; `smooth(i)` says whether it smooths the field.
template <class T, class Smooth>
void run_wavefront(const Level<T>& level, const DemonsOptions& options, int count, int threads, Smooth smooth, Sums* sums) {
  const Sweep<T> shape(level, options);
  const int steps = shape.steps(), lag = shape.lag(), depth = wavefront_depth(shape, level.height, level.width);
  int blocks = (count + depth - 1) / depth;
  blocks = (blocks + threads - 1) / threads * threads;  // equal work for all threads
  const auto first_of = [&](int block) { return int(long(block) * count / blocks); };
  std::unique_ptr<Progress[]> progress(new Progress[blocks + 1]);
  progress[0].publish(steps);

#pragma omp parallel num_threads(threads) if (threads > 1)
  {
#ifdef _OPENMP
    const int thread = omp_get_thread_num(), team = omp_get_num_threads();
#else
    const int thread = 0, team = 1;
#endif
    std::vector<Sweep<T>> sweeps(depth, shape);
    for (int block = thread; block < blocks; block += team) {
      const int first = first_of(block), size = first_of(block + 1) - first;
      for (int k = 0; k < size; ++k) sweeps[k].begin(smooth(first + k));
      for (int s = 0; s < steps + (size - 1) * lag; ++s) {
        if (s < steps) progress[block].wait_for(std::min(s + lag + 1, steps));
        for (int k = 0; k < size; ++k) {
          const int step = s - k * lag;
          if (step >= 0 && step < steps) sweeps[k].step(step);
        }
        const int done = s - (size - 1) * lag + 1;
        if (done > 0) progress[block + 1].publish(done);
      }
      if (size == 0) {  // more threads than iterations: pass on what came before
        progress[block].wait_for(steps);
        progress[block + 1].publish(steps);
      }
      for (int k = 0; k < size; ++k) sums[first + k] = sweeps[k].sums();
    }
  }
}

}  // namespace cxr
