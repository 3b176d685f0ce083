// How kernels are started and failures reported, kept apart so that the tests can run the kernels' own source on a CPU.
#pragma once

#ifdef CXR_CUDA_SHIM
#include "cuda_shim.h"
#else
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#define CXR_LAUNCH(kernel, grid, block, stream, ...)                                          \
  do {                                                                                        \
    kernel<<<grid, block, 0, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__);               \
    const cudaError_t error = cudaGetLastError();                                             \
    if (error != cudaSuccess) throw std::runtime_error(std::string(#kernel ": ") + cudaGetErrorString(error)); \
  } while (0)
#endif

namespace cxr {

// One thread a pixel; z is the plane.
#ifdef CXR_CUDA_SHIM
constexpr int block_x = 8, block_y = 4;  // real threads are dear
#else
constexpr int block_x = 32, block_y = 8;
#endif

inline dim3 pixel_block() { return dim3(block_x, block_y); }
inline dim3 pixel_grid(int height, int width, int planes) {
  return dim3((width + block_x - 1) / block_x, (height + block_y - 1) / block_y, planes);
}

}  // namespace cxr
