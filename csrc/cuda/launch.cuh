// How kernels are started and failures reported, kept apart so that the tests can run the kernels' own source on a CPU.
#pragma once

#ifdef CXR_CUDA_SHIM
#include "cuda_shim.h"
#else
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace cxr {

inline void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// Shared memory that a block of this device may have, in bytes.
inline size_t shared_memory_limit() {
  int device = 0, bytes = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "shared memory");
  return bytes;
}

inline void copy_on_device(void* to, const void* from, size_t bytes, void* stream) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, static_cast<cudaStream_t>(stream)), "copy");
}

inline void zero_on_device(void* to, size_t bytes, void* stream) {
  check_cuda(cudaMemsetAsync(to, 0, bytes, static_cast<cudaStream_t>(stream)), "zero");
}

}  // namespace cxr

// `bytes` of dynamic shared memory; more than 48 KiB must be asked for.
#define CXR_LAUNCH(kernel, grid, block, bytes, stream, ...)                                                  \
  do {                                                                                                       \
    if ((bytes) > 40 * 1024)                                                                                 \
      cxr::check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)), #kernel); \
    kernel<<<grid, block, bytes, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__);                          \
    cxr::check_cuda(cudaGetLastError(), #kernel);                                                            \
  } while (0)

// The block's dynamic shared memory as an array of T.
#define CXR_DYNAMIC_SHARED(T, name)        \
  extern __shared__ double shared_bytes[]; \
  T* const name = reinterpret_cast<T*>(shared_bytes)
#endif

namespace cxr {

// The CPU shim runs small blocks and tiles, so that small images have many.
#ifdef CXR_CUDA_SHIM
constexpr int block_x = 8, block_y = 4, tile = 8, resident_threads = 32, resident_pixels = 150, norm_threads = 64;
constexpr long norm_part = 1024;
#else
constexpr int block_x = 32, block_y = 8, tile = 32, resident_threads = 512, resident_pixels = 64 * 64, norm_threads = 512;
constexpr long norm_part = 32 * 1024;  // numbers of an image that a block normalises
#endif
constexpr int block_threads = block_x * block_y;

// The nearest of n pixels.
__host__ __device__ inline int clamped(int i, int n) { return i < 0 ? 0 : i < n ? i : n - 1; }

// One thread a pixel; z is the plane.
inline dim3 pixel_block() { return dim3(block_x, block_y); }
inline dim3 pixel_grid(int height, int width, int planes) {
  return dim3((width + block_x - 1) / block_x, (height + block_y - 1) / block_y, planes);
}

}  // namespace cxr
