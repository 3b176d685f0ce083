// Runs the iterations of a level as a wavefront: each follows a few rows behind the one before, so that what it reads is
// still in cache, and threads take turns with blocks of iterations. Every iteration does the same arithmetic whoever runs
// it, so the number of threads changes no bit.
//
//   rows ->            thread 0: iterations 0-3     thread 1: iterations 4-7     thread 0: iterations 8-11 ...
//   . . . . 4 . 3 . 2 . 1   (each digit is one iteration's rows at one moment)
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

// `sums[i]` receives those of iteration i; `smooth(i)` says whether it smooths the field.
template <class T, class Smooth>
void run_wavefront(const Level<T>& level, const DemonsOptions& options, int count, int threads, Smooth smooth, Sums* sums) {
  // Iterations that one thread interleaves, and the steps that each does in its turn. Narrower strips of columns, whose rows
  // would stay in L1, were slower: their rows are too short for the vector loops (benchmarks/results/registration.txt).
  const int depth = std::min(std::max(level.height / 128, 4), 10), turn = 16;
  const Rows rows{0, level.height};
  Sweep<T> shape(level, options, level.u, true);
  shape.begin(true, rows);
  const int steps = shape.steps(), lag = shape.lag();
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
      const int first = first_of(block), size = first_of(block + 1) - first, last_lag = std::max(size - 1, 0) * lag;
      for (int k = 0; k < size; ++k) sweeps[k].begin(smooth(first + k), rows);
      for (int s = 0; s < steps + last_lag; s += turn) {
        progress[block].wait_for(std::min(s + turn + lag, steps));
        for (int k = 0; k < size; ++k) {
          const int from = s - k * lag;
          for (int step = std::max(from, 0); step < std::min(from + turn, steps); ++step) sweeps[k].step(step);
        }
        progress[block + 1].publish(std::min(s + turn - last_lag, steps));
      }
      for (int k = 0; k < size; ++k) {
        sums[first + k] = {0, 0, 0};
        sweeps[k].add_sums(sums[first + k]);
      }
    }
  }
}

}  // namespace cxr
