// Enough of CUDA to run the kernels' own source on a CPU: a block's threads are real threads, __syncthreads is a barrier,
// and blocks run one after another. So indexing, borders and races within a block are tested without a GPU.
#pragma once

#include <atomic>
#include <barrier>
#include <cmath>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static  // one block runs at a time

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;
inline std::unique_ptr<std::barrier<>> block_barrier;

inline void __syncthreads() { block_barrier->arrive_and_wait(); }

template <class T> void atomicAdd(T* target, T value) { std::atomic_ref<T>(*target).fetch_add(value); }

template <class Body> void shim_launch(dim3 grid, dim3 block, Body body) {
  const unsigned threads = block.x * block.y * block.z;
  std::vector<std::thread> team;
  std::barrier<> between(threads);
  block_barrier = std::make_unique<std::barrier<>>(threads);
  for (unsigned t = 0; t < threads; ++t) {
    team.emplace_back([&, t] {
      threadIdx = dim3(t % block.x, t / block.x % block.y, t / (block.x * block.y));
      blockDim = block;
      gridDim = grid;
      for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
          for (unsigned x = 0; x < grid.x; ++x) {
            blockIdx = dim3(x, y, z);
            body();
            between.arrive_and_wait();
          }
    });
  }
  for (std::thread& thread : team) thread.join();
}

#define CXR_LAUNCH(kernel, grid, block, stream, ...) \
  ((void)(stream), shim_launch(grid, block, [&] { (kernel)(__VA_ARGS__); }))
