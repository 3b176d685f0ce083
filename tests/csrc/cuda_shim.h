// Enough of CUDA to run the kernels' own source on a CPU: a block's threads take turns, each running on to its next
// __syncthreads, in ascending or descending order; blocks run one after another, in that order too. A result that depends
// on the order, as it does where a barrier is missing or a block reads what another writes, so differs between two runs.
// Under the thread sanitizer a block's threads are real threads, and __syncthreads is a real barrier.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __shared__ static  // one block runs at a time

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace shim {

inline thread_local dim3 thread, block;
inline dim3 threads, blocks;
inline std::unique_ptr<char[]> shared;  // exactly as long as was asked for
inline size_t shared_bytes;
inline bool descending = false;

inline dim3 at(unsigned i, dim3 size) { return dim3(i % size.x, i / size.x % size.y, i / (size.x * size.y)); }
inline unsigned volume(dim3 size) { return size.x * size.y * size.z; }
// Shared memory starts as NaN, so that reading what was not written shows.
inline void clear_shared() {
  if (shared_bytes) std::memset(shared.get(), 0xff, shared_bytes);
}

inline unsigned nth(unsigned i, unsigned n) { return descending ? n - 1 - i : i; }

}  // namespace shim

#define threadIdx shim::thread
#define blockIdx shim::block
#define blockDim shim::threads
#define gridDim shim::blocks

#ifdef __SANITIZE_THREAD__
#include <atomic>
#include <barrier>
#include <thread>

namespace shim {

inline std::unique_ptr<std::barrier<>> meeting;
inline void wait() { meeting->arrive_and_wait(); }

template <class Body> void run(const Body& body) {
  const unsigned n = volume(threads);
  meeting = std::make_unique<std::barrier<>>(n);
  std::vector<std::thread> team;
  for (unsigned t = 0; t < n; ++t) {
    team.emplace_back([&, t] {
      thread = at(t, threads);
      for (unsigned i = 0; i < volume(blocks); ++i) {
        block = at(nth(i, volume(blocks)), blocks);
        body();
        meeting->arrive_and_wait();
      }
    });
  }
  for (std::thread& one : team) one.join();
}

}  // namespace shim

template <class T> T atomicAdd(T* target, T value) { return std::atomic_ref<T>(*target).fetch_add(value); }
inline void __threadfence() {}  // the atomics order everything

#else
#include <setjmp.h>
#include <ucontext.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace shim {

struct Fiber {
  static constexpr size_t size = 128 * 1024;
  ucontext_t context;  // to start with
  jmp_buf place;       // to go on from: swapcontext would call the kernel every time
  bool started = false;
  std::unique_ptr<char[]> stack = std::make_unique<char[]>(size);
  void* fake_stack = nullptr;
  bool finished = true;
};

inline std::vector<std::unique_ptr<Fiber>> fibers;
inline Fiber scheduler, *current;
inline const void* scheduler_stack;
inline size_t scheduler_size;
inline void (*entry)(const void*);
inline const void* entry_body;

// The address sanitizer must be told of every change of stacks.
inline void switch_to(Fiber& from, Fiber& to) {
#ifdef __SANITIZE_ADDRESS__
  const bool back = &to == &scheduler;
  __sanitizer_start_switch_fiber(&from.fake_stack, back ? scheduler_stack : to.stack.get(), back ? scheduler_size : Fiber::size);
#endif
  if (_setjmp(from.place) == 0) {
    if (to.started) _longjmp(to.place, 1);
    to.started = true;
    setcontext(&to.context);
  }
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(from.fake_stack, &from == &scheduler ? nullptr : &scheduler_stack,
                                  &from == &scheduler ? nullptr : &scheduler_size);
#endif
}

inline void wait() { switch_to(*current, scheduler); }

// A fiber does one block after another.
inline void fiber_main() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size);
#endif
  for (;;) {
    entry(entry_body);
    current->finished = true;
    wait();
  }
}

inline void run_block() {
  const unsigned n = volume(threads);
  scheduler.started = true;
  while (fibers.size() < n) {
    fibers.push_back(std::make_unique<Fiber>());
    Fiber& fiber = *fibers.back();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = Fiber::size;
    makecontext(&fiber.context, fiber_main, 0);
  }
  for (unsigned t = 0; t < n; ++t) fibers[t]->finished = false;
  for (unsigned finished = 0; finished == 0;) {
    for (unsigned i = 0; i < n; ++i) {
      const unsigned t = nth(i, n);
      thread = at(t, threads);
      current = fibers[t].get();
      switch_to(scheduler, *current);
      finished += current->finished;
    }
    if (finished != 0 && finished != n) {
      std::printf("only some threads of a block reached a barrier\n");
      std::abort();
    }
  }
}

template <class Body> void run(const Body& body) {
  entry_body = &body;
  entry = [](const void* what) { (*static_cast<const Body*>(what))(); };
  for (unsigned i = 0; i < volume(blocks); ++i) {
    block = at(nth(i, volume(blocks)), blocks);
    clear_shared();
    run_block();
  }
}

}  // namespace shim

template <class T> T atomicAdd(T* target, T value) {
  const T before = *target;
  *target += value;
  return before;
}
inline void __threadfence() {}
#endif

inline void __syncthreads() { shim::wait(); }

namespace cxr {

inline size_t shared_memory_limit() { return 99 * 1024; }
inline void copy_on_device(void* to, const void* from, size_t bytes, void*) { std::memcpy(to, from, bytes); }
inline void zero_on_device(void* to, size_t bytes, void*) { std::memset(to, 0, bytes); }

}  // namespace cxr

template <class Body> void shim_launch(dim3 grid, dim3 block, size_t bytes, const Body& body) {
  shim::threads = block;
  shim::blocks = grid;
  shim::shared.reset(bytes ? new char[bytes] : nullptr);
  shim::shared_bytes = bytes;
  shim::clear_shared();
  shim::run(body);
}

#define CXR_LAUNCH(kernel, grid, block, bytes, stream, ...) \
  ((void)(stream), shim_launch(grid, block, bytes, [&] { (kernel)(__VA_ARGS__); }))
#define CXR_DYNAMIC_SHARED(T, name) T* const name = reinterpret_cast<T*>(shim::shared.get())
