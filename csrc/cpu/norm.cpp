// Group normalisation and SiLU of a batch.
#include <vector>

#include "cpu/row_kernels.h"
#include "demons.h"

namespace cxr {

void norm_silu_cpu(const NormBatch& in, int threads) {
  const auto run = row_kernels<float>().norm_silu;
  const size_t image = size_t(in.pixels) * in.channels * (in.half ? 2 : 4);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int i = 0; i < in.batch; ++i) {
    std::vector<float> scratch(3 * size_t(in.channels));
    run({static_cast<const char*>(in.x) + i * image, in.weight, in.bias, in.shift ? in.shift + size_t(i) * in.channels : nullptr,
         static_cast<char*>(in.out) + i * image, in.pixels, in.channels, in.groups, in.eps, in.half, scratch.data()});
  }
}

}  // namespace cxr
