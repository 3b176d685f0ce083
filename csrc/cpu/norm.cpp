// Group normalisation and SiLU of a batch.
#include <algorithm>
#include <numeric>
#include <vector>

#include "cpu/row_kernels.h"
#include "demons.h"

namespace cxr {

// Work is shared out by images and, where these are fewer than the threads, by groups: by blocks of channels that hold whole
// groups and whole vectors. No group is in two parts, so the number of threads changes no bit.
void norm_silu_cpu(const NormBatch& in, int threads) {
  const auto run = row_kernels<float>().norm_silu;
  const int of_group = in.channels / in.groups, block = std::lcm(of_group, 16), blocks = in.channels / block;
  const int parts = std::min(blocks, (std::max(threads, 1) + in.batch - 1) / in.batch);
  const size_t element = in.half ? 2 : 4;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int job = 0; job < in.batch * parts; ++job) {
    const int image = job / parts, part = job % parts;
    const int first = block * (blocks * part / parts), channels = block * (blocks * (part + 1) / parts) - first;
    const size_t start = (size_t(image) * in.pixels * in.channels + first) * element;
    std::vector<float> scratch(3 * size_t(channels));
    run({static_cast<const char*>(in.x) + start, in.weight + first, in.bias + first,
         in.shift ? in.shift + size_t(image) * in.channels + first : nullptr, static_cast<char*>(in.out) + start, in.pixels,
         channels, channels / of_group, in.channels, in.eps, in.half, scratch.data()});
  }
}

}  // namespace cxr
